// SPDX-License-Identifier: Apache-2.0
#include "ops/layer_norm.h"

#include "ops_cuda/emulate.h"

namespace tilewright::test {
namespace {

using tw::LayerNormParams;

template <int mix>
void plain_kernel(LayerNormParams p) {
  tw::layer_norm<DeviceElement<mixed_dtype(mix, 0)>, DeviceElement<mixed_dtype(mix, 1)>, tw::NoBias,
                 DeviceElement<mixed_dtype(mix, 2)>>(p);
}
template <int mix>
void biased_kernel(LayerNormParams p) {
  tw::layer_norm<DeviceElement<mixed_dtype(mix, 0)>, DeviceElement<mixed_dtype(mix, 1)>,
                 DeviceElement<mixed_dtype(mix, 2)>, DeviceElement<mixed_dtype(mix, 3)>>(p);
}

const auto kPlain = compile_mixes<LayerNormParams>([]<int mix>() {
  return CompiledKernel<LayerNormParams>{
      {CudaOp::layer_norm, {mixed_dtype(mix, 0), mixed_dtype(mix, 1), mixed_dtype(mix, 2)}},
      plain_kernel<mix>};
});
const auto kBiased = compile_mixes<LayerNormParams>([]<int mix>() {
  return CompiledKernel<LayerNormParams>{
      {CudaOp::layer_norm_with_bias,
       {mixed_dtype(mix, 0), mixed_dtype(mix, 1), mixed_dtype(mix, 2), mixed_dtype(mix, 3)}},
      biased_kernel<mix>};
});

// Of a warp a row and of a block a row, with runs and with single elements; the last has more runs
// than threads keep.
constexpr std::int64_t kDims[] = {1, 8, 60, 128, 130, 520, 1040, 16400};

TEST(LayerNormOnCuda, EveryDTypeSizeAndPlacement) {
  Random random(1);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const std::int64_t dim : kDims) {
      for (const Placement& place : {kPlacements[0], kPlacements[4]}) {
        Tensor x = strided(mixed_dtype(mix, 0), {5, dim}, place.gap, place.shift);
        Tensor weight(mixed_dtype(mix, 1), {dim});
        Tensor bias(mixed_dtype(mix, 2), {dim});
        Tensor plain = strided(mixed_dtype(mix, 2), {5, dim}, place.gap);
        Tensor biased = strided(mixed_dtype(mix, 3), {5, dim}, place.gap);
        const Tensor expected = copy_of(plain);
        const Tensor expected_biased = copy_of(biased);
        fill_normal(x, random, 3);
        fill_normal(weight, random);
        fill_normal(bias, random);
        emulate(kPlain, layer_norm_launch(x.view(), weight.view(), {}, plain.view(), 1e-5F, {}));
        layer_norm(x.view(), weight.view(), {}, expected.view(), 1e-5F);
        expect_close(plain, expected, 8);
        emulate(kBiased,
                layer_norm_launch(x.view(), weight.view(), bias.view(), biased.view(), 1e-5F, {}));
        layer_norm(x.view(), weight.view(), bias.view(), expected_biased.view(), 1e-5F);
        expect_close(biased, expected_biased, 8);
        ASSERT_TRUE(plain.guards_intact());
        ASSERT_TRUE(biased.guards_intact());
      }
    }
  }
}

TEST(LayerNormOnCuda, RowsOfThreeRanksInPlaceAndEmpty) {
  Random random(2);
  for (const std::int64_t dim : {128, 1040}) {
    Tensor got = strided(DType::f16, {3, 2, dim}, 8);
    Tensor weight(DType::f32, {dim});
    fill_normal(got, random);
    fill_normal(weight, random);
    const Tensor expected = strided(DType::f16, {3, 2, dim}, 0);
    layer_norm(got.view(), weight.view(), {}, expected.view(), 1e-5F);
    // f16, f32 and f16 are one of the mixes.
    emulate(kPlain, layer_norm_launch(got.view(), weight.view(), {}, got.view(), 1e-5F, {}));
    expect_close(got, expected, 8);
    ASSERT_TRUE(got.guards_intact());
  }
  const Tensor none(DType::f32, {0, 64});
  const Tensor weight(DType::f32, {64});
  EXPECT_EQ(layer_norm_launch(none.view(), weight.view(), {}, none.view(), 0, {}).grid, 0);
}

TEST(LayerNormOnCuda, Fp8Output) {
  const std::vector<CompiledKernel<LayerNormParams>> compiled = {
      {{CudaOp::layer_norm_with_bias, {DType::bf16, DType::bf16, DType::bf16, DType::f8e4m3}},
       [](LayerNormParams p) { tw::layer_norm<tw::bf16, tw::bf16, tw::bf16, tw::f8e4m3>(p); }}};
  Random random(3);
  const Tensor in_memory = float_tensor({0.02});
  for (const std::int64_t dim : kDims) {
    for (const Scale& scale : {Scale(3.5F), Scale(in_memory.view())}) {
      Tensor x(DType::bf16, {5, dim});
      Tensor weight(DType::bf16, {dim});
      Tensor bias(DType::bf16, {dim});
      fill_normal(x, random);
      fill_normal(weight, random);
      fill_normal(bias, random);
      const Tensor got(DType::f8e4m3, {5, dim});
      const Tensor expected(DType::f8e4m3, {5, dim});
      emulate(compiled,
              layer_norm_launch(x.view(), weight.view(), bias.view(), got.view(), 1e-6F, scale));
      layer_norm(x.view(), weight.view(), bias.view(), expected.view(), 1e-6F, scale);
      expect_close_fp8(got, expected);
    }
  }
}

TEST(LayerNormOnCuda, BitsDoNotDependOnTheOrderOfThreads) {
  Random random(4);
  Tensor x(DType::f32, {4, 1040});
  Tensor weight(DType::f32, {1040});
  fill_normal(x, random);
  fill_normal(weight, random);
  const Tensor out(DType::f32, {4, 1040});
  std::vector<std::uint8_t> first;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    emulate(kPlain, layer_norm_launch(x.view(), weight.view(), {}, out.view(), 1e-6F, {}), seed);
    if (seed == 0) first = out.snapshot();
    EXPECT_EQ(out.snapshot(), first);
  }
}

}  // namespace
}  // namespace tilewright::test
