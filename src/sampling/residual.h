// SPDX-License-Identifier: Apache-2.0
// Exact arithmetic of speculative verification: weights and masses are integers, so what a coin
// decides is no matter of rounding, and the same on every backend (kernels/sampling/rejection.h).
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "sampling/targets.h"
#include "sampling/weight.h"

namespace tilewright {

__extension__ using Product128 = unsigned __int128;

// A token in two distributions: weight / mass is its probability. Masses are not 0.
struct TokenPair {
  std::uint64_t target = 0;
  std::uint64_t target_mass = 1;
  std::uint64_t draft = 1;
  std::uint64_t draft_mass = 1;
};

// floor(value * coin / 2^64) < value for every coin, if value is not 0.
constexpr Product128 share_of(Product128 value, std::uint64_t coin) {
  const auto high = static_cast<std::uint64_t>(value >> 64);
  const auto low = static_cast<std::uint64_t>(value);
  return Product128{high} * coin + (Product128{low} * coin >> 64);
}

// What of a mass a threshold leaves to be reached, in [1, mass].
inline std::uint64_t threshold_mass(float threshold, std::uint64_t mass) {
  return threshold >= 1 ? mass : mass_target(threshold, mass);
}

// With the probability min(1, p / q), p over q by weights, or more with a threshold below 1.
inline bool accepts(const TokenPair& pair, std::uint64_t coin, float threshold_acc) {
  const Product128 draft = Product128{pair.draft} * threshold_mass(threshold_acc, pair.target_mass);
  return share_of(draft, coin) < Product128{pair.target} * pair.draft_mass;
}

// Bits that the weights of a residual lose, so that their sum fits 64 bits.
inline int residual_shift(std::uint64_t target_mass, std::uint64_t draft_mass) {
  return std::max(0,
                  static_cast<int>(std::bit_width(target_mass) + std::bit_width(draft_mass)) - 64);
}

// The token's weight in the residual max(0, p - q).
inline std::uint64_t residual_weight(const TokenPair& pair) {
  const Product128 target = Product128{pair.target} * pair.draft_mass;
  const Product128 draft = Product128{pair.draft} * pair.target_mass;
  if (target <= draft) return 0;
  return static_cast<std::uint64_t>((target - draft) >>
                                    residual_shift(pair.target_mass, pair.draft_mass));
}

// A probability as a weight; NaN and negative numbers count as 0, numbers above 1 as 1.
inline std::uint64_t probability_weight(float p) {
  if (!(p > 0)) return 0;
  return static_cast<std::uint64_t>(std::fmin(p, 1.0F) * static_cast<float>(kWeightOne));
}

// A caller's uniform number as 64 bits: of [0, 1) exactly, numbers outside as the nearest, NaN as
// 0.
inline std::uint64_t coin_bits(float coin) {
  if (!(coin > 0)) return 0;
  if (coin >= 1) return ~std::uint64_t{0};
  return static_cast<std::uint64_t>(coin * 0x1.0p64F);
}

}  // namespace tilewright
