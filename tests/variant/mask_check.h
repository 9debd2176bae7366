// SPDX-License-Identifier: Apache-2.0
// Random masks, and the check of what MaskAnalysis says of them by brute force.
#pragma once

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "variant/mask.h"
#include "variant/reference.h"

namespace tilewright::test {

inline constexpr std::int64_t kKeys = 96;  // keys tried by brute force

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

inline Truth brute_force(const PlanParams& plan, const QueryRange& queries,
                         std::int64_t first_key) {
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

inline QueryRange random_range(Rng& rng, std::int64_t first) {
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
inline void scatter(QueryRange& queries, std::vector<std::int32_t>& positions, Rng& rng) {
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

inline void check_sets(const IntervalSet& set) {
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
inline void check(const PlanParams& plan, const MaskAnalysis& analysis, const QueryRange& queries,
                  bool tight, std::int64_t first_key = 0) {
  const MaskRanges ranges = analysis.ranges(queries, plan.bindings);
  check_sets(ranges.needed);
  check_sets(ranges.full);
  if (analysis.one_interval()) {
    ASSERT_LE(ranges.full.count, 1) << plan.variant.serialize();
    if (queries.q_head_end - queries.q_head_begin == 1) {
      ASSERT_LE(ranges.needed.count, 1) << plan.variant.serialize();
    }
  }
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
  explicit RandomMasks(Rng& rng, bool huge = false, bool rows = false)
      : rng_(rng), huge_(huge), rows_(rows) {}
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
        return mod(expr::q_pos() * 3, 17);
      case 2:
        return max(expr::q_pos() + 1, table);
      case 3:
        return where(bit_and(expr::q_index(), 1) == 0, table, expr::q_pos() + 2);
      case 4:
        return floor_div(expr::q_pos() * expr::q_pos(), 20) - expr::q_head();
      case 5:
        return expr::q_pos() + table * 2;
      case 6:
        return floor_div(expr::q_pos() - expr::q_begin(), 4) * 4;
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
        return Param::integer("wh", 1)(expr::q_head());
      case 4:
        return expr::q_head() * 3 + expr::batch();
      case 5:
        return max(expr::batch(), 2) - min(expr::kv_len(), 17);
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
        return compare(expr::kv_pos(), bound());
      case 1:
        return compare(bound() - 3, expr::q_pos());
      case 2:
        return compare(expr::kv_pos() - expr::q_pos(), bound());
      case 3:
        return compare(expr::q_pos() - bound(), expr::kv_pos());
      case 4:
        return compare(expr::kv_pos() + bound(), expr::q_pos() + 2);
      case 5:
        return compare(floor_div(expr::kv_pos(), size), floor_div(expr::q_pos(), size) + bound());
      case 6:
        return compare(bound(), floor_div(expr::kv_pos() + shift, size));
      case 7:
        return compare(abs(expr::kv_pos() - expr::q_pos()), bound());
      case 8:
        return compare(max(expr::kv_pos(), expr::q_pos() - 4), bound());
      case 9:
        return compare(min(expr::kv_pos() + 1, bound()) * 2, expr::q_pos());
      case 10:
        return compare(-expr::kv_pos() * 3 + bound(), 2 - expr::q_pos());
      default:
        return compare(where(expr::q_pos() < 30, expr::kv_pos(), expr::kv_pos() + 9), bound());
    }
  }

  Expr uniform_boolean() {
    if (rows_)
      return uniform(rng_, 0, 1) == 0 ? row_bound() < 30 : to_real(expr::q_pos()) * 0.5 < 20.0;
    switch (uniform(rng_, 0, 2)) {
      case 0:
        return bound() < 20;
      case 1:
        return Expr(uniform(rng_, 0, 1) == 1);
      default:
        return to_real(expr::q_head()) * 0.5 < 1.0;
    }
  }

  Rng& rng_;
  bool huge_;
  bool rows_;
};

}  // namespace tilewright::test
