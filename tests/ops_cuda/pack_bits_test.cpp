// SPDX-License-Identifier: Apache-2.0
#include "ops/pack_bits.h"

#include "ops_cuda/emulate.h"

namespace tilewright::test {
namespace {

const std::vector<CompiledKernel<tw::PackBitsParams>> kRows = {
    {{CudaOp::pack_bits, {}}, [](tw::PackBitsParams p) { tw::pack_bits(p); }}};
const std::vector<CompiledKernel<tw::SegmentPackBitsParams>> kSegments = {
    {{CudaOp::segment_pack_bits, {}},
     [](tw::SegmentPackBitsParams p) { tw::segment_pack_bits(p); }}};

void fill_bits(Tensor& x, Random& random) {
  for (std::size_t i = 0; i < x.storage_bytes(); ++i) {
    x.storage()[i] = random.chance(0.5) ? 0 : static_cast<std::uint8_t>(1 + random.bits() % 255);
  }
}

TEST(PackBitsOnCuda, EveryLengthOfRows) {
  Random random(1);
  for (const BitOrder order : {BitOrder::big, BitOrder::little}) {
    for (const std::int64_t columns : {0, 1, 7, 8, 9, 64, 3000}) {
      for (const std::int64_t gap : {0, 3, 8}) {
        Tensor x = strided(DType::u8, {3, columns}, gap);
        fill_bits(x, random);
        const Tensor got = strided(DType::u8, {3, (columns + 7) / 8}, gap);
        const Tensor expected = copy_of(got);
        emulate(kRows, pack_bits_launch(x.view(), got.view(), order));
        pack_bits(x.view(), expected.view(), order);
        EXPECT_EQ(got.snapshot(), expected.snapshot()) << columns;
      }
    }
  }
  Tensor x(DType::u8, {77});
  fill_bits(x, random);
  const Tensor got(DType::u8, {10});
  const Tensor expected(DType::u8, {10});
  emulate(kRows, pack_bits_launch(x.view(), got.view(), BitOrder::big));
  pack_bits(x.view(), expected.view());
  EXPECT_EQ(got.snapshot(), expected.snapshot());
}

TEST(SegmentPackBitsOnCuda, ManySegmentsOfAnyLength) {
  Random random(2);
  for (const int segments : {0, 1, 5, 300}) {
    for (const DType index : {DType::i32, DType::i64}) {
      Tensor indptr(index, {segments + 1});
      double at = 3;
      for (std::int64_t i = 0; i <= segments; ++i) {
        indptr.set({i}, at);
        at += random.chance(0.2) ? 0 : static_cast<double>(random.bits() % 40);
        if (i == 2) at += 70000;  // of several blocks where there are few segments
      }
      Tensor x(DType::u8, {static_cast<std::int64_t>(at) + 5});
      fill_bits(x, random);
      const std::int64_t bytes = x.shape()[0] / 8 + segments;
      const Tensor got(DType::u8, {bytes});
      const Tensor expected(DType::u8, {bytes});
      const Tensor got_indptr(index, {segments + 1});
      const Tensor expected_indptr(index, {segments + 1});
      emulate(kSegments, segment_pack_bits_launch(x.view(), indptr.view(), got.view(),
                                                  got_indptr.view(), BitOrder::little));
      segment_pack_bits(x.view(), indptr.view(), expected.view(), expected_indptr.view(),
                        BitOrder::little);
      EXPECT_EQ(got.snapshot(), expected.snapshot()) << segments;
      EXPECT_EQ(got_indptr.snapshot(), expected_indptr.snapshot()) << segments;
    }
  }
}

// On the CPU these are errors; a kernel must leave the memory of others alone.
TEST(SegmentPackBitsOnCuda, BadBoundsStayWithinTheTensors) {
  Random random(3);
  Tensor x(DType::u8, {100});
  fill_bits(x, random);
  const Tensor indptr = int_tensor({-5, 30, 20, 1000, 40});
  Tensor out(DType::u8, {6}, {1}, kSentinel);
  Tensor out_indptr(DType::i32, {5}, {1}, kSentinel);
  emulate(kSegments, segment_pack_bits_launch(x.view(), indptr.view(), out.view(),
                                              out_indptr.view(), BitOrder::big));
  EXPECT_TRUE(out.guards_intact());
  EXPECT_TRUE(out_indptr.guards_intact());
  EXPECT_EQ(out_indptr.get({1}), 4);
}

}  // namespace
}  // namespace tilewright::test
