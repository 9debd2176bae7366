// SPDX-License-Identifier: Apache-2.0
// Bins in which measures of a row's entries are summed: which bin an entry is in, which values a
// bin has, and weights as sums of integers.
#pragma once

#include "sampling/cluster_row.h"

namespace tw {

// Values that are not below `low` nor above `high`, where NaN is no end.
struct Range {
  float low, high;
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
    const u32 key = key_of_logit(value);
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
  // The same of all bins.
  TW_DEVICE Range range(const WeightScale& scale) const {
    if (by_weight) return {range_of(kBins - 1, scale).low, range_of(0, scale).high};
    const u64 keys = (u64{kBins} << shift) - 1;
    return {first > keys ? of_order_key(first - static_cast<u32>(keys)) : -kInfinity,
            of_order_key(first)};
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
inline constexpr i32 kPartBits = 16;

TW_DEVICE i32 left_shift(i32 whole) {
  const i32 left = kShiftBits - whole;
  return left > 0 ? left : 0;
}
TW_DEVICE u32 shifted_weight(const WeightExponent& exponent) {
  const WeightFraction fraction = weight_fraction(exponent.part);
  const i32 right = exponent.whole - kShiftBits;
  return fraction.mantissa << 1 >> ((right > 0 ? right : 0) + fraction.half);
}

}  // namespace tw
