// SPDX-License-Identifier: Apache-2.0
#include <tilewright/ops.h>

#include "ops/ops_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

double activation_reference(Activation activation, double x) {
  switch (activation) {
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::gelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    default:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  }
}

constexpr Activation kActivations[] = {Activation::silu, Activation::gelu, Activation::gelu_tanh};

TEST(ActAndMul, MatchesFloat64) {
  Random random(1);
  for_each_simd_target([&] {
    for (const Activation activation : kActivations) {
      for (const DType in : kWideFloats) {
        for (const DType out_dtype : kWideFloats) {
          for (const std::int64_t dim : {1, 13, 16, 100}) {
            Tensor x(in, {3, 2 * dim}, {2 * dim + 3, 1}, kPoison, 1);
            Tensor out(out_dtype, {3, dim}, {dim + 2, 1}, kSentinel);
            fill_normal(x, random, 4);
            act_and_mul(x.view(), out.view(), activation);
            for (std::int64_t r = 0; r < 3; ++r) {
              for (std::int64_t i = 0; i < dim; ++i) {
                const double gate = x.get({r, i});
                const double up = x.get({r, dim + i});
                expect_near(out.get({r, i}), activation_reference(activation, gate) * up, out_dtype,
                            std::fabs(gate * up), dtype_name(out_dtype));
              }
            }
            ASSERT_TRUE(out.guards_intact());
          }
        }
      }
    }
  });
}

TEST(ActAndMul, WholeRangeOfGates) {
  for_each_simd_target([] {
    const std::int64_t dim = 4001;
    Tensor x(DType::f32, {1, 2 * dim});
    Tensor out(DType::f32, {1, dim});
    for (std::int64_t i = 0; i < dim; ++i) {
      x.set({0, i}, static_cast<double>(i - 2000) / 10);
      x.set({0, dim + i}, 1.0);
    }
    for (const Activation activation : kActivations) {
      act_and_mul(x.view(), out.view(), activation);
      for (std::int64_t i = 0; i < dim; ++i) {
        const double gate = x.get({0, i});
        expect_near(out.get({0, i}), activation_reference(activation, gate), DType::f32,
                    std::fabs(gate), std::to_string(gate));
      }
    }
  });
}

TEST(ActAndMul, InPlaceNanZeroTokensAndThreads) {
  Random random(2);
  Tensor x(DType::bf16, {50, 800});
  fill_normal(x, random);
  x.set({3, 4}, NAN);
  const Tensor out(DType::bf16, {50, 400});
  expect_same_for_threads(
      out, [&](Tensor& result) { act_and_mul(x.view(), result.view(), Activation::silu); });
  Tensor apart(DType::bf16, {50, 400});
  act_and_mul(x.view(), apart.view(), Activation::gelu);
  act_and_mul(x.view(), x.view().slice(1, 0, 400), Activation::gelu);
  for (std::int64_t i = 0; i < 400; ++i) {
    if (i == 4) continue;
    EXPECT_EQ(x.get({3, i}), apart.get({3, i}));
  }
  EXPECT_TRUE(std::isnan(apart.get({3, 4})));
  act_and_mul(x.view().slice(0, 0, 0), apart.view().slice(0, 0, 0), Activation::silu);
}

TEST(ActAndMul, Errors) {
  Tensor x(DType::f32, {2, 8});
  Tensor out(DType::f32, {2, 4});
  const TensorView v = x.view();
  const TensorView o = out.view();
  expect_invalid([&] { act_and_mul(v.slice(1, 0, 7), o, Activation::silu); }, "must be even");
  expect_invalid([&] { act_and_mul(v, v, Activation::silu); }, "its shape must be [2, 4]");
  expect_invalid([&] { act_and_mul(v, o, static_cast<Activation>(9)); }, "activation is 9");
  expect_invalid(
      [&] {
        act_and_mul(v, TensorView(v.data, DType::f32, {2, 4}), Activation::silu);
      },
      "starts where x does");
}

}  // namespace
}  // namespace tilewright
