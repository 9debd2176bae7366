// SPDX-License-Identifier: Apache-2.0
#include <tilewright/ops.h>

#include "ops/ops_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

void fill_bytes(Tensor& tensor, Random& random) {
  const Extents& shape = tensor.shape();
  const std::int64_t rows = shape.size() == 2 ? shape[0] : 1;
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t i = 0; i < shape.back(); ++i) {
      const double value = random.chance(0.5) ? 0 : static_cast<double>(1 + random.bits() % 255);
      if (shape.size() == 2) {
        tensor.set({r, i}, value);
      } else {
        tensor.set({i}, value);
      }
    }
  }
}

int bit_of(std::int64_t byte, std::int64_t i, BitOrder order) {
  const std::int64_t at = order == BitOrder::little ? i % 8 : 7 - i % 8;
  return static_cast<int>(byte >> at & 1);
}

TEST(PackBits, EveryLengthOfRows) {
  Random random(1);
  for (const BitOrder order : {BitOrder::big, BitOrder::little}) {
    for (const std::int64_t columns : {0, 1, 7, 8, 9, 64, 1000}) {
      const std::int64_t bytes = (columns + 7) / 8;
      Tensor x(DType::u8, {3, columns}, {columns + 3, 1});
      Tensor out(DType::u8, {3, bytes}, {bytes + 2, 1}, kSentinel);
      fill_bytes(x, random);
      pack_bits(x.view(), out.view(), order);
      for (std::int64_t r = 0; r < 3; ++r) {
        for (std::int64_t i = 0; i < 8 * bytes; ++i) {
          const int want = i < columns && x.get({r, i}) != 0 ? 1 : 0;
          const auto byte = static_cast<std::int64_t>(out.get({r, i / 8}));
          ASSERT_EQ(bit_of(byte, i, order), want) << columns << " columns, row " << r << ", " << i;
        }
      }
      ASSERT_TRUE(out.guards_intact());
    }
  }
}

TEST(PackBits, OneRowDoesNotDependOnThreads) {
  Random random(2);
  Tensor x(DType::u8, {100003});
  fill_bytes(x, random);
  const Tensor out(DType::u8, {12501});
  expect_same_for_threads(out, [&](Tensor& result) { pack_bits(x.view(), result.view()); });
  pack_bits(x.view(), out.view());
  for (std::int64_t i = 0; i < 100003; ++i) {
    const auto byte = static_cast<std::int64_t>(out.get({i / 8}));
    ASSERT_EQ(bit_of(byte, i, BitOrder::big), x.get({i}) != 0 ? 1 : 0) << i;
  }
}

TEST(SegmentPackBits, EachSegmentBeginsAByte) {
  Random random(3);
  Tensor x(DType::u8, {60});
  fill_bytes(x, random);
  const std::vector<std::int64_t> bounds = {2, 2, 3, 19, 27, 27, 58};
  const std::vector<std::int64_t> starts = {0, 0, 1, 3, 4, 4, 8};
  for (const DType index : {DType::i32, DType::i64}) {
    for (const BitOrder order : {BitOrder::big, BitOrder::little}) {
      Tensor indptr(index, {7}, {2});
      for (std::int64_t i = 0; i < 7; ++i) {
        indptr.set({i}, static_cast<double>(bounds[static_cast<std::size_t>(i)]));
      }
      Tensor out(DType::u8, {10}, {1}, kSentinel);
      const Tensor out_indptr(index, {7}, {2}, kSentinel);
      segment_pack_bits(x.view(), indptr.view(), out.view(), out_indptr.view(), order);
      for (std::size_t s = 0; s + 1 < bounds.size(); ++s) {
        EXPECT_EQ(out_indptr.get({static_cast<std::int64_t>(s)}), starts[s]);
        for (std::int64_t i = 0; i < 8 * (starts[s + 1] - starts[s]); ++i) {
          const std::int64_t element = bounds[s] + i;
          const int want = element < bounds[s + 1] && x.get({element}) != 0 ? 1 : 0;
          const auto byte = static_cast<std::int64_t>(out.get({starts[s] + i / 8}));
          ASSERT_EQ(bit_of(byte, i, order), want) << "segment " << s << ", " << i;
        }
      }
      EXPECT_EQ(out_indptr.get({6}), 8);
      EXPECT_TRUE(out.untouched({8}));
      EXPECT_TRUE(out_indptr.guards_intact());
    }
  }
}

TEST(SegmentPackBits, NoSegments) {
  const Tensor x(DType::u8, {5});
  const Tensor indptr = int_tensor({3});
  const Tensor out(DType::u8, {0});
  const Tensor out_indptr = int_tensor({7});
  segment_pack_bits(x.view(), indptr.view(), out.view(), out_indptr.view());
  EXPECT_EQ(out_indptr.get({0}), 0);
}

TEST(PackBits, Errors) {
  const Tensor x(DType::u8, {2, 12});
  const Tensor out(DType::u8, {2, 2});
  const TensorView v = x.view();
  const TensorView o = out.view();
  expect_invalid([&] { pack_bits({}, o); }, "x is missing");
  expect_invalid([&] { pack_bits(Tensor(DType::f32, {2, 12}).view(), o); }, "x is float32[2, 12]");
  expect_invalid([&] { pack_bits(v, o.slice(1, 0, 1)); }, "out is uint8[2, 1]");
  expect_invalid([&] { pack_bits(v, Tensor(DType::i8, {2, 2}).view()); }, "out is int8[2, 2]");
  expect_invalid([&] { pack_bits(v, v.slice(1, 0, 2)); }, "apart");
  expect_invalid([&] { pack_bits(v, o, static_cast<BitOrder>(2)); }, "order is 2");
}

TEST(SegmentPackBits, Errors) {
  const Tensor x(DType::u8, {12});
  const Tensor out(DType::u8, {3});
  const Tensor out_indptr = int_tensor({0, 0, 0});
  const auto pack = [&](const Extents& bounds) {
    segment_pack_bits(x.view(), int_tensor(bounds).view(), out.view(), out_indptr.view());
  };
  pack({0, 9, 12});
  expect_invalid([&] { pack({0, 9, 13}); }, "indptr[2] is 13");
  expect_invalid([&] { pack({0, 9, 8}); }, "indptr[2] is 8: it must ascend");
  expect_invalid([&] { pack({-1, 9, 9}); }, "indptr[0] is -1");
  expect_invalid([&] { pack({0, 9}); }, "out_indptr is int32[3]");
  expect_invalid(
      [&] {
        segment_pack_bits(x.view(), int_tensor({0, 9, 12}).view(), out.view().slice(0, 0, 2),
                          out_indptr.view());
      },
      "out is uint8[2]: it must have room for 3 bytes");
  expect_invalid(
      [&] {
        segment_pack_bits(x.view(), float_tensor({0, 9}).view(), out.view(), out_indptr.view());
      },
      "indptr is float32[2]");
}

}  // namespace
}  // namespace tilewright
