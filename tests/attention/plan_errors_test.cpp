// SPDX-License-Identifier: Apache-2.0
// Bad specs, plans, batches and page tables: the error's code, and a message that names the
// argument and its value.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <string>
#include <tuple>
#include <vector>

#include "attention/error_fixture.h"

namespace tilewright::test {
namespace {

TEST_F(AttentionErrors, TheGoodCallIsGood) {
  EXPECT_NO_THROW(update_and_run());
  args.lse = {};
  EXPECT_NO_THROW(update_and_run());
}

// Specs

TEST_F(AttentionErrors, SpecHeadCounts) {
  for (const auto& [qo, kv_heads, word] : {std::tuple{7, 2, "7"},
                                           {0, 2, "num_qo_heads"},
                                           {4, 0, "num_kv_heads"},
                                           {-4, 2, "-4"},
                                           {4, -2, "-2"},
                                           {2, 4, "num_qo_heads"}}) {
    AttentionSpec spec = make_spec(dims, DType::bf16, variants::causal());
    spec.num_qo_heads = qo;
    spec.num_kv_heads = kv_heads;
    expect_error(kInvalid, {word}, [&] { supports(Device{}, spec); });
    expect_error(kInvalid, {word}, [&] { Attention{spec}; });
  }
}

TEST_F(AttentionErrors, SpecHeadDims) {
  for (const int dim : {12, 584, 0, -8, 4, 577}) {
    AttentionSpec spec = make_spec(dims, DType::bf16, variants::causal());
    spec.head_dim = dim;
    expect_error(kInvalid, {"head_dim", std::to_string(dim)}, [&] { supports(Device{}, spec); });
    if (dim == 0) continue;  // of head_dim_vo: as head_dim
    spec.head_dim = 16;
    spec.head_dim_vo = dim;
    expect_error(kInvalid, {"head_dim_vo", std::to_string(dim)}, [&] { Attention{spec}; });
  }
}

TEST_F(AttentionErrors, SpecDTypes) {
  for (const DType dtype : {DType::i8, DType::i32, DType::i64, DType::u8}) {
    AttentionSpec spec = make_spec(dims, DType::bf16, variants::causal());
    spec.q_dtype = dtype;
    expect_error(kInvalid, {"q_dtype", dtype_name(dtype)}, [&] { Attention{spec}; });
    spec = make_spec(dims, DType::bf16, variants::causal());
    spec.kv_dtype = dtype;
    expect_error(kInvalid, {"kv_dtype", dtype_name(dtype)}, [&] { Attention{spec}; });
    spec = make_spec(dims, DType::bf16, variants::causal());
    spec.out_dtype = dtype;
    expect_error(kInvalid, {"out_dtype", dtype_name(dtype)}, [&] { Attention{spec}; });
  }
}

TEST_F(AttentionErrors, SpecVariant) {
  AttentionSpec spec = make_spec(dims, DType::bf16, variants::causal());
  spec.variant.logits = expr::kv_pos() <= expr::q_pos();
  expect_error(kInvalid, {"logits"}, [&] { Attention{spec}; });
  spec.variant.logits = {};
  spec.variant.mask = expr::kv_pos() + expr::q_pos();
  expect_error(kInvalid, {"mask"}, [&] { Attention{spec}; });
}

TEST_F(AttentionErrors, DeviceThatIsNotThere) {
  const AttentionSpec spec = make_spec(dims, DType::bf16, variants::causal());
  const Device cuda{DeviceType::cuda, 0};
  const Support support = supports(cuda, spec);
  if (support) GTEST_SKIP() << "this build has CUDA";
  EXPECT_THAT(support.reason, HasSubstr("cuda"));
  expect_error(ErrorCode::not_supported, {support.reason}, [&] { Attention(spec, cuda); });
}

// Plans

TEST_F(AttentionErrors, PlanLimits) {
  for (const auto& [bad, word] : {std::pair{Limits{-1, 8, 4, 16}, "requests"},
                                  {Limits{3, -1, 4, 16}, "q_tokens"},
                                  {Limits{3, 8, -1, 16}, "q_len"},
                                  {Limits{3, 8, 4, -1}, "kv_len"},
                                  {Limits{3, 8, 4, 16, 0}, "levels"}}) {
    expect_error(kInvalid, {word}, [&, l = bad] { Plan({attention}, l); });
    expect_error(kInvalid, {word}, [&, l = bad] { Plan::workspace_bytes({attention}, l); });
  }
  Limits negative_workers = limits;
  negative_workers.workers = -2;
  expect_error(kInvalid, {"workers", "-2"}, [&] { Plan({attention}, negative_workers); });
}

// More than there are addresses. Sanitizers end the program instead of raising bad_alloc.
TEST_F(AttentionErrors, MemoryThatIsNotThere) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "the sanitizer's allocator does not raise";
#else
  const Attention wide(make_spec({1024, 8, 576, 576}, DType::bf16, variants::causal()));
  Limits most;
  most.requests = most.q_tokens = most.q_len = most.kv_len = std::int64_t{1} << 30;
  most.levels = 8;
  expect_error(ErrorCode::out_of_memory, {"a plan of these limits needs a workspace of", "bytes"},
               [&] { Plan({wide}, most); });
  EXPECT_NO_THROW(update_and_run());
#endif
}

TEST_F(AttentionErrors, PlanAttentions) {
  expect_error(kInvalid, {"attentions"}, [&] { Plan({}, limits); });
  expect_error(kInvalid, {"attentions"}, [&] { Plan({attention, attention}, limits); });
}

TEST_F(AttentionErrors, Workspace) {
  const auto bytes = static_cast<std::int64_t>(Plan::workspace_bytes({attention}, limits));
  const Tensor space(DType::u8, {bytes + 256});
  const auto view = [&](std::int64_t begin, std::int64_t length) {
    // The tensor's data is 256-byte aligned.
    return space.view().slice(0, begin, begin + length);
  };
  ASSERT_EQ(reinterpret_cast<std::uintptr_t>(space.view().data) % 256, 0);
  EXPECT_NO_THROW(Plan({attention}, limits, view(0, bytes)));
  if (bytes > 0) {
    expect_error(kInvalid, {"workspace", std::to_string(bytes - 1), std::to_string(bytes)},
                 [&] { Plan({attention}, limits, view(0, bytes - 1)); });
  }
  expect_error(kInvalid, {"workspace", "256"}, [&] { Plan({attention}, limits, view(16, bytes)); });
  const Tensor floats(DType::f32, {bytes});
  expect_error(kInvalid, {"workspace", dtype_name(DType::u8)},
               [&] { Plan({attention}, limits, floats.view()); });
  TensorView foreign = view(0, bytes);
  foreign.device = {DeviceType::cuda, 0};
  expect_error(kInvalid, {"workspace", "cuda"}, [&] { Plan({attention}, limits, foreign); });
}

// Batches

TEST_F(AttentionErrors, QoIndptrValues) {
  for (const auto& [values, word] : {std::pair{Extents{1, 2, 4, 5}, "1"},
                                     {Extents{0, 3, 2, 5}, "2"},
                                     {Extents{0, -1, 2, 5}, "-1"}}) {
    qo_indptr = int_tensor(values);
    set_batch();
    expect_error(kInvalid, {"qo_indptr", word}, [&] { update(); });
  }
}

TEST_F(AttentionErrors, QoIndptrTensor) {
  batch.qo_indptr = {};
  expect_error(kInvalid, {"qo_indptr"}, [&] { update(); });
  const Tensor matrix = int_matrix(2, 2);
  batch.qo_indptr = matrix.view();
  expect_error(kInvalid, {"qo_indptr", "rank"}, [&] { update(); });
  const Tensor wide(DType::i64, {4});
  batch.qo_indptr = wide.view();
  expect_error(kInvalid, {"qo_indptr", dtype_name(DType::i32)}, [&] { update(); });
  batch.qo_indptr = qo_indptr.view();
  batch.qo_indptr.device = {DeviceType::cuda, 1};
  expect_error(kInvalid, {"qo_indptr", "cuda:1"}, [&] { update(); });
  const Tensor empty(DType::i32, {0});
  batch.qo_indptr = empty.view();
  expect_error(kInvalid, {"qo_indptr"}, [&] { update(); });
}

TEST_F(AttentionErrors, KvLens) {
  batch.kv_lens = {};
  expect_error(kInvalid, {"kv_lens"}, [&] { update(); });  // a padded table tells no lengths
  kv_lens = int_tensor({7, -9, 4});
  set_batch();
  expect_error(kInvalid, {"kv_lens", "-9"}, [&] { update(); });
  kv_lens = int_tensor({7, 9});
  set_batch();
  expect_error(kInvalid, {"kv_lens", "2", "3"}, [&] { update(); });
  const Tensor floats(DType::f32, {3});
  batch.kv_lens = floats.view();
  expect_error(kInvalid, {"kv_lens", dtype_name(DType::i32)}, [&] { update(); });
}

TEST_F(AttentionErrors, NumRequests) {
  for (const std::int64_t count : {-1, 4}) {
    const Tensor num_requests = int_tensor({count});
    batch.num_requests = num_requests.view();
    expect_error(kInvalid, {"num_requests", std::to_string(count)}, [&] { update(); });
  }
  const Tensor two = int_tensor({1, 1});
  batch.num_requests = two.view();
  expect_error(kInvalid, {"num_requests"}, [&] { update(); });
}

TEST_F(AttentionErrors, Positions) {
  const Tensor short_pos = int_tensor({0, 1, 2, 3});
  batch.q_pos = short_pos.view();
  expect_error(kInvalid, {"q_pos", "4", "5"}, [&] { update(); });
  const Tensor wide(DType::i64, {5});
  batch.q_pos = wide.view();
  expect_error(kInvalid, {"q_pos", dtype_name(DType::i32)}, [&] { update(); });
  batch.q_pos = {};
  const Tensor offsets = int_tensor({0, 1});
  batch.q_pos_offset = offsets.view();
  expect_error(kInvalid, {"q_pos_offset", "2", "3"}, [&] { update(); });
  const Tensor good_pos = int_tensor({0, 1, 2, 3, 4});
  const Tensor good_offsets = int_tensor({0, 1, 2});
  batch.q_pos = good_pos.view();
  batch.q_pos_offset = good_offsets.view();
  expect_error(kInvalid, {"q_pos", "q_pos_offset"}, [&] { update(); });
}

TEST_F(AttentionErrors, Interleave) {
  const Tensor offsets = int_tensor({0, 1, 2});
  batch.q_pos_offset = offsets.view();
  for (const KvInterleave bad :
       {KvInterleave{0, 2, 0}, KvInterleave{1, 0, 0}, KvInterleave{1, 2, 2}, KvInterleave{1, 2, -1},
        KvInterleave{std::int64_t{1} << 40, 2, 0}, KvInterleave{1, std::int64_t{1} << 31, 0}}) {
    batch.interleave = bad;
    expect_error(kInvalid, {"interleave"}, [&] { update(); });
  }
  // The shard tells positions; so would kv_pos.
  batch.interleave = {1, 2, 0};
  const Tensor kv_pos = int_tensor({0, 0, 0});
  KvLevel placed = level();
  placed.kv_pos = kv_pos.view();
  expect_error(kInvalid, {"levels[0].kv_pos", "interleave"},
               [&] { plan.update(batch, {PlanInput(attention, {placed}, plan_params)}); });
}

TEST_F(AttentionErrors, PositionsBeyond32Bits) {
  constexpr std::int64_t kLast = (std::int64_t{1} << 31) - 1;
  const Tensor offsets = int_tensor({0, kLast, 0});
  batch.q_pos_offset = offsets.view();
  expect_error(kInvalid, {"q_pos_offset[1]", "2^31"}, [&] { update(); });
  batch.q_pos_offset = {};
  const Tensor kv_pos = int_tensor({kLast, 0, 0});
  KvLevel placed = level();
  placed.kv_pos = kv_pos.view();
  expect_error(kInvalid, {"levels[0]", "row 0", "2^31"},
               [&] { plan.update(batch, {PlanInput(attention, {placed}, plan_params)}); });
  const Tensor zeros = int_tensor({0, 0, 0});
  batch.q_pos_offset = zeros.view();
  for (const KvInterleave far : {KvInterleave{1, kLast, 0}, KvInterleave{kLast, 2, 1}}) {
    batch.interleave = far;
    expect_error(kInvalid, {"levels[0]", "2^31"}, [&] { update(); });
  }
}

TEST_F(AttentionErrors, LimitsOfThePlan) {
  const auto expect_over = [&](const Limits& tight, const std::vector<std::string>& words) {
    SCOPED_TRACE(words[0]);
    Plan small({attention}, tight);
    expect_error(ErrorCode::limit_exceeded, words,
                 [&] { small.update(batch, {PlanInput(attention, table)}); });
  };
  expect_over({2, 8, 4, 16}, {"requests", "3", "2"});
  expect_over({3, 4, 4, 16}, {"q_tokens", "5", "4"});
  expect_over({3, 8, 2, 16}, {"q_len", "3", "2"});
  expect_over({3, 8, 4, 8}, {"kv_len", "9", "8"});
}

TEST_F(AttentionErrors, AFailedUpdateLeavesNothingToRun) {
  update();
  kv_lens = int_tensor({7, -99, 4});
  set_batch();
  expect_error(kInvalid, {"-99"}, [&] { update(); });
  expect_error(ErrorCode::invalid_state, {"update"}, [&] { run(); });
  kv_lens = int_tensor({7, 9, 4});
  set_batch();
  EXPECT_NO_THROW(update_and_run());
}

TEST_F(AttentionErrors, Inputs) {
  expect_error(kInvalid, {"inputs"}, [&] { plan.update(batch, {}); });
  const Attention other(make_spec(dims, DType::bf16, variants::full()));
  expect_error(ErrorCode::invalid_state, {"inputs", "attention"},
               [&] { plan.update(batch, {PlanInput(other, table)}); });
  expect_error(kInvalid, {"inputs"}, [&] {
    plan.update(batch, {PlanInput(attention, table), PlanInput(attention, table)});
  });
  expect_error(kInvalid, {"levels"},
               [&] { plan.update(batch, {PlanInput(attention, std::vector<KvLevel>{})}); });
}

TEST_F(AttentionErrors, MoreLevelsThanThePlanHas) {
  expect_error(ErrorCode::limit_exceeded, {"levels", "2", "1"}, [&] {
    plan.update(batch, {PlanInput(attention, {level(), level()})});
  });
}

TEST_F(AttentionErrors, RunBeforeUpdate) {
  expect_error(ErrorCode::invalid_state, {"update"}, [&] { run(); });
}

TEST_F(AttentionErrors, RunOfAnAttentionThePlanIsNotFor) {
  update();
  const Attention other(make_spec(dims, DType::bf16, variants::full()));
  expect_error(ErrorCode::invalid_state, {"attention"}, [&] { other.run(plan, query, kv, args); });
}

// Page tables

TEST_F(AttentionErrors, PageIds) {
  pages.set({1, 2}, 10);
  expect_error(kInvalid, {"10"}, [&] { update_and_run(); });
  pages.set({1, 2}, -3);
  expect_error(kInvalid, {"-3"}, [&] { update_and_run(); });
  pages.set({1, 2}, 6);
  EXPECT_NO_THROW(update_and_run());
  pages.set({1, 3}, 1'000'000);  // behind the row's length: nobody's business
  pages.set({2, 1}, -1);
  EXPECT_NO_THROW(update_and_run());
}

TEST_F(AttentionErrors, PaddedTable) {
  const Tensor narrow = zeros(DType::i32, {3, 2});
  table = PageTable::padded(narrow.view(), 4);
  expect_error(kInvalid, {"9", "8 tokens"}, [&] { update(); });
  const Tensor few = zeros(DType::i32, {2, 4});
  expect_error(kInvalid, {"2", "3"}, [&] {
    table = PageTable::padded(few.view(), 4);
    update();
  });
  for (const std::int64_t page_size : {std::int64_t{0}, std::int64_t{-4}}) {
    expect_error(kInvalid, {"page_size", std::to_string(page_size)}, [&] {
      table = PageTable::padded(pages.view(), page_size);
      update();
    });
  }
  const Tensor flat = int_tensor({0, 1, 2});
  expect_error(kInvalid, {"rank"}, [&] {
    table = PageTable::padded(flat.view(), 4);
    update();
  });
  const Tensor wide(DType::i64, {3, 4});
  expect_error(kInvalid, {dtype_name(DType::i32)}, [&] {
    table = PageTable::padded(wide.view(), 4);
    update();
  });
}

TEST_F(AttentionErrors, RowIds) {
  for (const std::int64_t bad : {3, -1}) {
    const Tensor ids = int_tensor({0, bad, 2});
    expect_error(kInvalid, {"row_ids", std::to_string(bad)}, [&] {
      table = PageTable::padded(pages.view(), 4, ids.view());
      update();
    });
  }
  const Tensor two = int_tensor({0, 1});
  expect_error(kInvalid, {"row_ids", "2", "3"}, [&] {
    table = PageTable::padded(pages.view(), 4, two.view());
    update();
  });
}

TEST_F(AttentionErrors, CsrIndptr) {
  const Tensor indices = int_tensor({0, 1, 2, 3, 4, 5});
  // The lengths 7, 9 and 4 need 2, 3 and 1 pages.
  for (const auto& [values, word] : {std::pair{Extents{-1, 1, 4, 5}, "-1"},
                                     {Extents{0, 3, 2, 6}, "2"},
                                     {Extents{0, 2, 5, 7}, "7"},
                                     {Extents{0, 1, 5, 6}, "7"},
                                     {Extents{0, 2, 5}, "3"}}) {
    const Tensor indptr = int_tensor(values);
    SCOPED_TRACE(testing::PrintToString(values));
    expect_error(kInvalid, {word}, [&] {
      table = PageTable::csr(indptr.view(), indices.view(), 4);
      update();
    });
  }
}

// Row r's pages are [indptr[r], indptr[r + 1]): a slice of a larger table is a table.
TEST_F(AttentionErrors, CsrIndptrMayStartAnywhere) {
  const Tensor indices = int_tensor({-1, 0, 1, 2, 3, 4, 5});
  const Tensor indptr = int_tensor({1, 3, 6, 7});
  table = PageTable::csr(indptr.view(), indices.view(), 4);
  EXPECT_NO_THROW(update_and_run());
}

TEST_F(AttentionErrors, LastPageLen) {
  const Tensor indices = int_tensor({0, 1, 2, 3, 4, 5});
  const Tensor indptr = int_tensor({0, 2, 5, 6});
  batch.kv_lens = {};
  for (const std::int64_t bad : {0, 5, -1}) {
    const Tensor last = int_tensor({3, bad, 4});
    expect_error(kInvalid, {"last_page_len", std::to_string(bad)}, [&] {
      table = PageTable::csr(indptr.view(), indices.view(), 4, last.view());
      update();
    });
  }
  const Tensor last = int_tensor({3, 1, 4});
  table = PageTable::csr(indptr.view(), indices.view(), 4, last.view());
  EXPECT_NO_THROW(update_and_run());
}

TEST_F(AttentionErrors, RaggedTable) {
  batch.kv_lens = {};
  for (const auto& [values, word] : {std::pair{Extents{0, 7, 6, 20}, "6"},
                                     {Extents{0, 7, 16}, "3"},
                                     {Extents{0, -1, 3, 4}, "-1"}}) {
    const Tensor indptr = int_tensor(values);
    expect_error(kInvalid, {"indptr", word}, [&] {
      table = PageTable::ragged(indptr.view());
      update();
    });
  }
  // More tokens than k and v have.
  const Tensor indptr = int_tensor({0, 7, 16, 20});
  table = PageTable::ragged(indptr.view());
  update();
  const Tensor tokens = zeros(DType::bf16, {19, 2, 16});
  kv = KvCache::separate(tokens.view(), tokens.view());
  expect_error(kInvalid, {"page 19", "19 pages"}, [&] { run(); });
}

}  // namespace
}  // namespace tilewright::test
