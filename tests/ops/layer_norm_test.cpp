// SPDX-License-Identifier: Apache-2.0
#include <tilewright/ops.h>

#include "ops/ops_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

// Row r of [rows, dim] in float64.
std::vector<double> reference(const Tensor& x, std::int64_t r, const Tensor& weight,
                              const Tensor& bias, double eps) {
  const std::int64_t dim = x.shape()[1];
  double mean = 0;
  for (std::int64_t i = 0; i < dim; ++i) mean += x.get({r, i}) / static_cast<double>(dim);
  double variance = 0;
  for (std::int64_t i = 0; i < dim; ++i) {
    variance += std::pow(x.get({r, i}) - mean, 2) / static_cast<double>(dim);
  }
  std::vector<double> row;
  for (std::int64_t i = 0; i < dim; ++i) {
    row.push_back((x.get({r, i}) - mean) / std::sqrt(variance + eps) * weight.get({i}) +
                  (bias.defined() ? bias.get({i}) : 0));
  }
  return row;
}

TEST(LayerNorm, MatchesFloat64OverDTypesStridesAndSizes) {
  Random random(1);
  for_each_simd_target([&] {
    for (const DType in : kWideFloats) {
      for (const DType out_dtype : kWideFloats) {
        for (const std::int64_t dim : {1, 7, 16, 33, 576}) {
          for (const bool biased : {false, true}) {
            const std::string where = std::string(dtype_name(in)) + " to " + dtype_name(out_dtype) +
                                      " dim " + std::to_string(dim);
            Tensor x(in, {4, dim}, row_major({4, dim}, 5), kPoison, 1);
            Tensor weight(in, {dim});
            Tensor bias(in, {dim});
            Tensor out(out_dtype, {4, dim}, row_major({4, dim}, 3), kSentinel);
            fill_normal(x, random);
            fill_normal(weight, random);
            fill_normal(bias, random);
            const Tensor none;
            const Tensor& added = biased ? bias : none;
            layer_norm(x.view(), weight.view(), added.view(), out.view(), 1e-5F);
            for (std::int64_t r = 0; r < 4; ++r) {
              const auto expected = reference(x, r, weight, added, 1e-5);
              for (std::int64_t i = 0; i < dim; ++i) {
                const double want = expected[static_cast<std::size_t>(i)];
                expect_near(out.get({r, i}), want, out_dtype, 8, where);
              }
            }
            ASSERT_TRUE(out.guards_intact()) << where;
          }
        }
      }
    }
  });
}

// The variance of numbers that are all far from zero.
TEST(LayerNorm, RowsFarFromZero) {
  Random random(2);
  Tensor x(DType::f32, {3, 500});
  const Tensor weight(DType::f32, {500}, {1}, 0x3F);
  for (std::int64_t r = 0; r < 3; ++r) {
    for (std::int64_t i = 0; i < 500; ++i) x.set({r, i}, 4096 + random.normal());
  }
  const Tensor out(DType::f32, {3, 500});
  layer_norm(x.view(), weight.view(), {}, out.view(), 0);
  for (std::int64_t r = 0; r < 3; ++r) {
    const auto expected = reference(x, r, weight, {}, 0);
    for (std::int64_t i = 0; i < 500; ++i) {
      // What the f32 of the mean leaves.
      ASSERT_NEAR(out.get({r, i}), expected[static_cast<std::size_t>(i)], 1e-3);
    }
  }
}

TEST(LayerNorm, InPlaceRanksZeroRowsAndThreads) {
  Random random(3);
  Tensor x(DType::bf16, {200, 2, 300});
  Tensor weight(DType::f32, {300});
  Tensor bias(DType::f16, {300});
  fill_normal(x, random);
  fill_normal(weight, random);
  fill_normal(bias, random);
  Tensor out(DType::bf16, {200, 2, 300});
  expect_same_for_threads(out, [&](Tensor& result) {
    layer_norm(x.view(), weight.view(), bias.view(), result.view(), 1e-6F);
  });
  layer_norm(x.view(), weight.view(), bias.view(), out.view(), 1e-6F);
  layer_norm(x.view(), weight.view(), bias.view(), x.view(), 1e-6F);
  EXPECT_EQ(x.snapshot(), out.snapshot());
  const TensorView none(nullptr, DType::bf16, {0, 300});
  layer_norm(none, weight.view(), {}, none, 1e-6F);
}

TEST(LayerNorm, Fp8OutputIsScaledAndSaturated) {
  Random random(4);
  Tensor x(DType::bf16, {4, 77});
  Tensor weight(DType::bf16, {77});
  Tensor bias(DType::bf16, {77});
  fill_normal(x, random);
  fill_normal(weight, random, 200);
  fill_normal(bias, random);
  const Tensor exact(DType::f32, {4, 77});
  const Tensor got(DType::f8e4m3, {4, 77});
  layer_norm(x.view(), weight.view(), bias.view(), exact.view(), 1e-6F);
  layer_norm(x.view(), weight.view(), bias.view(), got.view(), 1e-6F, 0.7F);
  expect_scaled_fp8(got, exact, 0.7F);
}

TEST(LayerNorm, Errors) {
  const Tensor x(DType::f32, {4, 8});
  const Tensor weight(DType::f32, {8});
  const Tensor out(DType::f32, {4, 8});
  const TensorView v = x.view();
  const TensorView w = weight.view();
  const TensorView o = out.view();
  expect_invalid([&] { layer_norm({}, w, {}, o, 1e-6F); }, "x is missing");
  expect_invalid([&] { layer_norm(v, w.slice(0, 0, 7), {}, o, 1e-6F); }, "weight is float32[7]");
  expect_invalid([&] { layer_norm(v, w, w.slice(0, 0, 7), o, 1e-6F); }, "bias is float32[7]");
  expect_invalid([&] { layer_norm(v, w, {}, o.slice(0, 0, 3), 1e-6F); }, "out is float32[3, 8]");
  expect_invalid([&] { layer_norm(v, w, {}, o, -1.0F); }, "eps is -1");
  expect_invalid([&] { layer_norm(v, w, {}, o, 1e-6F, 2.0F); }, "out_scale is given");
  expect_invalid([&] { layer_norm(v, w, TensorView(w.data, DType::i32, {8}), o, 1e-6F); },
                 "bias is int32[8]");
}

}  // namespace
}  // namespace tilewright
