// SPDX-License-Identifier: Apache-2.0
// The search for the last entry that a filter keeps: entries, in falling order, are kept until what
// they measure, one each or their weights, reaches a target. Measures are summed by bins, in
// integers: bins of equal steps of log2 of the weights, fine enough to leave a few hundred entries
// in the one where the search ends. The leader has these listed and finds the last one. If they are
// too many, bins divide what lies between the first and the last of them, until equal logits are
// told apart by their ids.
#pragma once

#include "sampling/cluster_row.h"

namespace tw {

struct FilterOfRow {
  bool counts;  // one each; else weights
  i32 top_k;    // the target, if it counts
  float top_p;  // else this part of the mass
  float kept;   // the least value that filters before this one keep
};

// Values, where NaN is beyond no end.
struct Range {
  float low, high;

  TW_DEVICE bool contains(float value) const { return !((value < low) | (value > high)); }
};

struct BinsOfEntries {
  bool by_weight;
  i32 shift;        // by weight: 2^shift bins for half of a weight; else entries of a bin
  i32 whole;        // of the exponents of all entries, where not by weight
  u64 first, last;  // entries, where not by weight

  // By weight. Rounded by the sum, whose low bits are the number.
  TW_DEVICE i32 of_exponent(const WeightExponent& exponent) const {
    constexpr float kWholeNumbers = 0x1.0p23F;
    const i32 bins = 1 << shift;
    const auto count = static_cast<float>(bins);
    const float moved = multiply_add_exact(-exponent.part, count, kWholeNumbers + 0.5F * count);
    const i32 below = static_cast<i32>(bits_of(moved) - bits_of(kWholeNumbers));
    const i32 bin = (exponent.whole << shift) + (below < bins ? below : bins - 1);
    return bin < kBins ? bin : kBins - 1;  // -inf
  }
  // The bins of a run's entries; of those that are in none `there` becomes false.
  TW_DEVICE void find(i32 id, const float (&values)[kEach],
                      const WeightExponent (&exponents)[kEach], bool (&there)[kEach],
                      i32 (&bin)[kEach]) const {
    if (!by_weight) {
#pragma unroll
      for (i32 j = 0; j < kEach; ++j) {
        const u64 entry = entry_of(values[j], id + j);
        there[j] = there[j] & (entry <= first) & (entry >= last);
        bin[j] = there[j] ? static_cast<i32>((first - entry) >> shift) : 0;
      }
      return;
    }
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) bin[j] = of_exponent(exponents[j]);
  }
  // Some more values than those of a bin: easier to tell.
  TW_DEVICE Range range_of(i32 bin, const WeightScale& scale) const {
    if (!by_weight) return {value_of_entry(last), value_of_entry(first)};
    const float count = static_cast<float>(1 << shift);
    const auto at = static_cast<float>(bin & ((1 << shift) - 1));
    const auto whole_part = static_cast<float>(bin >> shift);
    const float bin_width = 1.0F / count;
    const float logits_of_one = 1.0F / scale.scale;
    const float high = (0.5F - (at - 1.5F) * bin_width - whole_part) * logits_of_one;
    const float low = (0.5F - (at + 1.5F) * bin_width - whole_part) * logits_of_one;
    // What rounding may have moved.
    const float margin = 0x1.0p-20F * (max_of(scale.largest, -scale.largest) + max_of(-low, low));
    const bool ends = whole_part >= 41.0F || bin == kBins - 1;
    return {ends ? -kInfinity : scale.largest + low - margin, scale.largest + high + margin};
  }
  TW_DEVICE i32 whole_of(i32 bin) const {
    return by_weight ? bin >> shift : whole;
  }
};

TW_DEVICE BinsOfEntries bins_by_weight(const Extremes& row, const WeightScale& scale) {
  const i32 octaves = weight_exponent(row.least, scale).whole + 1;
  i32 shift = 0;
#pragma unroll 1
  while (octaves << (shift + 1) < kBins) ++shift;
  return {true, shift, 0, 0, 0};
}
TW_DEVICE BinsOfEntries bins_between(u64 first, u64 last, i32 whole) {
  i32 shift = 0;
#pragma unroll 1
  while ((first - last) >> shift >= kBins) ++shift;
  return {false, shift, whole, first, last};
}

// A weight is a fraction of 25 bits to be shifted; what a shift to the right leaves is summed, as
// two parts.
inline constexpr i32 kLowBits = 13;
inline constexpr i32 kShiftBits = kWeightBits - 24;

TW_DEVICE void add_to_bins(const ClusterRow& row, const FilterOfRow& filter,
                           const BinsOfEntries& bins, const WeightScale& scale) {
  ClusterMemory& memory = row.memory;
  row.for_values([&](i32 id, const float(&values)[kEach]) {
    bool there[kEach];
    bool some = false;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      there[j] = values[j] >= filter.kept;
      some |= there[j];
    }
    if (!any_of_warp(some)) return;
    WeightExponent exponents[kEach];
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) exponents[j] = weight_exponent(values[j], scale);
    i32 bin[kEach];
    bins.find(id, values, exponents, there, bin);
    u32 measure[kEach];
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) measure[j] = there[j] ? 1 : 0;
    if (!filter.counts) {
#pragma unroll
      for (i32 j = 0; j < kEach; ++j) {
        const WeightFraction fraction = weight_fraction(exponents[j].part);
        const i32 right = exponents[j].whole - kShiftBits;
        const u32 mass = fraction.mantissa << 1 >> ((right > 0 ? right : 0) + fraction.half);
        measure[j] = there[j] ? mass : 0;
      }
    }
    // One bin for all of a warp is common where logits are equal: it would be added to one by one.
    const i32 one = shuffle(bin[0], 0);
    bool several = false;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) several |= bin[j] != one;
    constexpr u32 kLow = (1U << kLowBits) - 1;
    if (any_of_warp(several)) {
#pragma unroll
      for (i32 j = 0; j < kEach; ++j) {
        add_shared_if(measure[j] != 0, &memory.low[bin[j]], measure[j] & kLow);
        add_shared_if(measure[j] > kLow, &memory.high[bin[j]], measure[j] >> kLowBits);
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
    add_shared_if(lane_id() == 0, &memory.low[one], low);
    add_shared_if(lane_id() == 0, &memory.high[one], high);
  });
}

// The leader's bins become those of all.
TW_DEVICE void add_to_leader(const ClusterRow& row) {
  ClusterMemory& memory = row.memory;
  sync_block();
  if (row.rank != 0) {
#pragma unroll 1
    for (i32 i = thread_id(); i < kBins; i += kClusterThreads) {
      if (memory.low[i] != 0) add_remote(&memory.low[i], 0, memory.low[i]);
      if (memory.high[i] != 0) add_remote(&memory.high[i], 0, memory.high[i]);
    }
  }
  sync_cluster();
}

// By the leader: tells all in which bin the sum reaches the target, and what is left of that.
TW_DEVICE void find_bin(const ClusterRow& row, const FilterOfRow& filter, const BinsOfEntries& bins,
                        bool begins, u64 rest) {
  ClusterMemory& memory = row.memory;
  u64 measure[2];
#pragma unroll
  for (i32 i = 0; i < 2; ++i) {
    const i32 bin = 2 * thread_id() + i;
    const i32 left = filter.counts ? 0 : kShiftBits - bins.whole_of(bin);
    measure[i] = (memory.low[bin] + (u64{memory.high[bin]} << kLowBits)) << (left > 0 ? left : 0);
  }
  const u64 up_to = sum_up_to_lane(measure[0] + measure[1]);
  if (lane_id() == kWarpSize - 1) memory.of_warps[warp_of_thread()] = up_to;
  sync_block();
  u64 total = 0, before = up_to - measure[0] - measure[1];
#pragma unroll
  for (i32 warp = 0; warp < kClusterWarps; ++warp) {
    const u64 of_warp = memory.of_warps[warp];
    total += of_warp;
    if (warp < warp_of_thread()) before += of_warp;
  }
  // Filters before this one may have kept less.
  const u64 top_k = static_cast<u64>(filter.top_k);
  const u64 target = !begins         ? rest
                     : filter.counts ? (top_k < total ? top_k : total)
                                     : mass_target(filter.top_p, total);
#pragma unroll
  for (i32 i = 0; i < 2; ++i) {
    if (before < target && target <= before + measure[i]) {
      memory.num_listed = 0;
#pragma unroll 1
      for (i32 to = 0; to < row.blocks; ++to) {
        store_remote(&memory.bin, to, static_cast<u32>(2 * thread_id() + i));
        store_remote(&memory.rest, to, target - before);
      }
    }
    before += measure[i];
  }
}

// body(entry, there) of all entries by a warp's lanes together; `there`: it is in the bin.
template <typename Body>
TW_DEVICE void for_bin(const ClusterRow& row, const FilterOfRow& filter, const BinsOfEntries& bins,
                       i32 bin, const WeightScale& scale, const Body& body) {
  const Range range = bins.range_of(bin, scale);
  row.for_values([&](i32 id, const float(&values)[kEach]) {
    bool there[kEach];
    bool some = false;
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) {
      there[j] = range.contains(values[j]) & (values[j] >= filter.kept);
      some |= there[j];
    }
    if (!any_of_warp(some)) return;
    WeightExponent exponents[kEach];
#pragma unroll
    for (i32 j = 0; j < kEach; ++j) exponents[j] = weight_exponent(values[j], scale);
    i32 bin_of[kEach];
    bins.find(id, values, exponents, there, bin_of);
#pragma unroll
    for (i32 j = 0; j < kEach; ++j)
      body(entry_of(values[j], id + j), there[j] & (bin_of[j] == bin));
  });
}

// To the leader's list, by a warp's lanes together; num_listed counts those that it has no place
// for, too.
TW_DEVICE void list(ClusterMemory& memory, u64 entry, bool there) {
  const u32 lanes = ballot(there);
  if (lanes == 0) return;
  u32 at = 0;
  if (lane_id() == 0)
    at = fetch_add_remote(&memory.num_listed, 0, static_cast<u32>(count_bits(lanes)));
  at = shuffle(at, 0) + static_cast<u32>(count_bits(lanes & ((1U << lane_id()) - 1)));
  if (there && at < kMostListed) store_remote(&memory.listed[at], 0, entry);
}

// The first and the last entry of the bin.
TW_DEVICE BinsOfEntries divide_bin(const ClusterRow& row, const FilterOfRow& filter,
                                   const BinsOfEntries& bins, i32 bin, const WeightScale& scale) {
  ClusterMemory& memory = row.memory;
  u64 first = 0, last = ~u64{0};
  const auto take = [&](u64 a, u64 b) {
    first = a > first ? a : first;
    last = b < last ? b : last;
  };
  const auto over_warp = [&] {
#pragma unroll
    for (i32 mask = kWarpSize / 2; mask > 0; mask /= 2)
      take(shuffle_xor(first, mask), shuffle_xor(last, mask));
  };
  for_bin(row, filter, bins, bin, scale, [&](u64 entry, bool there) {
    if (there) take(entry, entry);
  });
  over_warp();
  row.tell_all(memory.first, first);
  row.tell_all(memory.last, last);
  sync_cluster();
  first = 0, last = ~u64{0};
  for (i32 slot = lane_id(); slot < row.blocks * kClusterWarps; slot += kWarpSize)
    take(memory.first[slot], memory.last[slot]);
  over_warp();
  return bins_between(first, last, bins.whole_of(bin));
}

// By the leader: the entry of its list with which the sum reaches `rest`. Each round sums up to
// kPivots entries and leaves those between two of them.
TW_DEVICE u64 last_of_list(ClusterMemory& memory, const FilterOfRow& filter, u64 rest,
                           const WeightScale& scale) {
  i32 count = static_cast<i32>(memory.num_listed);
#pragma unroll 1
  for (i32 i = thread_id(); i < count; i += kClusterThreads) {
    memory.measures[i] = filter.counts ? 1 : token_weight(value_of_entry(memory.listed[i]), scale);
  }
  for (;;) {
    sync_block();
    constexpr i32 kOfWarp = kPivots / kClusterWarps;
    u64 pivot[kOfWarp], sum[kOfWarp];
#pragma unroll
    for (i32 p = 0; p < kOfWarp; ++p) {
      const i32 number = warp_id() + p * kClusterWarps;
      pivot[p] = memory.listed[count > kPivots ? count * number / kPivots
                                               : (number < count ? number : count - 1)];
      sum[p] = 0;
    }
#pragma unroll 1
    for (i32 i = lane_id(); i < count; i += kWarpSize) {
#pragma unroll
      for (i32 p = 0; p < kOfWarp; ++p)
        sum[p] += memory.listed[i] >= pivot[p] ? memory.measures[i] : 0;
    }
#pragma unroll
    for (i32 p = 0; p < kOfWarp; ++p) {
      sum[p] = sum_of_warp(sum[p]);
      if (lane_id() == 0) {
        memory.pivots[warp_of_thread() + p * kClusterWarps] = pivot[p];
        memory.pivot_sums[warp_of_thread() + p * kClusterWarps] = sum[p];
      }
    }
    if (thread_id() == 0) memory.num_left = 0;
    sync_block();
    // The first pivot with which it is reached, and the last one before.
    static_assert(kPivots == kWarpSize);
    const u64 mine = memory.pivots[lane_id()], up_to = memory.pivot_sums[lane_id()];
    const bool reached = up_to >= rest;
    u64 low = reached ? mine : 0;
    u64 high = reached ? ~u64{0} : mine;
    u64 before = reached ? 0 : up_to;
#pragma unroll
    for (i32 mask = kWarpSize / 2; mask > 0; mask /= 2) {
      const u64 other_low = shuffle_xor(low, mask), other_high = shuffle_xor(high, mask);
      const u64 other_before = shuffle_xor(before, mask);
      low = other_low > low ? other_low : low;
      high = other_high < high ? other_high : high;
      before = other_before > before ? other_before : before;
    }
    if (count <= kPivots) return low;
    rest -= before;
    constexpr i32 kOfThread = kMostListed / kClusterThreads;
    u64 entries[kOfThread], measures[kOfThread];
    bool left[kOfThread];
#pragma unroll
    for (i32 i = 0; i < kOfThread; ++i) {
      const i32 at = thread_id() + i * kClusterThreads;
      left[i] = at < count;
      if (!left[i]) continue;
      entries[i] = memory.listed[at];
      measures[i] = memory.measures[at];
      left[i] = entries[i] >= low && entries[i] < high;
    }
    sync_block();
#pragma unroll
    for (i32 i = 0; i < kOfThread; ++i) {
      if (!left[i]) continue;
      const u32 to = atomic_add(&memory.num_left, 1U);
      memory.listed[to] = entries[i];
      memory.measures[to] = measures[i];
    }
    sync_block();
    count = static_cast<i32>(memory.num_left);
  }
}

// Bins are empty before and behind. The least value that is kept; ties that are not kept are gone.
TW_DEVICE float apply_filter(const ClusterRow& row, const FilterOfRow& filter,
                             const Extremes& extremes, const WeightScale& scale) {
  ClusterMemory& memory = row.memory;
  BinsOfEntries bins = bins_by_weight(extremes, scale);
  // Of the threads' largest entries k are not below the bin where the k-th is: so none of the k
  // largest of all entries is.
  bool by_threads = filter.counts && filter.kept == -kInfinity &&
                    filter.top_k <= row.blocks * kClusterThreads / 4 &&
                    filter.top_k <= kMostListed / 2;
  bool begins = true;
  u64 rest = 0;
#pragma unroll 1
  for (;;) {
    if (by_threads) {
      atomic_add(&memory.low[bins.of_exponent(weight_exponent(extremes.of_thread, scale))], 1U);
    } else {
      add_to_bins(row, filter, bins, scale);
    }
    add_to_leader(row);
    if (row.rank == 0) find_bin(row, filter, bins, begins, rest);
    sync_cluster();
    for (i32 i = thread_id(); i < kBins; i += kClusterThreads) memory.low[i] = memory.high[i] = 0;
    const i32 bin = static_cast<i32>(memory.bin);
    if (by_threads) {
      const float low = bins.range_of(bin, scale).low;
      row.for_values([&](i32 id, const float(&values)[kEach]) {
        bool some = false;
#pragma unroll
        for (i32 j = 0; j < kEach; ++j) some |= !(values[j] < low);
        if (!any_of_warp(some)) return;
#pragma unroll
        for (i32 j = 0; j < kEach; ++j)
          list(memory, entry_of(values[j], id + j), !(values[j] < low));
      });
      rest = static_cast<u64>(filter.top_k);
    } else {
      for_bin(row, filter, bins, bin, scale,
              [&](u64 entry, bool there) { list(memory, entry, there); });
      rest = memory.rest;
      begins = false;
    }
    sync_cluster();
    if (load_remote(&memory.num_listed, 0) <= kMostListed) break;
    // They are too many.
    if (by_threads) {
      by_threads = false;
    } else {
      bins = divide_bin(row, filter, bins, bin, scale);
    }
  }
  if (row.rank == 0) {
    const u64 last = last_of_list(memory, filter, rest, scale);
    if (thread_id() < row.blocks) store_remote(&memory.last_kept, thread_id(), last);
  }
  sync_cluster();
  drop_ties_behind(row, memory.last_kept);
  return value_of_entry(memory.last_kept);
}

}  // namespace tw
