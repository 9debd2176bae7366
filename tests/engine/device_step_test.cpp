// SPDX-License-Identifier: Apache-2.0
// A step's arrays, as a GPU is given them: padded, at fixed places, taken by a plan.
#include "engine/device_step.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

namespace tilewright::engine {
namespace {

using testing::Each;
using testing::ElementsAre;

Limits some_limits() {
  Limits limits;
  limits.requests = 20;
  limits.q_tokens = limits.q_len = 100;
  limits.kv_len = 64;
  limits.levels = 3;
  return limits;
}

constexpr std::int64_t kPageSize = 16;

// Decoding requests, each with pages of its own.
Step decode_step(std::int32_t requests) {
  Step step;
  StepBatch& batch = step.batch;
  batch.levels.resize(1);
  batch.levels[0].qo_indptr = batch.levels[0].page_indptr = {0};
  for (std::int32_t r = 0; r < requests; ++r) {
    step.sequences.push_back(r);
    step.sampled.push_back(r);
    batch.tokens.push_back(r % 2 == 0 ? 100 + r : -1 - r);
    batch.positions.push_back(20 + r);
    batch.slots.push_back(r * 64 + 20 + r);
    batch.qo_indptr.push_back(r + 1);
    batch.kv_lens.push_back(21 + r);
    batch.logit_rows.push_back(r);
    StepLevel& level = batch.levels[0];
    level.qo_indptr.push_back(r + 1);
    level.kv_lens.push_back(21 + r);
    level.kv_pos.push_back(0);
    for (std::int32_t page = 0; page < (21 + r + 15) / 16; ++page) {
      level.pages.push_back(r * 4 + page);
    }
    level.page_indptr.push_back(static_cast<std::int32_t>(level.pages.size()));
  }
  return step;
}

// The same, of which the first prefills 30 tokens and samples nothing.
Step mixed_step(std::int32_t requests) {
  Step step = decode_step(requests);
  StepBatch& batch = step.batch;
  constexpr std::int32_t kMore = 29;
  batch.tokens.insert(batch.tokens.begin(), kMore, 7);
  batch.positions.insert(batch.positions.begin(), kMore, 0);
  batch.slots.insert(batch.slots.begin(), kMore, 5);
  for (std::size_t r = 1; r < batch.qo_indptr.size(); ++r) {
    batch.qo_indptr[r] += kMore;
    batch.levels[0].qo_indptr[r] += kMore;
  }
  batch.kv_lens[0] = batch.levels[0].kv_lens[0] = 30;
  step.sampled.erase(step.sampled.begin());
  batch.logit_rows.erase(batch.logit_rows.begin());
  for (std::int64_t& row : batch.logit_rows) row += kMore;
  return step;
}

std::vector<std::int32_t> values(const TensorView& tensor) {
  std::vector<std::int32_t> out;
  for (std::int64_t i = 0; i < tensor.shape[0]; ++i) {
    out.push_back(static_cast<const std::int32_t*>(tensor.data)[i * tensor.strides[0]]);
  }
  return out;
}

// Arrays as on a device: only the parts that were written are copied.
class Copied {
 public:
  Copied(const Step& step, const std::vector<RowSampling>& sampling, const StepShape& shape)
      : arrays_(some_limits(), kPageSize), memory_(arrays_.bytes(), std::byte{0xEE}) {
    std::vector<std::byte> host(arrays_.bytes(), std::byte{0xDD});
    for (const StepArrays::Part& part : arrays_.write(host.data(), step, sampling, shape)) {
      EXPECT_LE(part.offset + part.bytes, memory_.size());
      std::memcpy(memory_.data() + part.offset, host.data() + part.offset, part.bytes);
    }
    views = arrays_.views(memory_.data(), shape, {});
  }

  DeviceStep views;

 private:
  StepArrays arrays_;
  std::vector<std::byte> memory_;
};

TEST(StepShape, IsPaddedWithinTheLimits) {
  const Limits limits = some_limits();
  for (const auto& [requests, padded] : {std::pair{1, 1},
                                         {2, 2},
                                         {3, 4},
                                         {4, 4},
                                         {5, 8},
                                         {8, 8},
                                         {9, 16},
                                         {16, 16},
                                         {17, 20},
                                         {20, 20}}) {
    const StepShape shape = shape_of(decode_step(requests), limits);
    EXPECT_TRUE(shape.is_decode);
    EXPECT_EQ(shape.tokens, padded) << requests;
    EXPECT_EQ(shape.requests, padded);
    EXPECT_EQ(shape.rows, padded);
  }
  const StepShape mixed = shape_of(mixed_step(5), limits);
  EXPECT_FALSE(mixed.is_decode);
  EXPECT_EQ(mixed.tokens, 64);
  EXPECT_EQ(mixed.requests, 20);
  EXPECT_EQ(mixed.rows, 8);
  EXPECT_EQ(shape_of(mixed_step(20), limits).rows, 20);
  EXPECT_EQ(shape_of(mixed_step(1), limits).rows, 0);
}

// What is captured ahead is all that there can be.
TEST(StepShape, AllOfThem) {
  const Limits limits = some_limits();
  const std::vector<StepShape> shapes = step_shapes(limits);
  EXPECT_LT(shapes.size(), 20U);
  for (std::int32_t requests = 1; requests <= 20; ++requests) {
    for (const Step& step : {decode_step(requests), mixed_step(requests)}) {
      EXPECT_THAT(shapes, testing::Contains(shape_of(step, limits))) << requests;
    }
  }
}

TEST(StepArrays, OfAStepThatDecodes) {
  const Step step = decode_step(3);
  const std::vector<RowSampling> sampling = {{.seed = 5, .step = 1}, {.top_k = 7}, {}};
  const Copied copied(step, sampling, shape_of(step, some_limits()));
  const DeviceStep& views = copied.views;
  // The second one's token is what row 1 of the step before sampled.
  EXPECT_THAT(values(views.token_index), ElementsAre(0, 101, 2, 3));
  const auto* const pool = static_cast<const std::int32_t*>(views.token_pool.data);
  EXPECT_EQ(pool[0], 100);
  EXPECT_EQ(pool[2], 102);
  EXPECT_EQ(pool[3], 0);
  EXPECT_EQ(views.sampled.data, pool + 100);
  EXPECT_THAT(values(views.positions), ElementsAre(20, 21, 22, 0));
  EXPECT_THAT(values(views.slots), ElementsAre(20, 64 + 21, 128 + 22, -1));
  EXPECT_THAT(values(views.batch.qo_indptr), ElementsAre(0, 1, 2, 3, 3));
  EXPECT_THAT(values(views.batch.kv_lens), ElementsAre(21, 22, 23, 0));
  EXPECT_FALSE(views.logit_rows.defined());
  EXPECT_THAT(values(views.sampling.top_k.tensor), ElementsAre(0, 7, 0, 0));
  EXPECT_EQ(static_cast<const std::int64_t*>(views.sampling.seeds.tensor.data)[0], 5);
}

TEST(StepArrays, OfAMixedStep) {
  const Step step = mixed_step(3);
  const Copied copied(step, {{}, {}}, shape_of(step, some_limits()));
  const DeviceStep& views = copied.views;
  EXPECT_THAT(values(views.logit_rows), ElementsAre(30, 31, 0, 0, 0, 0, 0, 0));
  EXPECT_EQ(views.token_index.shape[0], 64);
  const auto indptr = values(views.batch.qo_indptr);
  EXPECT_EQ(indptr.size(), 21U);
  EXPECT_EQ(indptr[1], 30);
  EXPECT_EQ(indptr[3], 32);
  EXPECT_EQ(indptr.back(), 32);
}

// As the scorer has them: one request, not padded, nothing sampled.
TEST(StepArrays, OfAChunkOfAText) {
  const Step step = mixed_step(1);
  const Copied copied(step, {}, {.tokens = 30, .requests = 1});
  const DeviceStep& views = copied.views;
  EXPECT_EQ(views.token_index.shape[0], 30);
  EXPECT_EQ(values(views.token_index).back(), 29);
  EXPECT_THAT(values(views.batch.qo_indptr), ElementsAre(0, 30));
  EXPECT_THAT(values(views.batch.kv_lens), ElementsAre(30));
  ASSERT_EQ(views.levels.size(), 1U);
  EXPECT_THAT(values(views.levels[0].table.indptr), ElementsAre(0, 2));
  EXPECT_EQ(views.logit_rows.shape[0], 0);
  EXPECT_EQ(views.sampled.shape[0], 0);
}

// Padding and levels are what plans take: the same pieces as of the step itself.
TEST(StepArrays, APlanTakesThem) {
  AttentionSpec spec;
  spec.num_qo_heads = 4;
  spec.num_kv_heads = 2;
  spec.head_dim = 16;
  spec.q_dtype = spec.kv_dtype = DType::f32;
  const Attention attention(spec);
  for (Step step : {decode_step(5), mixed_step(5)}) {
    // The first two share a page.
    StepLevel own = step.batch.levels[0];
    const std::int32_t end = step.batch.qo_indptr[2];
    const StepLevel shared{{0, end, end, end, end, end},
                           {16, 0, 0, 0, 0},
                           {0, 0, 0, 0, 0},
                           {0, 1, 1, 1, 1, 1},
                           {own.pages[0]}};
    for (std::size_t r = 0; r < 2; ++r) {
      own.kv_lens[r] -= 16;
      own.kv_pos[r] = 16;
    }
    own.pages.erase(own.pages.begin() + own.page_indptr[1]);
    own.pages.erase(own.pages.begin());
    own.page_indptr[1] -= 1;
    for (std::size_t r = 2; r < own.page_indptr.size(); ++r) own.page_indptr[r] -= 2;
    for (const bool shares : {false, true}) {
      if (shares) step.batch.levels = {shared, own};
      const Limits limits = some_limits();
      const Copied copied(step, std::vector<RowSampling>(step.sampled.size()),
                          shape_of(step, limits));
      Plan padded({attention}, limits);
      Plan exact({attention}, limits);
      padded.update(copied.views.batch, {PlanInput(attention, copied.views.levels)});
      exact.update(step.batch.plan_batch(), {step.batch.plan_input(attention, kPageSize)});
      const PlanStats expected = exact.stats(attention);
      const PlanStats stats = padded.stats(attention);
      EXPECT_EQ(stats.blocks, expected.blocks);
      EXPECT_EQ(stats.kv_bytes, expected.kv_bytes);
      EXPECT_EQ(stats.tiles, expected.tiles);
      EXPECT_THAT(padded.status(), Each(0));
    }
  }
}

}  // namespace
}  // namespace tilewright::engine
