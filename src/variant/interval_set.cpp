// SPDX-License-Identifier: Apache-2.0
#include "variant/interval_set.h"

#include <algorithm>

namespace tilewright {
namespace {

// Twice the room: what one operation on two sets can give.
struct Wide {
  int count = 0;
  Interval items[2 * IntervalSet::kMax];

  void append(Interval next) {
    if (count > 0 && next.begin <= items[count - 1].end) {
      items[count - 1].end = std::max(items[count - 1].end, next.end);
    } else {
      items[count++] = next;
    }
  }

  // The two neighbours with the smallest gap become one.
  void close_smallest_gap() {
    int best = 1;
    for (int i = 2; i < count; ++i) {
      if (items[i].begin - items[i - 1].end < items[best].begin - items[best - 1].end) best = i;
    }
    items[best - 1].end = items[best].end;
    std::move(items + best + 1, items + count, items + best);
    --count;
  }

  void drop_shortest() {
    int best = 0;
    for (int i = 1; i < count; ++i) {
      if (items[i].end - items[i].begin < items[best].end - items[best].begin) best = i;
    }
    std::move(items + best + 1, items + count, items + best);
    --count;
  }

  IntervalSet narrow(Rounding rounding) {
    while (count > IntervalSet::kMax) {
      rounding == Rounding::outward ? close_smallest_gap() : drop_shortest();
    }
    IntervalSet set;
    set.count = count;
    std::copy(items, items + count, set.intervals.begin());
    return set;
  }
};

bool is_all(const IntervalSet& set) {
  return set.count == 1 && set.intervals[0].begin <= kMinPosition &&
         set.intervals[0].end >= kMaxPosition;
}

}  // namespace

IntervalSet IntervalSet::all() {
  return of(kMinPosition, kMaxPosition);
}

IntervalSet IntervalSet::of(std::int64_t begin, std::int64_t end) {
  IntervalSet set;
  set.intervals[0] = {std::max(begin, kMinPosition), std::min(end, kMaxPosition)};
  set.count = set.intervals[0].empty() ? 0 : 1;
  return set;
}

bool IntervalSet::contains(std::int64_t position) const {
  for (int i = 0; i < count; ++i) {
    if (position < intervals[i].begin) return false;
    if (position < intervals[i].end) return true;
  }
  return false;
}

bool same_set(const IntervalSet& a, const IntervalSet& b) {
  if (a.count != b.count) return false;
  for (int i = 0; i < a.count; ++i) {
    if (a.intervals[i].begin != b.intervals[i].begin || a.intervals[i].end != b.intervals[i].end) {
      return false;
    }
  }
  return true;
}

IntervalSet intersection(const IntervalSet& a, const IntervalSet& b, Rounding rounding) {
  if (a.count == 1 && b.count == 1) {
    return IntervalSet::of(std::max(a.intervals[0].begin, b.intervals[0].begin),
                           std::min(a.intervals[0].end, b.intervals[0].end));
  }
  if (is_all(a)) return b;
  if (is_all(b)) return a;
  Wide result;
  for (int i = 0, j = 0; i < a.count && j < b.count;) {
    const Interval& x = a.intervals[i];
    const Interval& y = b.intervals[j];
    const Interval both{std::max(x.begin, y.begin), std::min(x.end, y.end)};
    if (!both.empty()) result.append(both);
    x.end < y.end ? ++i : ++j;
  }
  return result.narrow(rounding);
}

IntervalSet set_union(const IntervalSet& a, const IntervalSet& b, Rounding rounding) {
  if (a.count == 0) return b;
  if (b.count == 0) return a;
  Wide result;
  for (int i = 0, j = 0; i < a.count || j < b.count;) {
    const bool take_a =
        j == b.count || (i < a.count && a.intervals[i].begin <= b.intervals[j].begin);
    result.append(take_a ? a.intervals[i++] : b.intervals[j++]);
  }
  return result.narrow(rounding);
}

IntervalSet outside(std::int64_t begin, std::int64_t end) {
  if (begin >= end) return IntervalSet::all();
  return set_union(IntervalSet::of(kMinPosition, begin), IntervalSet::of(end, kMaxPosition),
                   Rounding::outward);
}

}  // namespace tilewright
