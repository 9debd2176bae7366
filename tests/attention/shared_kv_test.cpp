// SPDX-License-Identifier: Apache-2.0
// Acceptance of the API: KV in parts. A prefill with a prefix hit as two runs or two levels, a
// shared prefix read once, and context-parallel shards; the parts joined give what one attention
// over everything gives.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <optional>
#include <vector>

#include "support/batch.h"
#include "support/kv_forms.h"

namespace tilewright::test {
namespace {

// A request with its keys [begin, end) only, at their positions.
Request part_of(const Request& request, const Dims& dims, std::int64_t begin, std::int64_t end) {
  Request part = request;
  part.k.assign(request.k.begin() + begin * dims.kv_heads * dims.head_dim,
                request.k.begin() + end * dims.kv_heads * dims.head_dim);
  part.v.assign(request.v.begin() + begin * dims.kv_heads * dims.value_dim,
                request.v.begin() + end * dims.kv_heads * dims.value_dim);
  part.kv_pos.assign(request.kv_pos.begin() + begin, request.kv_pos.begin() + end);
  return part;
}

// New tokens of a request lie ragged, the tokens before them (found in the prefix cache) in pages.
class PrefixHit : public testing::Test {
 protected:
  static constexpr DType kDType = DType::f32;

  PrefixHit() {
    const Extents new_lens = {33, 7, 65, 1};
    for (std::size_t r = 0; r < prefix_lens_.size(); ++r) {
      const std::int64_t total = prefix_lens_[r] + new_lens[r];
      whole_.push_back(random_request(random_, dims_, new_lens[r], total, kDType, kDType, kDType));
      prefixes_.push_back(part_of(whole_[r], dims_, 0, prefix_lens_[r]));
      news_.push_back(part_of(whole_[r], dims_, prefix_lens_[r], total));
    }
    paged_ = make_table(TableForm::padded_row_ids, prefix_lens_, 16, random_);
    ragged_ = make_table(TableForm::ragged, new_lens, 1, random_);
    paged_cache_.emplace(CacheForm::combined_nhd, paged_.num_pages, 16, dims_, kDType, kDType);
    ragged_cache_.emplace(CacheForm::tokens_nhd, ragged_.num_pages, 1, dims_, kDType, kDType);
    fill_cache(*paged_cache_, paged_, prefixes_);
    fill_cache(*ragged_cache_, ragged_, news_);
    qo_indptr_ = int_tensor(query_indptr(whole_));
    prefix_kv_lens_ = int_tensor(prefix_lens_);
    limits_.requests = 4;
    limits_.q_tokens = 128;
    limits_.q_len = 65;
    limits_.kv_len = 300;
  }

  Random random_{21};
  Dims dims_{6, 3, 32, 32};
  Extents prefix_lens_ = {48, 0, 100, 16};
  std::vector<Request> whole_, prefixes_, news_;
  Table paged_, ragged_;
  std::optional<Cache> paged_cache_, ragged_cache_;
  Tensor qo_indptr_, prefix_kv_lens_;
  Limits limits_;
};

TEST_F(PrefixHit, TwoRunsAndAMerge) {
  const Attention on_prefix(make_spec(dims_, kDType, variants::full()));
  const Attention on_new(make_spec(dims_, kDType, variants::causal()));
  Plan prefix_plan({on_prefix}, limits_);
  Plan new_plan({on_new}, limits_);
  Batch batch;
  batch.qo_indptr = qo_indptr_.view();
  new_plan.update(batch, {PlanInput(on_new, ragged_.table)});  // the table tells the lengths
  batch.kv_lens = prefix_kv_lens_.view();
  prefix_plan.update(batch, {PlanInput(on_prefix, paged_.table)});

  BatchTensors tensors(whole_, dims_, kDType);
  const std::int64_t rows = tensors.rows;
  // The runs write where the merge reads.
  Tensor values(kDType, {rows, 2, dims_.qo_heads, dims_.value_dim});
  Tensor lse(DType::f32, {rows, 2, dims_.qo_heads});
  RunArgs args;
  args.out = values.view().select(1, 0);
  args.lse = lse.view().select(1, 0);
  on_prefix.run(prefix_plan, tensors.q.view(), paged_cache_->view(), args);
  args.out = values.view().select(1, 1);
  args.lse = lse.view().select(1, 1);
  on_new.run(new_plan, tensors.q.view(), ragged_cache_->view(), args);
  merge_states(values.view(), lse.view(), tensors.out.view(), tensors.lse.view());
  tensors.expect(whole_, causal_semantics());
}

TEST_F(PrefixHit, TwoLevelsInOnePlan) {
  try {
    const Attention attention(make_spec(dims_, kDType, variants::causal()));
    limits_.levels = 2;
    Plan plan({attention}, limits_);
    Batch batch;
    batch.qo_indptr = qo_indptr_.view();
    KvLevel prefix;
    prefix.table = paged_.table;
    prefix.kv_lens = prefix_kv_lens_.view();
    KvLevel own;
    own.table = ragged_.table;
    plan.update(batch, {PlanInput(attention, {prefix, own})});
    BatchTensors tensors(whole_, dims_, kDType);
    attention.run(plan, tensors.q.view(), {paged_cache_->view(), ragged_cache_->view()},
                  tensors.args());
    tensors.expect(whole_, causal_semantics());
  } catch (const Error& error) {
    ASSERT_EQ(error.code(), ErrorCode::not_supported) << error.what();
    GTEST_SKIP() << error.what();
  }
}

TEST(SharedPrefix, OneRowOfALevelForAllRequests) {
  try {
    const Dims dims{4, 2, 32, 32};
    constexpr DType kDType = DType::f32;
    constexpr std::int64_t kShared = 70;
    Random random(22);
    std::vector<Request> whole;
    std::vector<Request> owns;
    for (const std::int64_t own : {5, 1, 20}) {
      whole.push_back(
          random_request(random, dims, 1 + own / 5, kShared + own, kDType, kDType, kDType));
      std::copy_n(whole[0].k.begin(), kShared * dims.kv_heads * dims.head_dim,
                  whole.back().k.begin());
      std::copy_n(whole[0].v.begin(), kShared * dims.kv_heads * dims.value_dim,
                  whole.back().v.begin());
      owns.push_back(part_of(whole.back(), dims, kShared, kShared + own));
    }
    const std::vector<Request> shared = {part_of(whole[0], dims, 0, kShared)};
    const Table shared_table = make_table(TableForm::csr, {kShared}, 16, random);
    const Table own_table = make_table(TableForm::csr, kv_lengths(owns), 4, random);
    Cache shared_cache(CacheForm::separate_hnd, shared_table.num_pages, 16, dims, kDType, kDType);
    Cache own_cache(CacheForm::separate_nhd, own_table.num_pages, 4, dims, kDType, kDType);
    fill_cache(shared_cache, shared_table, shared);
    fill_cache(own_cache, own_table, owns);
    const Tensor qo_indptr = int_tensor(query_indptr(whole));
    const Tensor all_queries = int_tensor({0, query_indptr(whole).back()});
    const Tensor shared_len = int_tensor({kShared});
    const Tensor own_lens = int_tensor(kv_lengths(owns));
    const Attention attention(make_spec(dims, kDType, variants::causal()));
    Limits limits;
    limits.requests = 3;
    limits.q_tokens = 10;
    limits.q_len = 8;
    limits.kv_len = 128;
    limits.levels = 2;
    Plan plan({attention}, limits);
    Batch batch;
    batch.qo_indptr = qo_indptr.view();
    KvLevel prefix{shared_table.table, shared_len.view(), all_queries.view(), {}, {}};
    KvLevel own{own_table.table, own_lens.view(), {}, {}, {}};
    plan.update(batch, {PlanInput(attention, {prefix, own})});
    BatchTensors tensors(whole, dims, kDType);
    attention.run(plan, tensors.q.view(), {shared_cache.view(), own_cache.view()}, tensors.args());
    tensors.expect(whole, causal_semantics());
  } catch (const Error& error) {
    ASSERT_EQ(error.code(), ErrorCode::not_supported) << error.what();
    GTEST_SKIP() << error.what();
  }
}

// Decode and append context parallelism: rank r of `world` holds the keys whose block of `size`
// positions is r's turn.
class ContextParallel : public testing::TestWithParam<std::pair<std::int64_t, std::int64_t>> {};

TEST_P(ContextParallel, MergedShardsAreTheWhole) {
  const auto [world, size] = GetParam();
  constexpr DType kDType = DType::f32;
  const Dims dims{8, 2, 64, 64};
  Random random(23);
  std::vector<Request> whole;
  for (const auto& [q, kv] : {std::pair{1, 131}, {9, 70}, {1, 2}, {4, 4}, {1, 600}}) {
    whole.push_back(random_request(random, dims, q, kv, kDType, kDType, kDType));
  }
  Extents positions;
  Extents offsets;
  for (const Request& request : whole) {
    offsets.push_back(request.q_pos[0]);
    positions.insert(positions.end(), request.q_pos.begin(), request.q_pos.end());
  }
  const Tensor qo_indptr = int_tensor(query_indptr(whole));
  const Tensor q_pos = int_tensor(positions);
  const Tensor q_pos_offset = int_tensor(offsets);
  BatchTensors tensors(whole, dims, kDType);
  Tensor values(kDType, {tensors.rows, world, dims.qo_heads, dims.value_dim});
  Tensor lse(DType::f32, {tensors.rows, world, dims.qo_heads});
  const Attention attention(make_spec(dims, kDType, variants::causal(200)));
  Limits limits;
  limits.requests = 5;
  limits.q_tokens = 16;
  limits.q_len = 9;
  limits.kv_len = 600;
  Plan plan({attention}, limits);

  for (std::int64_t rank = 0; rank < world; ++rank) {
    SCOPED_TRACE(rank);
    std::vector<Request> shard;
    for (const Request& request : whole) {
      Request mine = request;
      mine.k.clear();
      mine.v.clear();
      mine.kv_pos.clear();
      for (const std::int64_t p : request.kv_pos) {
        if (p / size % world != rank) continue;
        const Request key = part_of(request, dims, p, p + 1);
        mine.k.insert(mine.k.end(), key.k.begin(), key.k.end());
        mine.v.insert(mine.v.end(), key.v.begin(), key.v.end());
        mine.kv_pos.push_back(p);
      }
      shard.push_back(mine);
    }
    const Table table = make_table(TableForm::padded, kv_lengths(shard), 16, random);
    Cache cache(CacheForm::separate_nhd, table.num_pages, 16, dims, kDType, kDType);
    fill_cache(cache, table, shard);
    const Tensor kv_lens = int_tensor(kv_lengths(shard));
    Batch batch;
    batch.qo_indptr = qo_indptr.view();
    batch.kv_lens = kv_lens.view();
    batch.interleave = {size, world, rank};
    if (rank % 2 == 0) {
      batch.q_pos = q_pos.view();
    } else {
      batch.q_pos_offset = q_pos_offset.view();
    }
    plan.update(batch, {PlanInput(attention, table.table)});
    // Each rank's own result is right as well: its keys at their positions.
    Semantics window = causal_semantics();
    window.mask = [](const Element& at) {
      return at.kv_pos <= at.q_pos && at.kv_pos >= at.q_pos - 200;
    };
    attention.run(plan, tensors.q.view(), cache.view(), tensors.args());
    tensors.expect(shard, window);

    RunArgs args;
    args.out = values.view().select(1, rank);
    args.lse = lse.view().select(1, rank);
    attention.run(plan, tensors.q.view(), cache.view(), args);
  }
  merge_states(values.view(), lse.view(), tensors.out.view(), tensors.lse.view());
  Semantics window = causal_semantics();
  window.mask = [](const Element& at) {
    return at.kv_pos <= at.q_pos && at.kv_pos >= at.q_pos - 200;
  };
  tensors.expect(whole, window);
}
INSTANTIATE_TEST_SUITE_P(Worlds, ContextParallel,
                         testing::Values(std::pair{1, 1}, std::pair{2, 1}, std::pair{4, 1},
                                         std::pair{4, 16}, std::pair{3, 5}, std::pair{2, 64}));

TEST(ContextParallelErrors, PositionsAreNeeded) {
  const Dims dims{2, 1, 16, 16};
  const Tensor qo_indptr = int_tensor({0, 1});
  const Tensor kv_lens = int_tensor({4});
  const Tensor pages = int_matrix(1, 1);
  const Attention attention(make_spec(dims, DType::f32, variants::causal()));
  Plan plan({attention}, Limits{1, 1, 1, 16});
  Batch batch;
  batch.qo_indptr = qo_indptr.view();
  batch.kv_lens = kv_lens.view();
  batch.interleave = {1, 2, 0};
  try {
    plan.update(batch, {PlanInput(attention, PageTable::padded(pages.view(), 16))});
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_NE(std::string(error.what()).find("q_pos"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace tilewright::test
