// SPDX-License-Identifier: Apache-2.0
// Linear layers against float64 sums, and what of a row's bits depends on the rest of the call.
#include "engine/linear.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/expect_error.h"
#include "engine/numeric.h"
#include "support/random.h"

namespace tilewright::test {
namespace {

using engine::bf16_to_f32;
using engine::f32_to_bf16;
using engine::Linear;
using engine::MatmulCache;
using engine::RowBlocks;

std::vector<float> random_values(Random& random, std::int64_t count, bool as_bf16) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (float& value : values) {
    value = static_cast<float>(random.normal());
    if (as_bf16) value = bf16_to_f32(f32_to_bf16(value));
  }
  return values;
}

std::vector<std::uint16_t> to_bf16(const std::vector<float>& values) {
  std::vector<std::uint16_t> out;
  for (const float value : values) out.push_back(f32_to_bf16(value));
  return out;
}

// A layer in any dtype, with x and y as floats.
struct Layer {
  std::int64_t out, in;
  DType weight_dtype, out_dtype;
  std::vector<float> weight;
  Linear linear;
  RowBlocks blocks = RowBlocks::any;

  Layer(MatmulCache& cache, Random& random, std::int64_t out_features, std::int64_t in_features,
        DType weights, DType result)
      : out(out_features),
        in(in_features),
        weight_dtype(weights),
        out_dtype(result),
        weight(random_values(random, out * in, weights == DType::bf16)),
        linear(cache, weight, out, in, weights, result) {}

  std::vector<float> run(std::int64_t rows, const std::vector<float>& x) const {
    std::vector<float> y(static_cast<std::size_t>(rows * out), NAN);
    std::vector<std::uint16_t> y_bits(y.size(), 0x7FC0);
    const auto x_bits = to_bf16(x);
    const void* from = weight_dtype == DType::f32 ? static_cast<const void*>(x.data())
                                                  : static_cast<const void*>(x_bits.data());
    void* to =
        out_dtype == DType::f32 ? static_cast<void*>(y.data()) : static_cast<void*>(y_bits.data());
    linear.run(rows, from, to, blocks);
    if (out_dtype == DType::bf16) {
      for (std::size_t i = 0; i < y.size(); ++i) y[i] = bf16_to_f32(y_bits[i]);
    }
    return y;
  }

  // Sum and sum of magnitudes of one element of y.
  std::pair<double, double> expected(const std::vector<float>& x, std::int64_t row,
                                     std::int64_t column) const {
    double sum = 0;
    double magnitude = 0;
    for (std::int64_t i = 0; i < in; ++i) {
      const double product =
          static_cast<double>(x[row * in + i]) * static_cast<double>(weight[column * in + i]);
      sum += product;
      magnitude += std::fabs(product);
    }
    return {sum, magnitude};
  }
};

using Dtypes = std::pair<DType, DType>;
constexpr Dtypes kAllDtypes[] = {
    {DType::f32, DType::f32}, {DType::bf16, DType::f32}, {DType::bf16, DType::bf16}};

TEST(Linear, AgreesWithTheFloat64Sum) {
  Random random(1);
  MatmulCache cache;
  for (const auto& [weights, result] : kAllDtypes) {
    for (const auto& [out, in] : {std::pair<std::int64_t, std::int64_t>{192, 576},
                                  {576, 1536},
                                  {72, 100},
                                  {1, 1},
                                  {33, 7},
                                  {5, 64}}) {
      Layer layer(cache, random, out, in, weights, result);
      for (const std::int64_t rows : {0, 1, 2, 3, 17, 63, 64, 65, 130, 300, 321}) {
        layer.blocks = rows % 2 == 0 ? RowBlocks::any : RowBlocks::fixed;
        const auto x = random_values(random, rows * in, weights == DType::bf16);
        const auto y = layer.run(rows, x);
        for (int sample = 0; rows > 0 && sample < 200; ++sample) {
          const std::int64_t row = sample % 2 == 0 ? rows - 1 : random.range(0, rows - 1);
          const std::int64_t column = random.range(0, out - 1);
          const auto [sum, magnitude] = layer.expected(x, row, column);
          const double rounding = result == DType::bf16 ? std::fabs(sum) * 0x1p-8 : 0.0;
          ASSERT_NEAR(y[row * out + column], sum, magnitude * 0x1p-20 + rounding)
              << rows << " rows, " << out << " x " << in << ", row " << row << ", column "
              << column;
        }
      }
    }
  }
}

// Whether Linear's header promises equal bits: in fixed blocks, and for f32 where oneDNN may use
// AVX-512.
bool promises_equal_bits(const Layer& layer) {
  if (layer.blocks == RowBlocks::fixed) return true;
#ifdef __x86_64__
  const bool avx512 = __builtin_cpu_supports("avx512bw") != 0;
#else
  const bool avx512 = false;
#endif
  const char* most = std::getenv("ONEDNN_MAX_CPU_ISA");
  const bool held_back = most != nullptr && std::string_view(most) == "AVX2";
  return layer.weight_dtype == DType::f32 && avx512 && !held_back;
}

// Equal bits where they are promised, else what rounding the sum and then y allows.
double tolerance(const Layer& layer) {
  if (promises_equal_bits(layer)) return 0.0;
  return layer.out_dtype == DType::bf16 ? 0x1p-7 : 1e-5;
}

// The largest difference, in units of the largest element.
double difference(std::span<const float> a, std::span<const float> b) {
  double worst = 0;
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i]) || std::isnan(b[i])) return INFINITY;
    worst = std::fmax(worst, std::fabs(static_cast<double>(a[i]) - static_cast<double>(b[i])));
    largest = std::fmax(largest, std::fabs(static_cast<double>(a[i])));
  }
  return worst / largest;
}

// What the other rows of a call change in a row.
double dependence_on_rows(const Layer& layer, Random& random) {
  constexpr std::int64_t kRows = 321;
  const auto x = random_values(random, kRows * layer.in, layer.weight_dtype == DType::bf16);
  const auto whole = layer.run(kRows, x);
  double worst = 0;
  for (const std::int64_t rows : {1, 2, 3, 5, 8, 15, 16, 17, 31, 33, 48, 64, 65, 128, 200, 256}) {
    const std::int64_t begin = random.range(0, kRows - rows);
    const auto part =
        layer.run(rows, {x.begin() + begin * layer.in, x.begin() + (begin + rows) * layer.in});
    const auto same = std::span(whole).subspan(static_cast<std::size_t>(begin * layer.out),
                                               static_cast<std::size_t>(rows * layer.out));
    worst = std::fmax(worst, difference(same, part));
  }
  return worst;
}

TEST(Linear, ARowDoesNotDependOnTheOtherRows) {
  Random random(2);
  MatmulCache cache;
  for (const auto& [weights, result] : kAllDtypes) {
    for (const auto& [out, in] :
         {std::pair<std::int64_t, std::int64_t>{192, 576}, {576, 1536}, {1536, 576}}) {
      Layer layer(cache, random, out, in, weights, result);
      EXPECT_LE(dependence_on_rows(layer, random), tolerance(layer));
      layer.blocks = RowBlocks::fixed;
      EXPECT_EQ(dependence_on_rows(layer, random), 0);
    }
  }
}

TEST(Linear, TheNumberOfThreadsMayChange) {
  Random random(3);
  MatmulCache cache;
  const int threads = omp_get_max_threads();
  for (const auto& [weights, result] : kAllDtypes) {
    Layer layer(cache, random, 576, 1536, weights, result);
    const double allowed = tolerance(layer);  // fixed blocks promise no more here
    for (const std::int64_t rows : {1, 40, 100}) {
      layer.blocks = rows == 40 ? RowBlocks::fixed : RowBlocks::any;
      const auto x = random_values(random, rows * layer.in, weights == DType::bf16);
      omp_set_num_threads(1);
      const auto one = layer.run(rows, x);
      for (const int count : {2, 3, 4}) {
        omp_set_num_threads(count);
        EXPECT_LE(difference(one, layer.run(rows, x)), allowed)
            << rows << " rows, " << count << " threads";
      }
    }
  }
  omp_set_num_threads(threads);
}

TEST(Linear, WritesItsRowsOnly) {
  Random random(4);
  MatmulCache cache;
  const Layer layer(cache, random, 33, 7, DType::f32, DType::f32);
  for (const std::int64_t rows : {1, 3, 64, 70}) {
    const auto x = random_values(random, rows * 7 + 1, false);
    std::vector<float> y(static_cast<std::size_t>(rows * 33 + 2), 1234.0F);
    // Not aligned to a vector either.
    layer.linear.run(rows, x.data() + 1, y.data() + 1,
                     rows % 2 == 0 ? RowBlocks::fixed : RowBlocks::any);
    EXPECT_EQ(y.front(), 1234.0F);
    EXPECT_EQ(y.back(), 1234.0F);
    EXPECT_NE(y[y.size() - 2], 1234.0F);
  }
}

TEST(Linear, LayersMoveAndShareTheirShape) {
  Random random(5);
  MatmulCache cache;
  std::vector<Layer> layers;
  for (int i = 0; i < 3; ++i) layers.emplace_back(cache, random, 40, 24, DType::f32, DType::f32);
  const auto x = random_values(random, 24, false);
  for (const Layer& layer : layers) {
    const auto y = layer.run(1, x);
    EXPECT_NEAR(y[39], layer.expected(x, 0, 39).first, 1e-4);
  }
}

TEST(Linear, RefusesBadArguments) {
  MatmulCache cache;
  const std::vector<float> weight(12);
  expect_error([&] { Linear(cache, weight, 3, 5); }, {"12 elements", "3", "5"});
  expect_error([&] { Linear(cache, weight, 0, 0); }, {"out_features 0"});
  expect_error([&] { Linear(cache, weight, -3, -4); }, {"out_features -3"});
  expect_error([&] { Linear(cache, weight, 3, 4, DType::f16); }, {"f32 or bf16"});
  expect_error([&] { Linear(cache, weight, 3, 4, DType::f32, DType::bf16); }, {"out_dtype"});
  const Linear linear(cache, weight, 3, 4);
  std::vector<float> buffer(12);
  expect_error([&] { linear.run(-1, buffer.data(), buffer.data()); }, {"rows is -1"});
  expect_error([&] { linear.run(1, nullptr, buffer.data()); }, {"null"});
  linear.run(0, nullptr, nullptr);
}

// The other tests once more as on CPUs with less: AVX2, and AVX-512 without bf16 arithmetic.
TEST(Linear, RunsOnSmallerCpus) {
  if (std::getenv("ONEDNN_MAX_CPU_ISA") != nullptr) GTEST_SKIP() << "this is such a run";
  const std::string program = testing::internal::GetArgvs().at(0);
  for (const char* isa : {"AVX2", "AVX512_CORE"}) {
    const std::string command = std::string("ONEDNN_MAX_CPU_ISA=") + isa + " '" + program +
                                "' --gtest_filter='Linear.*' --gtest_brief=1 >&2";
    EXPECT_EQ(std::system(command.c_str()), 0) << command;
  }
}

}  // namespace
}  // namespace tilewright::test
