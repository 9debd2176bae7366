// SPDX-License-Identifier: Apache-2.0
// Passes over a list for typical-p, which ranks tokens by how near their exponent is to the mean.
#pragma once

#include "sampling/row_passes.h"

namespace tilewright {

// Exponents as fixed-point numbers: -x * 2^16, rounded to nearest even. With 16 bits behind the
// point the products with weights of kMassBlock tokens sum to less than 2^64, because 2^x * -x is
// less than 0.531.
inline constexpr int kExponentBits = 16;

// Of a list: the mass, and the sum of weight * fixed-point exponent.
struct Moments {
  __extension__ using Product = unsigned __int128;

  std::uint64_t mass = 0;
  Product product = 0;
};
Moments sum_moments(const Logits& logits, std::int64_t begin, std::int64_t end,
                    const WeightScale& scale);

// The mean exponent: the quotient rounded to nearest, half up, is a whole number of 2^-16 and below
// 2^22, so that f32 has it exactly.
inline float mean_exponent(const Moments& moments) {
  const Moments::Product quotient = (moments.product + moments.mass / 2) / moments.mass;
  return -(static_cast<float>(static_cast<std::uint64_t>(quotient)) * 0x1.0p-16F);
}

// What ranks a token: the larger, the earlier it is kept; at most 0.
struct Typicality {
  WeightScale scale;
  float mean = 0;

  float score(float logit) const { return 0.0F - std::fabs(token_exponent(logit, scale) - mean); }
};

// As split_by_mass, but by score.
Split split_by_typicality(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                          float high, const Typicality& typicality, float* middle);

// The same with a copy of all entries whose scores are not below `low`, in order: what a threshold
// in the middle keeps is in there.
struct NearSplit {
  Split split;
  std::int64_t near = 0;  // how many these are
};
NearSplit split_near(const Logits& logits, std::int64_t begin, std::int64_t end, float low,
                     float high, const Typicality& typicality, float* middle, float* values,
                     std::int32_t* ids);

// Copies the entries whose scores are kept, in order; with `ties_only` those at the threshold.
// Returns their number.
std::int64_t compact_typical(const Logits& logits, std::int64_t begin, std::int64_t end,
                             const Kept& kept, bool ties_only, const Typicality& typicality,
                             float* values, std::int32_t* ids);

}  // namespace tilewright
