// SPDX-License-Identifier: Apache-2.0
// Acceptance of the API: batches as vLLM, SGLang and TVM/MLC really build them, passed on as they
// are.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <cmath>
#include <numeric>
#include <vector>

#include "support/batch.h"
#include "support/kv_forms.h"

namespace tilewright::test {
namespace {

Request grown(Random& random, const Request& request, const Dims& dims, DType dtype) {
  // One decode step later: the next token's query, and its key and value behind the others.
  Request next = random_request(random, dims, 1, request.kv_len() + 1, dtype, dtype, dtype);
  std::copy(request.k.begin(), request.k.end(), next.k.begin());
  std::copy(request.v.begin(), request.v.end(), next.v.begin());
  return next;
}

// vLLM: persistent buffers of the largest batch that a captured graph is padded to. Block table
// [max_num_reqs, max_blocks] whose unused entries are the null block 0, cache [2, blocks, block
// size, kv heads, head dim], rows of requests that are not there with no queries.
class VllmDecode : public testing::Test {
 protected:
  static constexpr std::int64_t kMaxRequests = 16;
  static constexpr std::int64_t kGraphSize = 8;  // requests and tokens of the captured graph
  static constexpr std::int64_t kMaxBlocks = 24;
  static constexpr std::int64_t kBlocks = 70;
  static constexpr std::int64_t kBlockSize = 16;
  static constexpr DType kDType = DType::bf16;

  VllmDecode()
      : block_table_(int_matrix(kMaxRequests, kMaxBlocks)),
        cache_(CacheForm::combined_nhd_kv0, kBlocks, kBlockSize, dims_, kDType, kDType) {
    for (std::int64_t r = 0; r < kMaxRequests; ++r) {
      for (std::int64_t c = 0; c < kMaxBlocks; ++c) block_table_.set({r, c}, 0);
    }
    for (const std::int64_t length : {37, 16, 1, 300, 15}) {
      live_.push_back(random_request(random_, dims_, 1, length, kDType, kDType, kDType));
    }
    limits_.requests = kGraphSize;
    limits_.q_tokens = kGraphSize;
    limits_.q_len = 1;
    limits_.kv_len = kMaxBlocks * kBlockSize;
  }

  void write_cache() {
    for (std::size_t r = 0; r < live_.size(); ++r) {
      for (std::int64_t key = 0; key < live_[r].kv_len(); ++key) {
        const auto row = static_cast<std::int64_t>(r);
        const std::int64_t column = key / kBlockSize;
        if (block_table_.get({row, column}) == 0) {
          block_table_.set({row, column}, static_cast<double>(next_block_++));
        }
        cache_.put(static_cast<std::int64_t>(block_table_.get({row, column})), key % kBlockSize,
                   live_[r], key);
      }
    }
  }

  Random random_{11};
  Dims dims_{8, 2, 64, 64};
  Tensor block_table_;
  Cache cache_;  // block 0 stays NaN
  std::int64_t next_block_ = 1;
  std::vector<Request> live_;
  Limits limits_;
};

TEST_F(VllmDecode, DummyRowsHaveNoQueries) {
  const Attention attention(make_spec(dims_, kDType, variants::causal()));
  Plan plan({attention}, limits_);
  plan.prepare();
  for (int step = 0; step < 4; ++step) {
    SCOPED_TRACE(step);
    write_cache();
    Extents indptr = query_indptr(live_);
    indptr.resize(kGraphSize + 1, indptr.back());
    Extents lengths = kv_lengths(live_);
    lengths.resize(kGraphSize, 0);
    const Tensor qo_indptr = int_tensor(indptr);
    const Tensor seq_lens = int_tensor(lengths);
    Batch batch;
    batch.qo_indptr = qo_indptr.view();
    batch.kv_lens = seq_lens.view();
    const TensorView table = block_table_.view().slice(0, 0, kGraphSize);
    plan.update(batch, {PlanInput(attention, PageTable::padded(table, kBlockSize))});

    for (const Padding padding : {Padding::zero, Padding::keep}) {
      BatchTensors tensors(live_, dims_, kDType,
                           kGraphSize - static_cast<std::int64_t>(live_.size()));
      RunArgs args = tensors.args();
      args.padding = padding;
      attention.run(plan, tensors.q.view(), cache_.view(), args);
      tensors.expect(live_, causal_semantics());
      if (padding == Padding::zero) {
        tensors.expect_padding_zero();
      } else {
        tensors.expect_padding_kept();
      }
    }
    for (Request& request : live_) request = grown(random_, request, dims_, kDType);
    if (step == 1) live_.pop_back();
  }
}

TEST_F(VllmDecode, NumberOfLiveRequestsInATensor) {
  const Attention attention(make_spec(dims_, kDType, variants::causal()));
  Plan plan({attention}, limits_);
  write_cache();
  // Behind the live requests stands what the batch before left there.
  Extents indptr = query_indptr(live_);
  Extents lengths = kv_lengths(live_);
  const Tensor num_requests = int_tensor({static_cast<std::int64_t>(live_.size())});
  indptr.resize(kGraphSize + 1, 3);
  lengths.resize(kGraphSize, 999'999);
  const Tensor qo_indptr = int_tensor(indptr);
  const Tensor seq_lens = int_tensor(lengths);
  Batch batch;
  batch.qo_indptr = qo_indptr.view();
  batch.kv_lens = seq_lens.view();
  batch.num_requests = num_requests.view();
  const TensorView table = block_table_.view().slice(0, 0, kGraphSize);
  plan.update(batch, {PlanInput(attention, PageTable::padded(table, kBlockSize))});
  BatchTensors tensors(live_, dims_, kDType, 3);
  RunArgs args = tensors.args();
  args.padding = Padding::zero;
  attention.run(plan, tensors.q.view(), cache_.view(), args);
  tensors.expect(live_, causal_semantics());
  tensors.expect_padding_zero();
}

TEST_F(VllmDecode, ABatchWithNothingLive) {
  const Attention attention(make_spec(dims_, kDType, variants::causal()));
  Plan plan({attention}, limits_);
  const Tensor zeros = int_tensor(Extents(kGraphSize + 1, 0));
  const Tensor lengths = int_tensor(Extents(kGraphSize, 0));
  Batch batch;
  batch.qo_indptr = zeros.view();
  batch.kv_lens = lengths.view();
  const TensorView table = block_table_.view().slice(0, 0, kGraphSize);
  plan.update(batch, {PlanInput(attention, PageTable::padded(table, kBlockSize))});
  BatchTensors tensors({}, dims_, kDType, kGraphSize);
  RunArgs args = tensors.args();
  args.padding = Padding::zero;
  attention.run(plan, tensors.q.view(), cache_.view(), args);
  tensors.expect_padding_zero();
}

// SGLang: req_to_token [pool, max context] holds a slot for each token, requests are rows of it by
// req_pool_indices, the cache is two tensors [slots, heads, dim] and slot 0 is for padding.
class SglangSlots : public testing::TestWithParam<bool> {};

TEST_P(SglangSlots, RowsByPoolIndex) {
  const bool decode = GetParam();
  constexpr std::int64_t kPool = 10;
  constexpr std::int64_t kContext = 96;
  constexpr std::int64_t kSlots = 400;
  const Dims dims{6, 2, 32, 32};
  Random random(12);
  std::vector<Request> requests;
  for (const auto& [q, kv] : {std::pair{33, 90}, {1, 64}, {5, 5}, {20, 65}}) {
    requests.push_back(
        random_request(random, dims, decode ? 1 : q, kv, DType::f16, DType::f16, DType::f16));
  }
  Extents slots(kSlots - 1);
  std::iota(slots.begin(), slots.end(), 1);
  random.shuffle(slots);
  Tensor req_to_token = int_matrix(kPool, kContext, 16);
  const Extents pool_indices = {7, 2, 9, 0};
  Cache cache(CacheForm::tokens_nhd, kSlots, 1, dims, DType::f16, DType::f16);
  for (std::size_t r = 0; r < requests.size(); ++r) {
    for (std::int64_t key = 0; key < requests[r].kv_len(); ++key) {
      req_to_token.set({pool_indices[r], key}, static_cast<double>(slots.back()));
      cache.put(slots.back(), 0, requests[r], key);
      slots.pop_back();
    }
  }
  const Tensor req_pool_indices = int_tensor(pool_indices);
  const Tensor qo_indptr = int_tensor(query_indptr(requests));
  const Tensor seq_lens = int_tensor(kv_lengths(requests));
  const Attention attention(make_spec(dims, DType::f16, variants::causal(-1, 30.0)));
  Limits limits;
  limits.requests = 4;
  limits.q_tokens = 64;
  limits.q_len = 40;
  limits.kv_len = kContext;
  Plan plan({attention}, limits);
  Batch batch;
  batch.qo_indptr = qo_indptr.view();
  batch.kv_lens = seq_lens.view();
  plan.update(
      batch,
      {PlanInput(attention, PageTable::token_slots(req_to_token.view(), req_pool_indices.view()))});
  BatchTensors tensors(requests, dims, DType::f16);
  attention.run(plan, tensors.q.view(), cache.view(), tensors.args());
  Semantics semantics = causal_semantics();
  semantics.logit = [](double logit, const Element&) { return 30 * std::tanh(logit / 30); };
  tensors.expect(requests, semantics);
}
INSTANTIATE_TEST_SUITE_P(Batches, SglangSlots, testing::Bool(),
                         [](const testing::TestParamInfo<bool>& value) {
                           return value.param ? std::string("Decode") : std::string("Extend");
                         });

// TVM / MLC: one tensor [pages, 2, heads, page, dim], CSR with last page lengths, and the position
// of each query given.
TEST(MlcPagedCache, CsrAndExplicitPositions) {
  const Dims dims{12, 4, 64, 64};
  Random random(13);
  std::vector<Request> requests;
  for (const auto& [q, kv] : {std::pair{1, 17}, {8, 48}, {0, 5}, {2, 16}, {1, 200}}) {
    requests.push_back(random_request(random, dims, q, kv, DType::f16, DType::f16, DType::f16));
  }
  // The last query tokens of a draft may stand anywhere: here the second half goes back by two.
  Extents positions;
  for (Request& request : requests) {
    for (std::int64_t i = 0; i < request.q_len(); ++i) {
      if (i >= request.q_len() / 2 && request.q_len() > 1) request.q_pos[i] -= 2;
      positions.push_back(request.q_pos[i]);
    }
  }
  const Extents lengths = kv_lengths(requests);
  const Table table = make_table(TableForm::csr_last_page_len, lengths, 16, random);
  Cache cache(CacheForm::combined_hnd, table.num_pages, 16, dims, DType::f16, DType::f16);
  fill_cache(cache, table, requests);
  const Tensor qo_indptr = int_tensor(query_indptr(requests));
  const Tensor q_pos = int_tensor(positions);
  const Attention attention(make_spec(dims, DType::f16, variants::causal()));
  Limits limits;
  limits.requests = 5;
  limits.q_tokens = 12;
  limits.q_len = 8;
  limits.kv_len = 200;
  Plan plan({attention}, limits);
  Batch batch;
  batch.qo_indptr = qo_indptr.view();
  batch.q_pos = q_pos.view();
  plan.update(batch, {PlanInput(attention, table.table)});
  BatchTensors tensors(requests, dims, DType::f16);
  attention.run(plan, tensors.q.view(), cache.view(), tensors.args());
  tensors.expect(requests, causal_semantics());
}

}  // namespace
}  // namespace tilewright::test
