// SPDX-License-Identifier: Apache-2.0
// All of the public API.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/block_structure.h>
#include <tilewright/dlpack.h>
#include <tilewright/error.h>
#include <tilewright/explain.h>
#include <tilewright/jit.h>
#include <tilewright/kernel_choice.h>
#include <tilewright/kv_cache.h>
#include <tilewright/ops.h>
#include <tilewright/plan.h>
#include <tilewright/sampling.h>
#include <tilewright/speculative.h>
#include <tilewright/tensor_view.h>
#include <tilewright/threads.h>
#include <tilewright/variant.h>
#include <tilewright/variants.h>
#include <tilewright/version.h>
