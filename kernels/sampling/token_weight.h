// SPDX-License-Identifier: Apache-2.0
// The weight of a token, as src/sampling/weight.h computes it: its probability relative to the most
// likely token's, in fixed point, with the same bits as on the CPU. Sums of integers do not depend
// on their order.
#pragma once

#include "arch/arithmetic.h"
#include "arch/numeric.h"

namespace tw {

// A weight of 1; smaller ones are rounded down.
inline constexpr i32 kWeightBits = 40;
// Below 2^-42 a weight is 0 in any case; ending there keeps shift counts below 64.
inline constexpr float kLeastExponent = -42.0F;

// What turns a row's logits into weights.
struct WeightScale {
  float largest;  // logit of the most likely token, finite
  float scale;    // log2(e) / temperature, finite and normal
};

// What turns a row's probabilities into weights.
struct ProbabilityScale {
  float largest;  // positive and finite
  float scale;    // 1: there is no temperature
};

TW_DEVICE float scale_of_temperature(float temperature) {
  const float scale = divide_exact(0x1.715476p+0F, temperature);
  return min_of(max_of(scale, 0x1.0p-126F), 0x1.fffffep+127F);
}

// log2 of the weight but for rounding, at least kLeastExponent.
TW_DEVICE float token_exponent(float logit, const WeightScale& scale) {
  return max_of(multiply_exact(subtract_exact(logit, scale.largest), scale.scale), kLeastExponent);
}

// log2 of a token's probability relative to the largest one, as part - whole.
struct WeightExponent {
  i32 whole;   // 0 to 42: as logits fall it rises,
  float part;  // in [-1/2, 1/2], and this falls where it is the same
};
TW_DEVICE WeightExponent weight_exponent(float logit, const WeightScale& scale) {
  const float exponent = token_exponent(logit, scale);
  // Where numbers are whole: the sum is rounded to even, and its low bits are the number.
  // Instructions that convert have a quarter of the speed or less.
  constexpr float kWholeNumbers = 0x1.8p23F;
  const float moved = add_exact(exponent, kWholeNumbers);
  return {static_cast<i32>(bits_of(kWholeNumbers) - bits_of(moved)),
          subtract_exact(exponent, subtract_exact(moved, kWholeNumbers))};
}

// 2^part, a multiple of 2^-24 in [0.7, 1.5).
TW_DEVICE float weight_power(float part) {
  // 2^f = 1 + f * (c1 + f * (c2 + ...)) for |f| <= 1/2.
  float power = 0x1.41fbbep-13F;
  power = multiply_add_exact(part, power, 0x1.5f3e54p-10F);
  power = multiply_add_exact(part, power, 0x1.3b2d4cp-7F);
  power = multiply_add_exact(part, power, 0x1.c6aee8p-5F);
  power = multiply_add_exact(part, power, 0x1.ebfbdcp-3F);
  power = multiply_add_exact(part, power, 0x1.62e430p-1F);
  return multiply_add_exact(part, power, 1.0F);
}

// The same as mantissa / 2^(23 + half).
struct WeightFraction {
  u32 mantissa;  // 24 bits
  i32 half;      // 0, or 1 below 1
};
TW_DEVICE WeightFraction weight_fraction(float part) {
  const u32 bits = bits_of(weight_power(part));
  return {(bits & 0x7FFFFFU) | 0x800000U, 127 - static_cast<i32>(bits >> 23)};
}

// 0 for a logit of -inf; `logit` is not NaN and not above the largest.
TW_DEVICE u64 token_weight(float logit, const WeightScale& scale) {
  const WeightExponent exponent = weight_exponent(logit, scale);
  const WeightFraction fraction = weight_fraction(exponent.part);
  return (u64{fraction.mantissa} << (kWeightBits - 23)) >> (exponent.whole + fraction.half);
}

// The same with a conversion, one instruction of a unit of its own for many: for sums over whole
// rows. Here `logit` may be NaN, too, and weighs nothing.
TW_DEVICE u64 converted_weight(float logit, const WeightScale& scale) {
  // As weight_exponent() does; the sum's low bits are 2^whole's exponent of the weight's float.
  constexpr float kWholeNumbers = 0x1.8p23F + kWeightBits;
  const float exponent = token_exponent(logit, scale);
  const float moved = add_exact(exponent, kWholeNumbers);
  const float part = subtract_exact(exponent, subtract_exact(moved, kWholeNumbers));
  return static_cast<u64>(float_of(bits_of(weight_power(part)) + (bits_of(moved) << 23)));
}

// log2 of x >= 0, finite: the operations of src/sampling/weight.h.
TW_DEVICE float log2_exact(float x) {
  if (!(x > 0)) return -kInfinity;
  const bool tiny = x < 0x1.0p-100F;
  if (tiny) x = multiply_exact(x, 0x1.0p64F);
  const u32 bits = bits_of(x);
  const u32 exponent = (bits - 0x3F400000U) & 0xFF800000U;
  const auto whole =
      add_exact(tiny ? -64.0F : 0.0F, static_cast<float>(static_cast<i32>(exponent) / 0x800000));
  const float m = float_of(bits - exponent);
  const float s = divide_exact(subtract_exact(m, 1.0F), add_exact(m, 1.0F));
  const float square = multiply_exact(s, s);
  float sum = 0x1.484b14p-2F;
  sum = multiply_add_exact(square, sum, 0x1.a61762p-2F);
  sum = multiply_add_exact(square, sum, 0x1.2776c6p-1F);
  sum = multiply_add_exact(square, sum, 0x1.ec709ep-1F);
  sum = multiply_add_exact(square, sum, 0x1.715476p+1F);
  return multiply_add_exact(s, sum, whole);
}

// The same of a quotient, 0 where it is below. A call, as it is long and in several passes.
TW_DEVICE_CALL float log2_of_quotient(float dividend, float divisor) {
  return log2_exact(max_of(divide_exact(dividend, divisor), 0.0F));
}

// log2 of a token's probability relative to the largest one.
TW_DEVICE float relative_log2(float logit, const WeightScale& scale) {
  return multiply_exact(subtract_exact(logit, scale.largest), scale.scale);
}
TW_DEVICE float relative_log2(float p, const ProbabilityScale& scale) {
  return log2_of_quotient(p, scale.largest);
}

// The natural logarithm of a probability: of a token of a row whose weights sum to `mass`.
TW_DEVICE float log_probability(float relative_log2, u64 mass) {
  const float of_mass =
      subtract_exact(log2_exact(static_cast<float>(mass)), static_cast<float>(kWeightBits));
  return multiply_exact(subtract_exact(relative_log2, of_mass), 0x1.62e430p-1F);
}

// The same of probabilities: floor(2^40 * p / largest).
TW_DEVICE u64 token_weight(float p, const ProbabilityScale& scale) {
  const u32 bits = bits_of(max_of(divide_exact(p, scale.largest), 0.0F));
  const u64 mantissa = (bits & 0x7FFFFFU) | 0x800000U;
  const u32 shift = 150 - (bits >> 23);  // less kWeightBits
  return (mantissa << kWeightBits >> 16) >> (shift < 79 ? shift - 16 : 63);
}
TW_DEVICE float token_exponent(float p, const ProbabilityScale& scale) {
  return max_of(relative_log2(p, scale), kLeastExponent);
}

// Logits as everything here sees them: NaN counts as -inf, and the two zeros are equal.
TW_DEVICE float clean_logit(float logit) {
  return add_exact(max_of(logit, -kInfinity), 0.0F);
}

// A positive number that is at most 1, as mantissa * 2^exponent with 24 bits; subnormals count as
// the smallest normal.
struct Fraction {
  u64 mantissa;
  i32 exponent;
};
TW_DEVICE Fraction fraction_of(float p) {
  const u32 bits = bits_of(max_of(p, 0x1.0p-126F));
  return {(bits & 0x7FFFFFU) | 0x800000U, static_cast<i32>(bits >> 23) - 150};
}

// ceil(p * total), exactly; at least 1: the most likely token is always kept. p < 1.
TW_DEVICE u64 mass_target(float p, u64 total) {
  if (!(p > 0)) return 1;
  const Fraction fraction = fraction_of(p);
  const i32 shift = -fraction.exponent;  // 24 or more
  if (shift > 100) return 1;             // the product is below 2^88
  u64 low = fraction.mantissa * total;
  u64 high = multiply_high(fraction.mantissa, total);
  // Adds 2^shift - 1.
  const u64 add_low = shift >= 64 ? ~u64{0} : (u64{1} << shift) - 1;
  low += add_low;
  if (low < add_low) ++high;
  if (shift > 64) high += (u64{1} << (shift - 64)) - 1;
  if (shift >= 64) return high >> (shift - 64);
  return high << (64 - shift) | low >> shift;
}

// The least weight that is not below p times `largest`. 0 < p <= 1.
TW_DEVICE u64 least_weight(float p, u64 largest) {
  return p >= 1 ? largest : mass_target(p, largest);
}

}  // namespace tw
