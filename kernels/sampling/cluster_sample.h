// SPDX-License-Identifier: Apache-2.0
// Samples a token from each row of logits, as docs/sampling.md says, on Hopper and later: a cluster
// has a row. The same tokens as sampling/sample.h and the CPU.
#pragma once

#include "sampling/cluster_search.h"
#include "sampling/random_bits.h"

namespace tw {

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
  for (i32 slot = lane_id(); slot < row.slots(); slot += kWarpSize) {
    const u32 other = static_cast<u32>(memory.totals[slot]);
    best = other < best ? other : best;
  }
  best = warp_min(best);
  if (lane_id() == 0) store_token(p, index, static_cast<i32>(best));
}

// The first entry, in order of ids, at which the sum of weights exceeds the random part of it.
// Those that are not kept or below the weight `least` have none.
TW_DEVICE void store_draw(const SampleParams& p, i64 index, const ClusterRow& row, const Kept& kept,
                          u64 least, const WeightScale& scale) {
  ClusterMemory& memory = row.memory;
  const auto weigh_run = [&](i32 id, const float(&values)[kEach], u64(&weights)[kEach]) {
#pragma unroll
    for (i32 j = 0; j < kEach; ++j)
      weights[j] = kept.contains(id + j, values[j]) ? token_weight(values[j], scale) : 0;
    if (least != 0) {
#pragma unroll
      for (i32 j = 0; j < kEach; ++j) weights[j] = weights[j] >= least ? weights[j] : 0;
    }
    return weights[0] + weights[1] + weights[2] + weights[3];
  };
  u64 mine = 0;
  row.for_values([&](i32 id, const float(&values)[kEach]) {
    bool some = false;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) some |= values[j] >= kept.threshold;
    u64 weights[kEach];
    if (any_of_warp(some)) mine += weigh_run(id, values, weights);
  });
  row.tell_all(memory.totals, sum_of_warp(mine));
  sync_cluster();
  // A lane has neighbouring slots.
  const i32 slots = row.slots();
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
    const u64 of_run = weigh_run(id, values, weights);
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

// Rows whose filters are top-k, top-p and min-p behind them: choose_sample_kernel() sees to it.
template <typename T>
TW_DEVICE void cluster_sample(const SampleParams& p) {
  ClusterMemory& memory = *reinterpret_cast<ClusterMemory*>(shared_memory());
  const ClusterRow row{memory, p.vocabulary, cluster_rank(), cluster_size(), p.warp_logits};
  const i64 index = block_id() / row.blocks;
  const bool tells = row.rank == 0 && thread_id() == 0;
  i64 entry;
  if (!find_entry(p, index, entry)) {
    if (tells) {
      store_status(p, index, kStatusSlot);
      store_token(p, index, 0);
    }
    return;
  }
  arrive_at_cluster();
  if (thread_id() < kBins) memory.bins[0][thread_id()] = {0, 0};
  if (thread_id() == 0) {
    memory.numbers = numbers_of_entry(p, entry);
    memory.seed = value_of_entry(p.seeds, entry);
    memory.step = value_of_entry(p.steps, entry);
  }
  const bool good =
      process_of_entry(p.process, entry, p.vocabulary, memory.bias_filter, memory.process);
  const RowNumbers& numbers = memory.numbers;
  Extremes extremes =
      read_row(row, static_cast<const T*>(p.logits) + index * p.logits_stride, p.aligned != 0);
  if (tells && p.status != nullptr) {
    u32 nan = 0;
    for (i32 slot = 0; slot < row.slots(); ++slot) nan |= memory.nans[slot];
    store_status(p, index,
                 (good ? numbers.status : kStatusBadParameter) | (nan != 0 ? kStatusNan : 0) |
                     (extremes.largest == kInfinity ? kStatusInfinity : 0) |
                     (extremes.largest == -kInfinity ? kStatusNoCandidate : 0));
  }
  if (extremes.largest == -kInfinity) {
    if (tells) store_token(p, index, first_allowed(memory.process, p.vocabulary));
    return;
  }
  // Read by all behind a later barrier; not by the thread that stores results.
  if (thread_id() == kClusterThreads - 1) memory.random = sampling_bits(memory.seed, memory.step);
  if (numbers.temperature == 0) {
    store_arg_max(p, index, row, extremes.largest);
    return;
  }
  const bool infinite = extremes.largest == kInfinity;
  if (infinite) {
    keep_infinite(row);
    // What is not infinite is -inf now, and in the last of the bins.
    extremes = {0, -kInfinity, extremes.of_thread == kInfinity ? 0.0F : -kInfinity};
  }
  const WeightScale scale{extremes.largest, scale_of_temperature(numbers.temperature)};
  Kept kept{-kInfinity, kLastId};
  BinTurns turns{0};
#pragma unroll 1
  for (i32 turn = 0; turn < 3; ++turn) {
    const Filter filter = filter_of_turn(p.order, turn);
    if (filter == Filter::min_p || is_off(filter, numbers, row.count)) continue;
    const bool counts = filter == Filter::top_k;
    // What is kept may be in a short list: then the leader can do the rest.
    Listed listed = {0, kMostListed + 1};
    u64 target = 0;
    if (counts && !infinite && numbers.top_k <= row.slots() / 2) {
      listed = list_largest(row, kept, numbers.top_k, turn > 0);
      if (listed.total <= kMostListed && row.rank == 0) gather_listed(row, listed);
    } else if (!counts && !infinite && kept.threshold == -kInfinity && is_peaked(row, scale)) {
      listed = list_top_p(row, numbers.top_p, scale, turn > 0, target);
      if (target == 0) listed.total = kMostListed + 1;
    }
    if (listed.total <= kMostListed) {
      sync_cluster();
      if (row.rank == 0) {
        store_draw_of_list(p, index, memory, listed.total, turn, target, numbers, row.count, scale);
      }
      return;
    }
    kept = apply_filter(row, {counts, numbers.top_k, numbers.top_p}, kept, extremes, scale, turns);
  }
  const u64 least =
      numbers.min_p > 0 ? least_weight(numbers.min_p, token_weight(scale.largest, scale)) : 0;
  store_draw(p, index, row, kept, least, scale);
}

}  // namespace tw
