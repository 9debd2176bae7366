// SPDX-License-Identifier: Apache-2.0
// MaskAnalysis against brute force: never wrong for any mask, tight for those that matter.
#include "variant/mask.h"

#include <algorithm>
#include <array>
#include <limits>

#include "reference.h"

namespace tilewright::test {
namespace {

using expr::batch;
using expr::kv_pos;
using expr::q_head;
using expr::q_pos;

constexpr std::int64_t kKeys = 96;  // keys tried by brute force

struct PlanParams {
  Variant variant;
  ParamBinder binder;
  Bindings bindings;
  std::map<std::string, BoundParam> by_name;
  std::array<std::int32_t, 4> per_head{};
  std::array<std::int32_t, 32> per_row{};  // by q_index

  PlanParams(const Expr& mask, Rng& rng) : variant(with_mask(mask)), binder(variant) {
    for (std::int32_t& window : per_head) window = static_cast<std::int32_t>(uniform(rng, 0, 40));
    for (std::int32_t& bound : per_row) bound = static_cast<std::int32_t>(uniform(rng, -5, 90));
    std::vector<ParamValue> values;
    if (binder.index_of("wr") >= 0) {
      values.emplace_back("wr", TensorView(per_row.data(), DType::i32, {32}));
    }
    if (binder.index_of("w") >= 0) {
      values.emplace_back("w", static_cast<double>(uniform(rng, -5, 40)));
    }
    if (binder.index_of("wh") >= 0) {
      values.emplace_back("wh", TensorView(per_head.data(), DType::i32, {4}));
    }
    binder.bind(values, Bind::plan, {4, 4, 4}, {}, bindings);
    for (std::size_t i = 0; i < binder.params().size(); ++i) {
      by_name[binder.params()[i].name()] = bindings.params[i];
    }
  }
};

struct Truth {
  std::vector<bool> any;
  std::vector<bool> every;
};

Truth brute_force(const PlanParams& plan, const QueryRange& queries, std::int64_t first_key) {
  Truth truth{std::vector<bool>(kKeys, false), std::vector<bool>(kKeys, true)};
  for (std::int64_t token = 0; token < queries.tokens(); ++token) {
    for (std::int64_t head = queries.q_head_begin; head < queries.q_head_end; ++head) {
      for (std::int64_t key = 0; key < kKeys; ++key) {
        const RefInputs inputs{
            {queries.position(token), head, queries.kv_head, queries.batch, queries.q_len,
             queries.kv_len, queries.q_index + token, queries.q_begin},
            first_key + key,
            0,
            &plan.by_name};
        const bool seen = Reference(inputs).eval(plan.variant.mask).integer != 0;
        const auto i = static_cast<std::size_t>(key);
        truth.any[i] = truth.any[i] || seen;
        truth.every[i] = truth.every[i] && seen;
      }
    }
  }
  return truth;
}

QueryRange random_range(Rng& rng, std::int64_t first) {
  QueryRange queries;
  queries.q_pos_min = first + uniform(rng, 0, 70);
  queries.q_pos_max = queries.q_pos_min + (uniform(rng, 0, 1) == 0 ? 0 : uniform(rng, 0, 9));
  queries.q_head_begin = uniform(rng, 0, 3);
  queries.q_head_end = queries.q_head_begin + uniform(rng, 1, 4 - queries.q_head_begin);
  queries.kv_head = uniform(rng, 0, 1);
  queries.batch = uniform(rng, 0, 3);
  queries.q_len = uniform(rng, 0, 30);
  queries.kv_len = uniform(rng, 0, 90);
  queries.q_begin = uniform(rng, 0, 8);
  queries.q_index = queries.q_begin + uniform(rng, 0, 12);
  return queries;
}

// Gives the range positions in any order, which live in `positions`.
void scatter(QueryRange& queries, std::vector<std::int32_t>& positions, Rng& rng) {
  positions.clear();
  for (std::int64_t i = uniform(rng, 1, 8); i > 0; --i) {
    positions.push_back(static_cast<std::int32_t>(uniform(rng, 0, 90)));
    positions.push_back(-1);
  }
  queries.q_pos = positions.data();
  queries.q_pos_stride = 2;
  queries.q_count = static_cast<std::int64_t>(positions.size()) / 2;
  queries.q_pos_min = kMaxPosition;
  queries.q_pos_max = kMinPosition;
  for (std::int64_t i = 0; i < queries.q_count; ++i) {
    queries.q_pos_min = std::min(queries.q_pos_min, queries.position(i));
    queries.q_pos_max = std::max(queries.q_pos_max, queries.position(i));
  }
}

void check_sets(const IntervalSet& set) {
  ASSERT_LE(set.count, IntervalSet::kMax);
  for (int i = 0; i < set.count; ++i) {
    ASSERT_LT(set.intervals[i].begin, set.intervals[i].end);
    ASSERT_GE(set.intervals[i].begin, kMinPosition);
    ASSERT_LE(set.intervals[i].end, kMaxPosition);
    if (i > 0) {
      ASSERT_GT(set.intervals[i].begin, set.intervals[i - 1].end);
    }
  }
}

// The claims of ranges() hold; with `tight`, they are also the best there are.
void check(const PlanParams& plan, const MaskAnalysis& analysis, const QueryRange& queries,
           bool tight, std::int64_t first_key = 0) {
  const MaskRanges ranges = analysis.ranges(queries, plan.bindings);
  check_sets(ranges.needed);
  check_sets(ranges.full);
  const Truth truth = brute_force(plan, queries, first_key);
  for (std::int64_t key = 0; key < kKeys; ++key) {
    const auto i = static_cast<std::size_t>(key);
    const bool needed = ranges.needed.contains(first_key + key);
    const bool full = ranges.full.contains(first_key + key);
    ASSERT_TRUE(needed || !truth.any[i]) << "key " << key << "\n" << plan.variant.serialize();
    ASSERT_TRUE(!full || truth.every[i]) << "key " << key << "\n" << plan.variant.serialize();
    ASSERT_TRUE(!ranges.exact || needed == full) << plan.variant.serialize();
    if (tight) {
      ASSERT_EQ(needed, truth.any[i]) << "key " << key << "\n" << plan.variant.serialize();
      ASSERT_EQ(full, truth.every[i]) << "key " << key << "\n" << plan.variant.serialize();
    }
  }
}

// Random masks of the closed form: comparisons in many arrangements, and/or/not. `rows`: some of
// their bounds differ from row to row.
class RandomMasks {
 public:
  explicit RandomMasks(std::uint64_t seed, bool huge = false, bool rows = false)
      : rng_(seed), huge_(huge), rows_(rows) {}
  Rng& rng() { return rng_; }

  Expr mask(int depth) {
    if (depth == 0) return uniform(rng_, 0, 9) == 0 ? uniform_boolean() : comparison();
    switch (uniform(rng_, 0, 4)) {
      case 0:
      case 1:
        return mask(depth - 1) && mask(depth - 1);
      case 2:
        return mask(depth - 1) || mask(depth - 1);
      case 3:
        return !mask(depth - 1);
      default:
        return depth > 1 ? mask(depth - 1) && mask(0) : !mask(0);
    }
  }

 private:
  Expr row_bound() {
    const Expr table = Param::integer("wr", 1)(expr::q_index() * 1);
    switch (uniform(rng_, 0, 8)) {
      case 0:
        return expr::q_index() - expr::q_begin();
      case 1:
        return mod(q_pos() * 3, 17);
      case 2:
        return max(q_pos() + 1, table);
      case 3:
        return where(bit_and(expr::q_index(), 1) == 0, table, q_pos() + 2);
      case 4:
        return floor_div(q_pos() * q_pos(), 20) - q_head();
      case 5:
        return q_pos() + table * 2;
      case 6:
        return floor_div(q_pos() - expr::q_begin(), 4) * 4;
      default:
        return table;
    }
  }

  Expr bound() {
    if (rows_ && uniform(rng_, 0, 1) == 0) return row_bound();
    switch (uniform(rng_, 0, 8)) {
      case 0:
        return expr::q_len();
      case 1:
        return expr::kv_len() - expr::q_len();
      case 2:
        return Param::integer("w")();
      case 3:
        return Param::integer("wh", 1)(q_head());
      case 4:
        return q_head() * 3 + batch();
      case 5:
        return max(batch(), 2) - min(expr::kv_len(), 17);
      default:
        if (huge_ && uniform(rng_, 0, 1) == 0) {
          static constexpr std::int64_t kCorners[] = {std::numeric_limits<std::int64_t>::min(),
                                                      std::numeric_limits<std::int64_t>::max(),
                                                      std::int64_t{1} << 31,
                                                      -(std::int64_t{1} << 31),
                                                      std::int64_t{1} << 40,
                                                      std::int64_t{1} << 62};
          return Expr(kCorners[uniform(rng_, 0, 5)]);
        }
        return Expr(uniform(rng_, -30, 60));
    }
  }

  Expr compare(const Expr& a, const Expr& b) {
    switch (uniform(rng_, 0, 9)) {
      case 0:
        return a == b;
      case 1:
        return a != b;
      case 2:
      case 3:
        return a < b;
      case 4:
      case 5:
        return a <= b;
      case 6:
      case 7:
        return a > b;
      default:
        return a >= b;
    }
  }

  Expr comparison() {
    const Expr size = uniform(rng_, 1, 20);
    const Expr shift = uniform(rng_, -5, 25);
    switch (uniform(rng_, 0, 11)) {
      case 0:
        return compare(kv_pos(), bound());
      case 1:
        return compare(bound() - 3, q_pos());
      case 2:
        return compare(kv_pos() - q_pos(), bound());
      case 3:
        return compare(q_pos() - bound(), kv_pos());
      case 4:
        return compare(kv_pos() + bound(), q_pos() + 2);
      case 5:
        return compare(floor_div(kv_pos(), size), floor_div(q_pos(), size) + bound());
      case 6:
        return compare(bound(), floor_div(kv_pos() + shift, size));
      case 7:
        return compare(abs(kv_pos() - q_pos()), bound());
      case 8:
        return compare(max(kv_pos(), q_pos() - 4), bound());
      case 9:
        return compare(min(kv_pos() + 1, bound()) * 2, q_pos());
      case 10:
        return compare(-kv_pos() * 3 + bound(), 2 - q_pos());
      default:
        return compare(where(q_pos() < 30, kv_pos(), kv_pos() + 9), bound());
    }
  }

  Expr uniform_boolean() {
    if (rows_) return uniform(rng_, 0, 1) == 0 ? row_bound() < 30 : to_real(q_pos()) * 0.5 < 20.0;
    switch (uniform(rng_, 0, 2)) {
      case 0:
        return bound() < 20;
      case 1:
        return Expr(uniform(rng_, 0, 1) == 1);
      default:
        return to_real(q_head()) * 0.5 < 1.0;
    }
  }

  Rng rng_;
  bool huge_;
  bool rows_;
};

TEST(MaskAnalysis, RandomRowBoundsAgainstBruteForce) {
  RandomMasks random(16, false, true);
  std::vector<std::int32_t> positions;
  int with_rows = 0;
  for (int i = 0; i < 700; ++i) {
    const Expr mask = random.mask(static_cast<int>(uniform(random.rng(), 0, 3)));
    const PlanParams plan(mask, random.rng());
    const MaskAnalysis analysis(plan.variant);
    ASSERT_NE(analysis.mask_class(), MaskClass::elementwise) << plan.variant.serialize();
    with_rows += analysis.mask_class() == MaskClass::row_bounds ? 1 : 0;
    QueryRange queries = random_range(random.rng(), 0);
    check(plan, analysis, queries, false);
    queries.q_pos_max = queries.q_pos_min;
    queries.q_head_end = queries.q_head_begin + 1;
    const bool exact = analysis.ranges(queries, plan.bindings).exact;
    ASSERT_TRUE(exact) << "one row must be exact\n" << plan.variant.serialize();
    check(plan, analysis, queries, true);
    scatter(queries, positions, random.rng());
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
  RandomMasks random(11);
  int inexact = 0;
  for (int i = 0; i < 1200; ++i) {
    const Expr mask = random.mask(static_cast<int>(uniform(random.rng(), 0, 3)));
    const PlanParams plan(mask, random.rng());
    const MaskAnalysis analysis(plan.variant);
    ASSERT_EQ(analysis.mask_class(), MaskClass::closed_form) << plan.variant.serialize();
    QueryRange queries = random_range(random.rng(), 0);
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
  RandomMasks random(12, true);
  constexpr std::int64_t kLast = (std::int64_t{1} << 31) - 1 - kKeys;
  for (int i = 0; i < 600; ++i) {
    const PlanParams plan(random.mask(static_cast<int>(uniform(random.rng(), 0, 2))), random.rng());
    const std::int64_t first = uniform(random.rng(), 0, 1) == 0 ? 0 : kLast;
    check(plan, MaskAnalysis(plan.variant), random_range(random.rng(), first), false, first);
    if (HasFatalFailure()) return;
  }
}

TEST(MaskAnalysis, AnyExpressionIsSafe) {
  RandomExpressions random(13, false, true);
  for (int i = 0; i < 600; ++i) {
    const Expr mask = random.boolean(static_cast<int>(uniform(random.rng(), 1, 4)));
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
    PlanParams plan(Expr(true), random.rng());
    plan.variant = variant;
    binder.bind(values, Bind::plan, {4, 4, 4}, {}, plan.bindings);
    for (std::size_t p = 0; p < binder.params().size(); ++p) {
      plan.by_name[binder.params()[p].name()] = plan.bindings.params[p];
    }
    check(plan, MaskAnalysis(variant), random_range(random.rng(), 0), false);
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

}  // namespace
}  // namespace tilewright::test
