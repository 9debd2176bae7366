// SPDX-License-Identifier: Apache-2.0
// Products of few rows against float64 sums on every SIMD target, from weights that are packed here
// as the header says. That oneDNN packs them so, and sums f32 in the same order, is for
// linear_test.
#include "engine/few_rows.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "base/simd_targets.h"
#include "engine/numeric.h"
#include "support/random.h"

namespace tilewright::test {
namespace {

using namespace engine;

std::int64_t round_up(std::int64_t value, std::int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

float rounded(float value, DType dtype) {
  return dtype == DType::f32 ? value : bf16_to_f32(f32_to_bf16(value));
}

std::vector<std::byte> to_bytes(const std::vector<float>& values, DType dtype) {
  std::vector<std::byte> bytes;
  for (const float value : values) {
    const std::uint16_t half = f32_to_bf16(value);
    const auto* const from = dtype == DType::f32 ? reinterpret_cast<const std::byte*>(&value)
                                                 : reinterpret_cast<const std::byte*>(&half);
    bytes.insert(bytes.end(), from, from + dtype_bytes(dtype));
  }
  return bytes;
}

struct Product {
  Product(Random& random, std::int64_t most_rows, std::int64_t num_inputs, std::int64_t num_outputs,
          DType weight_type, DType x_type)
      : in(num_inputs), out(num_outputs), weight_dtype(weight_type), x_dtype(x_type) {
    for (std::int64_t i = 0; i < out * in; ++i) weight.push_back(draw(random, weight_dtype));
    for (std::int64_t i = 0; i < most_rows * in; ++i) x.push_back(draw(random, x_dtype));
    const std::int64_t together = weight_dtype == DType::f32 ? 1 : 2;
    const std::int64_t padded = round_up(in, 16 * together);
    std::vector<float> blocks(static_cast<std::size_t>(round_up(out, 64) * padded));
    for (std::int64_t o = 0; o < out; ++o) {
      for (std::int64_t i = 0; i < in; ++i) {
        const std::int64_t in_block = (i / together * 64 + o % 64) * together + i % together;
        blocks[o / 64 * 64 * padded + in_block] = weight[o * in + i];
      }
    }
    packed_bytes = to_bytes(blocks, weight_dtype);
    packed = {packed_bytes.data(), weight_dtype, 64 * padded * dtype_bytes(weight_dtype), in, out,
              summed_apart};
  }

  static float draw(Random& random, DType dtype) {
    return rounded(static_cast<float>(random.normal()), dtype);
  }

  // Rows [first, first + rows) of x; what is around y stays as it is.
  std::vector<float> run(std::int64_t first, std::int64_t rows, DType y_dtype) const {
    const std::vector<float> part(x.begin() + first * in, x.begin() + (first + rows) * in);
    const auto x_bytes = to_bytes(part, x_dtype);
    constexpr std::size_t kGuard = 64;
    std::vector<std::byte> y(
        kGuard + static_cast<std::size_t>(rows * out * dtype_bytes(y_dtype)) + kGuard,
        std::byte{0x5A});
    std::vector<float> scratch;
    multiply_few_rows(rows, x_bytes.data(), x_dtype, packed, y.data() + kGuard, y_dtype, scratch);
    for (std::size_t i = 0; i < kGuard; ++i) {
      EXPECT_EQ(y[i], std::byte{0x5A});
      EXPECT_EQ(y[y.size() - 1 - i], std::byte{0x5A});
    }
    std::vector<float> values(static_cast<std::size_t>(rows * out));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (y_dtype == DType::f32) {
        std::memcpy(&values[i], y.data() + kGuard + i * 4, 4);
      } else {
        std::uint16_t bits;
        std::memcpy(&bits, y.data() + kGuard + i * 2, 2);
        values[i] = bf16_to_f32(bits);
      }
    }
    return values;
  }

  // Sum and sum of magnitudes of an element of y.
  std::pair<double, double> expected(std::int64_t row, std::int64_t column) const {
    double sum = 0;
    double magnitude = 0;
    for (std::int64_t i = 0; i < in; ++i) {
      const double term = static_cast<double>(x[row * in + i]) * weight[column * in + i];
      sum += term;
      magnitude += std::fabs(term);
    }
    return {sum, magnitude};
  }

  static constexpr std::int64_t summed_apart = 96;
  std::int64_t in, out;
  DType weight_dtype, x_dtype;
  std::vector<float> weight, x;
  std::vector<std::byte> packed_bytes;
  PackedWeight packed;
};

using Dtypes = std::pair<DType, DType>;  // of the weights and of x
constexpr Dtypes kAllDtypes[] = {
    {DType::f32, DType::f32}, {DType::f32, DType::bf16}, {DType::bf16, DType::bf16}};

TEST(FewRows, AgreeWithTheFloat64Sum) {
  for_each_simd_target([] {
    Random random(1);
    for (const auto& [weights, x] : kAllDtypes) {
      for (const auto& [in, out] : {std::pair<std::int64_t, std::int64_t>{1, 1},
                                    {2, 31},
                                    {7, 33},
                                    {64, 64},
                                    {97, 65},
                                    {256, 100},
                                    {301, 200}}) {
        const Product product(random, kMostFewRows, in, out, weights, x);
        for (const std::int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 23, 63, 64}) {
          const DType y_dtype = rows % 2 == 0 ? DType::f32 : DType::bf16;
          const auto y = product.run(kMostFewRows - rows, rows, y_dtype);
          for (std::int64_t i = 0; i < rows * out; ++i) {
            const auto [sum, magnitude] = product.expected(kMostFewRows - rows + i / out, i % out);
            const double rounding = y_dtype == DType::bf16 ? std::fabs(sum) * 0x1p-8 : 0.0;
            ASSERT_NEAR(y[i], sum, magnitude * 0x1p-20 + rounding)
                << rows << " rows, " << in << " inputs, element " << i << " of " << out;
          }
        }
      }
    }
  });
}

TEST(FewRows, BitsDependOnTheRowAlone) {
  for_each_simd_target([] {
    Random random(2);
    const int threads = omp_get_max_threads();
    for (const auto& [weights, x] : kAllDtypes) {
      const Product product(random, kMostFewRows, 333, 160, weights, x);
      const auto all = product.run(0, kMostFewRows, DType::f32);
      for (const std::int64_t rows : {1, 3, 8, 13, 40}) {
        omp_set_num_threads(static_cast<int>(rows % 4 + 1));
        const std::int64_t first = random.range(0, kMostFewRows - rows);
        const auto some = product.run(first, rows, DType::f32);
        for (std::int64_t i = 0; i < rows * product.out; ++i) {
          ASSERT_EQ(some[i], all[first * product.out + i]) << rows << " rows, element " << i;
        }
      }
      omp_set_num_threads(threads);
    }
  });
}

}  // namespace
}  // namespace tilewright::test
