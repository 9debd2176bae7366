// SPDX-License-Identifier: Apache-2.0
// The schedule's constants for CUDA: sizes of tiles and what they cost.
#pragma once

#include <tilewright/plan.h>

#include "plan/schedule.h"

namespace tilewright {

// What a plan wants to know of a GPU.
struct DeviceProperties {
  int num_sms = 1;
  std::int64_t l2_bytes = std::int64_t{32} << 20;
};

// Errors: limit_exceeded for more workers than the device's scheduler has memory for.
plan::Config cuda_config(const AttentionSpec& spec, const DeviceProperties& device,
                         const Limits& limits);

}  // namespace tilewright
