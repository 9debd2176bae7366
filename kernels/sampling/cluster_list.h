// SPDX-License-Identifier: Apache-2.0
// A short list of a row's entries: each block lists its own, reads those of the others and sorts
// them by counting how many are larger. Filters then keep a beginning of the list.
#pragma once

#include "sampling/cluster_row.h"

namespace tw {

// To this block's list, by a warp's lanes together; num_own counts those that it has no place for,
// too.
TW_DEVICE void list(ClusterMemory& memory, u64 entry, bool there) {
  const u32 lanes = ballot(there);
  if (lanes == 0) return;
  u32 at = 0;
  if (lane_id() == 0) at = atomic_add(&memory.num_own, static_cast<u32>(count_bits(lanes)));
  at = shuffle(at, 0) + static_cast<u32>(count_bits(lanes & ((1U << lane_id()) - 1)));
  if (there && at < kMostListed) memory.own[at] = entry;
}

// How many each block has listed, of lane `block`.
struct Listed {
  u32 of_lane;
  i32 total;
};
// A barrier of the cluster.
TW_DEVICE Listed count_listed(const ClusterRow& row) {
  sync_cluster();
  const u32 of_lane = lane_id() < row.blocks ? load_remote(&row.memory.num_own, lane_id()) : 0;
  return {of_lane, static_cast<i32>(warp_sum(of_lane))};
}

// Reads the entries of all blocks, in any order.
TW_DEVICE void gather_listed(const ClusterRow& row, const Listed& listed) {
  const i32 mine = thread_id();
  i32 before = 0, from = 0, block = 0;
#pragma unroll 1
  for (i32 i = 0; i < row.blocks; ++i) {
    const i32 of_block = static_cast<i32>(shuffle(listed.of_lane, i));
    if (mine >= before) {
      block = i;
      from = before;
    }
    before += of_block;
  }
  if (mine < listed.total)
    row.memory.listed[mine] = load_remote(&row.memory.own[mine - from], block);
}

// In falling order. Warps end apart.
TW_DEVICE void sort_listed(ClusterMemory& memory, i32 count) {
  sync_block();
  if (thread_id() < count) {
    const u64 mine = memory.listed[thread_id()];
    i32 larger = 0;
#pragma unroll 4
    for (i32 i = 0; i < count; ++i) larger += memory.listed[i] > mine ? 1 : 0;
    memory.sorted[larger] = mine;
  }
  sync_block();
}

// Sums over the threads of the block, each up to this one, and of all.
struct BlockSum {
  u64 up_to;
  u64 total;
};
TW_DEVICE BlockSum sum_up_to_thread(u64 (&of_warps)[kClusterWarps], u64 value) {
  BlockSum sum = {sum_up_to_lane(value), 0};
  if (lane_id() == kWarpSize - 1) of_warps[warp_of_thread()] = sum.up_to;
  sync_block();
  u64 before = 0;
#pragma unroll
  for (i32 warp = 0; warp < kClusterWarps; ++warp) {
    const u64 of_warp = of_warps[warp];
    sum.total += of_warp;
    before += warp < warp_of_thread() ? of_warp : 0;
  }
  sum.up_to += before;
  return sum;
}

// The entry of the sorted list at which the sum reaches `rest`.
TW_DEVICE u64 last_of_sorted(ClusterMemory& memory, i32 count, bool counts, u64 rest,
                             const WeightScale& scale) {
  if (counts) return memory.sorted[rest - 1];
  const u64 entry = thread_id() < count ? memory.sorted[thread_id()] : 0;
  const u64 weight = thread_id() < count ? token_weight(value_of_entry(entry), scale) : 0;
  const u64 up_to = sum_up_to_thread(memory.of_warps[0], weight).up_to;
  if (up_to >= rest && up_to - weight < rest) memory.last_kept = entry;
  sync_block();
  return memory.last_kept;
}

// The token of a row all of whose entries that filters may still keep are in the list, from filter
// `turn` on. If that is top-p, which keeps `target`, 0: of the mass of what is in the list. By the
// leader.
TW_DEVICE void store_draw_of_list(const SampleParams& p, i64 index, ClusterMemory& memory,
                                  i32 count, i32 turn, u64 target, const RowNumbers& numbers,
                                  i32 vocabulary, const WeightScale& scale) {
  sort_listed(memory, count);
  const u64 entry = thread_id() < count ? memory.sorted[thread_id()] : 0;
  u64 weight = thread_id() < count ? token_weight(value_of_entry(entry), scale) : 0;
  i32 left = count;
#pragma unroll 1
  for (; turn < 3; ++turn) {
    const Filter filter = filter_of_turn(p.order, turn);
    if (is_off(filter, numbers, vocabulary)) continue;
    if (filter == Filter::top_k) {
      left = numbers.top_k < left ? numbers.top_k : left;
    } else if (filter == Filter::top_p) {
      const u64 mine = thread_id() < left ? weight : 0;
      const BlockSum sum = sum_up_to_thread(memory.of_warps[0], mine);
      if (target == 0) target = mass_target(numbers.top_p, sum.total);
      if (sum.up_to >= target && sum.up_to - mine < target) memory.window[0] = thread_id() + 1;
      sync_block();
      left = memory.window[0];
    }
  }
  if (thread_id() >= left) weight = 0;
  if (numbers.min_p > 0) {
    const u64 least = least_weight(numbers.min_p, token_weight(scale.largest, scale));
    if (weight < least) weight = 0;
  }
  // Of tokens with lower ids; what was listed is not needed any more.
  u64* weights = memory.listed;
  weights[thread_id()] = weight;
  const u64 total = sum_up_to_thread(memory.of_warps[1], weight).total;
  if (thread_id() >= left) return;
  const u64 drawn = multiply_high(memory.random, total);
  u64 before = 0;
#pragma unroll 4
  for (i32 i = 0; i < left; ++i)
    before += static_cast<u32>(memory.sorted[i]) > static_cast<u32>(entry) ? weights[i] : 0;
  if (before <= drawn && drawn < before + weight) store_token(p, index, id_of_entry(entry));
}

}  // namespace tw
