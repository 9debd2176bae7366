// SPDX-License-Identifier: Apache-2.0
#include <tilewright/ops.h>

#include "ops/ops_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

// Element i of a rotated head, in long double.
double rope_reference(const Tensor& x, std::int64_t token, std::int64_t head, std::int64_t i,
                      std::int64_t position, const RopeSpec& rope, int dim) {
  if (i >= dim) return x.get({token, head, i});
  const std::int64_t pair = rope.interleaved ? i / 2 : i % (dim / 2);
  const bool second = rope.interleaved ? i % 2 == 1 : i >= dim / 2;
  const std::int64_t a = rope.interleaved ? 2 * pair : pair;
  const std::int64_t b = rope.interleaved ? 2 * pair + 1 : pair + dim / 2;
  const long double frequency =
      powl(rope.theta, -2.0L * static_cast<long double>(pair) / static_cast<long double>(dim));
  const long double angle = static_cast<long double>(position) * rope.position_scale * frequency;
  const long double xa = x.get({token, head, a});
  const long double xb = x.get({token, head, b});
  return static_cast<double>(second ? xb * cosl(angle) + xa * sinl(angle)
                                    : xa * cosl(angle) - xb * sinl(angle));
}

void check_rope(DType in, DType out_dtype, DType index_dtype, std::int64_t head_dim,
                const RopeSpec& rope, const std::vector<std::int64_t>& positions, bool in_place,
                Random& random) {
  const auto tokens = static_cast<std::int64_t>(positions.size());
  const std::int64_t heads = 3;
  Tensor x(in, {tokens, heads, head_dim},
           strides_in_order({tokens, heads, head_dim}, {1, 0, 2}, 5));
  Tensor out(out_dtype, {tokens, heads, head_dim}, row_major({tokens, heads, head_dim}, 2),
             kSentinel);
  Tensor index(index_dtype, {tokens}, {2});
  fill_normal(x, random);
  for (std::int64_t t = 0; t < tokens; ++t) {
    index.set({t}, static_cast<double>(positions[static_cast<std::size_t>(t)]));
  }
  const Tensor before = copy_of(x);
  Tensor& target = in_place ? x : out;
  apply_rope(x.view(), index.view(), target.view(), rope);
  const int dim = rope.dim == 0 ? static_cast<int>(head_dim) : rope.dim;
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t h = 0; h < heads; ++h) {
      for (std::int64_t i = 0; i < head_dim; ++i) {
        const std::int64_t position = positions[static_cast<std::size_t>(t)];
        const double expected = rope_reference(before, t, h, i, position, rope, dim);
        expect_near(target.get({t, h, i}), expected, in_place ? in : out_dtype, 1.0,
                    "position " + std::to_string(position) + " element " + std::to_string(i));
      }
    }
  }
  ASSERT_TRUE(target.guards_intact());
}

const std::vector<std::int64_t> kPositions = {0, 1, 2, 3, 17, 4095, 131071, 999999, 1000000, -5};

TEST(Rope, MatchesLongDoubleOverFormsAndSizes) {
  Random random(1);
  for_each_simd_target([&] {
    for (const bool interleaved : {false, true}) {
      for (const std::int64_t head_dim : {2, 6, 64, 80, 128, 150}) {
        for (const DType index_dtype : {DType::i32, DType::i64}) {
          RopeSpec rope;
          rope.interleaved = interleaved;
          check_rope(DType::f32, DType::f32, index_dtype, head_dim, rope, kPositions, false,
                     random);
        }
      }
    }
  });
}

TEST(Rope, DTypesInPlacePartialAndScaled) {
  Random random(2);
  for (const bool interleaved : {false, true}) {
    for (const bool in_place : {false, true}) {
      for (const DType in : kWideFloats) {
        for (const DType out : kWideFloats) {
          RopeSpec rope;
          rope.interleaved = interleaved;
          rope.dim = 32;
          rope.theta = 500000.0;
          rope.position_scale = 0.125;
          check_rope(in, out, DType::i32, 88, rope, kPositions, in_place, random);
        }
      }
    }
  }
}

TEST(Rope, IsRightNearTheZerosOfItsFunctions) {
  Random random(3);
  std::vector<std::int64_t> positions;
  for (std::int64_t p : {355, 710, 103993, 104348, 208341, 833719})
    positions.push_back(p);  // near k pi
  check_rope(DType::f32, DType::f32, DType::i64, 8, RopeSpec{}, positions, false, random);
}

TEST(Rope, LargePositionsKeepTheNorm) {
  Tensor x(DType::f32, {1, 1, 64});
  Tensor index(DType::i64, {1});
  index.set({0}, std::ldexp(1.0, 40));
  Random random(5);
  fill_normal(x, random);
  double before = 0;
  double after = 0;
  for (std::int64_t i = 0; i < 64; ++i) before += std::pow(x.get({0, 0, i}), 2);
  apply_rope(x.view(), index.view(), x.view(), {});
  for (std::int64_t i = 0; i < 64; ++i) after += std::pow(x.get({0, 0, i}), 2);
  EXPECT_NEAR(before, after, 1e-3);
}

TEST(Rope, DoesNotDependOnThreads) {
  Random random(4);
  Tensor x(DType::bf16, {300, 4, 64});
  Tensor index(DType::i32, {300});
  fill_normal(x, random);
  for (std::int64_t t = 0; t < 300; ++t) index.set({t}, static_cast<double>(t * 31));
  const Tensor out(DType::bf16, {300, 4, 64});
  expect_same_for_threads(
      out, [&](Tensor& result) { apply_rope(x.view(), index.view(), result.view(), {}); });
}

TEST(Rope, ZeroTokensAndErrors) {
  Tensor x(DType::f32, {2, 3, 8});
  Tensor index(DType::i32, {2});
  const TensorView v = x.view();
  const TensorView p = index.view();
  apply_rope(v.slice(0, 0, 0), p.slice(0, 0, 0), v.slice(0, 0, 0), {});
  const auto with_rope = [&](auto change) {
    return [&, change] {
      RopeSpec rope;
      change(rope);
      apply_rope(v, p, v, rope);
    };
  };
  expect_invalid(with_rope([](RopeSpec& r) { r.dim = 3; }), "rope.dim is 3");
  expect_invalid(with_rope([](RopeSpec& r) { r.dim = 10; }), "rope.dim is 10");
  expect_invalid(with_rope([](RopeSpec& r) { r.dim = -2; }), "rope.dim is -2");
  expect_invalid(with_rope([](RopeSpec& r) { r.theta = 0; }), "rope.theta is 0");
  expect_invalid(with_rope([](RopeSpec& r) { r.position_scale = INFINITY; }),
                 "rope.position_scale");
  expect_invalid([&] { apply_rope(v, p.slice(0, 0, 1), v, {}); }, "positions is int32[1]");
  expect_invalid([&] { apply_rope(v, TensorView(p.data, DType::f32, {2}), v, {}); },
                 "positions is float32[2]");
  expect_invalid([&] { apply_rope(v.select(0, 0), p, v, {}); }, "its rank must be 3");
  expect_invalid([&] { apply_rope(v, p, v.slice(2, 0, 6), {}); }, "must have the shape of x");
}

}  // namespace
}  // namespace tilewright
