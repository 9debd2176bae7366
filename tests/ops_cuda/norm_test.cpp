// SPDX-License-Identifier: Apache-2.0
#include "ops/rms_norm.h"
#include "ops_cuda/emulate.h"

namespace tilewright::test {
namespace {

using tw::RmsNormParams;

template <int mix>
void norm_kernel(RmsNormParams p) {
  tw::rms_norm<DeviceElement<mixed_dtype(mix, 0)>, tw::NoResidual,
               DeviceElement<mixed_dtype(mix, 1)>, DeviceElement<mixed_dtype(mix, 2)>>(p);
}
template <int mix>
void fused_kernel(RmsNormParams p) {
  tw::rms_norm<DeviceElement<mixed_dtype(mix, 0)>, DeviceElement<mixed_dtype(mix, 1)>,
               DeviceElement<mixed_dtype(mix, 2)>, DeviceElement<mixed_dtype(mix, 3)>>(p);
}

const auto kNorm = compile_mixes<RmsNormParams>([]<int mix>() {
  return CompiledKernel<RmsNormParams>{
      {CudaOp::rms_norm, {mixed_dtype(mix, 0), mixed_dtype(mix, 1), mixed_dtype(mix, 2)}},
      norm_kernel<mix>};
});
const auto kFused = compile_mixes<RmsNormParams>([]<int mix>() {
  return CompiledKernel<RmsNormParams>{
      {CudaOp::fused_add_rms_norm,
       {mixed_dtype(mix, 0), mixed_dtype(mix, 1), mixed_dtype(mix, 2), mixed_dtype(mix, 3)}},
      fused_kernel<mix>};
});

// Of a warp a row and of a block a row, with runs and with single elements; the last has more runs
// than threads keep.
constexpr std::int64_t kDims[] = {1, 8, 60, 128, 130, 520, 1040, 8208};

TEST(RmsNormOnCuda, EveryDType) {
  Random random(1);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const std::int64_t dim : kDims) {
      for (const Placement& place : {kPlacements[0], kPlacements[4]}) {
        Tensor x = strided(mixed_dtype(mix, 0), {5, dim}, place.gap, place.shift);
        Tensor weight(mixed_dtype(mix, 1), {dim});
        Tensor got = strided(mixed_dtype(mix, 2), {5, dim}, place.gap);
        Tensor expected = copy_of(got);
        fill_normal(x, random, 3);
        fill_normal(weight, random);
        emulate(kNorm, rms_norm_launch(x.view(), {}, weight.view(), got.view(), 1e-5F, 1.0F, {}));
        rms_norm(x.view(), weight.view(), expected.view(), 1e-5F, 1.0F);
        expect_close(got, expected, 4);
        ASSERT_TRUE(got.guards_intact());
      }
    }
  }
}

TEST(RmsNormOnCuda, StridesInPlaceAndEmpty) {
  Random random(2);
  for (const Placement& place : kPlacements) {
    for (const std::int64_t dim : {128, 1040}) {
      Tensor got = strided(DType::f16, {3, 2, dim}, place.gap, place.shift);
      Tensor weight(DType::f32, {dim});
      fill_normal(got, random);
      fill_normal(weight, random);
      Tensor expected = strided(DType::f16, {3, 2, dim}, 0);
      rms_norm(got.view(), weight.view(), expected.view(), 1e-5F);
      // f16, f32 and f16 are one of the mixes.
      const CudaOpLaunch<RmsNormParams> launch =
          rms_norm_launch(got.view(), {}, weight.view(), got.view(), 1e-5F, 0, {});
      EXPECT_EQ(launch.params.aligned, place.gap % 8 == 0 && place.shift % 8 == 0);
      emulate(kNorm, launch);
      expect_close(got, expected, 4);
      ASSERT_TRUE(got.guards_intact());
    }
  }
  Tensor none(DType::f32, {0, 64});
  Tensor weight(DType::f32, {64});
  EXPECT_EQ(rms_norm_launch(none.view(), {}, weight.view(), none.view(), 0, 0, {}).grid, 0);
}

TEST(FusedAddRmsNormOnCuda, EveryDType) {
  Random random(3);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const std::int64_t dim : kDims) {
      Tensor x = strided(mixed_dtype(mix, 0), {3, dim}, 0);
      Tensor residual = strided(mixed_dtype(mix, 1), {3, dim}, 8);
      Tensor weight(mixed_dtype(mix, 2), {dim});
      Tensor got = strided(mixed_dtype(mix, 3), {3, dim}, 16);
      Tensor expected = copy_of(got);
      fill_normal(x, random);
      fill_normal(residual, random, 4);
      fill_normal(weight, random);
      Tensor cpu_residual = copy_of(residual);
      emulate(kFused,
              rms_norm_launch(x.view(), residual.view(), weight.view(), got.view(), 1e-6F, 0, {}));
      fused_add_rms_norm(x.view(), cpu_residual.view(), weight.view(), expected.view(), 1e-6F);
      expect_close(got, expected, 4);
      EXPECT_EQ(residual.snapshot(), cpu_residual.snapshot());
      ASSERT_TRUE(got.guards_intact());
    }
  }
}

TEST(RmsNormOnCuda, Fp8Output) {
  const std::vector<CompiledKernel<RmsNormParams>> compiled = {
      {{CudaOp::rms_norm, {DType::bf16, DType::bf16, DType::f8e4m3}},
       [](RmsNormParams p) { tw::rms_norm<tw::bf16, tw::NoResidual, tw::bf16, tw::f8e4m3>(p); }},
      {{CudaOp::fused_add_rms_norm, {DType::bf16, DType::f32, DType::bf16, DType::f8e4m3}},
       [](RmsNormParams p) { tw::rms_norm<tw::bf16, float, tw::bf16, tw::f8e4m3>(p); }}};
  Random random(5);
  const Tensor in_memory = float_tensor({0.02});
  for (const std::int64_t dim : kDims) {
    for (const Scale& scale : {Scale(), Scale(3.5F), Scale(in_memory.view())}) {
      Tensor x(DType::bf16, {5, dim});
      Tensor residual(DType::f32, {5, dim});
      Tensor weight(DType::bf16, {dim});
      const Tensor got(DType::f8e4m3, {5, dim});
      const Tensor expected(DType::f8e4m3, {5, dim});
      fill_normal(x, random);
      fill_normal(residual, random);
      fill_normal(weight, random);
      emulate(compiled, rms_norm_launch(x.view(), {}, weight.view(), got.view(), 1e-6F, 0, scale));
      rms_norm(x.view(), weight.view(), expected.view(), 1e-6F, 0, scale);
      expect_close_fp8(got, expected);
      const Tensor cpu_residual = copy_of(residual);
      emulate(compiled, rms_norm_launch(x.view(), residual.view(), weight.view(), got.view(), 1e-6F,
                                        0, scale));
      fused_add_rms_norm(x.view(), cpu_residual.view(), weight.view(), expected.view(), 1e-6F, 0,
                         scale);
      expect_close_fp8(got, expected);
    }
  }
}

TEST(RmsNormOnCuda, BitsDoNotDependOnTheOrderOfThreads) {
  Random random(4);
  Tensor x(DType::f32, {4, 1040});
  Tensor weight(DType::f32, {1040});
  Tensor out(DType::f32, {4, 1040});
  fill_normal(x, random);
  fill_normal(weight, random);
  std::vector<std::uint8_t> first;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    emulate(kNorm, rms_norm_launch(x.view(), {}, weight.view(), out.view(), 1e-6F, 0, {}), seed);
    if (seed == 0) first = out.snapshot();
    EXPECT_EQ(out.snapshot(), first);
  }
}

}  // namespace
}  // namespace tilewright::test
