// SPDX-License-Identifier: Apache-2.0
#include <tilewright/ops.h>

#include "ops/ops_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

TEST(GatherRows, EveryDTypeAndStride) {
  Random random(1);
  const std::vector<std::int64_t> rows = {4, 0, 4, 2, 6};
  for (const DType from : kWideFloats) {
    for (const DType to : kWideFloats) {
      for (const std::int64_t dim : {0, 1, 7, 64, 100}) {
        Tensor x(from, {7, dim}, {dim + 3, 1});
        Tensor out(to, {5, dim}, {dim + 5, 1}, kSentinel);
        fill_normal(x, random, 3);
        gather_rows(x.view(), int_tensor(rows).view(), out.view());
        for (std::int64_t r = 0; r < 5; ++r) {
          for (std::int64_t i = 0; i < dim; ++i) {
            const auto value = static_cast<float>(x.get({rows[static_cast<std::size_t>(r)], i}));
            ASSERT_EQ(out.get({r, i}), rounded(value, to)) << r << ", " << i;
          }
        }
        ASSERT_TRUE(out.guards_intact());
      }
    }
  }
}

TEST(GatherRows, IntegersAndStridedIndices) {
  Tensor x(DType::i32, {3, 2});
  for (std::int64_t i = 0; i < 6; ++i) x.set({i / 2, i % 2}, static_cast<double>(i) - 2147483648.0);
  Tensor indices(DType::i64, {4}, {3});
  for (std::int64_t i = 0; i < 4; ++i) indices.set({i}, static_cast<double>(i % 3));
  const Tensor out(DType::i32, {4, 2});
  gather_rows(x.view(), indices.view(), out.view());
  for (std::int64_t i = 0; i < 8; ++i) {
    EXPECT_EQ(out.get({i / 2, i % 2}), x.get({i / 2 % 3, i % 2}));
  }
}

TEST(GatherRows, DoesNotDependOnThreads) {
  Random random(2);
  Tensor x(DType::f32, {40, 1000});
  Tensor indices(DType::i32, {200});
  fill_normal(x, random);
  for (std::int64_t i = 0; i < 200; ++i) indices.set({i}, static_cast<double>(random.bits() % 40));
  for (const DType to : {DType::f32, DType::bf16}) {
    expect_same_for_threads(Tensor(to, {200, 1000}), [&](Tensor& result) {
      gather_rows(x.view(), indices.view(), result.view());
    });
  }
}

TEST(GatherRows, Errors) {
  const Tensor x(DType::f32, {3, 8});
  const Tensor integers(DType::i32, {3, 8});
  const Tensor out(DType::f32, {2, 8}, {8, 1}, kSentinel);
  const std::vector<std::uint8_t> before = out.snapshot();
  const Tensor good = int_tensor({0, 2});
  const auto gather = [&](const TensorView& from, const TensorView& indices, const TensorView& to) {
    expect_invalid([&] { gather_rows(from, indices, to); }, "");
  };
  const auto at = [&](const std::vector<std::int64_t>& indices) {
    gather_rows(x.view(), int_tensor(indices).view(), out.view());
  };
  expect_invalid([&] { at({0, 3}); }, "indices[1] is 3: it must be at least 0 and below 3");
  expect_invalid([&] { at({-1, 0}); }, "indices[0] is -1");
  expect_invalid([&] { at({0, 1, 2}); }, "out is float32[2, 8]");
  gather(integers.view(), good.view(), out.view());
  gather(x.view(), good.view(), integers.view().slice(0, 0, 2));
  gather(x.view(), out.view().select(0, 0), out.view());
  gather(x.view(), good.view(), x.view().slice(0, 0, 2));
  gather(x.view().slice(0, 0, 0), good.view(), out.view());
  EXPECT_EQ(out.snapshot(), before);
}

}  // namespace
}  // namespace tilewright
