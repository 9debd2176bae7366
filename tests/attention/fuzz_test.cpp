// SPDX-License-Identifier: Apache-2.0
// Thousands of small random batches, one after the other through the same plan, against the
// reference.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <string>
#include <vector>

#include "support/attention_case.h"

namespace tilewright::test {
namespace {

class Fuzz : public testing::TestWithParam<VariantKind> {};

TEST_P(Fuzz, RandomBatchesBackToBack) {
  const std::vector<DType> dtypes = {DType::f32, DType::bf16, DType::f16};
  const auto kind = static_cast<std::uint64_t>(GetParam());
  for (const int workers : {0, 1, 7}) {
    Random random(1000 * kind + static_cast<std::uint64_t>(workers));
    Case c;
    c.kv_heads = random.pick({1, 2});
    c.group = random.pick({1, 2, 3, 5});
    c.head_dim = random.pick({8, 16, 40});
    c.value_dim = random.pick({8, 24, c.head_dim});
    c.q_dtype = c.kv_dtype = dtypes[random.range(0, 2)];
    c.variant = GetParam();
    c.lengths = LengthKind::tiny;
    c.workers = workers;
    Limits limits = kTinyLimits;
    limits.workers = workers;
    const AttentionSpec spec = CaseRun(c).spec();
    if (!supports(Device{}, spec)) GTEST_SKIP() << supports(Device{}, spec).reason;
    Plan plan({Attention(spec)}, limits);
    plan.prepare();
    const Case base = c;
    for (int i = 0; i < 100; ++i) {
      c = base;
      c.seed = random.bits() % 1'000'000'000;
      c.table = static_cast<TableForm>(random.range(0, static_cast<int>(TableForm::count) - 1));
      c.cache = static_cast<CacheForm>(random.range(0, static_cast<int>(CacheForm::count) - 1));
      c.positions =
          static_cast<PositionKind>(random.range(0, static_cast<int>(PositionKind::count) - 1));
      c.strides = static_cast<StrideKind>(random.range(0, static_cast<int>(StrideKind::count) - 1));
      c.scales = random.chance(0.2) ? ScaleKind::by_both : ScaleKind::none;
      c.page_size = random.range(1, 9);
      c.sinks = random.chance(0.2);
      c.make_legal();
      // The plan's attention has these dims: only forms that can hold them.
      if (c.value_dim != base.value_dim) c.cache = CacheForm::separate_nhd;
      c.value_dim = base.value_dim;
      SCOPED_TRACE(c.name());
      CaseRun run(c);
      run.run_in(plan);
      if (HasFailure()) return;
      const PlanStats stats = plan.stats(plan.attentions()[0]);
      ASSERT_GE(stats.blocks, stats.full_blocks);
      ASSERT_GE(stats.skipped_blocks, 0);
      ASSERT_GT(stats.balance, 0);
      ASSERT_LE(stats.balance, 1);
    }
  }
}

std::vector<VariantKind> all_kinds() {
  std::vector<VariantKind> kinds;
  for (int i = 0; i < static_cast<int>(VariantKind::count); ++i) {
    kinds.push_back(static_cast<VariantKind>(i));
  }
  return kinds;
}

INSTANTIATE_TEST_SUITE_P(Variants, Fuzz, testing::ValuesIn(all_kinds()),
                         [](const testing::TestParamInfo<VariantKind>& value) {
                           return std::string(variant_name(value.param));
                         });

}  // namespace
}  // namespace tilewright::test
