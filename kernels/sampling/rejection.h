// SPDX-License-Identifier: Apache-2.0
// Exact arithmetic of speculative verification: the results of src/sampling/residual.h.
#pragma once

#include "arch/arithmetic.h"
#include "arch/numeric.h"
#include "sampling/token_weight.h"
#include "sampling/wide.h"

namespace tw {

// A token in two distributions: weight / mass is its probability. Masses are not 0.
struct TokenPair {
  u64 target;
  u64 target_mass;
  u64 draft;
  u64 draft_mass;
};

// floor(value * coin / 2^64).
TW_DEVICE Wide share_of(const Wide& value, u64 coin) {
  Wide share = wide_product(value.high, coin);
  share.add(0, multiply_high(value.low, coin));
  return share;
}

// What of a mass a threshold leaves to be reached, in [1, mass].
TW_DEVICE u64 threshold_mass(float threshold, u64 mass) {
  return threshold >= 1 ? mass : mass_target(threshold, mass);
}

// With the probability min(1, p / q), p over q by weights, or more with a threshold below 1.
TW_DEVICE bool accepts(const TokenPair& pair, u64 coin, float threshold_acc) {
  const Wide draft = wide_product(pair.draft, threshold_mass(threshold_acc, pair.target_mass));
  return share_of(draft, coin) < wide_product(pair.target, pair.draft_mass);
}

TW_DEVICE i32 bit_width(u64 value) {
  i32 width = 0;
#pragma unroll 1
  for (i32 step = 32; step > 0; step /= 2) {
    if (value >> step == 0) continue;
    value >>= step;
    width += step;
  }
  return width + static_cast<i32>(value);
}

// Bits that the weights of a residual lose, so that their sum fits 64 bits.
TW_DEVICE i32 residual_shift(u64 target_mass, u64 draft_mass) {
  const i32 shift = bit_width(target_mass) + bit_width(draft_mass) - 64;
  return shift > 0 ? shift : 0;
}

// The token's weight in the residual max(0, p - q).
TW_DEVICE u64 residual_weight(const TokenPair& pair, i32 shift) {
  const Wide target = wide_product(pair.target, pair.draft_mass);
  const Wide draft = wide_product(pair.draft, pair.target_mass);
  return draft < target ? shifted_down(target - draft, shift) : 0;
}

// The same of weights as they come from rows, which have at most 42 bits, and masses of less than
// 2^60: half the instructions.
TW_DEVICE u64 residual_of_weights(const TokenPair& pair, i32 shift) {
  const Wide left = product_of_weight(pair.target, pair.draft_mass) -
                    product_of_weight(pair.draft, pair.target_mass);
  // Products have less than 2^103; the shift is at most 56.
  const u64 residual = left.high << (63 - shift) << 1 | left.low >> shift;
  return (left.high >> 63) != 0 ? 0 : residual;
}

// A probability as a weight; NaN and negative numbers count as 0, numbers above 1 as 1.
TW_DEVICE u64 probability_weight(float p) {
  if (!(p > 0)) return 0;
  return static_cast<u64>(multiply_exact(min_of(p, 1.0F), 0x1.0p40F));
}

// A caller's uniform number as 64 bits: of [0, 1) exactly, numbers outside as the nearest, NaN as
// 0.
TW_DEVICE u64 coin_bits(float coin) {
  if (!(coin > 0)) return 0;
  if (coin >= 1) return ~u64{0};
  return static_cast<u64>(multiply_exact(coin, 0x1.0p64F));
}

}  // namespace tw
