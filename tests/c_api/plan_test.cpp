// SPDX-License-Identifier: Apache-2.0
// Plans through the C API: the workspace, what they tell, block structures, and errors by path.
#include <cmath>

#include "c_api/c_support.h"
#include "support/plan_pieces.h"
#include "support/shared_prefix.h"
#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

class CPlan : public testing::Test {
 protected:
  CPlan() { c_plan = make_plan(c_attention.get(), b.limits()); }

  tw_status update() { return tw_plan_update(c_plan.get(), &batch, &input.get(), 1, nullptr); }
  tw_status run() {
    const tw_tensor q = to_c(b.tensors.q.view());
    const tw_kv_cache kv = to_c(b.cache.view());
    return tw_attention_run(c_attention.get(), c_plan.get(), &q, &kv, 1, &args.get());
  }
  std::vector<std::uint8_t> snapshot() const { return b.tensors.out.snapshot(); }

  const Dims dims{4, 2, 32, 32};
  SimpleBatch b{dims, DType::f32, {{1, 300}, {20, 90}, {0, 7}, {1, 0}, {1, 33}}, 16, 3};
  const Attention attention{make_spec(dims, DType::f32, variants::causal(30))};
  Plan plan{{attention}, b.limits()};
  AttentionHandle c_attention = make_attention(attention.spec());
  PlanHandle c_plan;
  tw_batch batch = to_c(b.batch());
  CInput input{b.inputs(attention)[0], c_attention.get()};
  CRunArgs args{b.tensors.args()};
};

TEST_F(CPlan, WorkspaceOfTheCaller) {
  const tw_attention* list = c_attention.get();
  const tw_limits limits = to_c(b.limits());
  std::size_t bytes = 0;
  ASSERT_OK(tw_plan_workspace_bytes(&list, 1, &limits, &bytes));
  EXPECT_EQ(bytes, Plan::workspace_bytes({attention}, b.limits()));
  ASSERT_OK(update());
  ASSERT_OK(run());
  const auto expected = snapshot();
  b.tensors.out.refill();

  const Tensor space(DType::u8, {static_cast<std::int64_t>(bytes)});
  tw_tensor workspace = to_c(space.view());
  PlanHandle in_workspace;
  ASSERT_OK(tw_plan_create(&list, 1, &limits, &workspace, in_workspace.target()));
  c_plan = std::move(in_workspace);
  ASSERT_OK(tw_plan_prepare(c_plan.get()));
  ASSERT_OK(update());
  ASSERT_OK(run());
  EXPECT_TRUE(snapshot() == expected);
  EXPECT_TRUE(space.guards_intact());
  --workspace.shape[0];
  PlanHandle small;
  expect_invalid(tw_plan_create(&list, 1, &limits, &workspace, small.target()), {"workspace has"});
  EXPECT_EQ(small.get(), nullptr);
}

TEST_F(CPlan, TellsWhatCppTells) {
  plan.update(b.batch(), b.inputs(attention));
  ASSERT_OK(update());
  const PlanStats expected = plan.stats(attention);
  auto stats = sized<tw_plan_stats>();
  ASSERT_OK(tw_plan_get_stats(c_plan.get(), c_attention.get(), &stats));
  EXPECT_GT(stats.blocks, 0);
  EXPECT_GT(stats.skipped_blocks, 0);
  EXPECT_EQ(stats.tiles, expected.tiles);
  EXPECT_EQ(stats.blocks, expected.blocks);
  EXPECT_EQ(stats.full_blocks, expected.full_blocks);
  EXPECT_EQ(stats.skipped_blocks, expected.skipped_blocks);
  EXPECT_EQ(stats.split_tiles, expected.split_tiles);
  EXPECT_EQ(stats.kv_bytes, expected.kv_bytes);
  EXPECT_EQ(stats.balance, expected.balance);
  EXPECT_EQ(stats.folded_rows, expected.folded_rows);

  auto limits = sized<tw_limits>();
  ASSERT_OK(tw_plan_get_limits(c_plan.get(), &limits));
  EXPECT_EQ(limits.requests, 5);
  EXPECT_EQ(limits.q_tokens, b.limits().q_tokens);
  EXPECT_EQ(limits.q_len, 20);
  EXPECT_EQ(limits.kv_len, 300);
  EXPECT_EQ(limits.levels, 1);
  EXPECT_EQ(limits.determinism, TW_REPEATABLE);

  const std::vector<PlanPiece> pieces = plan.pieces(attention);
  ASSERT_GT(pieces.size(), 2);
  std::vector<tw_plan_piece> got(pieces.size() + 3);
  got[0].size = sizeof(tw_plan_piece);
  std::size_t count = 0;
  ASSERT_OK(tw_plan_get_pieces(c_plan.get(), c_attention.get(), got.data(), got.size(), &count));
  ASSERT_EQ(count, pieces.size());
  for (std::size_t i = 0; i < count; ++i) {
    EXPECT_EQ(got[i].worker, pieces[i].worker);
    EXPECT_EQ(got[i].level, pieces[i].level);
    EXPECT_EQ(got[i].row, pieces[i].row);
    EXPECT_EQ(got[i].request, pieces[i].request);
    EXPECT_EQ(got[i].kv_head, pieces[i].kv_head);
    EXPECT_EQ(got[i].tile, pieces[i].tile);
    EXPECT_EQ(got[i].first_block, pieces[i].first_block);
    EXPECT_EQ(got[i].num_blocks, pieces[i].num_blocks);
    EXPECT_EQ(got[i].start, pieces[i].start);
    EXPECT_EQ(got[i].cost, pieces[i].cost);
  }
  EXPECT_EQ(got[count].size, 0);
  // Too little room, or none: the count is still told.
  ASSERT_OK(tw_plan_get_pieces(c_plan.get(), c_attention.get(), nullptr, 0, &count));
  EXPECT_EQ(count, pieces.size());
  got[1].cost = -1;
  ASSERT_OK(tw_plan_get_pieces(c_plan.get(), c_attention.get(), got.data(), 1, &count));
  EXPECT_EQ(got[1].cost, -1);

  std::vector<std::int32_t> words(7, 77);
  ASSERT_OK(tw_plan_get_status(c_plan.get(), words.data(), words.size(), &count));
  EXPECT_EQ(count, 5);
  EXPECT_THAT(words, testing::ElementsAre(0, 0, 0, 0, 0, 77, 77));
  ASSERT_OK(tw_plan_get_status(c_plan.get(), nullptr, 0, &count));
}

TEST_F(CPlan, StatusWordsWithoutWaiting) {
  std::vector<std::int32_t> memory(7, 77);
  tw_tensor words = to_c(TensorView(memory.data(), DType::i32, {7}));
  expect_failed(tw_plan_copy_status(c_plan.get(), &words, nullptr), TW_INVALID_STATE,
                {"plan has no batch"});
  ASSERT_OK(update());
  ASSERT_OK(tw_plan_copy_status(c_plan.get(), &words, nullptr));
  EXPECT_THAT(memory, testing::ElementsAre(0, 0, 0, 0, 0, 77, 77));
  words.shape[0] = 4;
  expect_invalid(tw_plan_copy_status(c_plan.get(), &words, nullptr), {"words is", "5 requests"});

  const char* text = nullptr;
  ASSERT_OK(tw_describe_status(TW_REQUEST_KV_LEN | TW_REQUEST_PAGE, &text));
  EXPECT_EQ(text, describe_status(6));
  EXPECT_THAT(text, testing::HasSubstr("kv_len"));
  EXPECT_EQ(TW_REQUEST_BLOCKS, static_cast<int>(RequestStatus::blocks));
  EXPECT_EQ(TW_REQUEST_NUM_REQUESTS, static_cast<int>(RequestStatus::num_requests));

  std::int32_t debug = -1;
  ASSERT_OK(tw_plan_get_debug(c_plan.get(), &debug));
  EXPECT_EQ(debug, 0);
  ASSERT_OK(tw_plan_set_debug(c_plan.get(), 1));
  ASSERT_OK(tw_plan_get_debug(c_plan.get(), &debug));
  EXPECT_EQ(debug, 1);
  expect_invalid(tw_plan_set_debug(c_plan.get(), 2), {"debug is 2"});
  ASSERT_OK(update());
  ASSERT_OK(run());
}

// One update for several attentions, in any order; each with parameters of its own.
TEST_F(CPlan, SeveralAttentions) {
  Variant windows = variants::causal();
  windows.mask = windows.mask &&
                 expr::kv_pos() >
                     expr::q_pos() - Param::integer("a_window_with_a_long_name", 1)(expr::batch());
  const Tensor window = int_tensor({3, 50, 7, 9, 11});
  const std::vector<ParamValue> params = {{"a_window_with_a_long_name", window.view()}};
  const Attention other(make_spec(dims, DType::f32, windows));
  const AttentionHandle c_other = make_attention(other.spec());
  const std::array<const tw_attention*, 2> list = {c_attention.get(), c_other.get()};
  const tw_limits limits = to_c(b.limits());
  PlanHandle both;
  ASSERT_OK(tw_plan_create(list.data(), 2, &limits, nullptr, both.target()));
  Plan alone({other}, b.limits());
  alone.update(b.batch(), b.inputs(other, params));
  b.run(alone, other, b.tensors.args());
  const auto expected = snapshot();

  CInput second(b.inputs(other, params)[0], c_other.get());
  for (const bool swapped : {false, true, false}) {
    std::array<tw_plan_input, 2> inputs = {input.get(), second.get()};
    if (swapped) std::swap(inputs[0], inputs[1]);
    ASSERT_OK(tw_plan_update(both.get(), &batch, inputs.data(), 2, nullptr));
    b.tensors.out.refill();
    const tw_tensor q = to_c(b.tensors.q.view());
    const tw_kv_cache kv = to_c(b.cache.view());
    ASSERT_OK(tw_attention_run(c_other.get(), both.get(), &q, &kv, 1, &args.get()));
    EXPECT_TRUE(snapshot() == expected);
  }
  std::array<tw_plan_input, 2> inputs = {input.get(), input.get()};
  expect_invalid(tw_plan_update(both.get(), &batch, inputs.data(), 2, nullptr),
                 {"inputs[1]", "each once"});
  expect_invalid(tw_plan_update(both.get(), &batch, inputs.data(), 1, nullptr),
                 {"num_inputs is 1", "2"});
}

TEST_F(CPlan, States) {
  expect_failed(run(), TW_INVALID_STATE, {"plan has no batch"});
  auto stats = sized<tw_plan_stats>();
  expect_failed(tw_plan_get_stats(c_plan.get(), c_attention.get(), &stats), TW_INVALID_STATE, {});
  ASSERT_OK(update());
  ASSERT_OK(run());
  // An update that fails, here or in C++, leaves no batch behind.
  batch.size = 1;
  expect_invalid(update(), {"batch.size is 1"});
  expect_failed(run(), TW_INVALID_STATE, {"tw_plan_update() failed"});
  expect_failed(tw_plan_get_stats(c_plan.get(), c_attention.get(), &stats), TW_INVALID_STATE, {});
  batch = to_c(b.batch());
  ASSERT_OK(update());
  ASSERT_OK(run());
  batch.kv_lens.shape[0] = 2;
  expect_invalid(update(), {"kv_lens"});
  expect_failed(run(), TW_INVALID_STATE, {});
  batch = to_c(b.batch());
  ASSERT_OK(update());
  // An attention of nobody's plan; equal, but not the same.
  const AttentionHandle other = make_attention(attention.spec());
  const tw_tensor q = to_c(b.tensors.q.view());
  const tw_kv_cache kv = to_c(b.cache.view());
  expect_failed(tw_attention_run(other.get(), c_plan.get(), &q, &kv, 1, &args.get()),
                TW_INVALID_STATE, {"not made for this attention"});
  input.get().attention = other.get();
  expect_failed(tw_plan_update(c_plan.get(), &batch, &input.get(), 1, nullptr), TW_INVALID_STATE,
                {"inputs[0]"});
}

TEST_F(CPlan, LimitsAreExceeded) {
  Limits small = b.limits();
  small.kv_len = 299;
  c_plan = make_plan(c_attention.get(), small);
  expect_failed(update(), TW_LIMIT_EXCEEDED, {"299"});
}

TEST_F(CPlan, HandlesOutliveWhatTheyWereMadeFrom) {
  ASSERT_OK(update());
  ASSERT_OK(run());
  const auto expected = snapshot();
  b.tensors.out.refill();
  // The plan keeps its attentions: its other functions need none.
  const AttentionHandle kept = std::move(c_attention);
  c_attention = make_attention(attention.spec());
  const PlanHandle survivor = make_plan(c_attention.get(), b.limits());
  c_attention = AttentionHandle();
  EXPECT_OK(tw_plan_prepare(survivor.get()));
  const tw_tensor q = to_c(b.tensors.q.view());
  const tw_kv_cache kv = to_c(b.cache.view());
  ASSERT_OK(tw_attention_run(kept.get(), c_plan.get(), &q, &kv, 1, &args.get()));
  EXPECT_TRUE(snapshot() == expected);
}

TEST_F(CPlan, ErrorsNameWhereTheyAre) {
  const auto refused = [&](const std::vector<std::string>& words, const auto& change) {
    CInput good(b.inputs(attention)[0], c_attention.get());
    change(good);
    expect_invalid(tw_plan_update(c_plan.get(), &batch, &good.get(), 1, nullptr), words);
  };
  refused({"inputs[0].size is 5"}, [](CInput& i) { i.get().size = 5; });
  refused({"inputs[0].attention is NULL"}, [](CInput& i) { i.get().attention = nullptr; });
  refused({"inputs[0].levels is NULL"}, [](CInput& i) { i.get().levels = nullptr; });
  refused({"inputs[0].num_levels is 5000"}, [](CInput& i) { i.get().num_levels = 5000; });
  refused({"levels is empty"}, [](CInput& i) { i.get().num_levels = 0; });
  refused({"inputs[0].levels[0].size is 0"}, [](CInput& i) { i.level(0).size = 0; });
  refused({"inputs[0].levels[0].table is NULL"}, [](CInput& i) { i.level(0).table = nullptr; });
  refused({"inputs[0].levels[0].kv_lens.rank is 9"},
          [](CInput& i) { i.level(0).kv_lens.rank = 9; });
  refused({"inputs[0].levels[0].table.form is 0"}, [](CInput& i) { i.table(0).form = 0; });
  refused({"inputs[0].levels[0].table.form is 5"}, [](CInput& i) { i.table(0).form = 5; });
  refused({"inputs[0].levels[0].table.indices.dtype is 99"},
          [](CInput& i) { i.table(0).indices.dtype = 99; });
  refused({"block_table is missing"}, [](CInput& i) { i.table(0).indices = {}; });
  refused({"page_size is 2000"}, [](CInput& i) { i.table(0).page_size = 2000; });
  refused({"inputs[0].params is NULL"}, [](CInput& i) { i.get().num_params = 1; });
  tw_param unknown = {"nobody", 1, {}};
  refused({"there is no parameter \"nobody\""}, [&](CInput& i) {
    i.get().params = &unknown;
    i.get().num_params = 1;
  });
  unknown.name = nullptr;
  refused({"inputs[0].params[0].name is NULL"}, [&](CInput& i) {
    i.get().params = &unknown;
    i.get().num_params = 1;
  });
  auto blocks = sized<tw_block_structure>();
  refused({"inputs[0].blocks.indptr is missing"}, [&](CInput& i) { i.get().blocks = &blocks; });
  ASSERT_OK(update());

  const auto run_refused = [&](const std::vector<std::string>& words, const auto& change) {
    CRunArgs good(b.tensors.args());
    change(good);
    const tw_tensor q = to_c(b.tensors.q.view());
    const tw_kv_cache kv = to_c(b.cache.view());
    expect_invalid(tw_attention_run(c_attention.get(), c_plan.get(), &q, &kv, 1, &good.get()),
                   words);
  };
  run_refused({"args.size is 7"}, [](CRunArgs& a) { a.get().size = 7; });
  run_refused({"out is missing"}, [](CRunArgs& a) { a.get().out = {}; });
  run_refused({"args.lse.shape[0] is -1"}, [](CRunArgs& a) { a.get().lse.shape[0] = -1; });
  run_refused({"args.padding is 2"}, [](CRunArgs& a) { a.get().padding = 2; });
  run_refused({"args.k_scale.tensor.rank is 8"}, [](CRunArgs& a) {
    a.get().k_scale = &a.scale(1);
    a.scale(1).tensor.rank = 8;
  });
  run_refused({"args.params is NULL"}, [](CRunArgs& a) {
    a.get().params = nullptr;
    a.get().num_params = 1;
  });
  run_refused({"num_params is 9999"}, [](CRunArgs& a) { a.get().num_params = 9999; });
  const float cap = 3;
  run_refused({"logits_soft_cap is 3"}, [&](CRunArgs& a) { a.get().logits_soft_cap = &cap; });
  const tw_tensor q = to_c(b.tensors.q.view());
  std::array<tw_kv_cache, 1> kv = {to_c(b.cache.view())};
  expect_invalid(tw_attention_run(c_attention.get(), c_plan.get(), &q, kv.data(), 0, &args.get()),
                 {"kv has 0 levels"});
  kv[0].v.device.type = 3;
  expect_invalid(tw_attention_run(c_attention.get(), c_plan.get(), &q, kv.data(), 1, &args.get()),
                 {"kv[0].v.device.type is 3"});
}

TEST_F(CPlan, LimitsThatCannotBe) {
  const tw_attention* list = c_attention.get();
  std::size_t bytes = 0;
  tw_limits limits = to_c(b.limits());
  limits.determinism = 2;
  expect_invalid(tw_plan_workspace_bytes(&list, 1, &limits, &bytes), {"limits.determinism is 2"});
  limits = to_c(b.limits());
  limits.block_structures = 2;
  expect_invalid(tw_plan_workspace_bytes(&list, 1, &limits, &bytes),
                 {"limits.block_structures is 2"});
  limits = to_c(b.limits());
  limits.requests = 0;
  expect_invalid(tw_plan_workspace_bytes(&list, 1, &limits, &bytes), {"limits.requests is 0"});
  limits = to_c(b.limits());
  limits.levels = 0;  // as in C++ where it is left out
  EXPECT_OK(tw_plan_workspace_bytes(&list, 1, &limits, &bytes));
  expect_invalid(tw_plan_workspace_bytes(&list, 0, &limits, &bytes), {"attentions is empty"});
}

// Shards of a context-parallel cache, joined, are the whole.
TEST(CBatch, PositionsAndInterleave) {
  const Dims dims{4, 2, 32, 32};
  SimpleBatch b(dims, DType::f32, {{3, 64}}, 16, 9);
  const Attention attention(make_spec(dims, DType::f32, variants::causal()));
  const AttentionHandle c_attention = make_attention(attention.spec());
  const Tensor offset = int_tensor({70});
  Batch batch = b.batch();
  batch.q_pos_offset = offset.view();
  batch.interleave = {16, 2, 1};
  Plan plan({attention}, b.limits());
  plan.update(batch, b.inputs(attention));
  b.run(plan, attention, b.tensors.args());
  const auto expected = b.tensors.out.snapshot();
  b.tensors.out.refill();

  const PlanHandle c_plan = make_plan(c_attention.get(), b.limits());
  tw_batch c_batch = to_c(batch);
  CInput input(b.inputs(attention)[0], c_attention.get());
  ASSERT_OK(tw_plan_update(c_plan.get(), &c_batch, &input.get(), 1, nullptr));
  const tw_tensor q = to_c(b.tensors.q.view());
  const tw_kv_cache kv = to_c(b.cache.view());
  CRunArgs args(b.tensors.args());
  ASSERT_OK(tw_attention_run(c_attention.get(), c_plan.get(), &q, &kv, 1, &args.get()));
  EXPECT_TRUE(b.tensors.out.snapshot() == expected);
  c_batch.interleave_rank = 2;
  expect_invalid(tw_plan_update(c_plan.get(), &c_batch, &input.get(), 1, nullptr), {"rank"});
}

TEST(CBlocks, MadeUsedAndGivenBack) {
  const Dims dims{4, 2, 32, 32};
  SimpleBatch b(dims, DType::f32, {{200, 200}, {1, 90}}, 16, 5);
  Variant variant;
  variant.mask = mod(floor_div(expr::kv_pos(), 64) + floor_div(expr::q_pos(), 64),
                     Param::integer("stride_of_blocks")()) == 0;
  const std::vector<ParamValue> params = {{"stride_of_blocks", 2.0}};
  const Attention attention(make_spec(dims, DType::f32, variant));
  const BlockStructure made = block_structure(variant, b.batch(), params);
  Plan plan({attention}, b.limits());
  std::vector<PlanInput> inputs = b.inputs(attention, params);
  inputs[0].blocks = made;
  plan.update(b.batch(), inputs);
  b.run(plan, attention, b.tensors.args());
  const auto expected = b.tensors.out.snapshot();
  b.tensors.out.refill();

  const AttentionHandle c_attention = make_attention(attention.spec());
  const VariantHandle c_variant = make_variant_handle(variant);
  const PlanHandle c_plan = make_plan(c_attention.get(), b.limits());
  const tw_batch batch = to_c(b.batch());
  auto blocks = sized<tw_block_structure>();
  BlockMemoryHandle memory;
  const std::vector<tw_param> c_params = to_c(params);
  ASSERT_OK(tw_block_structure_make(c_variant.get(), &batch, c_params.data(), c_params.size(), 0, 0,
                                    0, 0, &blocks, memory.target()));
  EXPECT_EQ(blocks.q_block, 64);
  EXPECT_EQ(blocks.kv_block, 64);
  EXPECT_EQ(blocks.num_kv_heads, 1);
  EXPECT_EQ(blocks.indices.shape[0], made.indices.shape[0]);
  EXPECT_EQ(blocks.memory, memory.get());
  CInput input(b.inputs(attention, params)[0], c_attention.get());
  input.get().blocks = &blocks;
  ASSERT_OK(tw_plan_update(c_plan.get(), &batch, &input.get(), 1, nullptr));
  memory = BlockMemoryHandle();  // the plan keeps what it needs
  const tw_tensor q = to_c(b.tensors.q.view());
  const tw_kv_cache kv = to_c(b.cache.view());
  CRunArgs args(b.tensors.args());
  ASSERT_OK(tw_attention_run(c_attention.get(), c_plan.get(), &q, &kv, 1, &args.get()));
  EXPECT_TRUE(b.tensors.out.snapshot() == expected);
  auto stats = sized<tw_plan_stats>();
  ASSERT_OK(tw_plan_get_stats(c_plan.get(), c_attention.get(), &stats));
  EXPECT_EQ(stats.skipped_blocks, plan.stats(attention).skipped_blocks);
  EXPECT_GT(stats.skipped_blocks, 0);

  // By the caller's own tensors.
  blocks = sized<tw_block_structure>();
  blocks.q_block = made.q_block;
  blocks.kv_block = made.kv_block;
  blocks.request_rows = to_c(made.request_rows);
  blocks.indptr = to_c(made.indptr);
  blocks.indices = to_c(made.indices);
  blocks.full = to_c(made.full);
  ASSERT_OK(tw_plan_update(c_plan.get(), &batch, &input.get(), 1, nullptr));
  b.tensors.out.refill();
  ASSERT_OK(tw_attention_run(c_attention.get(), c_plan.get(), &q, &kv, 1, &args.get()));
  EXPECT_TRUE(b.tensors.out.snapshot() == expected);

  BlockMemoryHandle none;
  expect_invalid(tw_block_structure_make(c_variant.get(), &batch, nullptr, 0, 64, 64, 0, 0, &blocks,
                                         none.target()),
                 {"stride_of_blocks"});
  EXPECT_EQ(none.get(), nullptr);
}

}  // namespace
}  // namespace tilewright::test
