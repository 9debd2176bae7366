// SPDX-License-Identifier: Apache-2.0
// The entries that are kept of a row that a cluster has, in the leader's memory.
#pragma once

#include "sampling/cluster_row.h"

namespace tw {

// Lists what is kept in the leader's `entries`: how many there are.
template <typename Stored>
TW_DEVICE i32 gather_kept(const ClusterRow<Stored>& row, float threshold, u64* entries) {
  ClusterMemory& memory = row.memory;
  u32 mine = 0;
  row.for_values([&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) mine += values[j] >= threshold ? 1 : 0;
  });
  row.tell_all(memory.totals, u64{warp_sum(mine)});
  sync_cluster();
  u32 before = 0, total = 0;
#pragma unroll 1
  for (i32 warp = lane_id(); warp < row.warps(); warp += kWarpSize) {
    const auto of_warp = static_cast<u32>(memory.totals[warp]);
    total += of_warp;
    before += warp < row.warp ? of_warp : 0;
  }
  before = warp_sum(before);
  total = warp_sum(total);
  row.for_values([&](i32 id, const float(&values)[kClusterRun]) {
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) {
      const bool there = values[j] >= threshold;
      const u32 lanes = ballot(there);
      const i32 at = static_cast<i32>(before) + count_bits(lanes & ((1U << lane_id()) - 1));
      if (there) store_remote(&entries[at], 0, entry_of_logit(values[j], id + j));
      before += static_cast<u32>(count_bits(lanes));
    }
  });
  sync_cluster();
  return static_cast<i32>(total);
}

}  // namespace tw
