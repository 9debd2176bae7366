// SPDX-License-Identifier: Apache-2.0
// Plan::pieces: every tile and block once, on workers whose time has no holes.
#include "support/plan_pieces.h"

#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <algorithm>
#include <set>
#include <tuple>
#include <vector>

#include "attention/error_fixture.h"
#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

constexpr Dims kDims{4, 2, 16, 16};

AttentionSpec spec(const Variant& variant = variants::causal()) {
  AttentionSpec spec;
  spec.num_qo_heads = kDims.qo_heads;
  spec.num_kv_heads = kDims.kv_heads;
  spec.head_dim = kDims.head_dim;
  spec.q_dtype = spec.kv_dtype = DType::f32;
  spec.variant = variant;
  return spec;
}

TEST(PlanPieces, EveryBlockOnceInRandomBatches) {
  Random random(5);
  for (int i = 0; i < 200; ++i) {
    const int workers = random.pick({1, 2, 3, 8, 64});
    Lengths lengths;
    for (std::int64_t r = random.range(1, 6); r > 0; --r) {
      const std::int64_t q = random.chance(0.5) ? 1 : random.range(0, 300);
      lengths.emplace_back(q, q + random.range(0, random.chance(0.2) ? 6000 : 300));
    }
    const Variant variant =
        random.pick({variants::causal(), variants::full(), variants::sliding_window(100, -1)});
    const Attention attention(spec(variant));
    const SimpleBatch batch(kDims, DType::f32, lengths, 16, random.bits());
    Limits limits = batch.limits();
    limits.q_tokens = std::max<std::int64_t>(limits.q_tokens, 1);
    limits.q_len = std::max<std::int64_t>(limits.q_len, 1);
    limits.workers = workers;
    Plan plan({attention}, limits);
    plan.update(batch.batch(), batch.inputs(attention));
    expect_whole(plan.pieces(attention), plan.stats(attention), workers);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(PlanPieces, OneWorkerDoesAllInOrder) {
  const Attention attention(spec());
  const SimpleBatch batch(kDims, DType::f32, {{1, 40}, {1, 3}}, 16, 1);
  Limits limits = batch.limits();
  limits.workers = 1;
  Plan plan({attention}, limits);
  plan.update(batch.batch(), batch.inputs(attention));
  const std::vector<PlanPiece> pieces = plan.pieces(attention);
  ASSERT_EQ(pieces.size(), 4U);
  for (int i = 0; i < 4; ++i) {
    const PlanPiece& piece = pieces[static_cast<std::size_t>(i)];
    EXPECT_EQ(piece.worker, 0);
    EXPECT_EQ(piece.row, i / 2);
    EXPECT_EQ(piece.request, i / 2);
    EXPECT_EQ(piece.kv_head, i % 2);
    EXPECT_EQ(piece.num_blocks, 1);
  }
}

TEST(PlanPieces, RowsOfLevelsNameTheirFirstRequest) {
  const Attention attention(spec());
  // Requests 0 and 1 share 1000 tokens, 2 and 3 share 500: enough to be computed for both at once.
  // Each has 10 of its own.
  const Tensor qo = int_tensor({0, 1, 2, 3, 4}), kv_lens = int_tensor({1010, 1010, 510, 510});
  const Tensor groups = int_tensor({0, 2, 4}), shared = int_tensor({0, 1000, 1500});
  const Tensor own = int_tensor({0, 10, 20, 30, 40});
  KvLevel outer{PageTable::ragged(shared.view()), {}, groups.view(), {}, {}};
  KvLevel inner{PageTable::ragged(own.view()), {}, {}, {}, {}};
  Limits limits{4, 4, 1, 1010};
  limits.levels = 2;
  limits.workers = 3;
  Plan plan({attention}, limits);
  Batch batch;
  batch.qo_indptr = qo.view();
  batch.kv_lens = kv_lens.view();
  plan.update(batch, {PlanInput(attention, std::vector<KvLevel>{outer, inner})});
  const std::vector<PlanPiece> pieces = plan.pieces(attention);
  expect_whole(pieces, plan.stats(attention), 3);
  std::set<std::tuple<int, int, int>> rows;
  for (const PlanPiece& piece : pieces) rows.insert({piece.level, piece.row, piece.request});
  EXPECT_EQ(rows, (std::set<std::tuple<int, int, int>>{
                      {0, 0, 0}, {0, 1, 2}, {1, 0, 0}, {1, 1, 1}, {1, 2, 2}, {1, 3, 3}}));
}

TEST(PlanPieces, NothingToDoAndNoBatch) {
  const Attention attention(spec());
  const SimpleBatch batch(kDims, DType::f32, {{0, 10}}, 16, 1);
  Limits limits = batch.limits();
  limits.q_tokens = limits.q_len = 1;
  Plan plan({attention}, limits);
  expect_error(ErrorCode::invalid_state, {"plan"}, [&] { plan.pieces(attention); });
  plan.update(batch.batch(), batch.inputs(attention));
  EXPECT_TRUE(plan.pieces(attention).empty());
  expect_error(ErrorCode::invalid_state, {"attention"}, [&] { plan.pieces(Attention(spec())); });
}

}  // namespace
}  // namespace tilewright::test
