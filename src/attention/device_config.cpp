// SPDX-License-Identifier: Apache-2.0
#include "attention/device_config.h"

#include <algorithm>

#include "attention/memory_size.h"
#include "base/checks.h"
#include "plan/update_memory.h"

namespace tilewright {

plan::Config cuda_config(const AttentionSpec& spec, const DeviceProperties& device,
                         const Limits& limits) {
  if (limits.workers > plan::kMaxDeviceWorkers) {
    raise(ErrorCode::limit_exceeded, "limits.workers is {}: on CUDA it must be at most {}",
          limits.workers, plan::kMaxDeviceWorkers);
  }
  const std::int64_t kv_bytes =
      limits.kv_len * (spec.head_dim * dtype_bytes(spec.kv_dtype) +
                       spec.value_dim() * dtype_bytes(spec.value_dtype()));
  plan::Config config;
  config.num_kv_heads = spec.num_kv_heads;
  config.group_size = spec.group_size();
  config.tile_rows = tw::kTileRows;
  config.block_tokens = 64;
  config.workers =
      limits.workers > 0 ? limits.workers : std::min(device.num_sms, plan::kMaxDeviceWorkers);
  // Half of the L2 for the heads that tiles of section A read at a time.
  config.heads_per_group = static_cast<std::int32_t>(std::clamp<std::int64_t>(
      device.l2_bytes / 2 / std::max<std::int64_t>(kv_bytes, 1), 1, spec.num_kv_heads));
  config.joint_rows = 0;
  config.max_heads = 1;
  config.cuts_items = limits.determinism == Determinism::batch_invariant ? 0 : 1;
  // Seen on a Hopper GPU, two blocks of threads an SM, in 10 ns or so: a block of keys takes its
  // bytes' time, 180, and a third more for 128 rows; to set up a tile and to keep its result, 600.
  // A kept row is written and read again: a thirtieth of a block's bytes.
  config.cost = {600, 180, 1, 6};
  config.least_share = 900;
  return config;
}

}  // namespace tilewright
