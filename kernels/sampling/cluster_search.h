// SPDX-License-Identifier: Apache-2.0
// The search for the last entry that a filter keeps: entries, in falling order, are kept until what
// they measure, one each or their weights, reaches a target. Measures are summed by bins, in
// integers. A part of the row tells about where the target is reached; bins of that window, fine
// enough to leave few entries in each, and what is above the window are summed exactly, and the
// entries of the one bin are listed and sorted. If a bin has too many, others divide what lies
// between its first and its last one, until all are equal: then those of low ids are kept. A window
// that does not have the target is followed by bins of the whole row. What is not kept is dropped
// from the row, or below the threshold.
#pragma once

#include "sampling/cluster_bins.h"
#include "sampling/cluster_list.h"

namespace tw {

struct FilterOfRow {
  bool counts;  // one each; else weights
  i32 top_k;    // the target, if it counts
  float top_p;  // else this part of the mass

  // Of all that is measured: filters before this one may have kept less than it asks for.
  TW_DEVICE u64 target(u64 all) const {
    const u64 most = static_cast<u64>(top_k);
    return counts ? (most < all ? most : all) : mass_target(top_p, all);
  }
};

// The bins' two turns, of all filters of a row.
struct BinTurns {
  i32 turn;

  TW_DEVICE BinSum* bins(ClusterMemory& memory) const { return memory.bins[turn]; }
  TW_DEVICE u64 (&sums(ClusterMemory& memory) const)[2][kClusterWarps] { return memory.sums[turn]; }
  // A place to sort, while no bins are being filled.
  TW_DEVICE u64* other(ClusterMemory& memory) const { return memory.sorted[turn ^ 1]; }
  // Behind the barrier: all have read those of the turn before.
  TW_DEVICE void clear_other(ClusterMemory& memory) const {
    memory.bins[turn ^ 1][thread_id()] = {0, 0};
  }
};

// To bins, by a warp's lanes together, where `there`.
TW_DEVICE void add_to_bin(BinSum* sums, i32 bin, u32 measure, bool there) {
  constexpr u32 kLow = (1U << kLowBits) - 1;
  there &= measure != 0;
  const u32 lanes = ballot(there);
  if (lanes == 0) return;
  // One bin for all is common where logits are equal: it would be added to one by one.
  const i32 one = shuffle(bin, lowest_bit(lanes));
  if (any_of_warp(there & (bin != one))) {
    bin = there ? bin : 0;
    add_shared_if(there, &sums[bin].low, measure & kLow);
    add_shared_if(there & (measure > kLow), &sums[bin].high, measure >> kLowBits);
    return;
  }
  const u32 low = warp_sum(there ? measure & kLow : 0);
  const u32 high = warp_sum(there ? measure >> kLowBits : 0);
  add_shared_if(lane_id() == 0, &sums[one].low, low);
  add_shared_if(lane_id() == 0, &sums[one].high, high);
}

// What is measured, exactly: all; what is above the bins; and in each bin. Most entries are
// compared with the ends of the bins' range, and what they measure is added in registers; only
// those between are looked for in bins.
template <bool kCounts, typename Stored>
TW_DEVICE void add_to_bins(const ClusterRow<Stored>& row, float threshold,
                           const BinsOfEntries& bins, const WeightScale& scale,
                           const BinTurns& turns) {
  ClusterMemory& memory = row.memory;
  BinSum* const sums = turns.bins(memory);
  Range range = bins.range(scale);
  range = {max_of(range.low, threshold), max_of(range.high, threshold)};
  u64 all = 0, above = 0;
  // A lane's entries of some steps that are in the range: the last one's bits are the highest.
  constexpr i32 kMaskSteps = 32 / kClusterRun;
  u32 mask = 0;
  i32 masked = 0;
  const Stored* const logits = row.logits_of_lane();
  i32 step = 0;
  const i32 steps = row.steps();
  row.for_values([&](i32, const float(&values)[kClusterRun]) {
    mask >>= kClusterRun;
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) {
      const u64 measure = kCounts ? 1 : converted_weight(values[j], scale);
      all += values[j] >= threshold ? measure : 0;
      above += values[j] > range.high ? measure : 0;
      mask |=
          (values[j] >= range.low) & !(values[j] > range.high) ? 1U << (32 - kClusterRun + j) : 0;
    }
    ++step;
    ++masked;
    if (masked < kMaskSteps && step < steps) return;
    const Stored* const last = logits + (step - kMaskSteps) * kClusterStep;
    masked = 0;
#pragma unroll 1
    while (any_of_warp(mask != 0)) {
      const bool some = mask != 0;
      const i32 bit = some ? lowest_bit(mask) : 31;
      mask &= mask - 1;
      const float value = to_float(last[bit / kClusterRun * kClusterStep + bit % kClusterRun]);
      const WeightExponent exponent = weight_exponent(value, scale);
      const i32 bin = bins.find(value, exponent);
      if (some & (bin < 0)) above += kCounts ? 1 : converted_weight(value, scale);
      add_to_bin(sums, bin, kCounts ? 1 : shifted_weight(exponent),
                 some & (static_cast<u32>(bin) < kBins));
    }
  });
  all = sum_of_warp(all);
  above = sum_of_warp(above);
  if (lane_id() == 0) {
    turns.sums(memory)[0][warp_of_thread()] = all;
    turns.sums(memory)[1][warp_of_thread()] = above;
  }
}

// What this thread's bin measures in all blocks.
template <typename Stored>
TW_DEVICE u64 sum_of_bin(const ClusterRow<Stored>& row, const FilterOfRow& filter,
                         const BinsOfEntries& bins, const BinSum* sums, i32 part_bits) {
  const i32 bin = thread_id();
  const u64* place = reinterpret_cast<const u64*>(&sums[bin]);
  u64 low = 0, high = 0;
#pragma unroll 1
  for (i32 first = 0; first < row.blocks; first += kMostBlocks / 2) {
    // Without a branch, so that all are under way together.
    u64 both[kMostBlocks / 2];
#pragma unroll
    for (i32 i = 0; i < kMostBlocks / 2; ++i)
      both[i] = load_remote(place, first + i < row.blocks ? first + i : row.rank);
#pragma unroll
    for (i32 i = 0; i < kMostBlocks / 2; ++i) {
      if (first + i >= row.blocks) both[i] = 0;
      low += static_cast<u32>(both[i]);
      high += both[i] >> 32;
    }
  }
  const u64 measure = low + (high << kLowBits);
  return filter.counts ? measure : measure << (left_shift(bins.whole_of(bin)) + part_bits);
}

inline constexpr i32 kGuessSteps = 2;

// Bins of about where the target is. Counted are each thread's largest entry and, for the others,
// the first steps of each warp.
template <typename Stored>
TW_DEVICE BinsOfEntries guess_window(const ClusterRow<Stored>& row, const FilterOfRow& filter,
                                     float threshold, const Extremes& extremes,
                                     const BinsOfEntries& bins, const WeightScale& scale,
                                     BinTurns& turns) {
  ClusterMemory& memory = row.memory;
  BinSum* sums = turns.bins(memory);
  constexpr i32 kRight = 25 - kPartBits;
  const auto add = [&](float value, u32 times, bool there) {
    const WeightExponent exponent = weight_exponent(value, scale);
    const u32 measure = filter.counts ? 1 : shifted_weight(exponent) >> kRight;
    add_shared_if(there & (measure != 0), &sums[there ? bins.find(value, exponent) : 0].low,
                  measure * times);
  };
  const i32 steps = row.steps();
  if (steps > 0) {
    add(extremes.of_thread, 1,
        (extremes.of_thread >= threshold) & (extremes.of_thread > -kInfinity));
    const Stored* logits = row.logits_of_lane();
    const u32 times = static_cast<u32>((steps + kGuessSteps - 1) / kGuessSteps);
#pragma unroll 1
    for (i32 step = 0; step < kGuessSteps && step < steps; ++step) {
#pragma unroll
      for (i32 j = 0; j < kClusterRun; ++j) {
        const float value = to_float(logits[step * kClusterStep + j]);
        add(value, times,
            (value >= threshold) & (value < extremes.of_thread) & (value > -kInfinity));
      }
    }
  }
  sync_cluster();
  turns.clear_other(memory);
  const u64 measure = sum_of_bin(row, filter, bins, sums, filter.counts ? 0 : kRight);
  const BlockSum sum = sum_up_to_thread<kClusterWarps>(memory.of_warps[0], measure);
  const u64 target = filter.target(sum.total);
  // Both what is kept and what is not are told the better the less they are.
  u64 margin = sum.total - target < target ? sum.total - target : target;
  margin = (margin < sum.total / 8 ? margin : sum.total / 8) / 4;
  const u64 from = target - margin, to = target + margin;
  const u64 before = sum.up_to - measure;
  if (before < from && from <= sum.up_to) memory.window[0] = thread_id();
  if (before < to && to <= sum.up_to) memory.window[1] = thread_id();
  turns.turn ^= 1;
  sync_block();
  return bins_of_window(bins, memory.window[0], memory.window[1]);
}

// In which bin the sum reaches the target, which is told if `begins`, else is `rest`; false if in
// none.
template <typename Stored>
TW_DEVICE bool find_bin(const ClusterRow<Stored>& row, const FilterOfRow& filter,
                        const BinsOfEntries& bins, const BinTurns& turns, bool begins, u64& rest,
                        i32& bin) {
  ClusterMemory& memory = row.memory;
  u64 all = 0, above = 0;
  if (begins && thread_id() < row.warps()) {
    all = row.load_of(turns.sums(memory)[0], thread_id());
    above = row.load_of(turns.sums(memory)[1], thread_id());
  }
  const u64 measure = sum_of_bin(row, filter, bins, turns.bins(memory), 0);
  if (thread_id() == 0) memory.num_listed = 0;  // all have read it
  all = sum_of_warp(all);
  above = sum_of_warp(above);
  if (lane_id() == 0) {
    memory.of_warps[1][warp_of_thread()] = all;
    memory.of_warps[2][warp_of_thread()] = above;
  }
  const BlockSum sum = sum_up_to_thread<kClusterWarps>(memory.of_warps[0], measure);
  u64 target = rest;
  if (begins) {
    all = above = 0;
#pragma unroll
    for (i32 warp = 0; warp < kWarps / kWarpSize; ++warp) {
      all += memory.of_warps[1][warp];
      above += memory.of_warps[2][warp];
    }
    target = filter.target(all);
    if (target <= above || target > above + sum.total) return false;
    target -= above;
  }
  const u64 before = sum.up_to - measure;
  if (before < target && target <= sum.up_to) {
    memory.window[0] = thread_id();
    memory.rest = target - before;
  }
  sync_block();
  bin = memory.window[0];
  rest = memory.rest;
  return true;
}

// Lists the entries of a bin; each warp's number of them, and the first and last key.
template <typename Stored>
TW_DEVICE u32 list_bin(const ClusterRow<Stored>& row, float threshold, const BinsOfEntries& bins,
                       i32 bin, const WeightScale& scale) {
  ClusterMemory& memory = row.memory;
  const Range range = bins.range_of(bin, scale);
  const float low = max_of(range.low, threshold);
  u32 first = 0, last = ~0U;
  WarpList<false> list{memory};
  row.for_values([&](i32 id, const float(&values)[kClusterRun]) {
    bool there[kClusterRun];
    bool some = false;
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) {
      there[j] = (values[j] >= low) & !(values[j] > range.high);
      some |= there[j];
    }
    if (!any_of_warp(some)) return;
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) {
      there[j] &= bins.find(values[j], weight_exponent(values[j], scale)) == bin;
      const u32 key = key_of_logit(values[j]);
      first = there[j] & (key > first) ? key : first;
      last = there[j] & (key < last) ? key : last;
    }
    list.add(id, values, there);
  });
  first = warp_max(first);
  last = warp_min(last);
  if (lane_id() == 0) {
    memory.first[warp_of_thread()] = first;
    memory.last[warp_of_thread()] = last;
    memory.ties[warp_of_thread()] = list.total;
  }
  return list.total;
}

// Of this warp's values that equal `value`, those behind its first `count` are dropped.
template <typename Stored>
TW_DEVICE void drop_ties(const ClusterRow<Stored>& row, float value, u64 count) {
  u32 seen = 0;
  row.for_runs([&](i32, const float(&values)[kClusterRun], Stored* to) {
    u32 ties = 0;
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) ties += values[j] == value ? 1 : 0;
    if (!any_of_warp(ties != 0)) return;
    const u32 up_to = static_cast<u32>(sum_up_to_lane(u64{ties}));
    u32 mine = seen + up_to - ties;
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) {
      if (values[j] != value) continue;
      if (mine >= count) drop(&to[j]);
      ++mine;
    }
    seen += shuffle(up_to, kWarpSize - 1);
  });
}

// The same of all entries of the row: by ids. `mine`: how many this warp has; all have told theirs.
template <typename Stored>
TW_DEVICE void keep_ties(const ClusterRow<Stored>& row, float value, u64 count, u32 mine) {
  u32 before = 0;
#pragma unroll 1
  for (i32 warp = lane_id(); warp < row.warp; warp += kWarpSize)
    before += row.load_of(row.memory.ties, warp);
  before = warp_sum(before);
  if (before + mine > count) drop_ties(row, value, count > before ? count - before : 0);
}

// Where no fewer than k entries have the largest logit: keeps the first k of them.
template <typename Stored>
TW_DEVICE void keep_largest(const ClusterRow<Stored>& row, float largest, i32 k,
                            const Extremes& extremes) {
  u32 mine = 0;
  if (any_of_warp(extremes.of_thread == largest)) {
    row.for_values([&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
      for (i32 j = 0; j < kClusterRun; ++j) mine += values[j] == largest ? 1 : 0;
    });
  }
  mine = warp_sum(mine);
  if (lane_id() == 0) row.memory.ties[warp_of_thread()] = mine;
  sync_cluster();
  keep_ties(row, largest, static_cast<u64>(k), mine);
}

// What is kept is not below what this returns, and was kept before. Bins are empty before and
// behind. Values of +inf have no weight: where they are told apart, only keys do.
template <bool kInfinities = false, typename Stored>
TW_DEVICE float apply_filter(const ClusterRow<Stored>& row, const FilterOfRow& filter,
                             float threshold, const Extremes& extremes, const WeightScale& scale,
                             BinTurns& turns) {
  ClusterMemory& memory = row.memory;
  const bool by_keys = kInfinities && extremes.largest == kInfinity;
  const BinsOfEntries whole =
      by_keys ? bins_of_keys(order_key(extremes.largest), order_key(extremes.least), 0)
              : bins_by_weight(extremes, scale);
  BinsOfEntries bins = whole;
  if (!by_keys && row.warp_logits > kGuessSteps * kClusterStep)
    bins = guess_window(row, filter, threshold, extremes, whole, scale, turns);
  bool begins = true;
  u64 rest = 0;
#pragma unroll 1
  for (;;) {
    if (filter.counts) {
      add_to_bins<true>(row, threshold, bins, scale, turns);
    } else {
      add_to_bins<false>(row, threshold, bins, scale, turns);
    }
    sync_cluster();
    turns.clear_other(memory);
    i32 bin;
    const bool found = find_bin(row, filter, bins, turns, begins, rest, bin);
    turns.turn ^= 1;
    if (!found) {
      bins = whole;
      sync_block();
      continue;
    }
    begins = false;
    const u32 mine = list_bin(row, threshold, bins, bin, scale);
    const Listed listed = count_listed(row);
    if (listed.total <= kMostListed) {
      gather_listed(row, listed);
      u64* const sorted = turns.other(memory);
      sort_list(memory.all(), sorted, listed.total);
      const LastKept last =
          last_of_sorted(memory, sorted, listed.total, filter.counts, rest, scale);
      const float value = value_of_entry(last.entry);
      if (last.ties) {
        const i32 last_id = id_of_entry(last.entry);
        row.for_runs([&](i32 id, const float(&values)[kClusterRun], Stored* to) {
#pragma unroll
          for (i32 j = 0; j < kClusterRun; ++j) {
            if ((values[j] == value) & (id + j > last_id)) drop(&to[j]);
          }
        });
      }
      return value;
    }
    u32 first = 0, last = ~0U;
#pragma unroll 1
    for (i32 warp = lane_id(); warp < row.warps(); warp += kWarpSize) {
      const u32 other_first = row.load_of(memory.first, warp);
      const u32 other_last = row.load_of(memory.last, warp);
      first = other_first > first ? other_first : first;
      last = other_last < last ? other_last : last;
    }
    first = warp_max(first);
    last = warp_min(last);
    if (first == last) {
      const float value = of_order_key(first);
      const u64 weight = filter.counts ? 1 : token_weight(value, scale);
      keep_ties(row, value, (rest + weight - 1) / weight, mine);
      return value;
    }
    bins = bins_of_keys(first, last, bins.whole_of(bin));
  }
}

// The value of the k-th largest of the groups' largest entries: no fewer than k entries of the row
// are not below it, and if the row has no order, few more; but -inf, which has no weight, is. k is
// at most the number of groups.
template <typename Stored>
TW_DEVICE float low_of_groups(const ClusterRow<Stored>& row, i32 k) {
  static_assert(kGroups <= kClusterThreads);
  ClusterMemory& memory = row.memory;
  const i32 groups = row.groups();
  u32 mine = ~0U;
  if (warp_id() * kWarpSize < groups) {
    mine = thread_id() < groups ? memory.maxima[thread_id()] : ~0U;
    i32 larger = 0;
#pragma unroll 4
    for (i32 i = 0; i < groups; i += 4) {
      const Bytes16 others = load_16(&memory.maxima[i]);
#pragma unroll
      for (i32 j = 0; j < 4; ++j) larger += others.word[j] > mine ? 1 : 0;
    }
    // It is the least one that fewer than k are above.
    mine = warp_min(larger < k ? mine : ~0U);
  }
  if (lane_id() == 0) memory.lows[warp_of_thread()] = mine;
  sync_block();
  mine = warp_min(memory.lows[lane_id() % kClusterWarps]);
  return max_of(of_order_key(mine), -0x1.fffffep+127F);
}

// Lists those from `low` on in the leader's memory. `before`: there was another list.
template <typename Stored>
TW_DEVICE void list_from(const ClusterRow<Stored>& row, float low, const Extremes& extremes,
                         bool before) {
  if (before) {
    sync_cluster();
    if (thread_id() == 0) row.memory.num_listed = 0;
    sync_cluster();
  }
  if (!any_of_warp(extremes.of_thread >= low)) return;
  WarpList<true> list{row.memory};
  row.for_values([&](i32 id, const float(&values)[kClusterRun]) {
    bool there[kClusterRun];
    bool some = false;
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) {
      there[j] = values[j] >= low;
      some |= there[j];
    }
    if (any_of_warp(some)) list.add(id, values, there);
  });
}

// Whether the k largest are likely to be a short list: of a row without order it then has up to
// about 180 entries, where the groups have -log(1 - k / groups) each.
template <typename Stored>
TW_DEVICE bool is_listed(const ClusterRow<Stored>& row, i32 k) {
  return k <= row.groups() / 8 * 7 && k <= kMostListed * 3 / 8;
}

// Lists all entries that are kept and may be of the k largest in the leader's memory: how many
// there are. Raises the threshold.
template <typename Stored>
TW_DEVICE i32 list_largest(const ClusterRow<Stored>& row, float& threshold, i32 k, bool listed,
                           const Extremes& extremes) {
  threshold = max_of(low_of_groups(row, k), threshold);
  if (threshold == extremes.largest) {
    if (listed) sync_cluster();
    keep_largest(row, threshold, k, extremes);
  }
  list_from(row, threshold, extremes, listed);
  return count_leaders(row);
}

// Whether a few tokens are likely to have most of the mass, as is usual with language models: most
// of the groups' largest tokens have less than 2^-12 of the largest one's weight.
template <typename Stored>
TW_DEVICE bool is_peaked(const ClusterRow<Stored>& row, const WeightScale& scale) {
  constexpr i32 kOctaves = 12;
  const i32 groups = row.groups();
  u32 low = 0;
#pragma unroll 1
  for (i32 group = lane_id(); group < groups; group += kWarpSize)
    low += weight_exponent(of_order_key(row.memory.maxima[group]), scale).whole > kOctaves ? 1 : 0;
  return static_cast<i32>(warp_sum(low)) > groups / 2;
}

// Lists the largest entries of a row of which no filter has taken any in the leader's memory: the
// mass that top-p keeps if the list has it, else 0.
template <typename Stored>
TW_DEVICE u64 list_top_p(const ClusterRow<Stored>& row, float top_p, const WeightScale& scale,
                         bool listed, const Extremes& extremes) {
  ClusterMemory& memory = row.memory;
  list_from(row, low_of_groups(row, row.groups() / 2), extremes, listed);
  u64 all = 0;
  row.for_values([&](i32, const float(&values)[kClusterRun]) {
#pragma unroll
    for (i32 j = 0; j < kClusterRun; ++j) all += converted_weight(values[j], scale);
  });
  all = sum_of_warp(all);
  if (lane_id() == 0) store_remote(&memory.totals[row.warp], 0, all);
  const i32 total = count_leaders(row);
  if (total > kMostListed) return 0;
  if (row.rank == 0) {
    all = thread_id() < row.warps() ? memory.totals[thread_id()] : 0;
    const u64 weight =
        thread_id() < total ? token_weight(value_of_entry(memory.own()[thread_id()]), scale) : 0;
    all = sum_up_to_thread<kClusterWarps>(memory.of_warps[0], all).total;
    const u64 mass = sum_up_to_thread<kClusterWarps>(memory.of_warps[1], weight).total;
    const u64 needed = mass_target(top_p, all);
    if (thread_id() < row.blocks)
      store_remote(&memory.rest, thread_id(), needed <= mass ? needed : 0);
  }
  sync_cluster();
  return memory.rest;
}

}  // namespace tw
