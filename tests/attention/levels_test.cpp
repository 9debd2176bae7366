// SPDX-License-Identifier: Apache-2.0
// KV in several levels: a prefix of all requests, prefixes of groups of them, and what is their
// own, in random shapes and forms, against one attention over everything.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <string>
#include <vector>

#include "support/batch.h"
#include "support/prefix_tree.h"
#include "support/variant_cases.h"

namespace tilewright::test {
namespace {

class Levels : public testing::TestWithParam<VariantKind> {};

TEST_P(Levels, TreesOfPrefixes) {
  const Dims dims{6, 2, 32, 32};
  const auto kind = static_cast<std::uint64_t>(GetParam());
  const std::vector<DType> dtypes = {DType::f32, DType::bf16};
  std::int64_t folded = 0;
  std::int64_t outer_rows = 0;
  for (const DType dtype : dtypes) {
    for (const int workers : {0, 5}) {
      Random random(700 + kind * 10 + static_cast<std::uint64_t>(workers));
      for (int i = 0; i < 15; ++i) {
        SCOPED_TRACE(testing::Message()
                     << "tree " << i << " workers " << workers << " " << dtype_name(dtype));
        const Tree tree = random_tree(dims, dtype, random,
                                      {CacheForm::combined_nhd, CacheForm::separate_hnd,
                                       CacheForm::separate_strided, CacheForm::combined_hnd_kv0});
        const VariantCase c =
            make_variant(GetParam(), dims, static_cast<std::int64_t>(tree.requests.size()), random);
        const Attention attention(make_spec(dims, dtype, c.variant));
        Limits limits = kTreeLimits;
        limits.workers = workers;
        Plan plan({attention}, limits);
        const Tensor qo_indptr = int_tensor(query_indptr(tree.requests));
        Batch batch;
        batch.qo_indptr = qo_indptr.view();
        plan.update(batch, {PlanInput(attention, tree.views(), c.plan_params)});
        folded += plan.stats(attention).folded_rows;
        outer_rows += static_cast<std::int64_t>(1 + tree.levels[1].rows.size());
        BatchTensors tensors(tree.requests, dims, dtype, 2);
        RunArgs args = tensors.args();
        args.params = c.run_params;
        std::vector<double> sinks;
        Tensor sink_tensor;
        if (i % 3 == 0) {
          sinks = random_sinks(dims, random);
          sink_tensor = float_tensor(sinks);
          args.sinks = sink_tensor.view();
        }
        attention.run(plan, tensors.q.view(), tree.caches(), args);
        tensors.expect(tree.requests, c.semantics, sinks);
        tensors.expect_padding_kept();
        if (HasFailure()) return;
      }
    }
  }
  // Both ways were taken, many times.
  EXPECT_GT(folded, outer_rows / 10);
  EXPECT_LT(folded, outer_rows - outer_rows / 20);
}
INSTANTIATE_TEST_SUITE_P(Variants, Levels,
                         testing::Values(VariantKind::full, VariantKind::causal,
                                         VariantKind::causal_window, VariantKind::alibi,
                                         VariantKind::sink_window, VariantKind::modulo,
                                         VariantKind::window_by_request, VariantKind::bias_table,
                                         VariantKind::output_gate),
                         [](const testing::TestParamInfo<VariantKind>& value) {
                           return std::string(variant_name(value.param));
                         });

// Where a row's requests have unlike lengths before it, its default position would be wrong for
// some of them.
TEST(LevelErrors, RowsNeedOnePosition) {
  const Dims dims{2, 1, 16, 16};
  const Attention attention(make_spec(dims, DType::f32, variants::causal()));
  Plan plan({attention}, Limits{2, 2, 1, 64, 2});
  const Tensor qo_indptr = int_tensor({0, 1, 2});
  const Tensor all_queries = int_tensor({0, 2});
  const Tensor first_lens = int_tensor({3, 7});
  const Tensor second_len = int_tensor({5});
  const Tensor two_pages(DType::i32, {2, 1}, {1, 1}, 0);
  Batch batch;
  batch.qo_indptr = qo_indptr.view();
  const KvLevel first{PageTable::padded(two_pages.view(), 16), first_lens.view(), {}, {}, {}};
  KvLevel second{
      PageTable::padded(two_pages.view(), 16), second_len.view(), all_queries.view(), {}, {}};
  try {
    plan.update(batch, {PlanInput(attention, {first, second})});
    ADD_FAILURE() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_NE(std::string(error.what()).find("kv_pos"), std::string::npos) << error.what();
  }
  const Tensor position = int_tensor({7});
  second.kv_pos = position.view();
  EXPECT_NO_THROW(plan.update(batch, {PlanInput(attention, {first, second})}));
}

TEST(LevelErrors, QueryTokens) {
  const Dims dims{2, 1, 16, 16};
  const Attention attention(make_spec(dims, DType::f32, variants::causal()));
  Plan plan({attention}, Limits{2, 8, 4, 64, 2});
  const Tensor qo_indptr = int_tensor({0, 4, 8});
  const Tensor one_len = int_tensor({5});
  const Tensor lens = int_tensor({5, 5});
  const Tensor pages(DType::i32, {2, 1}, {1, 1}, 0);
  Batch batch;
  batch.qo_indptr = qo_indptr.view();
  const KvLevel own{PageTable::padded(pages.view(), 16), lens.view(), {}, {}, {}};
  const auto refused = [&](const Extents& indptr, const Extents& rows, const char* message) {
    const Tensor indptr_tensor = int_tensor(indptr);
    const Tensor rows_tensor = rows.empty() ? Tensor() : int_tensor(rows);
    const KvLevel shared{PageTable::padded(pages.view(), 16),
                         one_len.view(),
                         indptr.empty() ? TensorView() : indptr_tensor.view(),
                         rows.empty() ? TensorView() : rows_tensor.view(),
                         {}};
    try {
      plan.update(batch, {PlanInput(attention, {shared, own})});
      ADD_FAILURE() << "accepted: " << message;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  };
  refused({0, 9}, {}, "levels[0].qo_indptr[1] is 9");
  refused({0, 3}, {0, 1}, "levels[0].qo_indptr[1] is 3: levels[0].q_rows has 2 entries");
  refused({0, 2}, {0, 8}, "levels[0].q_rows[1] is 8: it must be in [0, 8)");
  refused({0, 2}, {-1, 3}, "levels[0].q_rows[0] is -1");
  refused({0, 3}, {3, 4, 3}, "levels[0].q_rows has query token 3 twice");
  refused({}, {3, 4}, "levels[0].q_rows is given without levels[0].qo_indptr");
  // Half of request 1 has other keys before its own ones than the other half.
  refused({0, 6}, {}, "levels[1].kv_pos is missing");
}

}  // namespace
}  // namespace tilewright::test
