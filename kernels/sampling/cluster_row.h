// SPDX-License-Identifier: Apache-2.0
// A row of logits in the shared memory of a cluster of blocks: read from global memory once,
// whatever is asked of it then. A warp has neighbouring logits, and a thread always the same ones.
#pragma once

#include "arch/cluster.h"
#include "arch/elements.h"
#include "arch/memory.h"
#include "arch/thread.h"
#include "sampling/kept.h"
#include "sampling/params.h"
#include "sampling/process_logit.h"
#include "sampling/row_numbers.h"
#include "sampling/token_weight.h"

namespace tw {

inline constexpr i32 kClusterWarps = kClusterThreads / kWarpSize;
inline constexpr i32 kEach = 4;  // neighbouring logits of a thread
inline constexpr i32 kStep = kWarpSize * kEach;
inline constexpr i32 kSlots = kMostBlocks * kClusterWarps;  // one for each warp of a cluster

inline constexpr i32 kBins = kClusterThreads / 2;
inline constexpr i32 kMostListed = kClusterThreads;

// What a bin measures, by parts of kLowBits and more bits, which overflow in no sum.
struct alignas(8) BinSum {
  u32 low;
  u32 high;
};

// A block's shared memory. Blocks count for themselves, then each reads what the others have: after
// one barrier all know what only the sum of all tells. Of what is read so there are two, used in
// turn: who has passed the barrier behind the second one's use is done with the first.
struct ClusterMemory {
  float logits[kBlockLogits];
  BinSum bins[2][kBins];
  u64 sums[2][2][kClusterWarps];  // of what is in no bin, too; those above all bins
  u64 own[kMostListed];           // entries that this block lists
  u64 listed[kMostListed];        // those of all blocks
  // The same in falling order; while the row is read, its bias filter.
  union {
    u64 sorted[kMostListed];
    u32 bias_filter[kBiasWords];
  };
  // What each warp of the cluster has found.
  u64 totals[kSlots];
  u32 maxima[kSlots];
  u32 minima[kSlots];
  u32 nans[kSlots];  // the leader's: whether a warp has seen one
  // What this block's warps have found.
  u32 first[kClusterWarps];
  u32 last[kClusterWarps];
  u32 ties[kClusterWarps];
  u64 masses[kClusterWarps];
  u64 of_warps[3][kClusterWarps];
  u32 num_own;  // of `own`
  RowNumbers numbers;
  LogitProcess process;
  i64 seed;
  i64 step;
  u64 random;
  // What one thread tells the others.
  i32 window[2];
  u64 rest;
  u64 last_kept;
  u32 low;
};
static_assert(sizeof(ClusterMemory) <= kClusterSharedBytes);

struct ClusterRow {
  ClusterMemory& memory;
  i32 count;  // logits of the row
  i32 rank;   // of this block
  i32 blocks;
  i32 warp_logits;  // a multiple of kStep

  TW_DEVICE i32 slot() const { return rank * kClusterWarps + warp_of_thread(); }

  // body(id, logits) of a warp's runs of kEach, by its lanes together. What is kept behind the
  // row's end is -inf: the last ones in any order.
  template <typename Body>
  TW_DEVICE void for_runs(const Body& body) const {
    const i32 warp = warp_id();
    const i32 first = (rank * kClusterWarps + warp) * warp_logits;
    float* logits = memory.logits + warp * warp_logits + lane_id() * kEach;
#pragma unroll 1
    for (i32 at = 0; at < warp_logits && first + at < count; at += kStep)
      body(first + at + lane_id() * kEach, logits + at);
  }
  // The same, with the values.
  template <typename Body>
  TW_DEVICE void for_values(const Body& body) const {
    for_runs([&](i32 id, const float* logits) {
      const Float4 run = *reinterpret_cast<const Float4*>(logits);
      const float values[kEach] = {run.x, run.y, run.z, run.w};
      body(id, values);
    });
  }

  // What the warp of a slot has left in its block.
  template <typename T>
  TW_DEVICE T load_of(const T* of_warps, i32 slot) const {
    return load_remote(of_warps + slot % kClusterWarps, slot / kClusterWarps);
  }
  TW_DEVICE i32 slots() const {
    return blocks * kClusterWarps;
  }
  // Tells a warp's finding to all blocks.
  template <typename T>
  TW_DEVICE void tell_all(T* slots, T value) const {
    if (lane_id() < blocks) store_remote(slots + slot(), lane_id(), value);
  }
};

TW_DEVICE float pick(const float (&run)[kEach], i32 j) {
  static_assert(kEach == 4);
  return j < 2 ? (j == 0 ? run[0] : run[1]) : (j == 2 ? run[2] : run[3]);
}

struct Extremes {
  float largest;
  float least;
  float of_thread;  // the largest one of this thread
};

// Reads this block's part of the row; what is found in all of it. By blocks that have arrived at
// the cluster.
template <typename T>
TW_DEVICE Extremes read_row(const ClusterRow& row, const T* logits, bool aligned) {
  ClusterMemory& memory = row.memory;
  const LogitProcess& process = memory.process;
  float largest = -kInfinity, least = kInfinity;
  bool nan = false;
  const bool processed = changes_logits(process);
  // Of the tokens from `id` on, all of the row.
  const auto keep = [&](i32 id, float* to, float(&run)[kEach]) {
    if (processed) {
#pragma unroll 1
      for (i32 j = 0; j < kEach; ++j) to[j] = process_logit(process, id + j, pick(run, j));
#pragma unroll
      for (i32 j = 0; j < kEach; ++j) run[j] = to[j];
    }
    float values[kEach];
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      nan |= run[j] != run[j];
      values[j] = clean_logit(run[j]);
      largest = max_of(largest, values[j]);
      least = min_of(least, values[j]);
    }
    *reinterpret_cast<Float4*>(to) = {values[0], values[1], values[2], values[3]};
  };
  // Runs that are asked for before the first one is looked at.
  constexpr i32 kAhead = 16 / sizeof(T);
  const i32 begin = (row.rank * kClusterWarps + warp_id()) * row.warp_logits;
  float* to = memory.logits + warp_id() * row.warp_logits + lane_id() * kEach;
  const T* from = logits + begin + lane_id() * kEach;
  const bool whole = aligned && begin + row.warp_logits <= row.count;
#pragma unroll 1
  for (i32 first = 0; whole && first < row.warp_logits; first += kAhead * kStep) {
    Run<T, kEach> runs[kAhead];
#pragma unroll
    for (i32 i = 0; i < kAhead; ++i) {
      if (first + i * kStep < row.warp_logits) runs[i] = read_run<kEach>(from + first + i * kStep);
    }
#pragma unroll
    for (i32 i = 0; i < kAhead; ++i) {
      if (first + i * kStep >= row.warp_logits) break;
      float run[kEach];
      unpack_run(runs[i], run);
      keep(begin + first + i * kStep + lane_id() * kEach, to + first + i * kStep, run);
    }
  }
  // Behind the row's end there is -inf, which is no logit.
#pragma unroll 1
  for (i32 at = 0; !whole && at < row.warp_logits; at += kStep) {
    const i32 id = begin + at + lane_id() * kEach;
    if (id + kEach <= row.count) {
      float run[kEach];
#pragma unroll
      for (i32 j = 0; j < kEach; ++j) run[j] = to_float(from[at + j]);
      keep(id, to + at, run);
      continue;
    }
#pragma unroll 1
    for (i32 j = 0; j < kEach; ++j) {
      float value = -kInfinity;
      if (id + j < row.count) {
        const float logit = to_float(from[at + j]);
        const float done = processed ? process_logit(process, id + j, logit) : logit;
        nan |= done != done;
        value = clean_logit(done);
        largest = max_of(largest, value);
        least = min_of(least, value);
      }
      to[at + j] = value;
    }
  }
  const float of_thread = largest;
  wait_for_cluster();
  row.tell_all(memory.maxima, warp_max(order_key(largest)));
  row.tell_all(memory.minima, warp_min(order_key(least)));
  if (any_of_warp(nan)) nan = true;
  if (lane_id() == 0) store_remote(&memory.nans[row.slot()], 0, nan ? 1U : 0U);
  sync_cluster();
  u32 first = 0, last = ~0U;
#pragma unroll 1
  for (i32 slot = lane_id(); slot < row.slots(); slot += kWarpSize) {
    first = memory.maxima[slot] > first ? memory.maxima[slot] : first;
    last = memory.minima[slot] < last ? memory.minima[slot] : last;
  }
  return {of_order_key(warp_max(first)), of_order_key(warp_min(last)), of_thread};
}

// A row whose largest logit is +inf: all mass lies on such ones, evenly.
TW_DEVICE void keep_infinite(const ClusterRow& row) {
  row.for_runs([&](i32, float* logits) {
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) logits[j] = logits[j] == kInfinity ? 0.0F : -kInfinity;
  });
}

}  // namespace tw
