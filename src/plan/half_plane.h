// SPDX-License-Identifier: Apache-2.0
// One relation of a mask, linear in the key's position: which keys satisfy it for some and for all
// queries of a range. `T` below holds its sums without overflow: 64 bits where that is proven, else
// 128.
#pragma once

#include "plan/mask_ranges.h"

namespace tilewright::plan {

// coefficient * floor((position + shift) / size); size 1 and shift 0 are the position itself.
struct PositionTerm {
  std::int64_t coefficient = 0;
  std::int64_t shift = 0;
  std::int64_t size = 1;
};

// Bounds of a relation's part that does not depend on the key, over the queries of a range.
template <typename T>
struct Offset {
  T low;
  T high;

  TILEWRIGHT_HD explicit Offset(T value = 0) : low(value), high(value) {}

  TILEWRIGHT_HD void add(T value) {
    low += value;
    high += value;
  }
  TILEWRIGHT_HD void include(T value) {
    low = value < low ? value : low;
    high = value > high ? value : high;
  }
};

// Sets of positions, before it is known whether they are exact.
struct MaskSets {
  IntervalSet needed;
  IntervalSet full;

  MaskSets() = default;
  TILEWRIGHT_HD MaskSets(const IntervalSet& n, const IntervalSet& f) : needed(n), full(f) {}
  TILEWRIGHT_HD explicit MaskSets(const MaskInterval& interval)
      : needed(IntervalSet::of(interval.needed.begin, interval.needed.end)),
        full(IntervalSet::of(interval.full.begin, interval.full.end)) {}

  TILEWRIGHT_HD MaskRanges ranges() const { return {needed, full, same_set(needed, full)}; }
};

// b > 0.
template <typename T>
TILEWRIGHT_HD T floor_by(T a, T b) {
  const T quotient = a / b;
  return a % b < 0 ? quotient - 1 : quotient;
}

template <typename T>
TILEWRIGHT_HD T term_at(const PositionTerm& term, std::int64_t position) {
  const std::int64_t shifted = position + term.shift;
  return T{term.coefficient} * (term.size == 1 ? shifted : floor_by(shifted, term.size));
}

// Adds the bounds of a query term; it is monotonous in the position.
template <typename T>
TILEWRIGHT_HD void add_term(Offset<T>& offset, const PositionTerm& term, std::int64_t q_pos_min,
                            std::int64_t q_pos_max) {
  const T first = term_at<T>(term, q_pos_min);
  const T last = term_at<T>(term, q_pos_max);
  offset.low += first < last ? first : last;
  offset.high += first < last ? last : first;
}

// The first position whose key term is at least `term`, within all positions.
template <typename T>
TILEWRIGHT_HD std::int64_t first_key_at(const PositionTerm& kv, T term) {
  // Of the position itself the bounds are known.
  if (kv.size == 1 && kv.shift == 0) {
    return term < kMinPosition   ? kMinPosition
           : term > kMaxPosition ? kMaxPosition
                                 : static_cast<std::int64_t>(term);
  }
  // Beyond the limit it is outside of all positions, whatever the shift, of at most 2^40.
  const std::int64_t limit = (std::int64_t{1} << 42) / kv.size + 2;
  const std::int64_t near = term < -limit  ? -limit
                            : term > limit ? limit
                                           : static_cast<std::int64_t>(term);
  return clamp64(near * kv.size - kv.shift, kMinPosition, kMaxPosition);
}

// Keys with coefficient * term(key) <= bound.
template <typename T>
TILEWRIGHT_HD Interval keys_at_most(const PositionTerm& kv, T bound) {
  if (kv.coefficient > 0) {
    const T most = kv.coefficient == 1 ? bound : floor_by<T>(bound, kv.coefficient);
    return {kMinPosition, first_key_at<T>(kv, most + 1)};
  }
  const T least = kv.coefficient == -1 ? -bound : -floor_by<T>(bound, -kv.coefficient);
  return {first_key_at<T>(kv, least), kMaxPosition};
}

// Keys with low <= coefficient * term(key) <= high.
template <typename T>
TILEWRIGHT_HD Interval keys_between(const PositionTerm& kv, T low, T high) {
  const PositionTerm negated{-kv.coefficient, kv.shift, kv.size};
  return intersection(keys_at_most(kv, high), keys_at_most<T>(negated, -low));
}

TILEWRIGHT_HD inline Interval all_keys_if(bool condition) {
  return condition ? Interval{kMinPosition, kMaxPosition} : Interval{};
}
TILEWRIGHT_HD inline MaskInterval all_keys_if(bool needed, bool full) {
  return {all_keys_if(needed), all_keys_if(full)};
}

// term(key) + offset <= 0.
template <typename T>
TILEWRIGHT_HD MaskInterval at_most_zero(const PositionTerm& kv, const Offset<T>& offset) {
  if (kv.coefficient == 0) return all_keys_if(offset.low <= 0, offset.high <= 0);
  return {keys_at_most<T>(kv, -offset.low), keys_at_most<T>(kv, -offset.high)};
}

// term(key) + offset == 0.
template <typename T>
TILEWRIGHT_HD MaskInterval equal_to_zero(const PositionTerm& kv, const Offset<T>& offset) {
  if (kv.coefficient == 0) {
    return all_keys_if(offset.low <= 0 && offset.high >= 0, offset.low == 0 && offset.high == 0);
  }
  const Interval equal = keys_between<T>(kv, -offset.high, -offset.low);
  return {equal, offset.low == offset.high ? equal : Interval{}};
}

// term(key) + offset != 0.
template <typename T>
TILEWRIGHT_HD MaskSets unequal_to_zero(const PositionTerm& kv, const Offset<T>& offset) {
  if (kv.coefficient == 0) {
    return MaskSets(
        all_keys_if(offset.low != 0 || offset.high != 0, offset.low > 0 || offset.high < 0));
  }
  const Interval equal = keys_between<T>(kv, -offset.high, -offset.low);
  const IntervalSet others = outside(equal.begin, equal.end);
  return {offset.low == offset.high ? others : IntervalSet::all(), others};
}

TILEWRIGHT_HD inline MaskSets all_of(const MaskSets& a, const MaskSets& b) {
  return {intersection(a.needed, b.needed, Rounding::outward),
          intersection(a.full, b.full, Rounding::inward)};
}
TILEWRIGHT_HD inline MaskSets any_of(const MaskSets& a, const MaskSets& b) {
  return {set_union(a.needed, b.needed, Rounding::outward),
          set_union(a.full, b.full, Rounding::inward)};
}

// The same for masks of one interval.
TILEWRIGHT_HD inline MaskInterval all_of(const MaskInterval& a, const MaskInterval& b) {
  return {intersection(a.needed, b.needed), intersection(a.full, b.full)};
}
// Of two intervals whose union is one.
TILEWRIGHT_HD inline Interval hull(const Interval& a, const Interval& b) {
  if (a.empty()) return b;
  if (b.empty()) return a;
  return {min64(a.begin, b.begin), max64(a.end, b.end)};
}
TILEWRIGHT_HD inline MaskInterval any_of(const MaskInterval& a, const MaskInterval& b) {
  return {hull(a.needed, b.needed), hull(a.full, b.full)};
}

// Joins what is needed by several heads, and what is full for all of them.
TILEWRIGHT_HD inline MaskSets with_head(const MaskSets& heads, const MaskSets& head) {
  return {set_union(heads.needed, head.needed, Rounding::outward),
          intersection(heads.full, head.full, Rounding::inward)};
}
TILEWRIGHT_HD inline MaskInterval with_head(const MaskInterval& heads, const MaskInterval& head) {
  return {hull(heads.needed, head.needed), intersection(heads.full, head.full)};
}

}  // namespace tilewright::plan
