// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <tilewright/c_ops.h>
#include <tilewright/sampling.h>

#include "c_api/read.h"

namespace tilewright::c_api {

SamplingArgs read_sampling_args(const Path& path, const tw_sampling_args* args);

}  // namespace tilewright::c_api
