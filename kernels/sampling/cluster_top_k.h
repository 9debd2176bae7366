// SPDX-License-Identifier: Apache-2.0
// The k largest entries of each row, sorted, on Hopper and later: a cluster has a row, which is
// read once. The same as sampling/top_k.h.
#pragma once

#include "sampling/best.h"
#include "sampling/cluster_best.h"
#include "sampling/cluster_search.h"

namespace tw {

struct ClusterBestMemory {
  ClusterMemory row;
  BestList best;  // the leader's
};
static_assert(sizeof(ClusterBestMemory) <= kClusterBestSharedBytes);

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
  const i32 count = gather_kept(row, threshold, shared.best.entries);
  if (row.rank != 0) return;
  sort_best(shared.best.entries, count);
  store_best<T>(p, index, shared.best.entries, count);
}

}  // namespace tw
