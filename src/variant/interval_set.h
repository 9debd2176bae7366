// SPDX-License-Identifier: Apache-2.0
// Set algebra on IntervalSet. Where kMax intervals are not enough, the result is rounded: outward
// (a superset) or inward (a subset).
#pragma once

#include <cstdint>

#include "variant/mask.h"

namespace tilewright {

enum class Rounding : std::uint8_t { outward, inward };

// A set has one form only: intervals are not empty, do not touch and lie in [kMinPosition,
// kMaxPosition).
bool same_set(const IntervalSet& a, const IntervalSet& b);
IntervalSet intersection(const IntervalSet& a, const IntervalSet& b, Rounding rounding);
IntervalSet set_union(const IntervalSet& a, const IntervalSet& b, Rounding rounding);
// The complement of one interval.
IntervalSet outside(std::int64_t begin, std::int64_t end);

}  // namespace tilewright
