// SPDX-License-Identifier: Apache-2.0
// verify_rows() of logits on Hopper and later, for filters by the logits' order: a cluster has a
// row, which is read once.
#pragma once

#include "sampling/cluster_filters.h"
#include "sampling/verify_rows.h"

namespace tw {

// The entry that is kept last, and the mass of all that are kept: of the leader's threads. By all
// blocks.
template <typename Stored>
TW_DEVICE Kept measure_kept(const ClusterRow<Stored>& row, float threshold, u64 least,
                            const WeightScale& scale, u64& mass) {
  ClusterMemory& memory = row.memory;
  u64 mine = 0;
  u32 last = 0;  // one more than the last id at the threshold
  row.for_values([&](i32 id, const float(&values)[kEach]) {
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      const u64 weight = converted_weight(values[j], scale);
      mine += (values[j] >= threshold) & (weight >= least) ? weight : 0;
      last = values[j] == threshold ? static_cast<u32>(id + j + 1) : last;
    }
  });
  mine = sum_of_warp(mine);
  last = warp_max(last);
  sync_cluster();  // nobody looks at the groups any more
  if (lane_id() == 0) {
    store_remote(&memory.totals[row.warp], 0, mine);
    store_remote(&memory.maxima[row.warp], 0, last);
  }
  sync_cluster();
  if (row.rank != 0) return {};
  const bool there = thread_id() < row.warps();
  mass = sum_up_to_thread(memory.of_warps[0], there ? memory.totals[thread_id()] : 0).total;
  u32 of_row = 0;
#pragma unroll 1
  for (i32 warp = lane_id(); warp < row.warps(); warp += kWarpSize)
    of_row = memory.maxima[warp] > of_row ? memory.maxima[warp] : of_row;
  of_row = warp_max(of_row);
  return {threshold, threshold == -kInfinity ? kLastId : static_cast<i32>(of_row) - 1};
}

template <typename T>
TW_DEVICE void verify_filtered(const VerifyParams& p) {
  ClusterMemory& memory = *reinterpret_cast<ClusterMemory*>(shared_memory());
  const ClusterRow<float> row(memory, p.sample.vocabulary, p.sample.warp_logits);
  i64 request, entry;
  i32 node;
  bool draft;
  // The same for all blocks of a cluster.
  if (!find_row(p, block_id() / row.blocks, request, node, draft)) return;
  if (!find_entry(p.sample, request, entry)) return;
  const T* const logits = logits_of<T>(draft ? p.draft : p.target, request, node);
  const bool aligned = (draft ? p.draft_aligned : p.target_aligned) != 0;
  const bool asked = kIsSame<T, float> && aligned;
  if constexpr (kIsSame<T, float>) {
    if (asked) ask_for_row(row, logits);
  }
  begin_cluster(memory);
  const bool good = process_of_entry(p.sample.process, entry, p.sample.vocabulary,
                                     memory.bias_filter, memory.process);
  if (has_masks(p)) {
    if (thread_id() == 0) memory.process.allowed = allowed_of(p, request, node);
    sync_block();
  }
  if (asked) wait_for_row(row);
  Extremes extremes = read_row(row, logits, asked, aligned, [&] {
    if (thread_id() == kClusterThreads - 1) keep_numbers(memory, p.sample, entry);
  });
  const RowNumbers& numbers = memory.numbers;
  const bool infinite = extremes.largest == kInfinity;
  RowSummary summary{};
  summary.certain = -1;
  summary.mass = 1;
  summary.infinite = infinite ? 1 : 0;
  summary.status = status_of_row(memory, good, extremes.largest);
  if (extremes.largest == -kInfinity) {
    summary.certain = first_allowed(memory.process, p.sample.vocabulary);
  } else if (numbers.temperature == 0) {
    summary.infinite = 0;
    summary.certain = find_arg_max(row, extremes);
  } else {
    if (infinite) extremes = keep_infinite(row, extremes);
    const WeightScale scale{extremes.largest, memory.scale};
    const Kept all{-kInfinity, kLastId};
    const u64 least = least_of_row(numbers, scale);
    BinTurns turns{0};
    const RowLeft left = filter_row(row, p.sample.order, numbers, extremes, infinite, scale, turns);
    Kept kept;
    if (left.listed > kMostListed) {
      kept = measure_kept(row, left.threshold, least, scale, summary.mass);
    } else {
      sync_cluster();  // all have read in the leader's memory
      if (row.rank == 0) {
        u64* const sorted = turns.other(memory);
        const ListLeft of_list = filter_list(memory, p.sample.order, sorted, left.listed, left.turn,
                                             left.target, least, numbers, row.count, scale);
        summary.mass = sum_up_to_thread(memory.of_warps[1], of_list.weight).total;
        const u64 last = sorted[of_list.count - 1];
        kept = {value_of_entry(last), id_of_entry(last)};
      }
    }
    summary.filtered = {kept, all, {scale, 0}, least, scale};
  }
  if (row.rank != 0 || thread_id() != 0) return;
  const RequestWorkspace workspace(p, request);
  (draft ? workspace.draft(node) : workspace.target(node)) = summary;
}

}  // namespace tw
