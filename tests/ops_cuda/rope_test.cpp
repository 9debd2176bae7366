// SPDX-License-Identifier: Apache-2.0
#include "ops/rope.h"

#include "base/rope.h"
#include "ops_cuda/emulate.h"

namespace tilewright::test {
namespace {

using tw::RopeParams;

template <int mix>
void computed_kernel(RopeParams p) {
  tw::apply_rope<DeviceElement<mixed_dtype(mix, 0)>, DeviceElement<mixed_dtype(mix, 1)>,
                 tw::NoTable>(p);
}
template <int mix>
void table_kernel(RopeParams p) {
  tw::apply_rope<DeviceElement<mixed_dtype(mix, 0)>, DeviceElement<mixed_dtype(mix, 1)>,
                 DeviceElement<mixed_dtype(mix, 2)>>(p);
}

const auto kComputed = compile_mixes<RopeParams>([]<int mix>() {
  return CompiledKernel<RopeParams>{
      {CudaOp::apply_rope, {mixed_dtype(mix, 0), mixed_dtype(mix, 1)}}, computed_kernel<mix>};
});
const auto kFromTable = compile_mixes<RopeParams>([]<int mix>() {
  return CompiledKernel<RopeParams>{
      {CudaOp::apply_rope_with_table,
       {mixed_dtype(mix, 0), mixed_dtype(mix, 1), mixed_dtype(mix, 2)}},
      table_kernel<mix>};
});

const std::vector<std::int64_t> kPositions = {0, 1, 17, 4095, 131071, 1000003, 1048576, -5};

Tensor positions_of(const std::vector<std::int64_t>& values, DType dtype) {
  Tensor tensor(dtype, {static_cast<std::int64_t>(values.size())}, {2});
  for (std::size_t i = 0; i < values.size(); ++i) {
    tensor.set({static_cast<std::int64_t>(i)}, static_cast<double>(values[i]));
  }
  return tensor;
}

CudaOpLaunch<RopeParams> launch_of(const Tensor& x, const Tensor& positions, const Tensor& out,
                                   const RopeSpec& rope) {
  const int dim = rope_dim(rope, x.view().shape[2]);
  const RopeFrequencies frequencies = rope_frequencies(rope, dim);
  const std::vector<std::uint8_t> axes(static_cast<std::size_t>(dim / 2), 0);
  return rope_launch(x.view(), positions.view().unsqueeze(0), out.view(),
                     {frequencies.values, frequencies.amplitude, {}, axes, rope.interleaved});
}

void check(int mix, std::int64_t head_dim, const RopeSpec& rope, const Placement& place,
           bool in_place, DType index, Random& random) {
  const auto tokens = static_cast<std::int64_t>(kPositions.size());
  const DType out_dtype = in_place ? mixed_dtype(mix, 0) : mixed_dtype(mix, 1);
  Tensor x = strided(mixed_dtype(mix, 0), {tokens, 3, head_dim}, place.gap, place.shift);
  const Tensor positions = positions_of(kPositions, index);
  fill_normal(x, random);
  Tensor expected = strided(out_dtype, {tokens, 3, head_dim}, 0);
  apply_rope(x.view(), positions.view(), expected.view(), rope);
  Tensor other = strided(out_dtype, {tokens, 3, head_dim}, place.gap);
  Tensor& got = in_place ? x : other;
  emulate(kComputed, launch_of(x, positions, got, rope));
  expect_close(got, expected, 4);
  ASSERT_TRUE(got.guards_intact());
}

TEST(RopeOnCuda, EveryDTypeAndPlacement) {
  Random random(1);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const Placement& place : kPlacements) {
      for (const bool interleaved : {false, true}) {
        RopeSpec rope;
        rope.interleaved = interleaved;
        check(mix, 64, rope, place, false, interleaved ? DType::i32 : DType::i64, random);
        rope.dim = 32;
        check(mix, 72, rope, place, mixed_dtype(mix, 0) == mixed_dtype(mix, 1), DType::i32, random);
      }
    }
  }
}

TEST(RopeOnCuda, OddSizesAndScaling) {
  Random random(2);
  std::vector<double> factors(24);
  for (double& factor : factors) factor = 1 + 40 * random.uniform();
  const RopeScaling scalings[] = {
      {},
      NtkScaling{4},
      Llama3Scaling{},
      YarnScaling{.factor = 4, .original_max_position = 32768},
      LongRopeScaling{factors, 1.19},
  };
  for (const RopeScaling& scaling : scalings) {
    for (const bool interleaved : {false, true}) {
      for (const double position_scale : {1.0, 0.25, 3.7}) {
        const RopeSpec rope{48, 500000.0, position_scale, interleaved, scaling};
        check(0, 56, rope, {0, 0}, false, DType::i64, random);
        check(0, 51, rope, {0, 0}, false, DType::i64, random);
      }
    }
  }
  check(0, 2, {}, {0, 0}, false, DType::i32, random);
  check(0, 6, {}, {0, 0}, true, DType::i32, random);
}

// More runs than threads read ahead.
TEST(RopeOnCuda, ManyHeads) {
  Random random(6);
  for (const bool interleaved : {false, true}) {
    for (const Placement& place : {kPlacements[0], kPlacements[4]}) {
      Tensor x = strided(DType::bf16, {2, 70, 128}, place.gap, place.shift);
      Tensor got(DType::bf16, {2, 70, 128});
      Tensor expected(DType::bf16, {2, 70, 128});
      const Tensor positions = positions_of({3, 77}, DType::i32);
      RopeSpec rope;
      rope.interleaved = interleaved;
      fill_normal(x, random);
      emulate(kComputed, launch_of(x, positions, got, rope));
      apply_rope(x.view(), positions.view(), expected.view(), rope);
      expect_close(got, expected, 4);
    }
  }
}

TEST(RopeOnCuda, PairsOfSeveralAxes) {
  Random random(3);
  Tensor x(DType::bf16, {4, 2, 64});
  fill_normal(x, random);
  Tensor positions(DType::i32, {3, 4});
  for (std::int64_t axis = 0; axis < 3; ++axis) {
    for (std::int64_t t = 0; t < 4; ++t) positions.set({axis, t}, 100.0 * axis + t);
  }
  RopeSections sections{{8, 12, 12}};
  std::vector<std::uint8_t> axes(8, 0);
  axes.resize(20, 1);
  axes.resize(32, 2);
  const RopeSpec rope;
  const RopeFrequencies frequencies = rope_frequencies(rope, 64);
  Tensor got(DType::bf16, {4, 2, 64});
  Tensor expected(DType::bf16, {4, 2, 64});
  emulate(kComputed, rope_launch(x.view(), positions.view(), got.view(),
                                 {frequencies.values, 1, {}, axes, false}));
  apply_rope(x.view(), positions.view(), expected.view(), rope, sections);
  expect_close(got, expected, 4);
}

TEST(RopeOnCuda, FromATable) {
  Random random(4);
  const std::vector<std::int64_t> in_table = {0, 3, 9, 4};
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const bool interleaved : {false, true}) {
      for (const std::int64_t dim : {32, 6}) {
        Tensor x(mixed_dtype(mix, 0), {4, 3, 40});
        Tensor table = strided(mixed_dtype(mix, 2), {10, dim}, 3);
        Tensor got(mixed_dtype(mix, 1), {4, 3, 40});
        Tensor expected(mixed_dtype(mix, 1), {4, 3, 40});
        fill_normal(x, random);
        fill_normal(table, random);
        const Tensor positions = positions_of(in_table, DType::i64);
        const std::vector<std::uint8_t> axes(static_cast<std::size_t>(dim / 2), 0);
        emulate(kFromTable, rope_launch(x.view(), positions.view().unsqueeze(0), got.view(),
                                        {{}, 1, table.view(), axes, interleaved}));
        apply_rope_with_cos_sin_cache(x.view(), positions.view(), table.view(), expected.view(),
                                      interleaved);
        expect_close(got, expected, 4);
        // Outside of the table: as the nearest row of it.
        const Tensor outside = positions_of({-1, 3, 1000, 4}, DType::i64);
        emulate(kFromTable, rope_launch(x.view(), outside.view().unsqueeze(0), got.view(),
                                        {{}, 1, table.view(), axes, interleaved}));
        expect_close(got, expected, 4);
      }
    }
  }
}

// What reduction costs: cosines and sines themselves, against the C library in long double.
TEST(RopeOnCuda, AnglesOfLargePositions) {
  double worst = 0;
  for (int pair = 0; pair < 64; ++pair) {
    const double frequency = std::pow(10000.0, -pair / 64.0);
    const auto turns = static_cast<tw::u64>(frequency / (2 * M_PI) * 0x1.0p64);
    for (std::int64_t position = 1; position < (1 << 20); position = position * 5 / 3 + 1) {
      const tw::CosSin got = tw::cos_sin_of_turns(static_cast<tw::u64>(position) * turns);
      const long double angle = static_cast<long double>(frequency) * position;
      worst = std::max(worst, std::fabs(static_cast<double>(got.cosine - std::cos(angle))));
      worst = std::max(worst, std::fabs(static_cast<double>(got.sine - std::sin(angle))));
    }
  }
  EXPECT_LT(worst, 2e-7);
}

TEST(RopeOnCuda, TooManyPairsAreRefused) {
  Tensor x(DType::f32, {1, 1, 1024});
  const Tensor positions = positions_of({0}, DType::i32);
  try {
    launch_of(x, positions, x, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::not_supported);
    EXPECT_THAT(error.what(), testing::HasSubstr("up to 768 elements of a head"));
  }
}

}  // namespace
}  // namespace tilewright::test
