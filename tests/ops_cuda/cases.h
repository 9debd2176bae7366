// SPDX-License-Identifier: Apache-2.0
// What the tests of the operators on CUDA share, in the emulator and on a GPU: dtypes and
// placements, and the comparison with the CPU's results.
#pragma once

#include <cmath>

#include "ops/ops_support.h"

namespace tilewright::test {

// Nine choices of four wide dtypes in which every two of them meet in every combination.
inline constexpr int kNumMixes = 9;
constexpr DType mixed_dtype(int mix, int place) {
  const int a = mix / 3;
  const int b = mix % 3;
  const int choices[] = {a, b, (a + b) % 3, (a + 2 * b) % 3};
  constexpr DType kWide[] = {DType::f32, DType::f16, DType::bf16};
  return kWide[choices[place]];
}

// Whether two tensors of one shape and dtype agree but for a rounding of each and 1e-6 of
// `magnitude`.
inline void expect_close(const Tensor& got, const Tensor& expected, double magnitude = 1) {
  const TensorView a = got.view();
  const TensorView b = expected.view();
  ASSERT_EQ(a.dtype, b.dtype);
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    std::int64_t rest = i;
    std::int64_t at_a = 0;
    std::int64_t at_b = 0;
    for (int dim = a.rank - 1; dim >= 0; --dim) {
      at_a += rest % a.shape[dim] * a.strides[dim];
      at_b += rest % a.shape[dim] * b.strides[dim];
      rest /= a.shape[dim];
    }
    const double x = load_element(a.data, a.dtype, at_a);
    const double y = load_element(b.data, b.dtype, at_b);
    if (x == y || (std::isnan(x) && std::isnan(y))) continue;
    ASSERT_NEAR(x, y, 2.02 * rounding_unit(a.dtype) * std::fabs(y) + 1e-6 * magnitude)
        << "element " << i;
  }
}

// Whether two contiguous tensors of f8e4m3 agree but for a step in few places: sums of another
// order may be to another side of what lies between two numbers.
inline void expect_close_fp8(const Tensor& got, const Tensor& expected) {
  const TensorView a = got.view();
  const TensorView b = expected.view();
  std::int64_t different = 0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const auto x = static_cast<const std::uint8_t*>(a.data)[i];
    const auto y = static_cast<const std::uint8_t*>(b.data)[i];
    ASSERT_LE(std::abs(x - y), 1) << "element " << i;
    different += x == y ? 0 : 1;
  }
  EXPECT_LE(different, 2 + a.numel() / 1000);
}

// A tensor whose rows have `gap` elements of nobody behind them, moved by `shift` elements: by gap
// and shift rows are aligned or not.
inline Tensor strided(DType dtype, const Extents& shape, std::int64_t gap, int shift = 0) {
  return {dtype, shape, row_major(shape, gap), kSentinel, shift};
}

// Gaps and shifts of rows that are aligned to runs, and of such that are not.
struct Placement {
  std::int64_t gap;
  int shift;
};
inline constexpr Placement kPlacements[] = {{0, 0}, {16, 0}, {16, 8}, {3, 0}, {8, 1}};

}  // namespace tilewright::test
