// SPDX-License-Identifier: Apache-2.0
// What is known about a mask without evaluating it element by element: for a set of queries, which
// key positions can be attended to at all, and which are attended to by every one of them. Integers
// only, in int64: never wrong.
#pragma once

#include <tilewright/variant.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "variant/bindings.h"

namespace tilewright {

inline constexpr std::int64_t kMinPosition = -(std::int64_t{1} << 40);
inline constexpr std::int64_t kMaxPosition = std::int64_t{1} << 40;

struct Interval {
  std::int64_t begin = 0;  // [begin, end)
  std::int64_t end = 0;
  bool empty() const { return begin >= end; }
};

// Disjoint intervals in ascending order, at most kMax.
struct IntervalSet {
  static constexpr int kMax = 8;
  int count = 0;
  std::array<Interval, kMax> intervals;

  static IntervalSet all();
  static IntervalSet none() { return {}; }
  static IntervalSet of(std::int64_t begin, std::int64_t end);
  bool contains(std::int64_t position) const;
};

// A set of query rows of one request: neighbouring query tokens, every head in [q_head_begin,
// q_head_end).
struct QueryRange {
  std::int64_t q_pos_min = 0;  // bounds of the tokens' positions
  std::int64_t q_pos_max = 0;
  std::int64_t q_head_begin = 0;
  std::int64_t q_head_end = 1;
  std::int64_t kv_head = 0;
  std::int64_t batch = 0;
  std::int64_t q_len = 0;
  std::int64_t kv_len = 0;
  std::int64_t q_index = 0;  // of the first token in the batch
  std::int64_t q_begin = 0;  // of its request's first one
  // The positions of q_count tokens. Null: they are q_pos_min, q_pos_min + 1, ... q_pos_max.
  const std::int32_t* q_pos = nullptr;
  std::int64_t q_pos_stride = 1;
  std::int64_t q_count = 0;

  std::int64_t tokens() const { return q_pos != nullptr ? q_count : q_pos_max - q_pos_min + 1; }
  std::int64_t position(std::int64_t token) const {
    return q_pos != nullptr ? q_pos[token * q_pos_stride] : q_pos_min + token;
  }
};

struct MaskRanges {
  IntervalSet needed;  // a superset of the key positions that some query of the range attends to
  IntervalSet full;    // a subset of those that all of them attend to
  // needed == full: for one query row of a mask of closed form or with row bounds, unless kMax was
  // not enough
  bool exact = false;
};

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

  // Causal masks and windows, which most are: every query attends to one interval of keys, bounded
  // by constants and multiples of its position. Their ranges cost little more than a comparison.
  bool is_band() const { return !band_.empty(); }
  struct Band {
    Interval any{kMinPosition, kMaxPosition};    // MaskRanges::needed
    Interval every{kMinPosition, kMaxPosition};  // MaskRanges::full
  };
  // Of the queries at positions [first, last]. Only for bands.
  Band band(std::int64_t first, std::int64_t last) const {
    Band band;
    for (const BandSide& side : band_) {
      const std::int64_t at_first = side.slope * first + side.constant;
      const std::int64_t at_last = side.slope * last + side.constant;
      const std::int64_t least = at_first < at_last ? at_first : at_last;
      const std::int64_t most = at_first < at_last ? at_last : at_first;
      if (side.upper) {
        band.any.end = std::min(band.any.end, most + 1);
        band.every.end = std::min(band.every.end, least + 1);
      } else {
        band.any.begin = std::max(band.any.begin, least);
        band.every.begin = std::max(band.every.begin, most);
      }
    }
    return band;
  }

  // Bindings need only the parameters that bind at plan. Allocates nothing.
  MaskRanges ranges(const QueryRange& queries, const Bindings& bindings) const;

  struct Code;  // the mask as a tree of half-planes

 private:
  MaskClass class_ = MaskClass::none;
  std::shared_ptr<const Code> code_;
  std::vector<BandSide> band_;
};

}  // namespace tilewright
