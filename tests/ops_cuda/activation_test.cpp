// SPDX-License-Identifier: Apache-2.0
#include "ops/activation.h"

#include "ops_cuda/emulate.h"

namespace tilewright::test {
namespace {

using tw::ActivationParams;

constexpr Activation kActivations[] = {Activation::silu, Activation::gelu, Activation::gelu_tanh};

constexpr Activation activation_of(int mix) {
  return kActivations[(mix / 3 + mix % 3) % 3];
}

template <int mix>
void kernel(ActivationParams p) {
  tw::act_and_mul<static_cast<tw::Gate>(activation_of(mix)), DeviceElement<mixed_dtype(mix, 0)>,
                  DeviceElement<mixed_dtype(mix, 1)>>(p);
}

const auto kCompiled = compile_mixes<ActivationParams>([]<int mix>() {
  return CompiledKernel<ActivationParams>{
      {CudaOp::act_and_mul, {mixed_dtype(mix, 0), mixed_dtype(mix, 1)}, activation_of(mix)},
      kernel<mix>};
});

TEST(ActAndMulOnCuda, EveryDTypeAndPlacement) {
  Random random(1);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const Placement& place : kPlacements) {
      for (const std::int64_t dim : {1, 7, 64, 136}) {
        Tensor x = strided(mixed_dtype(mix, 0), {5, 2 * dim}, place.gap, place.shift);
        Tensor got = strided(mixed_dtype(mix, 1), {5, dim}, place.gap);
        Tensor expected = copy_of(got);
        fill_normal(x, random, 4);
        emulate(kCompiled, activation_launch(x.view(), got.view(), activation_of(mix)));
        act_and_mul(x.view(), expected.view(), activation_of(mix));
        expect_close(got, expected, 30);
        ASSERT_TRUE(got.guards_intact());
      }
    }
  }
}

TEST(ActAndMulOnCuda, InPlaceAndExtremes) {
  Tensor x(DType::f32, {2, 16});
  const double values[] = {0, -0.0, 1e-30, 100, -100, 1e30, -1e30, NAN};
  for (std::int64_t r = 0; r < 2; ++r) {
    for (std::int64_t i = 0; i < 8; ++i) {
      x.set({r, i}, values[i]);
      x.set({r, 8 + i}, 1.5);
    }
  }
  Tensor expected(DType::f32, {2, 8});
  act_and_mul(x.view(), expected.view(), Activation::silu);
  emulate(kCompiled, activation_launch(x.view(), x.view().slice(1, 0, 8), Activation::silu));
  for (std::int64_t r = 0; r < 2; ++r) {
    for (std::int64_t i = 0; i < 8; ++i) {
      const double want = expected.get({r, i});
      if (std::isnan(want)) {
        EXPECT_TRUE(std::isnan(x.get({r, i})));
      } else {
        // Where exp(-x) is clamped, both are next to nothing beside x.
        const double clamped = 1e-35 * std::fabs(values[i]);
        EXPECT_NEAR(x.get({r, i}), want, 1e-6 * std::fabs(want) + clamped + 1e-30) << values[i];
      }
      EXPECT_EQ(x.get({r, 8 + i}), 1.5);
    }
  }
}

}  // namespace
}  // namespace tilewright::test
