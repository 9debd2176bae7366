// SPDX-License-Identifier: Apache-2.0
// What the tests of the operators share.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/error.h>
#include <tilewright/threads.h>

#include <cmath>
#include <string>
#include <vector>

#include "base/simd_targets.h"
#include "support/compare.h"
#include "support/random.h"
#include "support/tensor.h"

namespace tilewright::test {

inline constexpr DType kWideFloats[] = {DType::f32, DType::f16, DType::bf16};

// `magnitude` is the size of what f32 arithmetic added up on the way; one rounding to `dtype` and
// 1e-6 of it are allowed.
inline void expect_near(double got, double expected, DType dtype, double magnitude,
                        const std::string& where) {
  const double rounding = 1.01 * rounding_unit(dtype) * std::fabs(expected) + 0x1.0p-25;
  ASSERT_NEAR(got, expected, rounding + 1e-6 * magnitude) << where;
}

inline void fill_normal(Tensor& tensor, Random& random, double scale = 1) {
  const Extents& shape = tensor.shape();
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  TensorView view = tensor.view();
  for (std::int64_t i = 0; i < count; ++i) {
    std::int64_t rest = i;
    std::int64_t at = 0;
    for (int dim = view.rank - 1; dim >= 0; --dim) {
      at += rest % shape[static_cast<std::size_t>(dim)] * view.strides[dim];
      rest /= shape[static_cast<std::size_t>(dim)];
    }
    store_element(view.data, view.dtype, at, static_cast<float>(random.normal() * scale));
  }
}

// A copy with the same bytes.
inline Tensor copy_of(const Tensor& tensor) {
  const TensorView view = tensor.view();
  Tensor copy(view.dtype, tensor.shape(),
              Extents(view.strides.begin(), view.strides.begin() + view.rank));
  const std::vector<std::uint8_t> bytes = tensor.snapshot();
  std::memcpy(copy.data() - kGuardBytes, bytes.data(), bytes.size());
  return copy;
}

// Whether `got` [rows, dim] of f8e4m3 holds what is left of `exact` divided by `scale`.
inline void expect_scaled_fp8(const Tensor& got, const Tensor& exact, float scale) {
  const Extents& shape = got.shape();
  for (std::int64_t r = 0; r < shape[0]; ++r) {
    for (std::int64_t i = 0; i < shape[1]; ++i) {
      const double want = rounded(static_cast<float>(exact.get({r, i})) / scale, DType::f8e4m3);
      if (std::isnan(want)) {
        ASSERT_TRUE(std::isnan(got.get({r, i}))) << r << ", " << i;
      } else {
        ASSERT_EQ(got.get({r, i}), want) << r << ", " << i;
      }
    }
  }
}

// Whether `run(out)` gives the same bytes with 1, 2 and 5 threads, and when it is run again.
template <typename Run>
void expect_same_for_threads(const Tensor& out, const Run& run) {
  const int before = num_threads();
  std::vector<std::vector<std::uint8_t>> results;
  for (const int threads : {1, 1, 2, 5, 5}) {
    set_num_threads(threads);
    Tensor result = copy_of(out);
    run(result);
    results.push_back(result.snapshot());
  }
  set_num_threads(before);
  for (const auto& result : results) EXPECT_EQ(result, results[0]);
}

template <typename Call>
void expect_invalid(const Call& call, const std::string& text) {
  try {
    call();
    ADD_FAILURE() << "no error, expected: " << text;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_THAT(error.what(), testing::HasSubstr(text));
  }
}

}  // namespace tilewright::test
