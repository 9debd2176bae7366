// SPDX-License-Identifier: Apache-2.0
// What a kernel's text shares with the rest of the program. All that the text itself defines and
// includes goes into a namespace of its own (see write_attention_kernels.cpp), since each text has
// its own meaning of tw::Spec and tw::Variant, and of all that is made of them.
#pragma once

#include "arch/bulk.h"
#include "arch/elements.h"
#include "arch/matrix.h"
#include "arch/memory.h"
#include "arch/numeric.h"
#include "arch/thread.h"
#include "arch/types.h"
#include "arch/wgmma.h"
#include "attention/params.h"
#include "attention_cuda/generate/emulated_kernels.h"
#include "plan/update_params.h"
