// SPDX-License-Identifier: Apache-2.0
// Samples a token from each row of logits, as docs/sampling.md says, on Hopper and later: a cluster
// has a row. The same tokens as sampling/sample.h and the CPU.
#pragma once

#include "sampling/cluster_filters.h"
#include "sampling/random_bits.h"

namespace tw {

// tell(id) of the first entry, in order of ids, at which the sum of weights exceeds the random part
// of it. Those below the threshold or the weight `least` have none. All blocks have the weights of
// warps in `totals`.
template <typename Stored, typename Tell>
TW_DEVICE void draw_from_row(const ClusterRow<Stored>& row, float threshold, u64 least,
                             const WeightScale& scale, const Tell& tell) {
  ClusterMemory& memory = row.memory;
  const auto weigh_run = [&](const float(&values)[kClusterRun], u64(&weights)[kClusterRun]) {
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) {
      const u64 weight = values[j] >= threshold ? converted_weight(values[j], scale) : 0;
      weights[j] = weight >= least ? weight : 0;
    }
    return weights[0] + weights[1] + weights[2] + weights[3];
  };
  u64 mine = 0;
  if (least != 0) {
    row.for_values([&](i32, const float(&values)[kClusterRun]) {
      u64 weights[kClusterRun];
      mine += weigh_run(values, weights);
    });
  } else {
    row.for_values([&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
      for (i32 j = 0; j < kClusterRun; ++j) {
        const u64 weight = converted_weight(values[j], scale);
        mine += values[j] >= threshold ? weight : 0;
      }
    });
  }
  row.tell_all(memory.totals, sum_of_warp(mine));
  sync_cluster();
  // A lane has neighbouring warps.
  const i32 warps = row.warps();
  const i32 of_lane = (warps + kWarpSize - 1) / kWarpSize;
  u64 sum = 0;
#pragma unroll 1
  for (i32 warp = lane_id() * of_lane; warp < (lane_id() + 1) * of_lane && warp < warps; ++warp)
    sum += memory.totals[warp];
  const u64 up_to = sum_up_to_lane(sum);
  // floor(random / 2^64 * total) is uniform in [0, total).
  u64 rest = multiply_high(memory.random, shuffle(up_to, kWarpSize - 1));
  const i32 lane = lowest_bit(ballot(up_to > rest));
  rest -= shuffle(up_to - sum, lane);
  i32 warp = lane * of_lane;
#pragma unroll 1
  while (rest >= memory.totals[warp]) rest -= memory.totals[warp++];
  if (warp != row.warp) return;
  bool done = false;
  row.for_values([&](i32 id, const float(&values)[kClusterRun]) {
    if (done) return;
    u64 weights[kClusterRun];
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
    for (i32 j = 0; j < kClusterRun; ++j) {
      if (!found && rest < weights[j]) {
        tell(id + j);
        found = true;
      }
      if (!found) rest -= weights[j];
    }
  });
}

// Rows whose filters are top-k, top-p and min-p behind them: choose_sample_kernel() sees to it.
template <typename Stored, typename T>
TW_DEVICE void cluster_sample(const SampleParams& p) {
  ClusterMemory& memory = *reinterpret_cast<ClusterMemory*>(shared_memory());
  const ClusterRow<Stored> row(memory, p.vocabulary, p.warp_logits);
  const i64 index = block_id() / row.blocks;
  const bool leads = row.rank == 0;
  const bool tells = leads && thread_id() == 0;
  const T* const logits = static_cast<const T*>(p.logits) + index * p.logits_stride;
  const bool asked = kIsSame<Stored, T> && p.aligned != 0;
  if constexpr (kIsSame<Stored, T>) {
    if (asked) ask_for_row(row, logits);
  }
  begin_cluster(memory);
  i64 entry;
  if (!find_entry(p, index, entry)) {
    if (tells) {
      store_status(p, index, kStatusSlot);
      store_token(p, index, 0);
    }
    if (asked) wait_for_row(row);
    wait_for_cluster();
    return;
  }
  const bool good =
      process_of_entry(p.process, entry, p.vocabulary, memory.bias_filter, memory.process);
  if (asked) wait_for_row(row);
  Extremes extremes = read_row(row, logits, asked, p.aligned != 0, [&] {
    // By threads that store no results.
    if (thread_id() == kClusterThreads - 1) keep_numbers(memory, p, entry);
    if (thread_id() == kClusterThreads - 1 - kWarpSize)
      memory.random = sampling_bits(value_of_entry(p.seeds, entry), value_of_entry(p.steps, entry));
  });
  const RowNumbers& numbers = memory.numbers;
  if (tells) store_status(p, index, status_of_row(memory, good, extremes.largest));
  if (extremes.largest == -kInfinity) {
    if (tells) store_token(p, index, first_allowed(memory.process, p.vocabulary));
    return;
  }
  if (numbers.temperature == 0) {
    const i32 best = find_arg_max(row, extremes);
    if (tells) store_token(p, index, best);
    return;
  }
  const bool infinite = extremes.largest == kInfinity;
  if (infinite) extremes = keep_infinite(row, extremes);
  const WeightScale scale{extremes.largest, memory.scale};
  BinTurns turns{0};
  const RowLeft left = filter_row(row, p.order, numbers, extremes, infinite, scale, turns);
  const u64 least = least_of_row(numbers, scale);
  if (left.listed > kMostListed) {
    draw_from_row(row, left.threshold, least, scale, [&](i32 id) { store_token(p, index, id); });
    return;
  }
  // The leader's memory is there until all have read in it.
  arrive_at_cluster();
  if (leads) {
    u64* const sorted = turns.other(memory);
    draw_from_list(memory, sorted,
                   filter_list(memory, p.order, sorted, left.listed, left.turn, left.target, least,
                               numbers, row.count, scale),
                   [&](i32 id) { store_token(p, index, id); });
  }
  wait_for_cluster();
}

}  // namespace tw
