// SPDX-License-Identifier: Apache-2.0
// What is known about a mask without evaluating it element by element: for a set of queries, which
// key positions can be attended to at all, and which are attended to by every one of them. Integers
// only, in int64: never wrong.
#pragma once

#include <tilewright/variant.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "plan/mask_ranges.h"
#include "variant/bindings.h"

namespace tilewright {

using plan::Interval;
using plan::IntervalSet;
using plan::kMaxPosition;
using plan::kMinPosition;
using plan::MaskRanges;
using plan::QueryRange;

enum class MaskClass : std::uint8_t {
  none,         // no mask: everything is full
  closed_form,  // and/or/not of half-planes in kv_pos, q_pos, kv_pos - q_pos, floor(pos / C), with
                // bounds known in the plan
  row_bounds,   // the same, with bounds that are any function of the query row (tables, q_index)
                // known in the plan: evaluated row by row, and a range is what lies between their
                // least and their largest
  elementwise,  // anything else: its parts that are not of closed form count as unknown, so that
                // `needed` is everything and `full` nothing as far as they decide
};

// One side of a band: kv_pos <= slope * q_pos + constant where `upper`, else >=. The products of
// positions fit int64.
struct BandSide {
  bool upper = true;
  std::int64_t slope = 0;
  std::int64_t constant = 0;
};

class MaskAnalysis {
 public:
  explicit MaskAnalysis(const Variant& variant);

  MaskClass mask_class() const { return class_; }
  // Of ranges(): `full` is never more than one interval, and for one head nor is `needed`. True of
  // conjunctions of half-planes, of unions of those that bound keys on the same side, and whatever
  // conditions on the query and parts that count as unknown are joined with them.
  bool one_interval() const { return one_interval_; }
  // Causal masks and windows, which most are: every query attends to one interval of keys, bounded
  // by constants and multiples of its position. Their ranges cost little more than a comparison.
  bool is_band() const { return !band_.empty(); }
  // Of the queries at positions [first, last]. Only for bands.
  plan::MaskInterval band(std::int64_t first, std::int64_t last) const {
    constexpr Interval kAll{kMinPosition, kMaxPosition};
    plan::MaskInterval band{kAll, kAll};
    for (const BandSide& side : band_) {
      const std::int64_t at_first = side.slope * first + side.constant;
      const std::int64_t at_last = side.slope * last + side.constant;
      const std::int64_t least = at_first < at_last ? at_first : at_last;
      const std::int64_t most = at_first < at_last ? at_last : at_first;
      if (side.upper) {
        band.needed.end = std::min(band.needed.end, most + 1);
        band.full.end = std::min(band.full.end, least + 1);
      } else {
        band.needed.begin = std::max(band.needed.begin, least);
        band.full.begin = std::max(band.full.begin, most);
      }
    }
    return band;
  }

  // Bindings need only the parameters that bind at plan. Allocates nothing.
  MaskRanges ranges(const QueryRange& queries, const Bindings& bindings) const;

  struct Code;  // the mask as a tree of half-planes

 private:
  MaskClass class_ = MaskClass::none;
  bool one_interval_ = false;
  std::shared_ptr<const Code> code_;
  std::vector<BandSide> band_;
};

}  // namespace tilewright
