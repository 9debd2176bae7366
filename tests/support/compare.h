// SPDX-License-Identifier: Apache-2.0
// Comparison of results with the float64 reference: first where NaN and infinities are, then how
// far the worst element is from what correct rounding to the output's dtype would give.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <initializer_list>
#include <string>

#include "support/reference.h"
#include "support/tensor.h"

namespace tilewright::test {

// Largest relative error of one correct rounding.
double rounding_unit(DType dtype);

// Half the distance of the smallest numbers.
double smallest_step(DType dtype);

// f32 arithmetic inside, relative to the sum of magnitudes that it adds up.
inline constexpr double kArithmetic = 1e-5;
// Where queries, keys and values are all bf16 or narrower, weights may be rounded to bf16 before
// they meet the values.
inline constexpr double kRoundedWeights = 0x1.0p-8;

// Rotated queries and keys that are two bf16 each have 16 digits.
inline constexpr double kTwoBf16 = 0x1.0p-15;

// Of kernels for GPUs, as a part of the magnitudes: weights are rounded to the dtype of queries
// before they meet the values.
inline double gpu_arithmetic(DType dtype) {
  if (dtype == DType::f32) return 0x1.0p-18;
  return dtype == DType::f16 ? 0x1.0p-10 : 0x1.0p-7;
}

inline bool rounds_weights(DType q, DType k, DType v) {
  const auto fits_bf16 = [](DType dtype) {
    return dtype == DType::bf16 || dtype == DType::f8e4m3 || dtype == DType::f8e5m2;
  };
  return fits_bf16(q) && fits_bf16(k) && fits_bf16(v);
}

class Comparison {
 public:
  explicit Comparison(DType dtype, double arithmetic = kArithmetic)
      : dtype_(dtype), arithmetic_(arithmetic) {}

  void add(double got, double expected, double magnitude, const std::string& where);

  testing::AssertionResult result() const;

 private:
  DType dtype_;
  double arithmetic_;
  std::int64_t wrong_pattern_ = 0;
  std::int64_t wrong_values_ = 0;
  double worst_ratio_ = 0;
  std::string pattern_;
  std::string worst_;
};

// Query tokens [first, first + q_len) of `out` [tokens, heads, value_dim] and of `lse` [tokens,
// heads] (which may be undefined). `name` says whose they are.
testing::AssertionResult matches(const Tensor& out, const Tensor& lse, std::int64_t first,
                                 const Expected& expected, const Dims& dims, DType out_dtype,
                                 const std::string& name, double arithmetic = kArithmetic,
                                 double lse_arithmetic = kArithmetic);

}  // namespace tilewright::test
