// SPDX-License-Identifier: Apache-2.0
// The k largest entries of each row, sorted, on Hopper and later: a cluster has a row, which is
// read once. The same as sampling/top_k.h.
#pragma once

#include "sampling/best.h"
#include "sampling/cluster_search.h"

namespace tw {

struct ClusterBestMemory {
  ClusterMemory row;
  BestList best;  // the leader's
};
static_assert(sizeof(ClusterBestMemory) <= kClusterBestSharedBytes);

// Lists what is kept in the leader's memory: how many entries there are.
template <typename Stored>
TW_DEVICE i32 gather_kept(const ClusterRow<Stored>& row, float threshold, BestList& best) {
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
      if (there) store_remote(&best.entries[at], 0, entry_of_logit(values[j], id + j));
      before += static_cast<u32>(count_bits(lanes));
    }
  });
  sync_cluster();
  return static_cast<i32>(total);
}

template <typename T>
TW_DEVICE void cluster_top_k(const TopKParams& p) {
  ClusterBestMemory& shared = *reinterpret_cast<ClusterBestMemory*>(shared_memory());
  ClusterMemory& memory = shared.row;
  const ClusterRow<T> row(memory, p.vocabulary, p.warp_logits);
  const i64 index = block_id() / row.blocks;
  const T* const logits = static_cast<const T*>(p.logits) + index * p.logits_stride;
  const bool asked = p.aligned != 0;
  if (asked) ask_for_row(row, logits);
  if (thread_id() == 0) memory.process = LogitProcess{};
  begin_cluster(memory);
  sync_block();
  if (asked) wait_for_row(row);
  const Extremes extremes = read_row(row, logits, asked, asked, [] {});
  const i32 k = p.k < row.count ? p.k : row.count;
  BinTurns turns{0};
  float threshold = -kInfinity;
  if (is_listed(row, k)) {
    float low = threshold;  // not of -inf, which may have to be told
    const i32 listed = list_largest(row, low, k, false, extremes);
    if (listed >= k && listed <= kMostListed) {
      // The leader's memory is there until all have read in it.
      arrive_at_cluster();
      if (row.rank == 0) {
        u64* const sorted = turns.other(memory);
        sort_list(memory.own(), sorted, listed);
        store_best<T>(p, index, sorted, k);
      }
      wait_for_cluster();
      return;
    }
  }
  threshold =
      apply_filter<true>(row, {true, k, 0}, threshold, extremes, {extremes.largest, 1}, turns);
  const i32 count = gather_kept(row, threshold, shared.best);
  if (row.rank != 0) return;
  sort_best(shared.best, count);
  store_best<T>(p, index, shared.best.entries, count);
}

}  // namespace tw
