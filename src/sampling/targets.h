// SPDX-License-Identifier: Apache-2.0
// What filters ask for, in weights: a mass to reach, a least weight, and the logits around it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "sampling/weight.h"

namespace tilewright {

// ceil(p * total) for 0 <= p < 1, exactly; at least 1: the most likely token is always kept.
inline std::uint64_t mass_target(float p, std::uint64_t total) {
  __extension__ using Uint128 = unsigned __int128;
  if (!(p > 0)) return 1;
  int exponent = 0;
  const float fraction = std::frexp(p, &exponent);  // p = fraction * 2^exponent, exponent <= 0
  const auto mantissa = static_cast<std::uint64_t>(fraction * 0x1.0p24F);
  const int shift = 24 - exponent;
  if (shift > 100) return 1;
  const Uint128 product = Uint128{mantissa} * total;
  const Uint128 round_up = (Uint128{1} << shift) - 1;
  return static_cast<std::uint64_t>((product + round_up) >> shift);
}

// The least weight that is not below p times `largest`. 0 < p <= 1.
inline std::uint64_t least_weight(float p, std::uint64_t largest) {
  return p >= 1 ? largest : mass_target(p, largest);
}

// Weights fall with their logits but for one unit in 2^24.
inline bool all_above_reach(float logit, std::uint64_t least, const WeightScale& scale) {
  if (logit >= scale.largest) return true;  // there are none
  const std::uint64_t weight = token_weight(logit, scale);
  return weight - (weight >> 20) >= least;
}
inline bool none_below_reaches(float logit, std::uint64_t least, const WeightScale& scale) {
  const std::uint64_t weight = token_weight(std::min(logit, scale.largest), scale);
  return weight + (weight >> 20) < least;
}

// A guess of logits around the one whose weight is `least`.
struct Bounds {
  float low;
  float high;
};
inline Bounds bounds_of_weight(std::uint64_t least, const WeightScale& scale) {
  if (scale.of_probabilities) {
    const double cut = std::ldexp(static_cast<double>(least), -kWeightBits) * scale.largest;
    return {static_cast<float>(cut * (1 - 1e-5)), static_cast<float>(cut * (1 + 1e-5))};
  }
  const double exponent = std::log2(static_cast<double>(least)) - kWeightBits;
  const double cut = scale.largest + exponent / scale.scale;
  const double margin = 1e-5 * (std::fabs(cut - scale.largest) + std::fabs(scale.largest));
  return {static_cast<float>(cut - margin), static_cast<float>(cut + margin)};
}

}  // namespace tilewright
