// SPDX-License-Identifier: Apache-2.0
// Sets of key positions as a few intervals, and their algebra. Where kMax intervals are not enough,
// a result is rounded: outward (a superset) or inward (a subset).
#pragma once

#include "plan/host_device.h"

namespace tilewright::plan {

inline constexpr std::int64_t kMinPosition = -(std::int64_t{1} << 40);
inline constexpr std::int64_t kMaxPosition = std::int64_t{1} << 40;

struct Interval {
  std::int64_t begin = 0;  // [begin, end)
  std::int64_t end = 0;
  TILEWRIGHT_HD bool empty() const { return begin >= end; }
};

// Disjoint intervals in ascending order, at most kMax. A set has one form only: intervals are not
// empty, do not touch and lie in [kMinPosition, kMaxPosition).
struct IntervalSet {
  static constexpr int kMax = 8;
  int count = 0;
  Interval intervals[kMax];

  TILEWRIGHT_HD static IntervalSet none() { return {}; }
  TILEWRIGHT_HD static IntervalSet of(std::int64_t begin, std::int64_t end) {
    IntervalSet set;
    set.intervals[0] = {max64(begin, kMinPosition), min64(end, kMaxPosition)};
    set.count = set.intervals[0].empty() ? 0 : 1;
    return set;
  }
  TILEWRIGHT_HD static IntervalSet all() { return of(kMinPosition, kMaxPosition); }
  TILEWRIGHT_HD static IntervalSet all_if(bool condition) { return condition ? all() : none(); }

  TILEWRIGHT_HD bool contains(std::int64_t position) const {
    for (int i = 0; i < count; ++i) {
      if (position < intervals[i].begin) return false;
      if (position < intervals[i].end) return true;
    }
    return false;
  }
  TILEWRIGHT_HD bool is_all() const {
    return count == 1 && intervals[0].begin <= kMinPosition && intervals[0].end >= kMaxPosition;
  }
  // The smallest interval around it.
  TILEWRIGHT_HD Interval hull() const {
    return count == 0 ? Interval{} : Interval{intervals[0].begin, intervals[count - 1].end};
  }
};

enum class Rounding : std::uint8_t { outward, inward };

// Twice the room: what one operation on two sets can give, in ascending order.
struct WideIntervalSet {
  int count = 0;
  Interval items[2 * IntervalSet::kMax];

  TILEWRIGHT_HD void append(Interval next) {
    if (count > 0 && next.begin <= items[count - 1].end) {
      items[count - 1].end = max64(items[count - 1].end, next.end);
    } else {
      items[count++] = next;
    }
  }

  TILEWRIGHT_HD_CALL IntervalSet narrow(Rounding rounding) {
    while (count > IntervalSet::kMax) {
      if (rounding == Rounding::outward) {
        close_smallest_gap();
      } else {
        drop_shortest();
      }
    }
    IntervalSet set;
    set.count = count;
    for (int i = 0; i < count; ++i) set.intervals[i] = items[i];
    return set;
  }

  // The two neighbours with the smallest gap become one.
  TILEWRIGHT_HD void close_smallest_gap() {
    int best = 1;
    for (int i = 2; i < count; ++i) {
      if (items[i].begin - items[i - 1].end < items[best].begin - items[best - 1].end) best = i;
    }
    items[best - 1].end = items[best].end;
    remove(best);
  }
  TILEWRIGHT_HD void drop_shortest() {
    int best = 0;
    for (int i = 1; i < count; ++i) {
      if (items[i].end - items[i].begin < items[best].end - items[best].begin) best = i;
    }
    remove(best);
  }
  TILEWRIGHT_HD void remove(int index) {
    for (int i = index + 1; i < count; ++i) items[i - 1] = items[i];
    --count;
  }
};

TILEWRIGHT_HD inline bool same_set(const IntervalSet& a, const IntervalSet& b) {
  if (a.count != b.count) return false;
  for (int i = 0; i < a.count; ++i) {
    if (a.intervals[i].begin != b.intervals[i].begin || a.intervals[i].end != b.intervals[i].end) {
      return false;
    }
  }
  return true;
}

TILEWRIGHT_HD inline Interval intersection(Interval a, Interval b) {
  return {max64(a.begin, b.begin), min64(a.end, b.end)};
}

TILEWRIGHT_HD_CALL inline IntervalSet intersection(const IntervalSet& a, const IntervalSet& b,
                                                   Rounding rounding) {
  if (a.count == 1 && b.count == 1) {
    const Interval both = intersection(a.intervals[0], b.intervals[0]);
    return IntervalSet::of(both.begin, both.end);
  }
  if (a.is_all()) return b;
  if (b.is_all()) return a;
  WideIntervalSet result;
  for (int i = 0, j = 0; i < a.count && j < b.count;) {
    const Interval& x = a.intervals[i];
    const Interval& y = b.intervals[j];
    const Interval both = intersection(x, y);
    if (!both.empty()) result.append(both);
    x.end < y.end ? ++i : ++j;
  }
  return result.narrow(rounding);
}

TILEWRIGHT_HD_CALL inline IntervalSet set_union(const IntervalSet& a, const IntervalSet& b,
                                                Rounding rounding) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  WideIntervalSet result;
  for (int i = 0, j = 0; i < a.count || j < b.count;) {
    const bool take_a =
        j == b.count || (i < a.count && a.intervals[i].begin <= b.intervals[j].begin);
    result.append(take_a ? a.intervals[i++] : b.intervals[j++]);
  }
  return result.narrow(rounding);
}

// The complement of one interval.
TILEWRIGHT_HD inline IntervalSet outside(std::int64_t begin, std::int64_t end) {
  if (begin >= end) return IntervalSet::all();
  return set_union(IntervalSet::of(kMinPosition, begin), IntervalSet::of(end, kMaxPosition),
                   Rounding::outward);
}

}  // namespace tilewright::plan
