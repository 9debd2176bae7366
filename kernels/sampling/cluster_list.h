// SPDX-License-Identifier: Apache-2.0
// A short list of a row's entries: each block lists its own and reads those of the others, or all
// list theirs in the leader's memory. It is sorted by counting how many are larger. Filters then
// keep a beginning of the list.
#pragma once

#include "sampling/cluster_row.h"

namespace tw {

// What a warp adds to a list, by its lanes together: the leader's, or its own block's.
template <bool kLeaders>
struct WarpList {
  ClusterMemory& memory;
  u32 total = 0;  // entries of this warp
  bool full = false;

  // A run's entries that are `there`. num_listed counts those that it has no place for, too, but
  // not all of them.
  TW_DEVICE void add(i32 id, const float (&values)[kClusterRun], const bool (&there)[kClusterRun]) {
    u32 before = 0, of_run = 0;
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) {
      const u32 lanes = ballot(there[j]);
      before += static_cast<u32>(count_bits(lanes & ((1U << lane_id()) - 1)));
      of_run += static_cast<u32>(count_bits(lanes));
    }
    total += of_run;
    if (full | (of_run == 0)) return;
    u32 at = 0;
    if (lane_id() == 0) {
      at = kLeaders ? add_remote(&memory.num_listed, 0, of_run)
                    : atomic_add(&memory.num_listed, of_run);
    }
    at = shuffle(at, 0);
    full = at + of_run > kMostListed;
    at += before;
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) {
      if (there[j] & (at < kMostListed)) {
        const u64 entry = entry_of_logit(values[j], id + j);
        if (kLeaders) {
          store_remote(&memory.own()[at], 0, entry);
        } else {
          memory.own()[at] = entry;
        }
      }
      at += there[j] ? 1 : 0;
    }
  }
};

// How many entries the leader's list has. A barrier of the cluster.
template <typename Stored>
TW_DEVICE i32 count_leaders(const ClusterRow<Stored>& row) {
  sync_cluster();
  return static_cast<i32>(load_remote(&row.memory.num_listed, 0));
}

// How many each block has listed, of lane `block`.
struct Listed {
  u32 of_lane;
  i32 total;
};
// A barrier of the cluster.
template <typename Stored>
TW_DEVICE Listed count_listed(const ClusterRow<Stored>& row) {
  sync_cluster();
  const u32 of_lane = lane_id() < row.blocks ? load_remote(&row.memory.num_listed, lane_id()) : 0;
  return {of_lane, static_cast<i32>(warp_sum(of_lane))};
}

// Reads the entries of all blocks, in any order.
template <typename Stored>
TW_DEVICE void gather_listed(const ClusterRow<Stored>& row, const Listed& listed) {
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
    row.memory.all()[mine] = load_remote(&row.memory.own()[mine - from], block);
}

// Copies a list in falling order. Warps end apart.
TW_DEVICE void sort_list(u64* list, u64* sorted, i32 count) {
  // An even number, read by two.
  if (thread_id() == 0 && count % 2 != 0) list[count] = 0;
  sync_block();
  if (thread_id() < count) {
    const u64 mine = list[thread_id()];
    i32 larger = 0;
#pragma unroll 4
    for (i32 i = 0; i < count; i += 2) {
      const Bytes16 two = load_16(&list[i]);
      const u64 first = u64{two.word[1]} << 32 | two.word[0];
      const u64 second = u64{two.word[3]} << 32 | two.word[2];
      larger += (first > mine ? 1 : 0) + (second > mine ? 1 : 0);
    }
    sorted[larger] = mine;
  }
  sync_block();
}

// The entry of the sorted list at which the sum reaches `rest`, the last one to be kept.
struct LastKept {
  u64 entry;
  bool ties;  // whether those behind it have others of its value
};
TW_DEVICE LastKept last_of_sorted(ClusterMemory& memory, const u64* sorted, i32 count, bool counts,
                                  u64 rest, const WeightScale& scale) {
  const i32 i = thread_id();
  const u64 entry = i < count ? sorted[i] : 0;
  bool last;
  if (counts) {
    last = static_cast<u64>(i) + 1 == rest;
  } else {
    const u64 weight = i < count ? token_weight(value_of_entry(entry), scale) : 0;
    const u64 up_to = sum_up_to_thread<kClusterWarps>(memory.of_warps[0], weight).up_to;
    last = up_to >= rest && up_to - weight < rest;
  }
  if (last) {
    memory.last_kept = entry;
    memory.ties_end = i + 1 < count && sorted[i + 1] >> 32 == entry >> 32 ? 1 : 0;
  }
  sync_block();
  return {memory.last_kept, memory.ties_end != 0};
}

// What filters leave of a list: its first entries.
struct ListLeft {
  i32 count;
  u64 entry;   // this thread's
  u64 weight;  // the same one's; 0 if it is not left
};

// Of a row all of whose entries that filters may still keep are in the list, from filter `turn` on.
// If that is top-p, which keeps `target`, 0: of the mass of what is in the list. `least`: of
// weights. By the leader.
TW_DEVICE ListLeft filter_list(ClusterMemory& memory, Order order, u64* sorted, i32 count, i32 turn,
                               u64 target, u64 least, const RowNumbers& numbers, i32 vocabulary,
                               const WeightScale& scale) {
  sort_list(memory.own(), sorted, count);
  ListLeft left{count, 0, 0};
  if (thread_id() < count) {
    left.entry = sorted[thread_id()];
    left.weight = token_weight(value_of_entry(left.entry), scale);
  }
#pragma unroll 1
  for (; turn < 3; ++turn) {
    const Filter filter = filter_of_turn(order, turn);
    if (is_off(filter, numbers, vocabulary)) continue;
    if (filter == Filter::top_k) {
      left.count = numbers.top_k < left.count ? numbers.top_k : left.count;
    } else if (filter == Filter::top_p) {
      const u64 mine = thread_id() < left.count ? left.weight : 0;
      const BlockSum sum = sum_up_to_thread<kClusterWarps>(memory.of_warps[0], mine);
      if (target == 0) target = mass_target(numbers.top_p, sum.total);
      if (sum.up_to >= target && sum.up_to - mine < target) memory.window[0] = thread_id() + 1;
      sync_block();
      left.count = memory.window[0];
    }
  }
  if ((thread_id() >= left.count) | (left.weight < least)) left.weight = 0;
  return left;
}

// tell(id) of a token of those.
template <typename Tell>
TW_DEVICE void draw_from_list(ClusterMemory& memory, const u64* sorted, const ListLeft& left,
                              const Tell& tell) {
  // Of tokens with lower ids; what was listed is not needed any more.
  u64* weights = memory.own();
  weights[thread_id()] = left.weight;
  const u64 total = sum_up_to_thread<kClusterWarps>(memory.of_warps[1], left.weight).total;
  if (thread_id() >= left.count) return;
  const u64 drawn = multiply_high(memory.random, total);
  u64 before = 0;
#pragma unroll 4
  for (i32 i = 0; i < left.count; ++i)
    before += static_cast<u32>(sorted[i]) > static_cast<u32>(left.entry) ? weights[i] : 0;
  if (before <= drawn && drawn < before + left.weight) tell(id_of_entry(left.entry));
}

}  // namespace tw
