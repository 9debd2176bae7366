// SPDX-License-Identifier: Apache-2.0
// What is said of a mask without evaluating it (empty, mixed, full) against brute force.
#include "fuzz/targets.h"
#include "variant/mask_check.h"

namespace tilewright::fuzz {

bool fuzz_mask(Draw& draw) {
  const bool huge = draw.chance(0.3);
  const bool rows = draw.chance(0.3);
  const Expr mask = test::RandomMasks(draw, huge, rows).mask(static_cast<int>(draw.range(0, 3)));
  const test::PlanParams plan(mask, draw);
  draw.note([&] { return plan.variant.serialize(); });
  const MaskAnalysis analysis(plan.variant);
  // Bounds that may overflow are left to the kernels.
  check(huge || analysis.mask_class() != MaskClass::elementwise, "it should be known in the plan");
  constexpr std::int64_t kLast = (std::int64_t{1} << 31) - 200;
  const std::int64_t first = huge && draw.chance(0.5) ? kLast : 0;
  QueryRange queries = test::random_range(draw, first);
  test::check(plan, analysis, queries, false, first);
  queries.q_pos_max = queries.q_pos_min;
  queries.q_head_end = queries.q_head_begin + 1;
  // Of one row everything is known.
  const bool exact = analysis.ranges(queries, plan.bindings).exact;
  check(exact || huge, "one row is not exact");
  test::check(plan, analysis, queries, exact, first);
  std::vector<std::int32_t> positions;
  if (first == 0) {
    test::scatter(queries, positions, draw);
    test::check(plan, analysis, queries, false);
  }
  return true;
}

}  // namespace tilewright::fuzz
