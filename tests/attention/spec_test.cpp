// SPDX-License-Identifier: Apache-2.0
// Specs and attentions as values: equality, defaults, support; plans that are shared, moved and
// used side by side.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <thread>
#include <vector>

#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

AttentionSpec small_spec() {
  return make_spec({4, 2, 32, 32}, DType::bf16, variants::causal());
}

TEST(Spec, DefaultsAreFilledIn) {
  AttentionSpec spec;
  spec.num_qo_heads = 12;
  spec.num_kv_heads = 4;
  spec.head_dim = 64;
  EXPECT_EQ(spec.value_dim(), 64);
  EXPECT_EQ(spec.group_size(), 3);
  EXPECT_EQ(spec.value_dtype(), DType::bf16);
  EXPECT_EQ(spec.output_dtype(), DType::bf16);
  spec.head_dim_vo = 32;
  spec.v_dtype = DType::f16;
  spec.out_dtype = DType::f32;
  EXPECT_EQ(spec.value_dim(), 32);
  EXPECT_EQ(spec.value_dtype(), DType::f16);
  EXPECT_EQ(spec.output_dtype(), DType::f32);
}

TEST(Spec, EqualWhenTheyComputeTheSame) {
  const AttentionSpec spec = small_spec();
  EXPECT_TRUE(spec == small_spec());
  const auto differs = [&](auto change) {
    AttentionSpec other = small_spec();
    change(other);
    return !(other == spec);
  };
  EXPECT_TRUE(differs([](AttentionSpec& s) { s.num_qo_heads = 8; }));
  EXPECT_TRUE(differs([](AttentionSpec& s) { s.head_dim = 64; }));
  EXPECT_TRUE(differs([](AttentionSpec& s) { s.kv_dtype = DType::f16; }));
  EXPECT_TRUE(differs([](AttentionSpec& s) { s.variant = variants::full(); }));
  EXPECT_TRUE(differs([](AttentionSpec& s) { s.variant = variants::causal(7); }));
  // Said aloud, a default is the same.
  EXPECT_FALSE(differs([](AttentionSpec& s) { s.out_dtype = DType::bf16; }));
  EXPECT_FALSE(differs([](AttentionSpec& s) { s.head_dim_vo = 0; }));
}

TEST(Spec, SupportNeedsNoDevice) {
  EXPECT_TRUE(supports(Device{}, small_spec()));
  EXPECT_TRUE(supports(Device{}, small_spec()).reason.empty());
  const Support cuda = supports({DeviceType::cuda, 3}, small_spec());
  EXPECT_TRUE(cuda.ok || !cuda.reason.empty());
}

TEST(Spec, AttentionKeepsWhatItWasMadeOf) {
  const Attention attention(small_spec());
  EXPECT_TRUE(attention.spec() == small_spec());
  EXPECT_TRUE(attention.device() == Device{});
  const Attention copy = attention;
  EXPECT_TRUE(copy == attention);
  EXPECT_FALSE(Attention(small_spec()) == attention);  // from another constructor call
}

TEST(PlanValue, TellsItsLimitsAndAttentions) {
  const Attention attention(small_spec());
  const Plan plan({attention}, Limits{3, 20, 10, 100});
  EXPECT_EQ(plan.limits().requests, 3);
  EXPECT_EQ(plan.limits().q_tokens, 20);
  ASSERT_EQ(plan.attentions().size(), 1);
  EXPECT_TRUE(plan.attentions()[0] == attention);
}

TEST(PlanValue, StatusIsWellForEachRequest) {
  const Dims dims{4, 2, 32, 32};
  SimpleBatch b(dims, DType::bf16, {{1, 5}, {2, 9}, {0, 0}}, 4, 61);
  const Attention attention(small_spec());
  Plan plan({attention}, b.limits());
  plan.update(b.batch(), b.inputs(attention));
  EXPECT_EQ(plan.status(), std::vector<std::int32_t>(3, 0));
}

// Positions must stay as they are until the last run, not longer: counts of the update do not
// change with them.
TEST(PlanValue, StatsAreOfTheUpdate) {
  const Dims dims{4, 2, 32, 32};
  SimpleBatch b(dims, DType::bf16, {{64, 2000}, {1, 700}}, 16, 62);
  const Attention attention(small_spec());
  Plan plan({attention}, b.limits());
  Tensor q_pos = int_tensor(Extents(65, 100));
  Batch batch = b.batch();
  batch.q_pos = q_pos.view();
  plan.update(batch, b.inputs(attention));
  b.run(plan, attention, b.tensors.args());
  const PlanStats before = plan.stats(attention);
  for (std::int64_t i = 0; i < 65; ++i) q_pos.set({i}, 1900);
  const PlanStats after = plan.stats(attention);
  EXPECT_GT(before.skipped_blocks, 0);
  EXPECT_EQ(before.blocks, after.blocks);
  EXPECT_EQ(before.full_blocks, after.full_blocks);
  EXPECT_EQ(before.skipped_blocks, after.skipped_blocks);
  EXPECT_EQ(before.kv_bytes, after.kv_bytes);
}

// No requests at all is a batch, too.
TEST(PlanValue, EmptyBatch) {
  const Attention attention(small_spec());
  Plan plan({attention}, Limits{3, 20, 10, 100});
  const Tensor zero = int_tensor({0});
  const Tensor none(DType::i32, {0});
  const Tensor pages(DType::i32, {0, 4});
  Batch batch;
  batch.qo_indptr = zero.view();
  batch.kv_lens = none.view();
  plan.update(batch, {PlanInput(attention, PageTable::padded(pages.view(), 16))});
  BatchTensors tensors({}, {4, 2, 32, 32}, DType::bf16, 2);
  const Tensor k(DType::bf16, {1, 16, 2, 32});
  RunArgs args = tensors.args();
  args.padding = Padding::zero;
  attention.run(plan, tensors.q.view(), KvCache::separate(k.view(), k.view()), args);
  tensors.expect_padding_zero();
}

// Two streams take two plans: one attention runs in several threads at once.
TEST(PlanValue, OneAttentionInSeveralThreads) {
  const Dims dims{4, 2, 32, 32};
  const Attention attention(small_spec());
  std::vector<std::thread> threads;
  std::vector<int> good(3, 0);
  for (std::size_t t = 0; t < good.size(); ++t) {
    threads.emplace_back([&, t] {
      SimpleBatch b(dims, DType::bf16, {{1, 300}, {20, 40}, {1, 7}}, 8, 70 + t);
      Plan plan({attention}, b.limits());
      const auto expected = b.bits(plan, attention);
      for (int i = 0; i < 20; ++i) good[t] += b.bits(plan, attention) == expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const int count : good) EXPECT_EQ(count, 20);
}

}  // namespace
}  // namespace tilewright::test
