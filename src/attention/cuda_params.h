// SPDX-License-Identifier: Apache-2.0
// All of a launch of the attention kernels but the launch itself: the same for a GPU and for the
// emulator.
#pragma once

#include "attention/cuda_call.h"
#include "attention/cuda_sources.h"
#include "attention/params.h"
#include "cuda/box_map.h"

namespace tilewright {

// The schedule's constants for a kernel of this shape. A plan's workers are the blocks of threads
// that are resident at a time.
plan::Config kernel_config(const Attention& attention, const CudaShape& shape, int num_sms,
                           std::int64_t l2_bytes, const Limits& limits);

// Of both kernels of a plan, see PlanUses.
DevicePlan::Configs kernel_configs(const Attention& attention, const CudaShape& requests,
                                   const CudaShape& rows, int num_sms, std::int64_t l2_bytes,
                                   const Limits& limits);

struct AttentionLaunch {
  // Of both kernels: what they are given is the first `params_bytes` of it, or AttentionParams.
  tw::HopperParams params;
  std::size_t params_bytes = sizeof(tw::AttentionParams);
  unsigned blocks = 1;       // of tilewright_attention; threads and shared memory are the shape's
  unsigned join_blocks = 0;  // of tilewright_join_levels behind it; 0: there is nothing to join
};
inline constexpr unsigned kJoinThreads = 256;

// Errors: tensors that are not aligned as kernels need it.
AttentionLaunch attention_launch(const DevicePlan& plan, const DevicePlan::Part& part,
                                 const CudaShape& shape, int num_sms, const CudaCall& call,
                                 cuda::BoxMaps& boxes);

}  // namespace tilewright
