// SPDX-License-Identifier: Apache-2.0
// The search for the last entry that a filter keeps: entries, in falling order, are kept until what
// they measure, one each or their weights, reaches a target. Measures are summed by bins, in
// integers. A part of the row tells about where the target is reached; bins of that window, fine
// enough to leave few entries in each, and what is above the window are summed exactly, and the
// entries of the one bin are listed and sorted. If a bin has too many, others divide what lies
// between its first and its last one, until all are equal: then those of low ids are kept. A window
// that does not have the target is followed by bins of the whole row.
#pragma once

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

// Values, where NaN is beyond no end.
struct Range {
  float low, high;

  TW_DEVICE bool contains(float value) const { return !((value < low) | (value > high)); }
};

// Bins of equal steps of log2 of the weights, or of the logits' order keys.
struct BinsOfEntries {
  bool by_weight;
  i32 shift;    // by weight: 2^shift bins for half of a weight; else 2^shift keys a bin
  i32 skipped;  // by weight: bins above the first
  u32 first;    // the first key, where not by weight
  i32 whole;    // of the exponents of all entries, where not by weight

  // Negative above the first bin, kBins or more below the last one.
  TW_DEVICE i32 find(float value, const WeightExponent& exponent) const {
    return by_weight ? find_weight(exponent) : find_key(value);
  }
  TW_DEVICE i32 find_key(float value) const {
    const u32 key = order_key(value);
    const u32 bin = (first - key) >> shift;
    return key > first ? -1 : static_cast<i32>(bin < kBins ? bin : kBins);
  }
  TW_DEVICE i32 find_weight(const WeightExponent& exponent) const {
    // Rounded by the sum, whose low bits are the number.
    constexpr float kWholeNumbers = 0x1.0p23F;
    const i32 bins = 1 << shift;
    const auto count = static_cast<float>(bins);
    const float moved = multiply_add_exact(-exponent.part, count, kWholeNumbers + 0.5F * count);
    const i32 below = static_cast<i32>(bits_of(moved) - bits_of(kWholeNumbers));
    return (exponent.whole << shift) + (below < bins ? below : bins - 1) - skipped;
  }
  // Some more values than those of a bin: easier to tell.
  TW_DEVICE Range range_of(i32 bin, const WeightScale& scale) const {
    if (!by_weight) {
      const u32 high = first - (static_cast<u32>(bin) << shift);
      const u32 step = (1U << shift) - 1;
      return {high > step ? of_order_key(high - step) : -kInfinity, of_order_key(high)};
    }
    bin += skipped;
    const float count = static_cast<float>(1 << shift);
    const auto at = static_cast<float>(bin & ((1 << shift) - 1));
    const auto whole_part = static_cast<float>(bin >> shift);
    const float bin_width = 1.0F / count;
    const float logits_of_one = 1.0F / scale.scale;
    const float high = (0.5F - (at - 1.5F) * bin_width - whole_part) * logits_of_one;
    const float low = (0.5F - (at + 1.5F) * bin_width - whole_part) * logits_of_one;
    // What rounding may have moved.
    const float margin = 0x1.0p-20F * (max_of(scale.largest, -scale.largest) + max_of(-low, low));
    return {whole_part >= 41.0F ? -kInfinity : scale.largest + low - margin,
            scale.largest + high + margin};
  }
  TW_DEVICE i32 whole_of(i32 bin) const { return by_weight ? (bin + skipped) >> shift : whole; }
};

// All of the row.
TW_DEVICE BinsOfEntries bins_by_weight(const Extremes& row, const WeightScale& scale) {
  const i32 octaves = weight_exponent(row.least, scale).whole + 1;
  i32 shift = 0;
#pragma unroll 1
  while (octaves << (shift + 1) < kBins) ++shift;
  return {true, shift, 0, 0, 0};
}
// From one of those bins to another.
TW_DEVICE BinsOfEntries bins_of_window(const BinsOfEntries& bins, i32 from, i32 to) {
  i32 finer = 0;
#pragma unroll 1
  while ((to - from + 1) << (finer + 1) <= kBins) ++finer;
  return {true, bins.shift + finer, from << finer, 0, 0};
}
TW_DEVICE BinsOfEntries bins_of_keys(u32 first, u32 last, i32 whole) {
  i32 shift = 0;
#pragma unroll 1
  while ((first - last) >> shift >= kBins) ++shift;
  return {false, shift, 0, first, whole};
}

// A weight is a fraction of 25 bits to be shifted; what a shift to the right leaves is summed, as
// two parts.
inline constexpr i32 kLowBits = 13;
inline constexpr i32 kShiftBits = kWeightBits - 24;
// Of a part of the row less is enough, one sum.
inline constexpr i32 kPartBits = 17;

TW_DEVICE i32 left_shift(i32 whole) {
  const i32 left = kShiftBits - whole;
  return left > 0 ? left : 0;
}
TW_DEVICE u32 shifted_weight(const WeightExponent& exponent) {
  const WeightFraction fraction = weight_fraction(exponent.part);
  const i32 right = exponent.whole - kShiftBits;
  return fraction.mantissa << 1 >> ((right > 0 ? right : 0) + fraction.half);
}

// The bins' two turns, of all filters of a row.
struct BinTurns {
  i32 turn;

  TW_DEVICE BinSum* bins(ClusterMemory& memory) const { return memory.bins[turn]; }
  TW_DEVICE u64 (&sums(ClusterMemory& memory) const)[2][kClusterWarps] { return memory.sums[turn]; }
  // Behind the barrier: all have read those of the turn before.
  TW_DEVICE void clear_other(ClusterMemory& memory) const {
    if (thread_id() < kBins) memory.bins[turn ^ 1][thread_id()] = {0, 0};
  }
};

// What is measured, exactly, in bins and in no bin. Which bins and what they measure is known where
// this is compiled: most of the time is spent here.
template <bool kByWeight, bool kCounts>
TW_DEVICE void add_to_bins(const ClusterRow& row, const Kept& kept, const BinsOfEntries& bins,
                           const WeightScale& scale, const BinTurns& turns) {
  ClusterMemory& memory = row.memory;
  BinSum* sums = turns.bins(memory);
  u64 all = 0, above = 0;
  row.for_values([&](i32 id, const float(&values)[kEach]) {
    bool there[kEach];
    bool some = false;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) some |= values[j] >= kept.threshold;
    if (!any_of_warp(some)) return;
    i32 bin[kEach];
    u32 measure[kEach];
    bool binned = false;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      const WeightExponent exponent = weight_exponent(values[j], scale);
      bin[j] = kByWeight ? bins.find_weight(exponent) : bins.find_key(values[j]);
      there[j] = kept.contains(id + j, values[j]);
      measure[j] = kCounts ? 1 : shifted_weight(exponent);
      measure[j] = there[j] ? measure[j] : 0;
      // As products that are added: one instruction each, where a shift of 64 bits has three.
      const u32 unit = 1U << (kCounts ? 0 : left_shift(exponent.whole));
      all += u64{measure[j]} * unit;
      above += u64{measure[j]} * (bin[j] < 0 ? unit : 0);
      there[j] = (static_cast<u32>(bin[j]) < kBins) & (measure[j] != 0);
      binned |= there[j];
    }
    if (!any_of_warp(binned)) return;
    // One bin for all of a warp is common where logits are equal: it would be added to one by one.
    const i32 one = shuffle(bin[0], 0);
    bool several = false;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) several |= bin[j] != one;
    constexpr u32 kLow = (1U << kLowBits) - 1;
    if (any_of_warp(several)) {
#pragma unroll
      for (i32 j = 0; j < kEach; ++j) {
        add_shared_if(there[j], &sums[bin[j]].low, measure[j] & kLow);
        add_shared_if(there[j] & (measure[j] > kLow), &sums[bin[j]].high, measure[j] >> kLowBits);
      }
      return;
    }
    u32 low = 0, high = 0;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      low += measure[j] & kLow;
      high += measure[j] >> kLowBits;
    }
    low = warp_sum(low);
    high = warp_sum(high);
    add_shared_if(lane_id() == 0, &sums[one].low, low);
    add_shared_if(lane_id() == 0, &sums[one].high, high);
  });
  all = sum_of_warp(all);
  above = sum_of_warp(above);
  if (lane_id() == 0) {
    turns.sums(memory)[0][warp_of_thread()] = all;
    turns.sums(memory)[1][warp_of_thread()] = above;
  }
}

// What a bin measures in all blocks: of thread 2 * bin; 0 of the others.
TW_DEVICE u64 sum_of_bin(const ClusterRow& row, const FilterOfRow& filter,
                         const BinsOfEntries& bins, const BinSum* sums, i32 part_bits) {
  const i32 bin = thread_id() / 2;
  const u64* place = reinterpret_cast<const u64*>(&sums[bin]);
  u64 low = 0, high = 0;
  // Without a branch, so that all are under way together.
  u64 both[kMostBlocks / 2];
#pragma unroll
  for (i32 i = 0; i < kMostBlocks / 2; ++i) {
    const i32 block = 2 * i + thread_id() % 2;
    both[i] = load_remote(place, block < row.blocks ? block : row.rank);
  }
#pragma unroll
  for (i32 i = 0; i < kMostBlocks / 2; ++i) {
    if (2 * i + thread_id() % 2 >= row.blocks) both[i] = 0;
    low += static_cast<u32>(both[i]);
    high += both[i] >> 32;
  }
  u64 measure = low + (high << kLowBits);
  measure += shuffle_xor(measure, 1);
  if (!filter.counts) measure <<= left_shift(bins.whole_of(bin)) + part_bits;
  return thread_id() % 2 == 0 ? measure : 0;
}

// Bins of about where the target is. Counted are each thread's largest entry and, for the others,
// the first step of each warp.
TW_DEVICE BinsOfEntries guess_window(const ClusterRow& row, const FilterOfRow& filter,
                                     const Kept& kept, const Extremes& extremes,
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
  const i32 begin = (row.rank * kClusterWarps + warp_id()) * row.warp_logits;
  const u32 steps = static_cast<u32>(row.warp_logits / kStep);
  if (begin < row.count) {
    add(extremes.of_thread, 1,
        (extremes.of_thread >= kept.threshold) & (extremes.of_thread > -kInfinity));
    const float* logits = memory.logits + warp_id() * row.warp_logits + lane_id() * kEach;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      const float value = logits[j];
      add(value, steps,
          (value >= kept.threshold) & (value < extremes.of_thread) & (value > -kInfinity));
    }
  }
  sync_cluster();
  turns.clear_other(memory);
  const u64 measure = sum_of_bin(row, filter, bins, sums, filter.counts ? 0 : kRight);
  const BlockSum sum = sum_up_to_thread(memory.of_warps[0], measure);
  const u64 target = filter.target(sum.total);
  // Both what is kept and what is not are told the better the less they are.
  u64 margin = sum.total - target < target ? sum.total - target : target;
  margin = (margin < sum.total / 8 ? margin : sum.total / 8) / 4;
  const u64 from = target - margin, to = target + margin;
  const u64 before = sum.up_to - measure;
  if (before < from && from <= sum.up_to) memory.window[0] = thread_id() / 2;
  if (before < to && to <= sum.up_to) memory.window[1] = thread_id() / 2;
  turns.turn ^= 1;
  sync_block();
  return bins_of_window(bins, memory.window[0], memory.window[1]);
}

// In which bin the sum reaches the target, which is told if `begins`, else is `rest`; false if in
// none.
TW_DEVICE bool find_bin(const ClusterRow& row, const FilterOfRow& filter, const BinsOfEntries& bins,
                        const BinTurns& turns, bool begins, u64& rest, i32& bin) {
  ClusterMemory& memory = row.memory;
  u64 all = 0, above = 0;
  if (begins && thread_id() < row.slots()) {
    all = row.load_of(turns.sums(memory)[0], thread_id());
    above = row.load_of(turns.sums(memory)[1], thread_id());
  }
  const u64 measure = sum_of_bin(row, filter, bins, turns.bins(memory), 0);
  if (thread_id() == 0) memory.num_own = 0;  // all have read it
  all = sum_of_warp(all);
  above = sum_of_warp(above);
  if (lane_id() == 0) {
    memory.of_warps[1][warp_of_thread()] = all;
    memory.of_warps[2][warp_of_thread()] = above;
  }
  const BlockSum sum = sum_up_to_thread(memory.of_warps[0], measure);
  u64 target = rest;
  if (begins) {
    all = above = 0;
#pragma unroll
    for (i32 warp = 0; warp < kSlots / kWarpSize; ++warp) {
      all += memory.of_warps[1][warp];
      above += memory.of_warps[2][warp];
    }
    target = filter.target(all);
    if (target <= above || target > above + sum.total) return false;
    target -= above;
  }
  const u64 before = sum.up_to - measure;
  if (before < target && target <= sum.up_to) {
    memory.window[0] = thread_id() / 2;
    memory.rest = target - before;
  }
  sync_block();
  bin = memory.window[0];
  rest = memory.rest;
  return true;
}

// Lists the entries of a bin, and tells their first and last key.
TW_DEVICE void list_bin(const ClusterRow& row, const Kept& kept, const BinsOfEntries& bins, i32 bin,
                        const WeightScale& scale) {
  ClusterMemory& memory = row.memory;
  const Range range = bins.range_of(bin, scale);
  u32 first = 0, last = ~0U;
  row.for_values([&](i32 id, const float(&values)[kEach]) {
    bool some = false;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j)
      some |= range.contains(values[j]) & (values[j] >= kept.threshold);
    if (!any_of_warp(some)) return;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      const bool there = (bins.find(values[j], weight_exponent(values[j], scale)) == bin) &
                         kept.contains(id + j, values[j]);
      list(memory, entry_of(values[j], id + j), there);
      const u32 key = order_key(values[j]);
      first = there & (key > first) ? key : first;
      last = there & (key < last) ? key : last;
    }
  });
  first = warp_max(first);
  last = warp_min(last);
  if (lane_id() == 0) {
    memory.first[warp_of_thread()] = first;
    memory.last[warp_of_thread()] = last;
  }
}

// Of equal values that of the `count` ones with the lowest ids; each warp is told for its own.
TW_DEVICE Kept keep_ties(const ClusterRow& row, const Kept& kept, float value, u64 count) {
  ClusterMemory& memory = row.memory;
  const auto is_tie = [&](i32 id, float other) {
    return (other == value) & kept.contains(id, other);
  };
  const auto count_of_run = [&](i32 id, const float(&values)[kEach]) {
    u32 ties = 0;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) ties += is_tie(id + j, values[j]) ? 1 : 0;
    return ties;
  };
  u32 mine = 0;
  row.for_values([&](i32 id, const float(&values)[kEach]) { mine += count_of_run(id, values); });
  mine = warp_sum(mine);
  if (lane_id() == 0) memory.ties[warp_of_thread()] = mine;
  sync_cluster();
  u32 before = 0;
#pragma unroll 1
  for (i32 slot = lane_id(); slot < row.slot(); slot += kWarpSize)
    before += row.load_of(memory.ties, slot);
  before = warp_sum(before);
  if (before + mine <= count) return {value, kept.threshold == value ? kept.last_tie : kLastId};
  if (before >= count) return {value, -1};
  u32 rest = static_cast<u32>(count) - before;
  i32 last = -1;
  row.for_values([&](i32 id, const float(&values)[kEach]) {
    if (rest == 0) return;
    const u32 of_run = count_of_run(id, values);
    const u32 up_to = static_cast<u32>(sum_up_to_lane(u64{of_run}));
    const u32 total = shuffle(up_to, kWarpSize - 1);
    if (total < rest) {
      rest -= total;
      return;
    }
    const i32 lane = lowest_bit(ballot(up_to >= rest));
    u32 left = rest - (up_to - of_run);
    i32 found = -1;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      if (is_tie(id + j, values[j])) {
        if (left == 1) found = id + j;
        --left;
      }
    }
    last = shuffle(found, lane);
    rest = 0;
  });
  return {value, last};
}

// Bins are empty before and behind. Values of +inf have no weight: where they are told apart, only
// keys do.
template <bool kInfinities = false>
TW_DEVICE Kept apply_filter(const ClusterRow& row, const FilterOfRow& filter, const Kept& kept,
                            const Extremes& extremes, const WeightScale& scale, BinTurns& turns) {
  ClusterMemory& memory = row.memory;
  const bool by_keys = kInfinities && extremes.largest == kInfinity;
  const BinsOfEntries whole =
      by_keys ? bins_of_keys(order_key(extremes.largest), order_key(extremes.least), 0)
              : bins_by_weight(extremes, scale);
  BinsOfEntries bins = whole;
  if (!by_keys && row.warp_logits > kStep)
    bins = guess_window(row, filter, kept, extremes, whole, scale, turns);
  bool begins = true;
  u64 rest = 0;
#pragma unroll 1
  for (;;) {
    if (!bins.by_weight) {
      if (filter.counts) {
        add_to_bins<false, true>(row, kept, bins, scale, turns);
      } else {
        add_to_bins<false, false>(row, kept, bins, scale, turns);
      }
    } else if (filter.counts) {
      add_to_bins<true, true>(row, kept, bins, scale, turns);
    } else {
      add_to_bins<true, false>(row, kept, bins, scale, turns);
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
    list_bin(row, kept, bins, bin, scale);
    const Listed listed = count_listed(row);
    if (listed.total <= kMostListed) {
      gather_listed(row, listed);
      sort_listed(memory, listed.total);
      const u64 last = last_of_sorted(memory, listed.total, filter.counts, rest, scale);
      return {value_of_entry(last), id_of_entry(last)};
    }
    u32 first = 0, last = ~0U;
#pragma unroll 1
    for (i32 slot = lane_id(); slot < row.slots(); slot += kWarpSize) {
      const u32 other_first = row.load_of(memory.first, slot);
      const u32 other_last = row.load_of(memory.last, slot);
      first = other_first > first ? other_first : first;
      last = other_last < last ? other_last : last;
    }
    first = warp_max(first);
    last = warp_min(last);
    if (first == last) {
      const float value = of_order_key(first);
      const u64 weight = filter.counts ? 1 : token_weight(value, scale);
      return keep_ties(row, kept, value, (rest + weight - 1) / weight);
    }
    bins = bins_of_keys(first, last, bins.whole_of(bin));
  }
}

// The value of the k-th largest of the warps' largest entries: no fewer than k entries of the row
// are not below it, and if the row has no order, few more; but -inf, which has no weight, is. k is
// at most the number of warps.
TW_DEVICE float low_of_warps(const ClusterRow& row, i32 k) {
  ClusterMemory& memory = row.memory;
  const i32 slots = row.slots();
  if (thread_id() < slots) {
    const u32 mine = memory.maxima[thread_id()];
    i32 before = 0;
#pragma unroll 8
    for (i32 i = 0; i < slots; ++i) {
      const u32 other = memory.maxima[i];
      before += (other > mine) | ((other == mine) & (i < thread_id())) ? 1 : 0;
    }
    if (before == k - 1) memory.low = mine;
  }
  sync_block();
  return max_of(of_order_key(memory.low), -0x1.fffffep+127F);
}

// Makes an empty list. `listed`: others may still read what was listed before.
TW_DEVICE void begin_list(const ClusterRow& row, bool listed) {
  if (listed) sync_cluster();
  if (thread_id() == 0) row.memory.num_own = 0;
}

// Lists all entries that are kept and may be of the k largest.
TW_DEVICE Listed list_largest(const ClusterRow& row, const Kept& kept, i32 k, bool listed) {
  begin_list(row, listed);
  const float low = max_of(low_of_warps(row, k), kept.threshold);
  row.for_values([&](i32 id, const float(&values)[kEach]) {
    bool some = false;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) some |= values[j] >= low;
    if (!any_of_warp(some)) return;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j)
      list(row.memory, entry_of(values[j], id + j),
           (values[j] >= low) & kept.contains(id + j, values[j]));
  });
  return count_listed(row);
}

// Whether a few tokens are likely to have most of the mass, as is usual with language models: most
// of the warps' largest tokens have less than 2^-12 of the largest one's weight.
TW_DEVICE bool is_peaked(const ClusterRow& row, const WeightScale& scale) {
  constexpr i32 kOctaves = 12;
  const i32 slots = row.slots();
  u32 low = 0;
#pragma unroll 1
  for (i32 slot = lane_id(); slot < slots; slot += kWarpSize)
    low += weight_exponent(of_order_key(row.memory.maxima[slot]), scale).whole > kOctaves ? 1 : 0;
  return static_cast<i32>(warp_sum(low)) > slots / 2;
}

// Lists the largest entries of a row of which no filter has taken any, and gathers the list if it
// has what top-p keeps: `target` is the mass of that then, else 0.
TW_DEVICE Listed list_top_p(const ClusterRow& row, float top_p, const WeightScale& scale,
                            bool listed_before, u64& target) {
  ClusterMemory& memory = row.memory;
  begin_list(row, listed_before);
  const float low = low_of_warps(row, row.slots() / 2);
  u64 all = 0;
  row.for_values([&](i32 id, const float(&values)[kEach]) {
    bool some = false;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      all += token_weight(values[j], scale);
      some |= values[j] >= low;
    }
    if (!any_of_warp(some)) return;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) list(memory, entry_of(values[j], id + j), values[j] >= low);
  });
  all = sum_of_warp(all);
  if (lane_id() == 0) memory.masses[warp_of_thread()] = all;
  const Listed listed = count_listed(row);
  target = 0;
  if (listed.total > kMostListed) return listed;
  all = thread_id() < row.slots() ? row.load_of(memory.masses, thread_id()) : 0;
  gather_listed(row, listed);
  const u64 weight = thread_id() < listed.total
                         ? token_weight(value_of_entry(memory.listed[thread_id()]), scale)
                         : 0;
  all = sum_up_to_thread(memory.of_warps[0], all).total;
  const u64 mass = sum_up_to_thread(memory.of_warps[1], weight).total;
  const u64 needed = mass_target(top_p, all);
  if (needed <= mass) target = needed;
  return listed;
}

}  // namespace tw
