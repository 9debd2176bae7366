// SPDX-License-Identifier: Apache-2.0
// Rows of target and draft on which no filter acts, for speculative verification of chains: what is
// asked of a row is its largest logit and the sum of its weights. Blocks have chunks of rows, and
// leave what they found to the next kernel.
#pragma once

#include "sampling/draft_tree.h"

namespace tw {

// A block's part of a row.
struct Chunk {
  i64 request;
  i32 node;
  bool draft;
  i32 index;
  i32 begin;  // tokens
  i32 end;
};

TW_DEVICE i32 chunks_of_row(const VerifyParams& p) {
  return (p.sample.vocabulary - 1) / p.chunk + 1;
}

// The tokens of a chunk.
TW_DEVICE void place_chunk(const VerifyParams& p, i32 index, Chunk& chunk) {
  chunk.index = index;
  chunk.begin = index * p.chunk;
  chunk.end =
      p.sample.vocabulary - chunk.begin < p.chunk ? p.sample.vocabulary : chunk.begin + p.chunk;
}

// False where nobody asks for the row.
TW_DEVICE bool find_chunk(const VerifyParams& p, Chunk& chunk) {
  const i32 chunks = chunks_of_row(p);
  const i32 row = block_id() / chunks;
  const i32 of_request = row % (p.nodes + p.drafts);
  chunk.request = row / (p.nodes + p.drafts);
  chunk.draft = of_request >= p.nodes;
  chunk.node = chunk.draft ? of_request - p.nodes : of_request;
  place_chunk(p, block_id() % chunks, chunk);
  bool good;
  return chunk.node <= draft_count(p, chunk.request, good) - (chunk.draft ? 1 : 0);
}

// body(id, element) of a chunk, dealt out to the block's threads. Several runs are asked for before
// the first one is looked at.
template <typename T, typename Body>
TW_DEVICE void for_chunk(const T* row, bool aligned, const Chunk& chunk, const Body& body) {
  constexpr i32 kAhead = kChunkStep / (kChunkThreads * kRowRun);
  constexpr i32 kStep = kChunkThreads * kRowRun;
  // Runs that are not whole.
  const i32 tail = aligned ? chunk.end - chunk.end % kRowRun : chunk.begin;
#pragma unroll 1
  for (i32 first = chunk.begin + thread_id() * kRowRun; first < tail; first += kAhead * kStep) {
    Run<T, kRowRun> runs[kAhead] = {};
#pragma unroll
    for (i32 i = 0; i < kAhead; ++i) {
      if (first + i * kStep < tail) runs[i] = read_run<kRowRun>(row + first + i * kStep);
    }
#pragma unroll
    for (i32 i = 0; i < kAhead; ++i) {
      if (first + i * kStep >= tail) break;
      float run[kRowRun];
      unpack_run(runs[i], run);
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j) body(first + i * kStep + j, run[j]);
    }
  }
#pragma unroll 1
  for (i32 id = tail + thread_id(); id < chunk.end; id += kChunkThreads)
    body(id, to_float(row[id]));
}

template <typename T, typename Body>
TW_DEVICE void for_chunk(const VerifyParams& p, const Chunk& chunk, const Body& body) {
  for_chunk(logits_of<T>(chunk.draft ? p.draft : p.target, chunk.request, chunk.node),
            (chunk.draft ? p.draft_aligned : p.target_aligned) != 0, chunk, body);
}

// The sum over the block, for thread 0.
TW_DEVICE u64 sum_of_chunk(u64 sum, u64* of_warps) {
  sum = sum_of_warp(sum);
  if (lane_id() == 0) of_warps[warp_of_thread()] = sum;
  sync_block();
  u64 total = 0;
  if (thread_id() == 0) {
#pragma unroll
    for (i32 warp = 0; warp < kChunkThreads / kWarpSize; ++warp) total += of_warps[warp];
  }
  return total;
}

// A largest entry is order_key(value) << 32 | ~id; ids leave bit 31 to say whether there is a NaN.
inline constexpr u64 kEntryNan = u64{1} << 31;
// The same of a sum of weights, which is smaller.
inline constexpr u64 kMassNan = u64{1} << 63;

inline constexpr u64 kOne = u64{1} << kWeightBits;

TW_DEVICE u64 largest_of_warp(u64 entry) {
#pragma unroll
  for (i32 mask = kWarpSize / 2; mask > 0; mask /= 2) {
    const u64 other = shuffle_xor(entry, mask);
    entry = other > entry ? other : entry;
  }
  return entry;
}

// The first kernel, of logits: the largest entry of each chunk.
template <typename T>
TW_DEVICE void verify_maxima(const VerifyParams& p) {
  u64* of_warps = reinterpret_cast<u64*>(shared_memory());
  Chunk chunk;
  if (!find_chunk(p, chunk)) return;
  float largest = -kInfinity;
  u32 id_of_largest = 0;
  bool nan = false;
  // Ids of a thread rise: the first of equal values stays.
  for_chunk<T>(p, chunk, [&](i32 id, float logit) {
    nan |= logit != logit;
    const float value = clean_logit(logit);
    id_of_largest = value > largest ? static_cast<u32>(id) : id_of_largest;
    largest = max_of(largest, value);
  });
  nan = any_of_block(nan);
  const u64 entry = largest_of_warp(u64{order_key(largest)} << 32 | ~id_of_largest);
  if (lane_id() == 0) of_warps[warp_of_thread()] = entry;
  sync_block();
  if (thread_id() != 0) return;
  u64 all = entry;
#pragma unroll
  for (i32 warp = 1; warp < kChunkThreads / kWarpSize; ++warp)
    all = of_warps[warp] > all ? of_warps[warp] : all;
  RequestWorkspace(p, chunk.request).maxima(chunk.draft, chunk.node)[chunk.index] =
      nan ? all : all & ~kEntryNan;
}

// What is known of a row of logits on which no filter acts but for its mass, by its largest entry.
TW_DEVICE RowSummary summary_of_unfiltered(float largest, i32 id, const RowNumbers& numbers,
                                           bool nan) {
  RowSummary summary = summary_of_largest(largest, numbers, nan);
  if (largest == -kInfinity) {
    summary.certain = 0;
  } else if (numbers.temperature == 0) {
    summary.infinite = 0;
    summary.certain = id;
  } else {
    const WeightScale scale{summary.infinite != 0 ? 0 : largest,
                            scale_of_temperature(numbers.temperature)};
    const Kept all{-kInfinity, kLastId};
    summary.filtered = {all, all, {scale, 0}, 0, scale};
    summary.mass = 0;  // the sum of what chunks find
  }
  return summary;
}

// The same by the largest entries of its chunks. By a warp's lanes together.
TW_DEVICE RowSummary summary_of_maxima(const VerifyParams& p, i64 entry, const u64* maxima) {
  const u64 mine = lane_id() < chunks_of_row(p) ? maxima[lane_id()] : kEntryNan;
  const bool nan = any_of_warp((lane_id() < chunks_of_row(p)) & ((mine & kEntryNan) != 0));
  const u64 largest = largest_of_warp(mine | kEntryNan);
  return summary_of_unfiltered(of_order_key(static_cast<u32>(largest >> 32)),
                               static_cast<i32>(~static_cast<u32>(largest)),
                               numbers_of_entry(p.sample, entry), nan);
}

// Thread 0 has the mass of a chunk. The row's first one of `count` tells the summary, too: with a
// mass of 0 where those of chunks are to be added up.
TW_DEVICE void store_mass(const RequestWorkspace& workspace, const Chunk& chunk, i32 count,
                          u64 mass, const RowSummary& summary) {
  u64* const masses = workspace.masses(chunk.draft, chunk.node);
  if (thread_id() == 0) masses[chunk.index] = mass;
  if (chunk.index != 0 || warp_id() != 0) return;
  if (lane_id() >= count) masses[lane_id()] = 0;
  if (lane_id() == 0)
    (chunk.draft ? workspace.draft(chunk.node) : workspace.target(chunk.node)) = summary;
}

// The second one: the sum of the weights of each chunk, and of the first one of a row its summary.
template <typename T>
TW_DEVICE void verify_masses(const VerifyParams& p) {
  u64* of_warps = reinterpret_cast<u64*>(shared_memory());
  Chunk chunk;
  i64 entry;
  if (!find_chunk(p, chunk) || !find_entry(p.sample, chunk.request, entry)) return;
  const RequestWorkspace workspace(p, chunk.request);
  RowSummary summary{};
  summary.certain = -1;
  u64 sum = 0;
  bool nan = false;
  if (p.probabilities != 0) {
    for_chunk<T>(p, chunk, [&](i32, float q) {
      nan |= q != q;
      sum += probability_weight(q);
    });
    nan = any_of_block(nan);
  } else {
    summary = summary_of_maxima(p, entry, workspace.maxima(chunk.draft, chunk.node));
    const WeightScale scale = summary.filtered.of_draw;
    if (summary.infinite != 0) {
      for_chunk<T>(p, chunk, [&](i32, float logit) { sum += logit == kInfinity ? kOne : 0; });
    } else if (summary.certain < 0) {
      for_chunk<T>(p, chunk, [&](i32, float logit) { sum += converted_weight(logit, scale); });
    }
  }
  let_next_kernel_start();
  sum = sum_of_chunk(sum, of_warps);
  store_mass(workspace, chunk, chunks_of_row(p), sum | (nan ? kMassNan : 0), summary);
}

}  // namespace tw
