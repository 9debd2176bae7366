// SPDX-License-Identifier: Apache-2.0
#include <tilewright/ops.h>

#include <limits>

#include "ops/ops_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

constexpr double kEmpty = -std::numeric_limits<double>::infinity();

struct Merge {
  Tensor values;
  Tensor lse;
  Tensor out;
  Tensor lse_out;

  Merge(DType in, DType out_dtype, std::int64_t tokens, std::int64_t states, std::int64_t heads,
        std::int64_t dim)
      : values(in, {tokens, states, heads, dim},
               strides_in_order({tokens, states, heads, dim}, {1, 0, 2, 3}, 3)),
        lse(DType::f32, {tokens, states, heads},
            strides_in_order({tokens, states, heads}, {1, 2, 0})),
        out(out_dtype, {tokens, heads, dim}, row_major({tokens, heads, dim}, 2), kSentinel),
        lse_out(DType::f32, {tokens, heads}, {1, tokens + 1}, kSentinel) {}

  void run() { merge_states(values.view(), lse.view(), out.view(), lse_out.view()); }

  void check(std::int64_t t, std::int64_t h) const {
    double largest = kEmpty;
    for (std::int64_t s = 0; s < lse.shape()[1]; ++s)
      largest = std::fmax(largest, lse.get({t, s, h}));
    double sum = 0;
    for (std::int64_t s = 0; s < lse.shape()[1]; ++s) {
      if (largest > kEmpty) sum += std::exp(lse.get({t, s, h}) - largest);
    }
    const std::string where = "token " + std::to_string(t) + " head " + std::to_string(h);
    if (sum == 0) {
      ASSERT_EQ(lse_out.get({t, h}), kEmpty) << where;
    } else {
      const double expected = largest + std::log(sum);
      ASSERT_NEAR(lse_out.get({t, h}), expected, 1e-6 * std::fmax(1, std::fabs(expected))) << where;
    }
    for (std::int64_t i = 0; i < out.shape()[2]; ++i) {
      double expected = 0;
      double magnitude = 0;
      for (std::int64_t s = 0; s < lse.shape()[1]; ++s) {
        if (lse.get({t, s, h}) == kEmpty) continue;
        const double part = std::exp(lse.get({t, s, h}) - largest) / sum * values.get({t, s, h, i});
        expected += part;
        magnitude += std::fabs(part);
      }
      // exp in f32 of differences up to 60 is off by 60 rounding units of them.
      expect_near(out.get({t, h, i}), expected, out.view().dtype, 10 * magnitude, where);
    }
  }
};

TEST(MergeStates, MatchesFloat64) {
  Random random(1);
  for_each_simd_target([&] {
    for (const DType in : kWideFloats) {
      for (const DType out : kWideFloats) {
        for (const std::int64_t states : {1, 2, 5}) {
          for (const std::int64_t dim : {1, 24, 67}) {
            Merge merge(in, out, 3, states, 2, dim);
            fill_normal(merge.values, random);
            fill_normal(merge.lse, random, 20);
            merge.run();
            for (std::int64_t t = 0; t < 3; ++t) {
              for (std::int64_t h = 0; h < 2; ++h) merge.check(t, h);
            }
            ASSERT_TRUE(merge.out.guards_intact());
            ASSERT_TRUE(merge.lse_out.guards_intact());
          }
        }
      }
    }
  });
}

TEST(MergeStates, EmptyStatesDoNotCountWhateverTheirValues) {
  Random random(2);
  Merge merge(DType::f32, DType::f32, 2, 3, 2, 20);
  fill_normal(merge.values, random);
  fill_normal(merge.lse, random);
  for (std::int64_t i = 0; i < 20; ++i) {
    merge.values.set({0, 1, 0, i}, NAN);
    merge.values.set({0, 0, 1, i}, INFINITY);
    merge.values.set({0, 2, 1, i}, NAN);
    for (std::int64_t s = 0; s < 3; ++s) merge.values.set({1, s, 1, i}, NAN);
  }
  merge.lse.set({0, 1, 0}, kEmpty);
  merge.lse.set({0, 0, 1}, kEmpty);
  merge.lse.set({0, 2, 1}, kEmpty);
  for (std::int64_t s = 0; s < 3; ++s) merge.lse.set({1, s, 1}, kEmpty);
  merge.run();
  for (std::int64_t t = 0; t < 2; ++t) {
    for (std::int64_t h = 0; h < 2; ++h) merge.check(t, h);
  }
  for (std::int64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(merge.out.get({0, 1, i}), merge.values.get({0, 1, 1, i}));  // one state: its bits
    EXPECT_EQ(merge.out.get({1, 1, i}), 0);
  }
}

TEST(MergeStates, NoStatesNoTokensNoLse) {
  Merge none(DType::f32, DType::f32, 2, 0, 2, 8);
  none.run();
  EXPECT_EQ(none.out.get({1, 1, 7}), 0);
  EXPECT_EQ(none.lse_out.get({1, 1}), kEmpty);
  Merge empty(DType::f32, DType::f32, 0, 2, 2, 8);
  empty.run();
  Merge plain(DType::f32, DType::f32, 1, 1, 1, 8);
  plain.values.set({0, 0, 0, 3}, 5);
  plain.lse.set({0, 0, 0}, 1);
  merge_states(plain.values.view(), plain.lse.view(), plain.out.view());
  EXPECT_EQ(plain.out.get({0, 0, 3}), 5);
}

TEST(MergeStates, DoesNotDependOnThreads) {
  Random random(3);
  Merge merge(DType::bf16, DType::bf16, 200, 3, 4, 64);
  fill_normal(merge.values, random);
  fill_normal(merge.lse, random, 5);
  expect_same_for_threads(merge.out, [&](Tensor& result) {
    merge_states(merge.values.view(), merge.lse.view(), result.view());
  });
}

TEST(MergeStates, Errors) {
  Merge m(DType::f32, DType::f32, 2, 3, 4, 8);
  const TensorView values = m.values.view();
  const TensorView lse = m.lse.view();
  const TensorView out = m.out.view();
  expect_invalid([&] { merge_states(values, lse.slice(2, 0, 3), out); }, "lse is float32[2, 3, 3]");
  expect_invalid([&] { merge_states(values, lse, out.slice(1, 0, 3)); }, "out is float32[2, 3, 8]");
  expect_invalid([&] { merge_states(values.select(0, 0), lse, out); }, "its rank must be 4");
  expect_invalid(
      [&] {
        merge_states(values, TensorView(lse.data, DType::f16, {2, 3, 4}), out);
      },
      "its dtype must be float32");
  expect_invalid([&] { merge_states(values, lse, out, m.lse_out.view().slice(0, 0, 1)); },
                 "lse_out is float32[1, 4]");
  expect_invalid(
      [&] {
        merge_states(values, lse, TensorView(values.data, DType::f32, {2, 4, 8}));
      },
      "apart");
}

}  // namespace
}  // namespace tilewright
