// SPDX-License-Identifier: Apache-2.0
// Levels whose rows are any sets of query tokens, whatever requests these belong to, and the choice
// between computing a shared row once and reading it with each of the rows below.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <array>
#include <numeric>
#include <vector>

#include "support/batch.h"
#include "support/ragged_level.h"

namespace tilewright::test {
namespace {

TEST(LevelRows, AnySetsOfQueryTokens) {
  const Dims dims{4, 2, 24, 16};
  Random random(20);
  for (int round = 0; round < 60; ++round) {
    SCOPED_TRACE(round);
    const auto num_levels = static_cast<int>(random.range(1, 3));
    Extents indptr = {0};
    for (std::int64_t r = random.range(1, 4); r > 0; --r) {
      indptr.push_back(indptr.back() + random.range(0, 30));
    }
    const std::int64_t tokens = indptr.back();
    if (tokens == 0) continue;
    std::vector<Request> references;
    for (std::int64_t t = 0; t < tokens; ++t) {
      references.push_back(random_request(random, dims, 1, 0, DType::f32, DType::f32, DType::f32));
      references.back().q_pos[0] = random.range(0, 200);
    }
    std::vector<RaggedLevel> levels(static_cast<std::size_t>(num_levels));
    std::vector<KvLevel> views;
    std::vector<KvCache> caches;
    for (RaggedLevel& level : levels) {
      const bool listed = level.add_random_rows(dims, tokens, random, references);
      views.push_back(level.view(dims, listed));
      caches.push_back(level.cache());
    }
    const Attention attention(make_spec(dims, DType::f32, variants::causal()));
    Limits limits{8, tokens, 30, 400, num_levels};
    limits.workers = static_cast<int>(random.range(0, 5));
    Plan plan({attention}, limits);
    const Tensor indptr_tensor = int_tensor(indptr);
    Tensor q_pos(DType::i32, {tokens});
    for (std::int64_t t = 0; t < tokens; ++t) {
      reinterpret_cast<std::int32_t*>(q_pos.data())[t] =
          static_cast<std::int32_t>(references[static_cast<std::size_t>(t)].q_pos[0]);
    }
    Batch batch;
    batch.qo_indptr = indptr_tensor.view();
    batch.q_pos = q_pos.view();
    plan.update(batch, {PlanInput(attention, views)});
    const BatchTensors tensors(references, dims, DType::f32, 2);
    attention.run(plan, tensors.q.view(), caches, tensors.args());
    tensors.expect(references, causal_semantics());
    tensors.expect_padding_kept();
    if (HasFailure()) return;
  }
}

// An inner row that covers the tokens of several outer rows: where it is folded into the rows
// below, the outer ones cannot be as well, for its keys have one place in one chain.
TEST(LevelFolding, RowsWiderThanThoseOutsideThem) {
  const Dims dims{4, 2, 24, 16};
  constexpr std::int64_t kTokens = 4;
  Random random(21);
  std::vector<Request> references;
  Extents one_each = {0};
  for (std::int64_t t = 0; t < kTokens; ++t) {
    references.push_back(random_request(random, dims, 1, 0, DType::f32, DType::f32, DType::f32));
    references.back().q_pos[0] = 3 + 2 * t;
    one_each.push_back(t + 1);
  }
  std::vector<RaggedLevel> levels(3);
  for (std::int64_t t = 0; t < kTokens; ++t) levels[0].add_row(dims, {t}, 1, 0, random, references);
  levels[1].add_row(dims, {0, 1, 2, 3}, 6, 1, random, references);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    levels[2].add_row(dims, {t}, t, 7, random, references);
  }
  std::vector<KvLevel> views;
  std::vector<KvCache> caches;
  for (RaggedLevel& level : levels) {
    views.push_back(level.view(dims, false));
    caches.push_back(level.cache());
  }
  const Tensor indptr = int_tensor(one_each);
  const Tensor q_pos = int_tensor({3, 5, 7, 9});
  Batch batch;
  batch.qo_indptr = indptr.view();
  batch.q_pos = q_pos.view();
  const Attention attention(make_spec(dims, DType::f32, variants::causal()));
  for (const Determinism mode : {Determinism::repeatable, Determinism::batch_invariant}) {
    Limits limits{kTokens, kTokens, 1, 16, 3};
    limits.determinism = mode;
    Plan plan({attention}, limits);
    plan.update(batch, {PlanInput(attention, views)});
    const BatchTensors tensors(references, dims, DType::f32, 2);
    attention.run(plan, tensors.q.view(), caches, tensors.args());
    tensors.expect(references, causal_semantics());
  }
}

// `requests` decode behind a common prefix.
PlanStats stats_of_shared_prefix(std::int64_t requests, std::int64_t prefix, std::int64_t own,
                                 Determinism determinism = Determinism::repeatable) {
  const Dims dims{32, 8, 128, 128};
  const Attention attention(make_spec(dims, DType::bf16, variants::causal()));
  Limits limits{requests, requests, 1, prefix + own, 2};
  limits.determinism = determinism;
  Plan plan({attention}, limits);
  Extents indptr(static_cast<std::size_t>(requests) + 1);
  std::iota(indptr.begin(), indptr.end(), 0);
  const Tensor qo_indptr = int_tensor(indptr);
  const Tensor all = int_tensor({0, requests});
  const Tensor prefix_indptr = int_tensor({0, prefix});
  for (std::int64_t& begin : indptr) begin *= own;
  const Tensor own_indptr = int_tensor(indptr);
  Batch batch;
  batch.qo_indptr = qo_indptr.view();
  plan.update(batch,
              {PlanInput(attention,
                         {KvLevel{PageTable::ragged(prefix_indptr.view()), {}, all.view(), {}, {}},
                          KvLevel{PageTable::ragged(own_indptr.view()), {}, {}, {}, {}}})});
  return plan.stats(attention);
}

TEST(LevelFolding, LongPrefixesOfManyAreReadOnce) {
  const PlanStats stats = stats_of_shared_prefix(16, 4096, 128);
  EXPECT_EQ(stats.folded_rows, 0);
  const std::int64_t key_bytes = 2 * 128 * 2 * 8;
  EXPECT_EQ(stats.kv_bytes, (4096 + 16 * 128) * key_bytes);
  EXPECT_LE(stats.kv_bytes * 10, 16 * (4096 + 128) * key_bytes);
}

TEST(LevelFolding, WhatOneRequestHasAloneIsNoLevel) {
  const PlanStats stats = stats_of_shared_prefix(1, 4096, 128);
  EXPECT_EQ(stats.folded_rows, 1);
  EXPECT_EQ(stats.tiles, 8);
}

TEST(LevelFolding, NothingIsSharedThatCostsMore) {
  EXPECT_EQ(stats_of_shared_prefix(2, 1, 128).folded_rows, 1);
  EXPECT_EQ(stats_of_shared_prefix(2, 8192, 128).folded_rows, 0);
}

// Joining partial results would make the bits depend on who shares.
TEST(LevelFolding, BatchInvariantReadsThePrefixWithEachRequest) {
  const PlanStats stats = stats_of_shared_prefix(16, 4096, 128, Determinism::batch_invariant);
  EXPECT_EQ(stats.folded_rows, 1);
  EXPECT_EQ(stats.split_tiles, 0);
}

}  // namespace
}  // namespace tilewright::test
