// SPDX-License-Identifier: Apache-2.0
// verify_maxima() and verify_masses() in one on Hopper and later: a cluster has a row of logits,
// each of its blocks a chunk in registers, so that the row is read once.
#pragma once

#include "arch/cluster.h"
#include "sampling/verify_chunks.h"

namespace tw {

struct VerifyClusterMemory {
  u64 of_warps[kChunkThreads / kWarpSize];
  u64 maxima[kChunks];  // of the cluster's blocks
};
static_assert(sizeof(VerifyClusterMemory) <= kChunkSharedBytes);

template <typename T>
TW_DEVICE void verify_cluster(const VerifyParams& p) {
  VerifyClusterMemory& memory = *reinterpret_cast<VerifyClusterMemory*>(shared_memory());
  Chunk chunk;
  i64 entry;
  // The same for all blocks of a cluster.
  if (!find_chunk(p, chunk) || !find_entry(p.sample, chunk.request, entry)) return;
  arrive_at_cluster();
  constexpr i32 kRuns = kClusterChunk / (kChunkThreads * kRowRun);
  constexpr i32 kStep = kChunkThreads * kRowRun;
  const T* row = logits_of<T>(chunk.draft ? p.draft : p.target, chunk.request, chunk.node);
  const bool aligned = (chunk.draft ? p.draft_aligned : p.target_aligned) != 0;
  const i32 first = chunk.begin + thread_id() * kRowRun;
  // Runs that can be read as such; behind the row's end there is -inf.
  const i32 whole_end = aligned ? chunk.end - kRowRun : -1;
  Run<T, kRowRun> runs[kRuns];
#pragma unroll
  for (i32 i = 0; i < kRuns; ++i) {
    if (first + i * kStep <= whole_end) runs[i] = read_run<kRowRun>(row + first + i * kStep);
  }
  float logits[kRuns][kRowRun];
#pragma unroll
  for (i32 i = 0; i < kRuns; ++i) {
    if (first + i * kStep <= whole_end) {
      unpack_run(runs[i], logits[i]);
      continue;
    }
#pragma unroll
    for (i32 j = 0; j < kRowRun; ++j) {
      const i32 id = first + i * kStep + j;
      logits[i][j] = id < chunk.end ? to_float(row[id]) : -kInfinity;
    }
  }
  float largest = -kInfinity;
  bool nan = false;
#pragma unroll
  for (i32 i = 0; i < kRuns; ++i) {
#pragma unroll
    for (i32 j = 0; j < kRowRun; ++j) {
      nan |= logits[i][j] != logits[i][j];
      largest = max_of(largest, logits[i][j]);
    }
  }
  u32 id = 0;
  if (value_of_entry(p.sample.temperature, entry) == 0) {
    // The first one of this thread's, from the last one on.
#pragma unroll
    for (i32 i = kRuns - 1; i >= 0; --i) {
#pragma unroll
      for (i32 j = kRowRun - 1; j >= 0; --j)
        id = logits[i][j] == largest ? static_cast<u32>(first + i * kStep + j) : id;
    }
  }
  u64 word = largest_of_warp(u64{order_key(clean_logit(largest))} << 32 | ~id);
  if (lane_id() == 0) memory.of_warps[warp_of_thread()] = word;
  nan = any_of_block(nan);
  wait_for_cluster();
  if (warp_id() == 0) {
    word = largest_of_warp(lane_id() < kChunkThreads / kWarpSize ? memory.of_warps[lane_id()] : 0);
    if (nan) word |= kEntryNan;
    if (!nan) word &= ~kEntryNan;
    if (lane_id() < cluster_size()) store_remote(&memory.maxima[chunk.index], lane_id(), word);
  }
  sync_cluster();
  const RowSummary summary = summary_of_maxima(p, entry, memory.maxima);
  u64 sum = 0;
  if (summary.infinite != 0) {
#pragma unroll
    for (i32 i = 0; i < kRuns; ++i) {
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j) sum += logits[i][j] == kInfinity ? kOne : 0;
    }
  } else if (summary.certain < 0) {
    const WeightScale scale = summary.filtered.of_draw;
#pragma unroll
    for (i32 i = 0; i < kRuns; ++i) {
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j) sum += converted_weight(logits[i][j], scale);
    }
  }
  sum = sum_of_chunk(sum, memory.of_warps);
  if (thread_id() == 0) store_mass(RequestWorkspace(p, chunk.request), chunk, sum, summary);
}

}  // namespace tw
