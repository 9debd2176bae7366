// SPDX-License-Identifier: Apache-2.0
// A row of logits in the shared memory of a cluster of blocks: read from global memory once,
// whatever is asked of it then. A warp has neighbouring logits, and a thread always the same ones.
#pragma once

#include "arch/bulk.h"
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
inline constexpr i32 kClusterRun = 4;  // neighbouring logits of a thread
inline constexpr i32 kClusterStep = kWarpSize * kClusterRun;
inline constexpr i32 kWarps = kMostBlocks * kClusterWarps;  // of a cluster
// A group is half of a warp: of each the largest logit is known.
inline constexpr i32 kGroups = 2 * kWarps;
inline constexpr i32 kGroupRun = kClusterStep / 2;  // neighbouring logits of a group

inline constexpr i32 kBins = kClusterThreads;
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
  alignas(16) char logits[kBlockBytes];
  // Used in turn; the one that is not in use is also a place to sort (see cluster_list.h), and the
  // second one, while the row is read, has the warps' least keys.
  union {
    BinSum bins[2][kBins];
    u64 sorted[2][kMostListed];
    u32 minima[4 * kBins];
  };
  u64 sums[2][2][kClusterWarps];  // of what is in no bin, too; those above all bins
  union {
    u64 lists[2][kMostListed];
    u32 bias_filter[kBiasWords];  // while the row is read
  };
  u64 totals[kWarps];   // what each warp of the cluster has found
  u32 maxima[kGroups];  // and each group
  // What this block's warps have found.
  u32 lows[kClusterWarps];
  u32 first[kClusterWarps];
  u32 last[kClusterWarps];
  u32 ties[kClusterWarps];
  u64 of_warps[3][kClusterWarps];
  Mbarrier landed[kClusterWarps];  // a warp's logits
  u32 num_listed;                  // in own()
  u32 nan;                         // the leader's: whether a block has seen one
  RowNumbers numbers;
  LogitProcess process;
  float scale;  // of the temperature
  u64 random;
  // What one thread tells the others.
  i32 window[2];
  u64 rest;
  u64 last_kept;
  u32 ties_end;  // whether entries of the last one's value are not kept

  TW_DEVICE u64* own() { return lists[0]; }  // a list that this block or all have made
  TW_DEVICE u64* all() { return lists[1]; }  // those of all blocks together
};
static_assert(sizeof(ClusterMemory) <= kClusterSharedBytes);

// `Stored`: how logits are kept.
template <typename Stored>
struct ClusterRow {
  ClusterMemory& memory;
  i32 count;  // logits of the row
  i32 rank;   // of this block
  i32 blocks;
  i32 warp_logits;
  i32 warp;  // of the cluster

  // `warp_logits`: a multiple of kClusterStep. By whole warps.
  TW_DEVICE ClusterRow(ClusterMemory& shared, i32 logits, i32 logits_of_warp)
      : memory(shared),
        count(logits),
        rank(cluster_rank()),
        blocks(cluster_size()),
        warp_logits(logits_of_warp),
        warp(rank * kClusterWarps + warp_id()) {}

  TW_DEVICE i32 warps() const { return blocks * kClusterWarps; }
  TW_DEVICE i32 groups() const { return 2 * warps(); }

  // This warp's logits: the first one's id, how many there are, their steps, and where they are.
  TW_DEVICE i32 begin() const { return warp * warp_logits; }
  TW_DEVICE i32 num() const {
    const i32 rest = count - begin();
    return rest < 0 ? 0 : rest < warp_logits ? rest : warp_logits;
  }
  TW_DEVICE i32 steps() const { return (num() + kClusterStep - 1) / kClusterStep; }
  TW_DEVICE Stored* logits() const {
    return reinterpret_cast<Stored*>(memory.logits) + warp % kClusterWarps * warp_logits;
  }
  TW_DEVICE Stored* logits_of_lane() const { return logits() + lane_id() * kClusterRun; }

  // body(id, values, logits) for a warp's runs of kClusterRun, by its lanes together. Behind the
  // row's end is what is not kept.
  template <typename Body>
  TW_DEVICE void for_runs(const Body& body) const {
    const i32 ends = steps();
    Stored* logits = logits_of_lane();
    i32 id = begin() + lane_id() * kClusterRun;
    Run<Stored, kClusterRun> next = read_run<kClusterRun>(logits);
#pragma unroll 1
    for (i32 step = 0; step < ends; ++step) {
      float values[kClusterRun];
      unpack_run(next, values);
      // One ahead: a block has few warps, and shared memory takes as long as many instructions.
      Stored* const ahead = logits + (step + 1 < ends ? kClusterStep : 0);
      next = read_run<kClusterRun>(ahead);
      body(id, values, logits);
      logits = ahead;
      id += kClusterStep;
    }
  }
  // body(id, values)
  template <typename Body>
  TW_DEVICE void for_values(const Body& body) const {
    for_runs([&](i32 id, const float(&values)[kClusterRun], const Stored*) { body(id, values); });
  }

  // What a warp of the cluster has left in its block.
  template <typename T>
  TW_DEVICE T load_of(const T* of_warps, i32 other) const {
    return load_remote(of_warps + other % kClusterWarps, other / kClusterWarps);
  }
  // Tells a warp's finding to all blocks.
  template <typename T>
  TW_DEVICE void tell_all(T* of_warps, T value) const {
    if (lane_id() < blocks) store_remote(of_warps + warp, lane_id(), value);
  }
};

template <typename Stored>
TW_DEVICE void keep_run(const float (&run)[kClusterRun], Stored* to) {
  const Run<Stored, kClusterRun> packed = pack_run<Stored>(run);
  if constexpr (sizeof(Stored) == 4) {
    store_16(to, {packed.words[0], packed.words[1], packed.words[2], packed.words[3]});
  } else {
    *reinterpret_cast<Bytes8*>(to) = {packed.words[0], packed.words[1]};
  }
}

// A logit that is no longer kept: no comparison is true of it.
template <typename Stored>
TW_DEVICE void drop(Stored* logit) {
  *logit = from_float<Stored>(float_of(0x7FC00000U));
}

// Behind the row's end nothing is kept.
template <typename Stored>
TW_DEVICE void drop_behind_end(const ClusterRow<Stored>& row) {
  Stored* const place = row.logits();
#pragma unroll 1
  for (i32 at = row.num() + lane_id(); at < row.steps() * kClusterStep; at += kWarpSize)
    drop(place + at);
  sync_warp();
}

// Of the two zeros, which are equal, +0: -0 is kept as it is.
TW_DEVICE u32 key_of_logit(float logit) {
  return order_key(add_exact(logit, 0.0F));
}
TW_DEVICE u64 entry_of_logit(float logit, i32 id) {
  return entry_of(add_exact(logit, 0.0F), id);
}

// The lower one of `first` and the lowest id of a run that has the value.
TW_DEVICE u32 first_of_run(i32 id, const float (&values)[kClusterRun], float value, u32 first) {
#pragma unroll
  for (i32 j = kClusterRun - 1; j >= 0; --j) {
    if ((values[j] == value) & (static_cast<u32>(id + j) < first)) first = static_cast<u32>(id + j);
  }
  return first;
}

struct Extremes {
  float largest;
  float least;      // none is less
  float of_thread;  // the largest one of this thread
};

// Empties what blocks tell each other, and arrives at the cluster.
TW_DEVICE void begin_cluster(ClusterMemory& memory) {
  memory.bins[0][thread_id()] = {0, 0};
  if (thread_id() == 0) memory.nan = memory.num_listed = 0;
  arrive_at_cluster();
}

// What is said of an entry's rows, by one thread.
TW_DEVICE void keep_numbers(ClusterMemory& memory, const SampleParams& p, i64 entry) {
  memory.numbers = numbers_of_entry(p, entry);
  memory.scale = scale_of_temperature(memory.numbers.temperature);
}

// Asks for a warp's part of the row, where it can be copied as it is: before anything else is
// known, as nothing takes as long.
template <typename Stored>
TW_DEVICE void ask_for_row(const ClusterRow<Stored>& row, const Stored* logits) {
  Mbarrier* const landed = &row.memory.landed[warp_of_thread()];
  const u32 bytes = static_cast<u32>(row.num() * sizeof(Stored)) / 16 * 16;
  if (lane_id() == 0) mbarrier_init(landed, 1);
  sync_warp();
  mbarrier_arrive_expect_if(lane_id() == 0, landed, bytes);
  if ((lane_id() == 0) & (bytes > 0)) copy_bulk(row.logits(), logits + row.begin(), bytes, landed);
  sync_warp();
}
// A block must not end before.
template <typename Stored>
TW_DEVICE void wait_for_row(const ClusterRow<Stored>& row) {
  mbarrier_wait(&row.memory.landed[warp_of_thread()], 0);
}

// The rest of the warp's logits, or all; the last step is filled.
template <typename Stored, typename T>
TW_DEVICE void copy_logits(const ClusterRow<Stored>& row, const T* logits, bool asked,
                           bool aligned) {
  const i32 num = row.num();
  if (num == 0) return;
  logits += row.begin();
  Stored* const to = row.logits();
  i32 done = 0;
  if (asked) {
    done = num - num % static_cast<i32>(16 / sizeof(T));
  } else if (aligned) {
    constexpr i32 kAhead = 32 / sizeof(T);
    const i32 at = lane_id() * kClusterRun;
#pragma unroll 1
    for (; done + kAhead * kClusterStep <= num; done += kAhead * kClusterStep) {
      Run<T, kClusterRun> runs[kAhead];
#pragma unroll
      for (i32 i = 0; i < kAhead; ++i)
        runs[i] = read_run<kClusterRun>(logits + done + i * kClusterStep + at);
#pragma unroll
      for (i32 i = 0; i < kAhead; ++i) {
        float run[kClusterRun];
        unpack_run(runs[i], run);
        keep_run(run, to + done + i * kClusterStep + at);
      }
    }
  }
#pragma unroll 8
  for (i32 at = done + lane_id(); at < num; at += kWarpSize)
    to[at] = from_float<Stored>(to_float(logits[at]));
  sync_warp();
  // By others of the same group, so that its largest one and the row's extremes are theirs. In a
  // row of one step the second group may have none.
  for (i32 at = num + lane_id(); at < row.steps() * kClusterStep; at += kWarpSize) {
    const i32 first = at / kGroupRun * kGroupRun;
    to[at] = to[at >= kClusterStep ? at - kClusterStep : first < num ? first : 0];
  }
  sync_warp();
}

// Reads this block's part of the row; what is found in all of it. `asked`: all of it that can be
// copied has landed. `before_all`: what this block does before all blocks have read. By blocks that
// have arrived at the cluster.
template <typename Stored, typename T, typename Before>
TW_DEVICE Extremes read_row(const ClusterRow<Stored>& row, const T* logits, bool asked,
                            bool aligned, const Before& before_all) {
  ClusterMemory& memory = row.memory;
  const LogitProcess& process = memory.process;
  copy_logits(row, logits, asked, aligned);
  if (kIsSame<Stored, float> && changes_logits(process)) {
    row.for_runs([&](i32 id, const float(&)[kClusterRun], Stored* to) {
#pragma unroll 1
      for (i32 j = 0; j < kClusterRun; ++j) {
        to[j] = from_float<Stored>(
            id + j < row.count ? process_logit(process, id + j, to_float(to[j])) : -kInfinity);
      }
    });
  }
  float largest = -kInfinity, least = kInfinity;
  row.for_values([&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) {
      largest = max_or_nan(largest, values[j]);
      least = min_of(least, values[j]);
    }
  });
  const bool nan = any_of_warp(largest != largest);
  if (nan) {
    largest = -kInfinity;
    row.for_runs([&](i32, const float(&values)[kClusterRun], Stored* to) {
      float run[kClusterRun];
#pragma unroll
      for (i32 j = 0; j < kClusterRun; ++j) {
        run[j] = clean_logit(values[j]);
        largest = max_of(largest, run[j]);
        least = min_of(least, run[j]);
      }
      keep_run(run, to);
    });
  }
  const float of_thread = largest;
  wait_for_cluster();
  u32 of_group = key_of_logit(largest);
#pragma unroll
  for (i32 mask = kWarpSize / 4; mask > 0; mask /= 2) {
    const u32 other = shuffle_xor(of_group, mask);
    of_group = other > of_group ? other : of_group;
  }
  // By each group to all blocks.
  if (lane_id() / kMostBlocks * kGroupRun >= row.num()) of_group = order_key(-kInfinity);
  const i32 block = lane_id() % kMostBlocks;
  if (block < row.blocks)
    store_remote(&memory.maxima[2 * row.warp + lane_id() / kMostBlocks], block, of_group);
  row.tell_all(&memory.minima[2 * kBins], warp_min(key_of_logit(least)));
  if (nan && lane_id() == 0) store_remote(&memory.nan, 0, 1U);
  before_all();
  sync_cluster();
  // Those of groups and warps that are not there are as if they had nothing.
  static_assert(kGroups == 8 * kWarpSize && kWarps == 4 * kWarpSize);
  u32 first = 0, last = ~0U;
  u32 keys[8];
  if (8 * lane_id() < row.groups()) {
    load_words(&memory.maxima[8 * lane_id()], keys);
#pragma unroll
    for (i32 i = 0; i < 8; ++i) first = keys[i] > first ? keys[i] : first;
    const Bytes16 minima = load_16(&memory.minima[2 * kBins + 4 * lane_id()]);
#pragma unroll
    for (i32 i = 0; i < 4; ++i) last = minima.word[i] < last ? minima.word[i] : last;
  }
  drop_behind_end(row);
  return {of_order_key(warp_max(first)), of_order_key(warp_min(last)), of_thread};
}

// A row whose largest logit is +inf: all mass lies on such ones, evenly. What the row's extremes
// are then: what is not infinite is -inf, and in the last of the bins.
template <typename Stored>
TW_DEVICE Extremes keep_infinite(const ClusterRow<Stored>& row, const Extremes& extremes) {
  row.for_runs([&](i32, const float(&values)[kClusterRun], Stored* to) {
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j)
      to[j] = from_float<Stored>(values[j] == kInfinity ? 0.0F : -kInfinity);
  });
  return {0, -kInfinity, extremes.of_thread == kInfinity ? 0.0F : -kInfinity};
}

}  // namespace tw
