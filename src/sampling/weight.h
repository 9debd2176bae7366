// SPDX-License-Identifier: Apache-2.0
// The weight of a token: its probability relative to the most likely token's, as a fixed-point
// number. Integer sums are exact and do not depend on their order, so neither do the tokens drawn.
// Every backend computes this function bit for bit: each operation below is one IEEE f32 operation
// rounded to nearest even, and std::fma is fused.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace tilewright {

// A weight of 1; smaller ones are rounded down. With 2^23 tokens a row's sum is at most 2^63.
inline constexpr int kWeightBits = 40;
inline constexpr std::uint64_t kWeightOne = std::uint64_t{1} << kWeightBits;
inline constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 23;

// Below 2^-42 a weight is 0 in any case; ending there keeps shift counts below 64.
inline constexpr float kLeastExponent = -42.0F;

// 2^f = 1 + f * (c1 + f * (c2 + ...)) for |f| <= 1/2, relative error 2e-8.
inline constexpr float kExp2Coefficients[6] = {0x1.62e430p-1F, 0x1.ebfbdcp-3F,  0x1.c6aee8p-5F,
                                               0x1.3b2d4cp-7F, 0x1.5f3e54p-10F, 0x1.41fbbep-13F};

// What turns a row's logits into weights.
struct WeightScale {
  float largest = 0;  // logit of the most likely token, finite
  float scale = 1;    // log2(e) / temperature, finite and normal
  // The row has probabilities (of -inf, where there is none), and `largest` is positive.
  bool of_probabilities = false;

  static float of_temperature(float temperature) {
    const float scale = 0x1.715476p+0F / temperature;
    return std::fmin(std::fmax(scale, std::numeric_limits<float>::min()),
                     std::numeric_limits<float>::max());
  }
};

// A probability relative to the largest one.
inline float relative_probability(float p, const WeightScale& scale) {
  return std::fmax(p / scale.largest, 0.0F);
}

// log2 of x >= 0, finite; of 0 it is -inf. With s = (m - 1) / (m + 1) for the mantissa m in
// (0.7, 1.5), log2(m) = 2 / ln(2) * (s + s^3 / 3 + s^5 / 5 + ...); absolute error 1e-7 near 0.
inline constexpr float kLog2Coefficients[5] = {0x1.715476p+1F, 0x1.ec709ep-1F, 0x1.2776c6p-1F,
                                               0x1.a61762p-2F, 0x1.484b14p-2F};
inline float log2_exact(float x) {
  if (!(x > 0)) return -std::numeric_limits<float>::infinity();
  float whole = 0;
  if (x < 0x1.0p-100F) {  // may be subnormal
    x *= 0x1.0p64F;
    whole = -64;
  }
  // The mantissa is in [0.75, 1.5).
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t exponent = (bits - 0x3F400000U) & 0xFF800000U;
  whole += static_cast<float>(static_cast<std::int32_t>(exponent) >> 23);
  const float m = std::bit_cast<float>(bits - exponent);
  const float s = (m - 1.0F) / (m + 1.0F);
  const float square = s * s;
  float sum = kLog2Coefficients[4];
  for (int i = 3; i >= 0; --i) sum = std::fma(square, sum, kLog2Coefficients[i]);
  return std::fma(s, sum, whole);
}

// log2 of a token's probability relative to the largest one.
inline float relative_log2(float logit, const WeightScale& scale) {
  if (scale.of_probabilities) return log2_exact(relative_probability(logit, scale));
  return (logit - scale.largest) * scale.scale;
}

// The same, at least kLeastExponent.
inline float token_exponent(float logit, const WeightScale& scale) {
  return std::fmax(relative_log2(logit, scale), kLeastExponent);
}

// The natural logarithm of a probability: of a token of a row whose weights sum to `mass`.
inline float log_probability(float relative_log2, std::uint64_t mass) {
  const float of_mass = log2_exact(static_cast<float>(mass)) - static_cast<float>(kWeightBits);
  return (relative_log2 - of_mass) * 0x1.62e430p-1F;
}

// 0 for a logit of -inf; `logit` is not NaN and not above `largest`.
inline std::uint64_t token_weight(float logit, const WeightScale& scale) {
  if (scale.of_probabilities) {
    return static_cast<std::uint64_t>(relative_probability(logit, scale) * 0x1.0p40F);
  }
  const float exponent = token_exponent(logit, scale);
  const float whole = std::nearbyint(exponent);
  const float f = exponent - whole;
  float power = kExp2Coefficients[5];
  for (int i = 4; i >= 0; --i) power = std::fma(f, power, kExp2Coefficients[i]);
  power = std::fma(f, power, 1.0F);  // in [0.7, 1.5): a multiple of 2^-24
  const auto fraction = static_cast<std::uint64_t>(power * 0x1.0p24F);
  return (fraction << (kWeightBits - 24)) >> static_cast<int>(-whole);
}

// Logits as everything here sees them: NaN counts as -inf, and the two zeros are equal.
inline float clean_logit(float logit) {
  return std::isnan(logit) ? -std::numeric_limits<float>::infinity() : logit + 0.0F;
}

}  // namespace tilewright
