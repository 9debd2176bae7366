// SPDX-License-Identifier: Apache-2.0
// What filters leave of a row that a cluster has: top-k, top-p and min-p behind them.
#pragma once

#include "sampling/cluster_search.h"

namespace tw {

// The lowest id of the largest logit: of the leader's first warp.
template <typename Stored>
TW_DEVICE i32 find_arg_max(const ClusterRow<Stored>& row, const Extremes& extremes) {
  ClusterMemory& memory = row.memory;
  u32 best = ~0U;
  if (any_of_warp(extremes.of_thread == extremes.largest)) {
    row.for_values([&](i32 id, const float(&values)[kClusterRun]) {
      best = first_of_run(id, values, extremes.largest, best);
    });
    best = warp_min(best);
  }
  if (lane_id() == 0) store_remote(&memory.totals[row.warp], 0, u64{best});
  sync_cluster();
  if (row.rank != 0 || warp_id() != 0) return 0;
#pragma unroll 1
  for (i32 warp = lane_id(); warp < row.warps(); warp += kWarpSize) {
    const u32 other = static_cast<u32>(memory.totals[warp]);
    best = other < best ? other : best;
  }
  return static_cast<i32>(warp_min(best));
}

// Bits of the row's status; `good`: no parameter was replaced in processing.
TW_DEVICE u32 status_of_row(const ClusterMemory& memory, bool good, float largest) {
  return (good ? memory.numbers.status : kStatusBadParameter) |
         status_of_logits(largest, memory.nan != 0);
}

// A row that keeps what is not below the threshold; but if no more than kMostListed are `listed`,
// the leader has all that may be kept, and filters from `turn` on have not acted: top-p, if that is
// it, keeps `target`, or if that is 0, a part of the list's mass.
struct RowLeft {
  float threshold;
  i32 listed;
  i32 turn;
  u64 target;
};

template <typename Stored>
TW_DEVICE RowLeft filter_row(const ClusterRow<Stored>& row, Order order, const RowNumbers& numbers,
                             const Extremes& extremes, bool infinite, const WeightScale& scale,
                             BinTurns& turns) {
  RowLeft left{-kInfinity, kMostListed + 1, 0, 0};
  bool again = false;
#pragma unroll 1
  for (; left.turn < 3; ++left.turn) {
    const Filter filter = filter_of_turn(order, left.turn);
    if (filter == Filter::min_p || is_off(filter, numbers, row.count)) continue;
    const bool counts = filter == Filter::top_k;
    if (counts && !infinite && is_listed(row, numbers.top_k)) {
      left.listed = list_largest(row, left.threshold, numbers.top_k, again, extremes);
    } else if (!counts && !infinite && left.threshold == -kInfinity && is_peaked(row, scale)) {
      left.target = list_top_p(row, numbers.top_p, scale, again, extremes);
      if (left.target != 0) left.listed = static_cast<i32>(load_remote(&row.memory.num_listed, 0));
    }
    if (left.listed > kMostListed) {
      left.threshold = apply_filter(row, {counts, numbers.top_k, numbers.top_p}, left.threshold,
                                    extremes, scale, turns);
      if (counts && !infinite && numbers.top_k <= kMostListed) {
        list_from(row, left.threshold, extremes, true);
        left.listed = count_leaders(row);
      }
    }
    if (left.listed <= kMostListed) break;
    again = true;
  }
  return left;
}

// The least weight that min-p keeps.
TW_DEVICE u64 least_of_row(const RowNumbers& numbers, const WeightScale& scale) {
  return numbers.min_p > 0 ? least_weight(numbers.min_p, token_weight(scale.largest, scale)) : 0;
}

}  // namespace tw
