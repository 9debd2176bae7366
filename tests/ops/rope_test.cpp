// SPDX-License-Identifier: Apache-2.0
#include "support/rope.h"

#include <tilewright/ops.h>

#include <numeric>

#include "ops/ops_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

// Element i of a rotated head, in long double. `positions` has the position of each pair.
double rope_reference(const Tensor& x, std::int64_t token, std::int64_t head, std::int64_t i,
                      const std::vector<std::int64_t>& positions, const RopeSpec& rope, int dim) {
  if (i >= dim) return x.get({token, head, i});
  const std::int64_t pair = rope.interleaved ? i / 2 : i % (dim / 2);
  const bool second = rope.interleaved ? i % 2 == 1 : i >= dim / 2;
  const std::int64_t a = rope.interleaved ? 2 * pair : pair;
  const std::int64_t b = rope.interleaved ? 2 * pair + 1 : pair + dim / 2;
  const long double angle = static_cast<long double>(positions[static_cast<std::size_t>(pair)]) *
                            reference_rope_frequency(rope, static_cast<int>(pair), dim);
  const long double cosine = reference_rope_amplitude(rope) * cosl(angle);
  const long double sine = reference_rope_amplitude(rope) * sinl(angle);
  const long double xa = x.get({token, head, a});
  const long double xb = x.get({token, head, b});
  return static_cast<double>(second ? xb * cosine + xa * sine : xa * cosine - xb * sine);
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
        const std::vector<std::int64_t> each(static_cast<std::size_t>(dim) / 2, position);
        const double expected = rope_reference(before, t, h, i, each, rope, dim);
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

TEST(Rope, Scaling) {
  Random random(6);
  std::vector<double> factors(48);
  for (double& factor : factors) factor = 1 + 40 * random.uniform();
  const RopeScaling scalings[] = {
      NtkScaling{4},
      Llama3Scaling{},
      Llama3Scaling{32, 1, 4, 8192},
      YarnScaling{.factor = 4, .original_max_position = 32768},
      YarnScaling{40, 4096, 32, 1, 0.707, false},
      YarnScaling{0.5, 100, 1, 1, 0, true},  // a ramp of no width
      LongRopeScaling{factors, 1.19},
  };
  for (const RopeScaling& scaling : scalings) {
    for (const bool interleaved : {false, true}) {
      for (const double theta : {10000.0, 500000.0}) {
        const RopeSpec rope{96, theta, interleaved ? 1.0 : 0.25, interleaved, scaling};
        SCOPED_TRACE(testing::Message() << "scaling " << scaling.index() << " theta " << theta);
        check_rope(DType::f32, DType::f32, DType::i64, 104, rope, kPositions, false, random);
      }
    }
  }
}

// The axis of a pair by the words of RopeSections.
std::int64_t axis_of_pair(const RopeSections& sections, std::int64_t axes, std::int64_t pair) {
  const auto count = [&](std::int64_t axis) {
    return std::int64_t{sections.pairs[static_cast<std::size_t>(axis)]};
  };
  if (sections.interleaved) {
    return pair < axes * count(pair % axes) ? pair % axes : 0;
  }
  std::int64_t axis = 0;
  for (std::int64_t end = count(0); pair >= end; end += count(axis)) ++axis;
  return axis;
}

// Positions of `axes` axes, once computed and once from a table of cosines and sines.
void check_axes(const RopeSections& sections, std::int64_t axes, const RopeSpec& rope, DType table,
                DType index_dtype, Random& random) {
  const std::int64_t tokens = 7;
  const std::int64_t rows = 50;
  const int pairs = std::accumulate(sections.pairs.begin(), sections.pairs.end(), 0);
  const std::int64_t dim = 2 * pairs;
  Tensor x(DType::f32, {tokens, 2, dim + 6});
  Tensor out(DType::f32, {tokens, 2, dim + 6});
  Tensor index(index_dtype, {axes, tokens}, {1, axes});
  Tensor cos_sin(table, {rows, dim}, {dim + 3, 1});
  fill_normal(x, random);
  for (std::int64_t row = 0; row < rows; ++row) {
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
      const auto angle = static_cast<double>(
          row * reference_rope_frequency(rope, static_cast<int>(pair), static_cast<int>(dim)));
      cos_sin.set({row, pair}, std::cos(angle));
      cos_sin.set({row, pairs + pair}, std::sin(angle));
    }
  }
  std::vector<std::vector<std::int64_t>> positions(tokens);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t axis = 0; axis < axes; ++axis) {
      index.set({axis, t}, static_cast<double>(random.range(0, rows - 1)));
    }
    for (std::int64_t pair = 0; pair < pairs; ++pair) {
      positions[static_cast<std::size_t>(t)].push_back(
          static_cast<std::int64_t>(index.get({axis_of_pair(sections, axes, pair), t})));
    }
  }
  for (const bool from_table : {false, true}) {
    if (from_table) {
      apply_rope_with_cos_sin_cache(x.view(), index.view(), cos_sin.view(), out.view(),
                                    rope.interleaved, sections);
    } else {
      apply_rope(x.view(), index.view(), out.view(), rope, sections);
    }
    const double rounding = from_table ? 4 * rounding_unit(table) : 0;
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t h = 0; h < 2; ++h) {
        for (std::int64_t i = 0; i < dim + 6; ++i) {
          const double expected = rope_reference(x, t, h, i, positions[static_cast<std::size_t>(t)],
                                                 rope, static_cast<int>(dim));
          ASSERT_NEAR(out.get({t, h, i}), expected, (i < dim ? rounding : 0) + 1e-5)
              << "token " << t << " element " << i << (from_table ? " by the table" : "");
        }
      }
    }
  }
}

TEST(Rope, PositionsWithSeveralAxes) {
  Random random(7);
  for_each_simd_target([&] {
    for (const bool interleaved_pairs : {false, true}) {
      for (const DType table : kWideFloats) {
        for (const DType index_dtype : {DType::i32, DType::i64}) {
          RopeSpec rope;
          rope.interleaved = interleaved_pairs;
          rope.dim = 128;
          check_axes({{16, 24, 24}, false}, 3, rope, table, index_dtype, random);  // Qwen2-VL
          check_axes({{24, 20, 20}, true}, 3, rope, table, index_dtype, random);   // Qwen3-VL
          check_axes({{64}, false}, 1, rope, table, index_dtype, random);
          rope.dim = 22;
          check_axes({{1, 3, 2, 5}, false}, 4, rope, table, index_dtype, random);
          check_axes({{2, 3, 1, 5}, true}, 4, rope, table, index_dtype, random);
          check_axes({{0, 11}, false}, 2, rope, table, index_dtype, random);
        }
      }
    }
  });
}

// Text tokens have the same position on all axes: the same bits as with one.
TEST(Rope, EqualAxesAreOneAxis) {
  Random random(8);
  Tensor x(DType::bf16, {5, 2, 64});
  fill_normal(x, random);
  Tensor index(DType::i32, {5});
  for (std::int64_t t = 0; t < 5; ++t) index.set({t}, static_cast<double>(100 * t));
  TensorView axes = index.view().unsqueeze(0);
  axes.shape[0] = 3;
  axes.strides[0] = 0;
  Tensor one(DType::bf16, {5, 2, 64});
  Tensor three(DType::bf16, {5, 2, 64});
  apply_rope(x.view(), index.view(), one.view(), {});
  for (const bool interleaved : {false, true}) {
    apply_rope(x.view(), axes, three.view(), {}, {{16, 8, 8}, interleaved});
    EXPECT_EQ(one.snapshot(), three.snapshot());
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
  Tensor table(DType::bf16, {300 * 31, 64});
  fill_normal(table, random);
  expect_same_for_threads(out, [&](Tensor& result) {
    apply_rope_with_cos_sin_cache(x.view(), index.view(), table.view(), result.view());
  });
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
  const auto with_scaling = [&](const RopeScaling& scaling) {
    return with_rope([scaling](RopeSpec& r) { r.scaling = scaling; });
  };
  expect_invalid(with_scaling(NtkScaling{0}), "rope.scaling.factor is 0");
  expect_invalid(with_scaling(Llama3Scaling{8, 4, 4, 8192}), "high_freq_factor is 4");
  expect_invalid(with_scaling(YarnScaling{2, NAN}), "original_max_position is nan");
  expect_invalid(with_scaling(YarnScaling{2, 4096, 1, 32}), "beta_fast is 1");
  expect_invalid(with_scaling(YarnScaling{2, 4096, 32, 1, -1}), "attention_factor is -1");
  expect_invalid(with_rope([](RopeSpec& r) {
                   r.theta = 1;
                   r.scaling = YarnScaling{2};
                 }),
                 "rope.theta is 1");
  expect_invalid(with_scaling(LongRopeScaling{}), "rope.scaling.factors is empty");
  expect_invalid(with_scaling(LongRopeScaling{{1, 2, 3}}), "factors has 3 elements");
  expect_invalid(with_scaling(LongRopeScaling{{1, 2, 3, -4}}), "rope.scaling.factors is -4");
  expect_invalid([&] { apply_rope(v, p, v, {}, {{2, 1, 2}}); }, "sections.pairs sum to 5");
  expect_invalid([&] { apply_rope(v, p, v, {}, {{2, -1, 3}}); }, "sections.pairs[1] is -1");
  expect_invalid([&] { apply_rope(v, p, v, {}, {{2, 1, 1}}); }, "positions is int32[2]");
  expect_invalid([&] { apply_rope(v, p.slice(0, 0, 1), v, {}); }, "positions is int32[1]");
  expect_invalid([&] { apply_rope(v, TensorView(p.data, DType::f32, {2}), v, {}); },
                 "positions is float32[2]");
  expect_invalid([&] { apply_rope(v.select(0, 0), p, v, {}); }, "its rank must be 3");
  expect_invalid([&] { apply_rope(v, p, v.slice(2, 0, 6), {}); }, "must have the shape of x");
}

TEST(Rope, ErrorsOfTables) {
  Tensor x(DType::f32, {2, 3, 8});
  Tensor table(DType::bf16, {10, 8});
  const auto rotate = [&](const TensorView& positions, const TensorView& cos_sin) {
    apply_rope_with_cos_sin_cache(x.view(), positions, cos_sin, x.view());
  };
  const auto before = x.snapshot();
  const Tensor index = int_tensor({3, 10});
  const Tensor negative = int_tensor({-1, 0});
  expect_invalid([&] { rotate(index.view(), table.view()); }, "positions has 10 for token 1");
  expect_invalid([&] { rotate(negative.view(), table.view()); }, "positions has -1 for token 0");
  expect_invalid([&] { rotate(index.view(), table.view().slice(1, 0, 5)); }, "must be even");
  expect_invalid(
      [&] {
        rotate(index.view(), Tensor(DType::f32, {10, 10}).view());
      },
      "must be even and in [2, 8]");
  expect_invalid([&] { rotate(index.view(), index.view()); }, "cos_sin_cache is int32[2]");
  EXPECT_EQ(x.snapshot(), before);
}

}  // namespace
}  // namespace tilewright
