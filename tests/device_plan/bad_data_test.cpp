// SPDX-License-Identifier: Apache-2.0
// Batches whose lengths, ranges or pages are wrong in the device's memory: the requests concerned
// are marked, the others planned as ever, and nothing outside the tensors is read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "device_plan/emulated_plan.h"
#include "fuzz/batch_case.h"
#include "support/batch.h"
#include "support/variant_cases.h"
#include "tilewright/request_status.h"

namespace tilewright::test {
namespace {

using fuzz::BatchCase;
using fuzz::Ints;
using fuzz::LevelCase;

constexpr auto kQRange = static_cast<std::uint32_t>(RequestStatus::q_range);
constexpr auto kKvLen = static_cast<std::uint32_t>(RequestStatus::kv_len);
constexpr auto kPage = static_cast<std::uint32_t>(RequestStatus::page);
constexpr auto kPosition = static_cast<std::uint32_t>(RequestStatus::position);
constexpr auto kLevelRows = static_cast<std::uint32_t>(RequestStatus::level_rows);
constexpr auto kNumRequests = static_cast<std::uint32_t>(RequestStatus::num_requests);

plan::Config config() {
  plan::Config config;
  config.tile_rows = 16;
  config.block_tokens = 16;
  config.workers = 10;
  config.cost = {10, 8, 1, 2};
  return config;
}

Ints table(std::vector<std::int32_t> values, std::int64_t columns) {
  Ints ints(std::move(values));
  ints.columns = columns;
  return ints;
}

// Four requests with 3, 1, 0 and 20 query tokens on 30, 16, 5 and 48 keys in pages of 8.
BatchCase good_batch() {
  BatchCase batch;
  batch.qo_indptr = Ints({0, 3, 4, 4, 24});
  batch.kv_lens = Ints({30, 16, 5, 48});
  LevelCase level;
  level.form = PageTable::Form::padded;
  level.page_size = 8;
  level.indices = table(
      {0, 1, 2, 3, -9, -9, 4, 5, -9, -9, -9, -9, 6, -9, -9, -9, -9, -9, 7, 8, 9, 10, 11, 12}, 6);
  batch.levels = {level};
  return batch;
}

// A prefix of 16 keys for requests 0 to 2, and what good_batch has behind it.
BatchCase batch_of_levels() {
  BatchCase batch = good_batch();
  LevelCase prefix;
  prefix.form = PageTable::Form::csr;
  prefix.page_size = 8;
  prefix.indptr = Ints({0, 2});
  prefix.indices = Ints({20, 21});
  prefix.kv_lens = Ints({16});
  prefix.qo_indptr = Ints({0, 4});
  batch.levels[0].kv_lens = batch.kv_lens;
  batch.kv_lens = {};
  batch.levels.insert(batch.levels.begin(), prefix);
  return batch;
}

class BadData : public testing::Test {
 protected:
  BadData()
      : attention_(make_spec({4, 2, 16, 16}, DType::f32, variants::causal())),
        plan_({attention_}, {4, 40, 20, 100, 2, Determinism::repeatable, 10}, config()) {}

  std::vector<PlanInput> inputs(const BatchCase& batch) const {
    std::vector<KvLevel> levels;
    for (const LevelCase& level : batch.levels) levels.push_back(level.view());
    return {PlanInput(attention_, levels)};
  }

  std::vector<std::uint32_t> statuses() const {
    std::vector<std::uint32_t> words;
    for (std::int64_t r = 0; r < 4; ++r) words.push_back(plan_.status(r));
    std::uint32_t all = 0;
    for (const std::uint32_t word : words) all |= word;
    EXPECT_EQ(plan_.status(4) & all, all) << "the batch's word has the bits of its requests";
    return words;
  }

  // Updates the device's plan with a batch that is wrong, and the host's with one that is not.
  // Their records must be equal.
  void expect_planned_as(const BatchCase& wrong, const BatchCase& mended,
                         const std::vector<std::uint32_t>& status) {
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      plan_.host.update(mended.view(), inputs(mended));
      plan_.update_device(wrong.view(), inputs(wrong), 64, seed);
      EXPECT_EQ(statuses(), status);
      plan_.expect_equal_records();
      ASSERT_TRUE(plan_.intact());
    }
    // The next update is not touched.
    const BatchCase good = good_batch();
    plan_.update(good.view(), inputs(good), 64, 9);
    plan_.expect_equal();
  }
  void expect_status(const BatchCase& wrong, const std::vector<std::uint32_t>& status) {
    plan_.update_device(wrong.view(), inputs(wrong), 64, 1);
    EXPECT_EQ(statuses(), status);
    ASSERT_TRUE(plan_.intact());
  }

  Attention attention_;
  EmulatedPlan plan_;
};

TEST_F(BadData, LengthsThatAreNegativeOrOverALimit) {
  // Over the table's 48 tokens, over the limit, below 0.
  for (const std::int32_t length : {49, 101, std::numeric_limits<std::int32_t>::max(), -1}) {
    BatchCase wrong = good_batch();
    wrong.kv_lens.values[1] = length;
    BatchCase mended = good_batch();
    mended.kv_lens.values[1] = 0;
    expect_planned_as(wrong, mended, {0, kKvLen, 0, 0});
  }
}

TEST_F(BadData, PagesThatTheCacheDoesNotHave) {
  BatchCase wrong = good_batch();
  wrong.levels[0].indices.values[1] = -1;
  wrong.levels[0].indices.values[23] = std::numeric_limits<std::int32_t>::min();
  expect_planned_as(wrong, good_batch(), {kPage, 0, 0, kPage});
  // Of a request without query tokens, nothing is read; behind a length neither.
  wrong = good_batch();
  wrong.levels[0].indices.values[12] = -1;
  expect_planned_as(wrong, good_batch(), {0, 0, 0, 0});
}

TEST_F(BadData, PagesBeyondACacheThatIsKnown) {
  BatchCase good = good_batch();
  good.levels[0].num_pages = 13;  // the last page of request 3 is 12
  expect_planned_as(good, good_batch(), {0, 0, 0, 0});
  BatchCase wrong = good;
  wrong.levels[0].indices.values[3] = 13;
  wrong.levels[0].indices.values[23] = std::numeric_limits<std::int32_t>::max();
  expect_planned_as(wrong, good_batch(), {kPage, 0, 0, kPage});
  wrong = good_batch();
  wrong.kv_lens = {};
  wrong.levels[0] = {};
  wrong.levels[0].num_pages = 13;
  wrong.levels[0].form = PageTable::Form::ragged;
  wrong.levels[0].indptr = Ints({0, 3, 5, 5, 13});
  expect_planned_as(wrong, wrong, {0, 0, 0, 0});
  wrong.levels[0].indptr = Ints({0, 3, 5, 5, 14});
  expect_planned_as(wrong, wrong, {0, 0, 0, kPage});
}

TEST_F(BadData, RowIdsThatTheTableDoesNotHave) {
  BatchCase wrong = good_batch();
  wrong.levels[0].row_ids = Ints({0, 4, 2, -1});
  BatchCase mended = good_batch();
  mended.levels[0].row_ids = Ints({0, 1, 2, 3});
  mended.kv_lens = Ints({30, 0, 5, 0});
  expect_planned_as(wrong, mended, {0, kPage, 0, kPage});
}

TEST_F(BadData, QueryRangesThatDecreaseOrAreTooLong) {
  BatchCase wrong = good_batch();
  wrong.qo_indptr = Ints({0, 3, 2, 4, 24});
  expect_status(wrong, {0, kQRange, kQRange, 0});
  EXPECT_EQ(plan_.view(0).schedule.header->q_tokens, 24);
  wrong.qo_indptr = Ints({1, 3, 4, 4, 24});
  expect_status(wrong, {kQRange, 0, 0, 0});
  wrong.qo_indptr = Ints({-5, 3, 4, 4, 24});
  expect_status(wrong, {kQRange, 0, 0, 0});
  wrong.qo_indptr = Ints({0, 3, 4, 4, 25});  // the limit is 20
  expect_status(wrong, {0, 0, 0, kQRange});
  EXPECT_EQ(plan_.view(0).requests[0].kv_len, 30);
  wrong.qo_indptr = Ints({0, 3, 4, 2'000'000'000, -7});
  expect_status(wrong, {0, 0, kQRange, kQRange});
  EXPECT_EQ(plan_.view(0).schedule.header->q_tokens, 40);
}

TEST_F(BadData, MoreRequestsThanThereCanBe) {
  for (const std::int32_t requests : {5, -1, std::numeric_limits<std::int32_t>::max()}) {
    BatchCase wrong = good_batch();
    wrong.num_requests = Ints({requests});
    const std::uint32_t status = requests < 0 ? 0 : kNumRequests;
    expect_status(wrong, {status, status, status, status});
    EXPECT_EQ(plan_.status(4), kNumRequests);
  }
}

TEST_F(BadData, PositionsBeyond32Bits) {
  BatchCase wrong = good_batch();
  wrong.q_pos_offset = Ints({5, 5, 5, std::numeric_limits<std::int32_t>::max() - 5});
  expect_status(wrong, {0, 0, 0, kPosition});
  wrong.q_pos_offset = {};
  wrong.levels[0].kv_pos = Ints({std::numeric_limits<std::int32_t>::max() - 5, 0, 0, 0});
  expect_status(wrong, {kPosition, 0, 0, 0});
  // Positions of fewer query tokens than there are.
  wrong = good_batch();
  wrong.q_pos = Ints(std::vector<std::int32_t>(10, 7));
  expect_status(wrong, {0, 0, 0, kQRange});
  EXPECT_EQ(plan_.view(0).schedule.header->q_tokens, 10);
}

TEST_F(BadData, LastPagesThatAreNoLengths) {
  BatchCase wrong = good_batch();
  LevelCase& level = wrong.levels[0];
  wrong.kv_lens = {};
  level.form = PageTable::Form::csr;
  level.indptr = Ints({0, 2, 4, 5, 8});
  level.indices = Ints({0, 1, 2, 3, 4, 5, 6, 7});
  level.last_page_len = Ints({8, 1, 8, 3});
  BatchCase mended = wrong;
  level.last_page_len = Ints({8, 9, 8, 0});
  mended.kv_lens = Ints({16, 0, 8, 0});
  expect_planned_as(wrong, mended, {0, kKvLen, 0, kKvLen});
  // Entries that are not there.
  level.last_page_len = Ints({8, 1, 8, 3});
  level.indptr = Ints({0, 2, 4, 5, 9});
  mended.kv_lens = Ints({16, 9, 8, 0});
  expect_planned_as(wrong, mended, {0, 0, 0, kPage});
}

TEST_F(BadData, ASharedRowMarksAllItsRequests) {
  BatchCase wrong = batch_of_levels();
  wrong.levels[0].kv_lens = Ints({17});
  BatchCase mended = batch_of_levels();
  mended.levels[0].kv_lens = Ints({0});
  expect_planned_as(wrong, mended, {kKvLen, kKvLen, 0, 0});
  wrong = batch_of_levels();
  wrong.levels[0].indices = Ints({-20, 21});
  expect_planned_as(wrong, batch_of_levels(), {kPage, kPage, 0, 0});
}

TEST_F(BadData, RowsOfLevelsThatAreMalformed) {
  const std::uint32_t all = kLevelRows;
  BatchCase wrong = batch_of_levels();
  for (const std::vector<std::int32_t>& indptr :
       {std::vector<std::int32_t>{-1, 4}, {4, 2}, {0, 25}, {0, 2'000'000'000}}) {
    wrong.levels[0].qo_indptr = Ints(indptr);
    expect_status(wrong, {all, all, all, all});
  }
  wrong.levels[0].qo_indptr = Ints({0, 3});
  for (const std::vector<std::int32_t>& tokens :
       {std::vector<std::int32_t>{0, 1, 1}, {0, 24, 1}, {-1, 0, 1}, {0, 1}}) {
    wrong.levels[0].q_rows = Ints(tokens);
    expect_status(wrong, {all, all, all, all});
  }
  wrong.levels[0].q_rows = Ints({2, 0, 3});
  expect_status(wrong, {kLevelRows, 0, 0, 0});  // request 0: kv_pos is missing for token 1
}

// Anything at all: no access outside of what was given, no endless loop, and what the host takes is
// planned as the host does.
TEST(DevicePlanFuzz, DamagedBatches) {
  const Limits limits{6, 60, 40, 150, 3, Determinism::repeatable, 10};
  const Attention attention(make_spec({4, 2, 16, 16}, DType::f32, variants::causal()));
  EmulatedPlan plan({attention}, limits, config());
  int taken = 0;
  int marked = 0;
  for (std::uint64_t seed = 0; seed < 1000 && !testing::Test::HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    fuzz::Draw draw(seed);
    BatchCase batch = fuzz::draw_batch(draw, limits);
    for (std::int64_t times = draw.range(1, 3); times > 0; --times) fuzz::damage(batch, draw);
    std::vector<KvLevel> levels;
    for (const LevelCase& level : batch.levels) levels.push_back(level.view());
    const std::vector<PlanInput> inputs = {PlanInput(attention, levels)};
    std::string error;
    try {
      plan.host.update(batch.view(), inputs);
    } catch (const Error& e) {
      error = e.what();
    }
    try {
      plan.update_device(batch.view(), inputs, 32, seed);
    } catch (const Error& e) {
      // That a batch has no request is not known when lengths are found missing.
      const bool is_empty = plan.host.impl().num_requests == 0;
      EXPECT_TRUE(!error.empty() || is_empty) << e.what() << batch.text();
      continue;
    }
    ASSERT_TRUE(plan.intact());
    if (error.empty()) {
      plan.expect_equal();
      ++taken;
    } else if (plan.status(limits.requests) != 0) {
      ++marked;
    }
    if (testing::Test::HasFailure()) ADD_FAILURE() << error << "\n" << batch.text();
  }
  EXPECT_GT(taken, 100);
  EXPECT_GT(marked, 100);
}

}  // namespace
}  // namespace tilewright::test
