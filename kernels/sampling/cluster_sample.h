// SPDX-License-Identifier: Apache-2.0
// Samples a token from each row of logits, as docs/sampling.md says, on Hopper and later: a cluster
// has a row. The same tokens as sampling/sample.h and the CPU.
#pragma once

#include "sampling/cluster_search.h"
#include "sampling/random_bits.h"

namespace tw {

TW_DEVICE void store_token(const SampleParams& p, i64 row, i32 token) {
  const i64 at = row * p.tokens_stride;
  if (p.tokens_64 != 0) {
    static_cast<i64*>(p.tokens)[at] = token;
  } else {
    static_cast<i32*>(p.tokens)[at] = token;
  }
}

// The lowest id of the largest logit.
TW_DEVICE void store_arg_max(const SampleParams& p, i64 index, const ClusterRow& row,
                             float largest) {
  ClusterMemory& memory = row.memory;
  u32 best = ~0U;
  row.for_values([&](i32 id, const float(&values)[kEach]) {
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      if ((values[j] == largest) & (static_cast<u32>(id + j) < best))
        best = static_cast<u32>(id + j);
    }
  });
  best = warp_min(best);
  if (lane_id() == 0) {
    store_remote(&memory.totals[row.slot()], 0, u64{best});
  }
  sync_cluster();
  if (row.rank != 0 || warp_id() != 0) return;
#pragma unroll 1
  for (i32 slot = lane_id(); slot < row.blocks * kClusterWarps; slot += kWarpSize) {
    const u32 other = static_cast<u32>(memory.totals[slot]);
    best = other < best ? other : best;
  }
  best = warp_min(best);
  if (lane_id() == 0) store_token(p, index, static_cast<i32>(best));
}

// The first entry, in order of ids, at which the sum of weights exceeds the random part of it.
// Those below the value `kept` and the weight `least` have none.
TW_DEVICE void store_draw(const SampleParams& p, i64 index, const ClusterRow& row, float kept,
                          u64 least, const WeightScale& scale) {
  ClusterMemory& memory = row.memory;
  const auto weigh_run = [&](const float(&values)[kEach], u64(&weights)[kEach]) {
#pragma unroll
    for (i32 j = 0; j < kEach; ++j)
      weights[j] = values[j] >= kept ? token_weight(values[j], scale) : 0;
    if (least != 0) {
#pragma unroll
      for (i32 j = 0; j < kEach; ++j) weights[j] = weights[j] >= least ? weights[j] : 0;
    }
    return weights[0] + weights[1] + weights[2] + weights[3];
  };
  u64 mine = 0;
  row.for_values([&](i32, const float(&values)[kEach]) {
    bool some = false;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) some |= values[j] >= kept;
    u64 weights[kEach];
    if (any_of_warp(some)) mine += weigh_run(values, weights);
  });
  row.tell_all(memory.totals, sum_of_warp(mine));
  sync_cluster();
  // A lane has neighbouring slots.
  const i32 slots = row.blocks * kClusterWarps;
  const i32 of_lane = (slots + kWarpSize - 1) / kWarpSize;
  u64 sum = 0;
#pragma unroll 1
  for (i32 slot = lane_id() * of_lane; slot < (lane_id() + 1) * of_lane && slot < slots; ++slot)
    sum += memory.totals[slot];
  const u64 up_to = sum_up_to_lane(sum);
  // floor(random / 2^64 * total) is uniform in [0, total).
  u64 rest = multiply_high(memory.random, shuffle(up_to, kWarpSize - 1));
  const i32 lane = lowest_bit(ballot(up_to > rest));
  rest -= shuffle(up_to - sum, lane);
  i32 slot = lane * of_lane;
#pragma unroll 1
  while (rest >= memory.totals[slot]) rest -= memory.totals[slot++];
  if (slot != uniform(row.slot())) return;
  bool done = false;
  row.for_values([&](i32 id, const float(&values)[kEach]) {
    if (done) return;
    u64 weights[kEach];
    const u64 of_run = weigh_run(values, weights);
    const u64 run_up_to = sum_up_to_lane(of_run);
    const u32 exceeds = ballot(run_up_to > rest);
    if (exceeds == 0) {
      rest -= shuffle(run_up_to, kWarpSize - 1);
      return;
    }
    done = true;
    if (lane_id() != lowest_bit(exceeds)) return;
    rest -= run_up_to - of_run;
    bool found = false;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      if (!found && rest < weights[j]) {
        store_token(p, index, id + j);
        found = true;
      }
      if (!found) rest -= weights[j];
    }
  });
}

template <typename T>
TW_DEVICE void cluster_sample(const SampleParams& p) {
  ClusterMemory& memory = *reinterpret_cast<ClusterMemory*>(shared_memory());
  const ClusterRow row{memory, p.vocabulary, cluster_rank(), cluster_size(), p.warp_logits};
  const i64 index = block_id() / row.blocks;
  for (i32 i = thread_id(); i < kBins; i += kClusterThreads) memory.low[i] = memory.high[i] = 0;
  const float temperature = value_of_row(p.temperature, index);
  const i32 top_k = value_of_row(p.top_k, index);
  const float top_p = value_of_row(p.top_p, index);
  const float min_p = value_of_row(p.min_p, index);
  if (thread_id() == 0) {
    memory.random = sampling_bits(value_of_row(p.seeds, index), value_of_row(p.steps, index));
  }
  Extremes extremes =
      read_row(row, static_cast<const T*>(p.logits) + index * p.logits_stride, p.aligned != 0);
  if (extremes.largest == -kInfinity || !(temperature > 0)) {
    store_arg_max(p, index, row, extremes.largest);
    return;
  }
  if (extremes.largest == kInfinity) {
    keep_infinite(row);
    extremes = {0, 0, extremes.of_thread == kInfinity ? 0.0F : -kInfinity};
  }
  const WeightScale scale{extremes.largest, scale_of_temperature(temperature)};
  float kept = -kInfinity;
#pragma unroll 1
  for (i32 turn = 0; turn < 2; ++turn) {
    const bool counts = turn == 0;
    const bool off = counts ? top_k <= 0 || top_k >= row.count : !(top_p < 1);
    if (!off) kept = apply_filter(row, {counts, top_k, top_p, kept}, extremes, scale);
  }
  store_draw(p, index, row, kept, min_p > 0 ? least_weight(min_of(min_p, 1.0F)) : 0, scale);
}

}  // namespace tw
