// SPDX-License-Identifier: Apache-2.0
// Bounds of integer expressions, from the bounds of what they read.
#pragma once

#include <tilewright/variant.h>

#include <cstdint>
#include <limits>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace tilewright {

struct IntegerRange {
  std::int64_t low = std::numeric_limits<std::int64_t>::min();
  std::int64_t high = std::numeric_limits<std::int64_t>::max();
  bool wraps = false;  // this node's operator, or one below it, may overflow int64

  bool fits_int32() const {
    return low >= std::numeric_limits<std::int32_t>::min() &&
           high <= std::numeric_limits<std::int32_t>::max();
  }
};

using IntegerRanges = std::unordered_map<const ExprNode*, IntegerRange>;

// Of every integer node in `order` (topological). `position` bounds q_pos and kv_pos; heads, batch
// and lengths are in [0, 2^31). Nodes of `assumed_int32` are taken to lie in 32 bits where they
// can: their values are checked at run time.
IntegerRanges integer_ranges(const std::vector<const ExprNode*>& order,
                             const IntegerRange& position,
                             const std::unordered_set<const ExprNode*>& assumed_int32 = {});

}  // namespace tilewright
