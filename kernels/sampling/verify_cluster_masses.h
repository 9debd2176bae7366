// SPDX-License-Identifier: Apache-2.0
// verify_maxima() and verify_masses() in one on Hopper and later: a cluster has a row of logits,
// which is read once.
#pragma once

#include "sampling/cluster_filters.h"
#include "sampling/verify_chunks.h"

namespace tw {

template <typename T>
TW_DEVICE void verify_cluster_masses(const VerifyParams& p) {
  ClusterMemory& memory = *reinterpret_cast<ClusterMemory*>(shared_memory());
  const ClusterRow<T> row(memory, p.sample.vocabulary, p.sample.warp_logits);
  i64 request, entry;
  i32 node;
  bool draft;
  // The same for all blocks of a cluster.
  if (!find_row(p, block_id() / row.blocks, request, node, draft)) return;
  const T* const logits = logits_of<T>(draft ? p.draft : p.target, request, node);
  const bool aligned = (draft ? p.draft_aligned : p.target_aligned) != 0;
  if (aligned) ask_for_row(row, logits);
  if (thread_id() == 0) memory.nan = 0;
  arrive_at_cluster();
  const bool there = find_entry(p.sample, request, entry);
  if (there && thread_id() == kClusterThreads - 1) keep_numbers(memory, p.sample, entry);
  if (aligned) wait_for_row(row);
  if (there) copy_logits(row, logits, aligned, aligned);
  wait_for_cluster();
  if (!there) return;
  Extremes extremes{-kInfinity, 0, -kInfinity};
  float& largest = extremes.of_thread;
  row.for_values([&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) largest = max_or_nan(largest, values[j]);
  });
  if (any_of_warp(largest != largest)) {
    if (lane_id() == 0) store_remote(&memory.nan, 0, 1U);
    largest = -kInfinity;
    row.for_values([&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
      for (i32 j = 0; j < kClusterRun; ++j) largest = max_of(largest, values[j]);
    });
  }
  row.tell_all(memory.maxima, warp_max(key_of_logit(largest)));
  sync_cluster();
  u32 first = 0;
  if (4 * lane_id() < row.warps()) {
    const Bytes16 keys = load_16(&memory.maxima[4 * lane_id()]);
#pragma unroll
    for (i32 i = 0; i < 4; ++i) first = keys.word[i] > first ? keys.word[i] : first;
  }
  extremes.largest = of_order_key(warp_max(first));
  drop_behind_end(row);
  const RowNumbers& numbers = memory.numbers;
  RowSummary summary = summary_of_largest(extremes.largest, numbers, memory.nan != 0);
  u64 mass = 0;
  if (extremes.largest == -kInfinity) {
    summary.certain = 0;
  } else if (numbers.temperature == 0) {
    summary.infinite = 0;
    summary.certain = find_arg_max(row, extremes);
  } else {
    const bool infinite = summary.infinite != 0;
    const WeightScale scale{infinite ? 0 : extremes.largest, memory.scale};
    const Kept all{-kInfinity, kLastId};
    summary.filtered = {all, all, {scale, 0}, 0, scale};
    summary.mass = 0;  // the sum of what blocks find
    if (infinite) {
      row.for_values([&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
        for (i32 j = 0; j < kClusterRun; ++j) mass += values[j] == kInfinity ? kOne : 0;
      });
    } else {
      row.for_values([&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
        for (i32 j = 0; j < kClusterRun; ++j) mass += converted_weight(values[j], scale);
      });
    }
  }
  const Chunk chunk{request, node, draft, row.rank, 0, 0};
  store_mass(RequestWorkspace(p, request), chunk, row.blocks,
             sum_of_chunk(mass, memory.of_warps[0]), summary);
}

}  // namespace tw
