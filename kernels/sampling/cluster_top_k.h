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
TW_DEVICE i32 gather_kept(const ClusterRow& row, const Kept& kept, BestList& best) {
  ClusterMemory& memory = row.memory;
  u32 mine = 0;
  row.for_values([&](i32 id, const float(&values)[kEach]) {
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) mine += kept.contains(id + j, values[j]) ? 1 : 0;
  });
  row.tell_all(memory.totals, u64{warp_sum(mine)});
  sync_cluster();
  u32 before = 0, total = 0;
#pragma unroll 1
  for (i32 slot = lane_id(); slot < row.slots(); slot += kWarpSize) {
    const auto of_slot = static_cast<u32>(memory.totals[slot]);
    total += of_slot;
    before += slot < row.slot() ? of_slot : 0;
  }
  before = warp_sum(before);
  total = warp_sum(total);
  row.for_values([&](i32 id, const float(&values)[kEach]) {
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      const bool there = kept.contains(id + j, values[j]);
      const u32 lanes = ballot(there);
      const i32 at = static_cast<i32>(before) + count_bits(lanes & ((1U << lane_id()) - 1));
      if (there) store_remote(&best.entries[at], 0, entry_of(values[j], id + j));
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
  const ClusterRow row{memory, p.vocabulary, cluster_rank(), cluster_size(), p.warp_logits};
  const i64 index = block_id() / row.blocks;
  arrive_at_cluster();
  if (thread_id() < kBins) memory.bins[0][thread_id()] = {0, 0};
  if (thread_id() == 0) memory.process = LogitProcess{};
  sync_block();
  const Extremes extremes =
      read_row(row, static_cast<const T*>(p.logits) + index * p.logits_stride, p.aligned != 0);
  const i32 k = p.k < row.count ? p.k : row.count;
  Kept kept{-kInfinity, kLastId};
  if (k <= row.slots() / 2) {
    const Listed listed = list_largest(row, kept, k, false);
    if (listed.total >= k && listed.total <= kMostListed) {
      if (row.rank == 0) gather_listed(row, listed);
      sync_cluster();
      if (row.rank != 0) return;
      sort_listed(memory, listed.total);
      store_best<T>(p, index, memory.sorted, k);
      return;
    }
  }
  BinTurns turns{0};
  kept = apply_filter<true>(row, {true, k, 0}, kept, extremes, {extremes.largest, 1}, turns);
  const i32 count = gather_kept(row, kept, shared.best);
  if (row.rank != 0) return;
  sort_best(shared.best, count);
  store_best<T>(p, index, shared.best.entries, count);
}

}  // namespace tw
