// SPDX-License-Identifier: Apache-2.0
#include <tilewright/ops.h>

#include "ops/ops_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

// Expected row r of RMSNorm, from the elements that `value(i)` gives.
template <typename Value>
std::vector<double> norm_reference(std::int64_t dim, double eps, double offset,
                                   const Tensor& weight, const Value& value) {
  double sum = 0;
  for (std::int64_t i = 0; i < dim; ++i) sum += value(i) * value(i);
  const double factor = 1 / std::sqrt(sum / static_cast<double>(dim) + eps);
  std::vector<double> row;
  for (std::int64_t i = 0; i < dim; ++i)
    row.push_back(value(i) * factor * (weight.get({i}) + offset));
  return row;
}

TEST(RmsNorm, MatchesFloat64OverDTypesStridesAndSizes) {
  Random random(1);
  for_each_simd_target([&] {
    for (const DType in : kWideFloats) {
      for (const DType out_dtype : kWideFloats) {
        for (const std::int64_t dim : {1, 7, 16, 33, 576}) {
          const std::string where = std::string(dtype_name(in)) + " to " + dtype_name(out_dtype) +
                                    " dim " + std::to_string(dim);
          Tensor x(in, {3, 2, dim}, row_major({3, 2, dim}, 5), kPoison, 1);
          Tensor weight(in, {dim});
          Tensor out(out_dtype, {3, 2, dim}, strides_in_order({3, 2, dim}, {1, 0, 2}, 3),
                     kSentinel);
          fill_normal(x, random);
          fill_normal(weight, random);
          rms_norm(x.view(), weight.view(), out.view(), 1e-5F, 1.0F);
          for (std::int64_t a = 0; a < 3; ++a) {
            for (std::int64_t b = 0; b < 2; ++b) {
              const auto expected = norm_reference(dim, 1e-5, 1.0, weight, [&](std::int64_t i) {
                return x.get({a, b, i});
              });
              for (std::int64_t i = 0; i < dim; ++i) {
                const double want = expected[static_cast<std::size_t>(i)];
                expect_near(out.get({a, b, i}), want, out_dtype, std::fabs(want), where);
              }
            }
          }
          ASSERT_TRUE(out.guards_intact()) << where;
        }
      }
    }
  });
}

TEST(RmsNorm, InPlaceRanksAndZeroRows) {
  Random random(2);
  Tensor x(DType::bf16, {40});
  Tensor weight(DType::f32, {40});
  fill_normal(x, random);
  fill_normal(weight, random);
  Tensor out(DType::bf16, {40});
  rms_norm(x.view(), weight.view(), out.view(), 1e-6F);
  rms_norm(x.view(), weight.view(), x.view(), 1e-6F);
  EXPECT_EQ(x.snapshot(), out.snapshot());
  const TensorView none(nullptr, DType::bf16, {0, 40});
  rms_norm(none, weight.view(), none, 1e-6F);
}

TEST(FusedAddRmsNorm, DoesNotDependOnThreads) {
  Random random(8);
  Tensor x(DType::bf16, {200, 300});
  Tensor weight(DType::bf16, {300});
  fill_normal(x, random);
  fill_normal(weight, random);
  Tensor residual(DType::f32, {200, 300});
  fill_normal(residual, random);
  Tensor out(DType::bf16, {200, 300});
  expect_same_for_threads(out, [&](Tensor& result) {
    const Tensor sum = copy_of(residual);
    fused_add_rms_norm(x.view(), sum.view(), weight.view(), result.view(), 1e-5F);
  });
  expect_same_for_threads(residual, [&](Tensor& sum) {
    fused_add_rms_norm(x.view(), sum.view(), weight.view(), out.view(), 1e-5F);
  });
}

TEST(RmsNorm, DoesNotDependOnThreads) {
  Random random(3);
  Tensor x(DType::f32, {200, 512});
  Tensor weight(DType::f32, {512});
  fill_normal(x, random);
  fill_normal(weight, random);
  const Tensor out(DType::f32, {200, 512});
  expect_same_for_threads(
      out, [&](Tensor& result) { rms_norm(x.view(), weight.view(), result.view(), 1e-6F); });
}

TEST(FusedAddRmsNorm, IsAdditionThenNorm) {
  Random random(4);
  for_each_simd_target([&] {
    for (const DType dtype : kWideFloats) {
      for (const DType residual_dtype : kWideFloats) {
        const std::int64_t dim = 77;
        Tensor x(dtype, {5, dim}, {dim + 3, 1});
        Tensor residual(residual_dtype, {5, dim}, {dim + 1, 1});
        Tensor weight(dtype, {dim});
        fill_normal(x, random);
        fill_normal(residual, random);
        fill_normal(weight, random);
        const Tensor x_before = copy_of(x);
        const Tensor residual_before = copy_of(residual);
        fused_add_rms_norm(x.view(), residual.view(), weight.view(), x.view(), 1e-5F);
        for (std::int64_t r = 0; r < 5; ++r) {
          for (std::int64_t i = 0; i < dim; ++i) {
            const float sum = static_cast<float>(x_before.get({r, i})) +
                              static_cast<float>(residual_before.get({r, i}));
            ASSERT_EQ(residual.get({r, i}), rounded(sum, residual_dtype));
          }
          const auto expected = norm_reference(dim, 1e-5, 0, weight, [&](std::int64_t i) {
            return residual.get({r, i});
          });
          for (std::int64_t i = 0; i < dim; ++i) {
            const double want = expected[static_cast<std::size_t>(i)];
            expect_near(x.get({r, i}), want, dtype, std::fabs(want), dtype_name(dtype));
          }
        }
        ASSERT_TRUE(x.guards_intact());
        ASSERT_TRUE(residual.guards_intact());
      }
    }
  });
}

// The f32 output, divided and rounded; saturated, and NaN where that is NaN.
TEST(RmsNorm, Fp8OutputIsScaledAndSaturated) {
  Random random(5);
  for_each_simd_target([&] {
    for (const DType dtype : kWideFloats) {
      for (const std::int64_t dim : {5, 64, 131}) {
        Tensor x(dtype, {4, dim});
        Tensor residual(DType::bf16, {4, dim});
        Tensor weight(dtype, {dim});
        fill_normal(x, random);
        fill_normal(residual, random);
        fill_normal(weight, random, 100);
        x.set({2, dim - 1}, NAN);
        const Tensor same_residual = copy_of(residual);
        const Tensor exact(DType::f32, {4, dim});
        Tensor got(DType::f8e4m3, {4, dim}, row_major({4, dim}, 3), kSentinel);
        const Tensor scale = float_tensor({0.125});
        rms_norm(x.view(), weight.view(), exact.view(), 1e-6F);
        rms_norm(x.view(), weight.view(), got.view(), 1e-6F);
        expect_scaled_fp8(got, exact, 1.0F);
        rms_norm(x.view(), weight.view(), got.view(), 1e-6F, 0, 0.3F);
        expect_scaled_fp8(got, exact, 0.3F);
        fused_add_rms_norm(x.view(), residual.view(), weight.view(), exact.view(), 1e-6F);
        fused_add_rms_norm(x.view(), same_residual.view(), weight.view(), got.view(), 1e-6F, 0,
                           scale.view());
        expect_scaled_fp8(got, exact, 0.125F);
        EXPECT_EQ(residual.snapshot(), same_residual.snapshot());
        ASSERT_TRUE(got.guards_intact());
      }
    }
  });
}

TEST(RmsNorm, ErrorsOfOutScale) {
  const Tensor x(DType::f32, {4, 8});
  const Tensor weight(DType::f32, {8});
  const Tensor wide(DType::f32, {4, 8});
  const Tensor fp8(DType::f8e4m3, {4, 8});
  const auto norm = [&](const Tensor& out, const Scale& scale) {
    rms_norm(x.view(), weight.view(), out.view(), 1e-6F, 0, scale);
  };
  expect_invalid([&] { norm(fp8, 0.0F); }, "out_scale is 0: it must be positive and finite");
  expect_invalid([&] { norm(fp8, NAN); }, "out_scale is nan");
  expect_invalid([&] { norm(wide, 0.5F); }, "only float8_e4m3fn outputs have a scale");
  expect_invalid([&] { norm(fp8, float_tensor({-1}).view()); }, "out_scale[0] is -1");
  expect_invalid([&] { norm(fp8, float_tensor({1, 2}).view()); }, "out_scale is float32[2]");
  expect_invalid([&] { norm(fp8, Tensor(DType::f16, {1}).view()); }, "out_scale is float16[1]");
  expect_invalid([&] { norm(Tensor(DType::f8e5m2, {4, 8}), {}); }, "out is float8_e5m2[4, 8]");
}

TEST(RmsNorm, Errors) {
  Tensor x(DType::f32, {4, 8});
  Tensor weight(DType::f32, {8});
  Tensor out(DType::f32, {4, 8});
  const TensorView v = x.view();
  const TensorView w = weight.view();
  const TensorView o = out.view();
  expect_invalid([&] { rms_norm({}, w, o, 1e-6F); }, "x is missing");
  expect_invalid([&] { rms_norm(v, w.slice(0, 0, 7), o, 1e-6F); }, "weight is float32[7]");
  expect_invalid([&] { rms_norm(v, w, o.slice(0, 0, 3), 1e-6F); }, "out is float32[3, 8]");
  expect_invalid([&] { rms_norm(v, w, o, -1.0F); }, "eps is -1");
  expect_invalid([&] { rms_norm(v, w, o, NAN); }, "eps is nan");
  expect_invalid([&] { rms_norm(v.transpose(0, 1), w, o, 1e-6F); }, "last dimension");
  expect_invalid(
      [&] {
        rms_norm(TensorView(v.data, DType::i32, {4, 8}), w, o, 1e-6F);
      },
      "x is int32[4, 8]: its dtype must be");
  expect_invalid(
      [&] {
        rms_norm(TensorView(v.data, DType::f32, {4, 8}, Device{DeviceType::cuda, 0}), w, o, 1e-6F);
      },
      "weight is float32[8]: it must be on cuda:0");
  expect_invalid(
      [&] {
        rms_norm(v, w, TensorView(v.data, DType::f16, {4, 8}), 1e-6F);
      },
      "starts where x does");
  expect_invalid(
      [&] {
        rms_norm(v, w, TensorView(o.data, DType::f32, {4, 8}, {0, 1}), 1e-6F);
      },
      "must not overlap");
  expect_invalid([&] { rms_norm(v.unsqueeze(0).unsqueeze(0), w, o, 1e-6F); }, "rank");
  expect_invalid([&] { fused_add_rms_norm(v, v, w, o, 1e-6F); }, "residual is");
  expect_invalid([&] { fused_add_rms_norm(v, o, w, o, 1e-6F); }, "apart");
  expect_invalid([&] { fused_add_rms_norm(v, o.slice(1, 0, 7), w, v, 1e-6F); }, "shape of x");
}

}  // namespace
}  // namespace tilewright
