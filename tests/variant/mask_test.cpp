// SPDX-License-Identifier: Apache-2.0
// MaskAnalysis against brute force: never wrong for any mask, tight for those that matter.
#include "variant/mask.h"

#include <tilewright/variants.h>

#include <array>
#include <cstdint>
#include <vector>

#include "variant/mask_check.h"

namespace tilewright::test {
namespace {

using expr::batch;
using expr::kv_pos;
using expr::q_head;
using expr::q_pos;

TEST(MaskAnalysis, RandomRowBoundsAgainstBruteForce) {
  Rng rng(16);
  RandomMasks random(rng, false, true);
  std::vector<std::int32_t> positions;
  int with_rows = 0;
  for (int i = 0; i < 700; ++i) {
    const Expr mask = random.mask(static_cast<int>(uniform(rng, 0, 3)));
    const PlanParams plan(mask, rng);
    const MaskAnalysis analysis(plan.variant);
    ASSERT_NE(analysis.mask_class(), MaskClass::elementwise) << plan.variant.serialize();
    with_rows += analysis.mask_class() == MaskClass::row_bounds ? 1 : 0;
    QueryRange queries = random_range(rng, 0);
    check(plan, analysis, queries, false);
    queries.q_pos_max = queries.q_pos_min;
    queries.q_head_end = queries.q_head_begin + 1;
    const bool exact = analysis.ranges(queries, plan.bindings).exact;
    ASSERT_TRUE(exact) << "one row must be exact\n" << plan.variant.serialize();
    check(plan, analysis, queries, true);
    scatter(queries, positions, rng);
    check(plan, analysis, queries, false);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(with_rows, 300);
}

// lo[row] <= kv_pos < hi[row]: needed is [least lo, largest hi), full [largest lo, least hi).
TEST(MaskAnalysis, RowBoundsAreTheirHull) {
  const Param lo = Param::integer("lo", 1);
  const Param hi = Param::integer("hi", 1);
  const Variant variant =
      with_mask(kv_pos() >= lo(expr::q_index()) && kv_pos() < hi(expr::q_index()));
  const MaskAnalysis analysis(variant);
  ASSERT_EQ(analysis.mask_class(), MaskClass::row_bounds);
  const std::array<std::int32_t, 5> lows{900, 7, 3, 5, 900};
  const std::array<std::int32_t, 5> highs{901, 40, 60, 50, 901};
  const ParamBinder binder(variant);
  Bindings bindings;
  binder.bind({{"lo", TensorView(lows.data(), DType::i32, {5})},
               {"hi", TensorView(highs.data(), DType::i32, {5})}},
              Bind::plan, {1, 1, 1, 5}, {}, bindings);
  const MaskRanges ranges =
      analysis.ranges({.q_pos_min = 0, .q_pos_max = 2, .q_index = 1}, bindings);
  ASSERT_EQ(ranges.needed.count, 1);
  EXPECT_EQ(ranges.needed.intervals[0].begin, 3);
  EXPECT_EQ(ranges.needed.intervals[0].end, 60);
  ASSERT_EQ(ranges.full.count, 1);
  EXPECT_EQ(ranges.full.intervals[0].begin, 7);
  EXPECT_EQ(ranges.full.intervals[0].end, 40);
}

TEST(MaskAnalysis, RandomClosedFormsAgainstBruteForce) {
  Rng rng(11);
  RandomMasks random(rng);
  int inexact = 0;
  for (int i = 0; i < 1200; ++i) {
    const Expr mask = random.mask(static_cast<int>(uniform(rng, 0, 3)));
    const PlanParams plan(mask, rng);
    const MaskAnalysis analysis(plan.variant);
    ASSERT_EQ(analysis.mask_class(), MaskClass::closed_form) << plan.variant.serialize();
    QueryRange queries = random_range(rng, 0);
    check(plan, analysis, queries, false);
    queries.q_pos_max = queries.q_pos_min;
    queries.q_head_end = queries.q_head_begin + 1;
    const bool exact = analysis.ranges(queries, plan.bindings).exact;
    inexact += exact ? 0 : 1;
    check(plan, analysis, queries, exact);
    if (HasFatalFailure()) return;
  }
  EXPECT_EQ(inexact, 0) << "rows of closed-form masks must be exact";
}

TEST(MaskAnalysis, HugeConstantsDoNotOverflow) {
  Rng rng(12);
  RandomMasks random(rng, true);
  constexpr std::int64_t kLast = (std::int64_t{1} << 31) - 1 - kKeys;
  for (int i = 0; i < 600; ++i) {
    const PlanParams plan(random.mask(static_cast<int>(uniform(rng, 0, 2))), rng);
    const std::int64_t first = uniform(rng, 0, 1) == 0 ? 0 : kLast;
    check(plan, MaskAnalysis(plan.variant), random_range(rng, first), false, first);
    if (HasFatalFailure()) return;
  }
}

TEST(MaskAnalysis, AnyExpressionIsSafe) {
  Rng rng(13);
  RandomExpressions random(rng, false, true);
  for (int i = 0; i < 600; ++i) {
    const Expr mask = random.boolean(static_cast<int>(uniform(rng, 1, 4)));
    Variant variant = with_mask(mask);
    const ParamBinder binder(variant);
    std::array<std::int32_t, 4> i1{3, -9, 100, 2000000000};
    std::array<std::int32_t, 60> table{};
    std::vector<ParamValue> values;
    if (binder.index_of("i0") >= 0) values.emplace_back("i0", 5.0);
    if (binder.index_of("i1") >= 0) {
      values.emplace_back("i1", TensorView(i1.data(), DType::i32, {4}));
    }
    if (binder.index_of("table") >= 0) {
      values.emplace_back("table", TensorView(table.data(), DType::i32, {3, 4, 5}));
    }
    PlanParams plan(Expr(true), rng);
    plan.variant = variant;
    binder.bind(values, Bind::plan, {4, 4, 4}, {}, plan.bindings);
    for (std::size_t p = 0; p < binder.params().size(); ++p) {
      plan.by_name[binder.params()[p].name()] = plan.bindings.params[p];
    }
    check(plan, MaskAnalysis(variant), random_range(rng, 0), false);
    if (HasFatalFailure()) return;
  }
}

TEST(MaskAnalysis, UsualMasksAreTight) {
  const Expr causal = kv_pos() <= q_pos();
  const Param w = Param::integer("w");
  const Param wh = Param::integer("wh", 1);
  const std::vector<Expr> masks = {
      causal,
      causal && kv_pos() >= q_pos() - 7,
      causal && q_pos() - kv_pos() < 5,
      3 + kv_pos() > q_pos() - wh(q_head()) && causal,
      kv_pos() + abs(w()) >= q_pos() && causal,
      abs(kv_pos() - q_pos()) <= 9,
      causal && floor_div(kv_pos(), 16) == floor_div(q_pos(), 16),
      causal || kv_pos() < expr::kv_len() - expr::q_len(),
      causal && (kv_pos() < 4 || q_pos() - kv_pos() < 30),
      where(q_head() < 2, causal, causal && kv_pos() >= q_pos() - 11),
      !(kv_pos() > q_pos() || kv_pos() < q_pos() - 6),
      kv_pos() < Param::integer("w")() + q_head(),
  };
  Rng rng(14);
  for (const Expr& mask : masks) {
    for (int i = 0; i < 60; ++i) {
      const PlanParams plan(mask, rng);
      const MaskAnalysis analysis(plan.variant);
      ASSERT_EQ(analysis.mask_class(), MaskClass::closed_form);
      check(plan, analysis, random_range(rng, 0), true);
      if (HasFatalFailure()) return;
    }
  }
}

MaskClass class_of(const Expr& mask) {
  return MaskAnalysis(with_mask(mask)).mask_class();
}

TEST(MaskAnalysis, Classes) {
  EXPECT_EQ(MaskAnalysis(variants::full()).mask_class(), MaskClass::none);
  EXPECT_EQ(MaskAnalysis(variants::causal()).mask_class(), MaskClass::closed_form);
  EXPECT_EQ(MaskAnalysis(variants::sliding_window(3, 4)).mask_class(), MaskClass::closed_form);
  EXPECT_EQ(MaskAnalysis(variants::alibi()).mask_class(), MaskClass::closed_form);
  EXPECT_EQ(class_of(Expr(true)), MaskClass::closed_form);
  const Param at_run = Param::integer("w", 0, Bind::run);
  EXPECT_EQ(class_of(kv_pos() <= q_pos() + at_run()), MaskClass::elementwise);
  EXPECT_EQ(class_of(mod(kv_pos(), 2) == 0), MaskClass::elementwise);
  EXPECT_EQ(class_of(kv_pos() * q_pos() < 5), MaskClass::elementwise);
  EXPECT_EQ(class_of(to_real(kv_pos()) < 5.0), MaskClass::elementwise);
  EXPECT_EQ(class_of(floor_div(kv_pos(), batch()) < 5), MaskClass::elementwise);
  EXPECT_EQ(class_of(Param::integer("doc", 1)(kv_pos()) == 1), MaskClass::elementwise);
  const Param rows = Param::integer("rows", 1);
  EXPECT_EQ(class_of(kv_pos() < rows(expr::q_index())), MaskClass::row_bounds);
  EXPECT_EQ(class_of(kv_pos() < rows(q_pos())), MaskClass::row_bounds);
  EXPECT_EQ(class_of(kv_pos() < max(q_pos() + 1, rows(expr::q_index()))), MaskClass::row_bounds);
  EXPECT_EQ(class_of(kv_pos() <= q_pos() * q_pos()), MaskClass::row_bounds);
  EXPECT_EQ(class_of(kv_pos() <= q_pos() || to_real(q_pos()) < 5.0), MaskClass::row_bounds);
  EXPECT_EQ(class_of(kv_pos() <= max(q_pos() - 3, 5)), MaskClass::closed_form);
  EXPECT_EQ(class_of(kv_pos() < Param::integer("r", 1, Bind::run)(expr::q_index())),
            MaskClass::elementwise);
}

TEST(MaskAnalysis, BandsAreKnown) {
  const auto is_band = [](const Expr& mask) { return MaskAnalysis(with_mask(mask)).is_band(); };
  EXPECT_TRUE(is_band(kv_pos() <= q_pos()));
  EXPECT_TRUE(is_band(kv_pos() < q_pos() + 3 && q_pos() - kv_pos() < 512));
  EXPECT_TRUE(is_band(kv_pos() <= q_pos() && (kv_pos() >= 4 && kv_pos() * 1 > q_pos() * 2 - 9)));
  EXPECT_TRUE(is_band(!(kv_pos() > q_pos())));
  EXPECT_FALSE(is_band(kv_pos() <= q_pos() || kv_pos() < 4));
  EXPECT_FALSE(is_band(kv_pos() * 2 <= q_pos()));
  EXPECT_FALSE(is_band(kv_pos() != q_pos()));
  EXPECT_FALSE(is_band(kv_pos() <= q_pos() && batch() == 0));
  EXPECT_FALSE(is_band(kv_pos() <= q_pos() + q_head()));
  EXPECT_FALSE(is_band(kv_pos() <= q_pos() * (std::int64_t{1} << 30)));
  EXPECT_FALSE(is_band(kv_pos() - (std::int64_t{1} << 41) <= q_pos()));
  EXPECT_FALSE(MaskAnalysis(Variant()).is_band());

  const MaskAnalysis analysis(with_mask(kv_pos() <= q_pos() * -2 + 50 && kv_pos() >= q_pos() - 7));
  ASSERT_TRUE(analysis.is_band());
  const plan::MaskInterval band = analysis.band(10, 14);
  EXPECT_EQ(band.needed.begin, 3);
  EXPECT_EQ(band.needed.end, 31);
  EXPECT_EQ(band.full.begin, 7);
  EXPECT_EQ(band.full.end, 23);
}

TEST(MaskAnalysis, PartsThatAreUnknownDoNotHideTheRest) {
  const Variant variant = with_mask(kv_pos() <= q_pos() && mod(kv_pos(), 2) == 0);
  const MaskRanges ranges =
      MaskAnalysis(variant).ranges({.q_pos_min = 4, .q_pos_max = 9, .q_head_end = 1}, {});
  EXPECT_TRUE(ranges.needed.contains(9));
  EXPECT_FALSE(ranges.needed.contains(10));
  EXPECT_EQ(ranges.full.count, 0);
  EXPECT_FALSE(ranges.exact);
}

TEST(MaskAnalysis, NoMaskIsFull) {
  const MaskRanges ranges = MaskAnalysis(variants::full()).ranges({}, {});
  EXPECT_TRUE(ranges.exact);
  EXPECT_TRUE(ranges.full.contains(0) && ranges.full.contains(kMaxPosition - 1));
}

TEST(MaskAnalysis, NoQueriesNeedNothing) {
  const MaskRanges ranges =
      MaskAnalysis(variants::causal()).ranges({.q_pos_min = 3, .q_pos_max = 2}, {});
  EXPECT_EQ(ranges.needed.count, 0);
}

TEST(MaskAnalysis, TooManyIntervalsAreRoundedSafely) {
  Expr mask = kv_pos() == 0;
  for (int i = 1; i < 20; ++i) mask = mask || kv_pos() == 4 * i + i % 3;
  Rng rng(15);
  for (const Expr& e : {mask, !mask}) {
    const PlanParams plan(e, rng);
    const MaskAnalysis analysis(plan.variant);
    const QueryRange queries{.q_pos_min = 5, .q_pos_max = 5};
    check(plan, analysis, queries, false);
    EXPECT_FALSE(analysis.ranges(queries, plan.bindings).exact);
  }
}

TEST(MaskAnalysis, ManyHeadsThatDifferClaimNothing) {
  const Variant variant = with_mask(kv_pos() <= q_pos() - q_head());
  const MaskAnalysis analysis(variant);
  const MaskRanges few =
      analysis.ranges({.q_pos_min = 200, .q_pos_max = 200, .q_head_end = 128}, {});
  EXPECT_FALSE(few.needed.contains(201));
  EXPECT_TRUE(few.full.contains(73));
  EXPECT_FALSE(few.full.contains(74));
  const MaskRanges many =
      analysis.ranges({.q_pos_min = 200, .q_pos_max = 200, .q_head_end = 129}, {});
  EXPECT_TRUE(many.needed.contains(kMaxPosition - 1));
  EXPECT_EQ(many.full.count, 0);
}

TEST(MaskAnalysis, SharedSubtreesDoNotExplode) {
  Expr sum = kv_pos();
  for (int i = 0; i < 25; ++i) sum = sum + sum;
  EXPECT_EQ(class_of(sum < 5), MaskClass::elementwise);
  Expr both = kv_pos() < 5;
  for (int i = 0; i < 100; ++i) both = both && both;
  EXPECT_EQ(class_of(both), MaskClass::elementwise);
  Expr high = kv_pos();
  for (int i = 0; i < 50; ++i) high = max(high, high - 1);
  EXPECT_EQ(class_of(high < 5), MaskClass::elementwise);
}

TEST(MaskAnalysis, MasksOfOneInterval) {
  using namespace expr;  // NOLINT(google-build-using-namespace)
  const auto one = [](const Variant& variant) { return MaskAnalysis(variant).one_interval(); };
  for (const Variant& variant :
       {variants::causal(), variants::causal(9), variants::sliding_window(3, 4),
        variants::prefix_lm(), variants::causal_by_request(), variants::chunked_local(16),
        variants::block_causal(16), variants::document(), variants::bidirectional_spans(),
        variants::tree(), variants::dense_mask(),
        with_mask(kv_pos() >= q_pos() || kv_pos() >= 3)}) {
    EXPECT_TRUE(one(variant)) << variant.serialize();
  }
  for (const Variant& variant : {variants::attention_sink(4, 20), with_mask(kv_pos() != q_pos()),
                                 with_mask(kv_pos() == 3 || kv_pos() < q_pos()),
                                 with_mask(kv_pos() < 3 || kv_pos() > q_pos()),
                                 with_mask(kv_pos() == 3 || kv_pos() == q_pos())}) {
    EXPECT_FALSE(one(variant)) << variant.serialize();
  }
}

}  // namespace
}  // namespace tilewright::test
