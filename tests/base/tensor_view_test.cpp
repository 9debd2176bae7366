// SPDX-License-Identifier: Apache-2.0
// TensorView, the argument checks, and what the library tells of itself.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/error.h>
#include <tilewright/threads.h>
#include <tilewright/version.h>

#include <vector>

#include "base/checks.h"
#include "base/parallel.h"

namespace tilewright {
namespace {

using testing::AnyOf;
using testing::HasSubstr;
using testing::ThrowsMessage;

float* const kData = reinterpret_cast<float*>(std::uintptr_t{4096});

TEST(TensorView, ContiguousByDefault) {
  const TensorView view(kData, DType::f32, {2, 3, 4});
  EXPECT_EQ(view.strides[0], 12);
  EXPECT_EQ(view.strides[1], 4);
  EXPECT_EQ(view.strides[2], 1);
  EXPECT_EQ(view.numel(), 24);
  EXPECT_TRUE(view.is_contiguous());
  EXPECT_TRUE(view.last_dim_contiguous());
  EXPECT_FALSE(TensorView().defined());
  EXPECT_EQ(TensorView().numel(), 0);
}

TEST(TensorView, StridesOfSingleElementsDoNotMatter) {
  const TensorView view(kData, DType::f32, {2, 1, 4}, {4, 99, 1});
  EXPECT_TRUE(view.is_contiguous());
  EXPECT_TRUE(TensorView(kData, DType::f32, {2, 1}, {1, 7}).last_dim_contiguous());
  EXPECT_FALSE(TensorView(kData, DType::f32, {2, 2}, {1, 2}).last_dim_contiguous());
}

TEST(TensorView, SliceSelectTransposeUnsqueeze) {
  const TensorView view(kData, DType::f16, {4, 5, 6});
  const TensorView part = view.slice(1, 2, 4);
  EXPECT_EQ(part.shape[1], 2);
  EXPECT_EQ(part.data, reinterpret_cast<std::uint16_t*>(kData) + 12);
  const TensorView row = view.select(0, 3);
  EXPECT_EQ(row.rank, 2);
  EXPECT_EQ(row.shape[0], 5);
  EXPECT_EQ(row.strides[0], 6);
  EXPECT_EQ(row.data, reinterpret_cast<std::uint16_t*>(kData) + 90);
  const TensorView turned = view.transpose(0, 2);
  EXPECT_EQ(turned.shape[0], 6);
  EXPECT_EQ(turned.strides[2], 30);
  for (int dim = 0; dim <= 3; ++dim) {
    const TensorView wide = view.unsqueeze(dim);
    EXPECT_EQ(wide.rank, 4);
    EXPECT_EQ(wide.shape[dim], 1);
    EXPECT_TRUE(wide.is_contiguous());
    EXPECT_EQ(wide.select(dim, 0).describe(), view.describe());
  }
  EXPECT_EQ(TensorView(nullptr, DType::f32, {0, 3}).slice(0, 0, 0).data, nullptr);
}

TEST(TensorView, Errors) {
  const TensorView view(kData, DType::f32, {4, 5});
  EXPECT_THAT([&] { view.slice(2, 0, 1); }, ThrowsMessage<Error>(HasSubstr("dim is 2")));
  EXPECT_THAT([&] { view.slice(0, 3, 5); }, ThrowsMessage<Error>(HasSubstr("slice [3, 5)")));
  EXPECT_THAT([&] { view.slice(0, 3, 2); }, ThrowsMessage<Error>(HasSubstr("slice [3, 2)")));
  EXPECT_THAT([&] { view.select(1, 5); }, ThrowsMessage<Error>(HasSubstr("index 5 of dim 1")));
  EXPECT_THAT([&] { view.transpose(0, -1); }, ThrowsMessage<Error>(HasSubstr("dim is -1")));
  EXPECT_THAT([&] { view.unsqueeze(3); }, ThrowsMessage<Error>(HasSubstr("dim 3")));
  EXPECT_THAT(
      [] {
        TensorView(kData, DType::f32, {1, -2});
      },
      ThrowsMessage<Error>(HasSubstr("extent 1 is -2")));
  EXPECT_THAT(
      [] {
        TensorView(kData, DType::f32, {1, 2}, {1});
      },
      ThrowsMessage<Error>(HasSubstr("2 extents and 1 strides")));
  EXPECT_THAT(
      [] {
        TensorView(kData, DType::f32, {1, 1, 1, 1, 1, 1, 1});
      },
      ThrowsMessage<Error>(HasSubstr("rank is 7")));
}

TEST(TensorView, Describes) {
  EXPECT_EQ(TensorView().describe(), "no tensor");
  EXPECT_EQ(TensorView(kData, DType::bf16, {3, 4}).describe(), "bfloat16[3, 4]");
  EXPECT_EQ(TensorView(kData, DType::i64, {3, 4}, {8, 1}, {DeviceType::cuda, 1}).describe(),
            "int64[3, 4] strides [8, 1] on cuda:1");
}

TEST(Checks, NameTheArgument) {
  const TensorView view(kData, DType::f32, {4, 5}, {1, 4});
  require_rank("x", view, {1, 2});
  require_dtype("x", view, {DType::f16, DType::f32});
  require_shape("x", view, {4, -1});
  require_device("x", view, {});
  EXPECT_THAT(
      [&] {
        require_rank("x", view, {1, 3});
      },
      ThrowsMessage<Error>("x is float32[4, 5] strides [1, 4]: its rank must be 1 or 3"));
  EXPECT_THAT(
      [&] {
        require_dtype("x", view, {DType::f16, DType::bf16, DType::i8});
      },
      ThrowsMessage<Error>(HasSubstr("float16, bfloat16 or int8")));
  EXPECT_THAT(
      [&] {
        require_shape("x", view, {-1, 6});
      },
      ThrowsMessage<Error>(HasSubstr("its shape must be [any, 6]")));
  EXPECT_THAT([&] { require_shape("x", view, {4}); },
              ThrowsMessage<Error>(HasSubstr("its rank must be 1, its shape [4]")));
  EXPECT_THAT(
      [&] {
        require_device("x", view, {DeviceType::cuda, 0});
      },
      ThrowsMessage<Error>(HasSubstr("it must be on cuda:0")));
  EXPECT_THAT([&] { require_last_dim_contiguous("x", view); },
              ThrowsMessage<Error>(HasSubstr("last dimension must be contiguous")));
  EXPECT_THAT([&] { require_defined("x", {}); }, ThrowsMessage<Error>(HasSubstr("x is missing")));
  EXPECT_THAT([&] { require_defined("x", TensorView(nullptr, DType::f32, {1})); },
              ThrowsMessage<Error>(HasSubstr("null pointer")));
}

TEST(Checks, WritableTensorsDoNotOverlap) {
  require_writable("x", TensorView(kData, DType::f32, {4, 5}));
  require_writable("x", TensorView(kData, DType::f32, {4, 5}, {1, 4}));
  require_writable("x", TensorView(kData, DType::f32, {4, 5, 6}, {6, 100, 1}));
  require_writable("x", TensorView(kData, DType::f32, {1, 5}, {0, 1}));
  require_writable("x", TensorView(kData, DType::f32, {0, 5}, {0, 0}));
  const auto overlaps = ThrowsMessage<Error>(HasSubstr("must not overlap"));
  EXPECT_THAT(
      [] {
        require_writable("x", TensorView(kData, DType::f32, {4, 5}, {0, 1}));
      },
      overlaps);
  EXPECT_THAT(
      [] {
        require_writable("x", TensorView(kData, DType::f32, {4, 5}, {4, 1}));
      },
      overlaps);
}

TEST(Parallel, CoversEveryIndexOnceAndRethrows) {
  const int before = num_threads();
  for (const int threads : {1, 2, 7}) {
    set_num_threads(threads);
    std::vector<int> counts(1001, 0);
    parallel_for(1001, 10, [&](std::int64_t begin, std::int64_t end) {
      EXPECT_EQ(begin % 10, 0);
      for (std::int64_t i = begin; i < end; ++i) ++counts[static_cast<std::size_t>(i)];
    });
    EXPECT_EQ(counts, std::vector<int>(1001, 1));
    parallel_for(0, 10, [](std::int64_t, std::int64_t) { FAIL(); });
    EXPECT_THROW(parallel_for(100, 1,
                              [](std::int64_t begin, std::int64_t) {
                                require(begin != 50, "chunk {}", begin);
                              }),
                 Error);
  }
  set_num_threads(before);
  EXPECT_THAT([] { set_num_threads(0); }, ThrowsMessage<Error>(HasSubstr("threads is 0")));
}

TEST(Version, TellsVersionAndSimdTarget) {
  EXPECT_STREQ(version(), TILEWRIGHT_VERSION);
  EXPECT_THAT(cpu_features(), AnyOf("AVX3_DL", "AVX3", "AVX2", "SSE4", "SSSE3", "SCALAR", "NEON"));
}

}  // namespace
}  // namespace tilewright
