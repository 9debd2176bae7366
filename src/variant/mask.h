// SPDX-License-Identifier: Apache-2.0
// What is known about a mask without evaluating it element by element: for a set of queries, which
// key positions can be attended to at all, and which are attended to by every one of them. Integers
// only, in int64: never wrong.
#pragma once

#include <tilewright/variant.h>

#include <cstdint>
#include <memory>

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

class MaskAnalysis {
 public:
  explicit MaskAnalysis(const Variant& variant);

  MaskClass mask_class() const { return class_; }
  // Of ranges(): `full` is never more than one interval, and for one head nor is `needed`. True of
  // conjunctions of half-planes, of unions of those that bound keys on the same side, and whatever
  // conditions on the query and parts that count as unknown are joined with them.
  bool one_interval() const { return one_interval_; }
  // Bindings need only the parameters that bind at plan. Allocates nothing.
  MaskRanges ranges(const QueryRange& queries, const Bindings& bindings) const;

  struct Code;  // the mask as a tree of half-planes

 private:
  MaskClass class_ = MaskClass::none;
  bool one_interval_ = false;
  std::shared_ptr<const Code> code_;
};

}  // namespace tilewright
