// SPDX-License-Identifier: Apache-2.0
#include "ops/gather_rows.h"

#include "ops_cuda/emulate.h"

namespace tilewright::test {
namespace {

using tw::GatherRowsParams;

const auto kCompiled = compile_mixes<GatherRowsParams>([]<int mix>() {
  return CompiledKernel<GatherRowsParams>{
      {CudaOp::gather_rows, {mixed_dtype(mix, 0), mixed_dtype(mix, 1)}}, [](GatherRowsParams p) {
        tw::gather_rows<DeviceElement<mixed_dtype(mix, 0)>, DeviceElement<mixed_dtype(mix, 1)>>(p);
      }};
});

TEST(GatherRowsOnCuda, EveryDTypeAndPlacement) {
  Random random(1);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const Placement& place : kPlacements) {
      for (const std::int64_t dim : {0, 1, 7, 64, 136}) {
        for (const DType index : {DType::i32, DType::i64}) {
          Tensor x = strided(mixed_dtype(mix, 0), {9, dim}, place.gap, place.shift);
          Tensor indices(index, {21}, {2});
          const Tensor got = strided(mixed_dtype(mix, 1), {21, dim}, place.gap);
          const Tensor expected = copy_of(got);
          fill_normal(x, random);
          for (std::int64_t i = 0; i < 21; ++i) {
            indices.set({i}, static_cast<double>(random.bits() % 9));
          }
          emulate(kCompiled, gather_rows_launch(x.view(), indices.view(), got.view()));
          gather_rows(x.view(), indices.view(), expected.view());
          ASSERT_EQ(got.snapshot(), expected.snapshot()) << mix << ", dim " << dim;
        }
      }
    }
  }
}

TEST(GatherRowsOnCuda, IntegersKeepTheirBits) {
  for (const std::int64_t dim : {3, 8}) {
    Tensor x(DType::i32, {4, dim});
    for (std::size_t i = 0; i < x.storage_bytes(); ++i) {
      x.storage()[i] = static_cast<std::uint8_t>(255 - i);  // NaN, were they f32
    }
    const Tensor indices = int_tensor({3, 0, 1});
    const Tensor got(DType::i32, {3, dim});
    const Tensor expected(DType::i32, {3, dim});
    emulate(kCompiled, gather_rows_launch(x.view(), indices.view(), got.view()));
    gather_rows(x.view(), indices.view(), expected.view());
    EXPECT_EQ(got.snapshot(), expected.snapshot());
  }
}

// On the CPU they are errors.
TEST(GatherRowsOnCuda, RowsOfBadIndicesAreZeros) {
  Random random(2);
  for (const DType out_dtype : {DType::f32, DType::bf16}) {
    for (const std::int64_t dim : {5, 16}) {
      Tensor x(DType::f32, {4, dim});
      fill_normal(x, random);
      Tensor out(out_dtype, {4, dim}, {dim, 1}, kSentinel);
      emulate(kCompiled,
              gather_rows_launch(x.view(), int_tensor({4, 1, -1, 2147483647}).view(), out.view()));
      for (std::int64_t i = 0; i < dim; ++i) {
        for (const std::int64_t r : {0, 2, 3}) EXPECT_EQ(out.get({r, i}), 0);
        EXPECT_EQ(out.get({1, i}), rounded(static_cast<float>(x.get({1, i})), out_dtype));
      }
      EXPECT_TRUE(out.guards_intact());
    }
  }
}

}  // namespace
}  // namespace tilewright::test
