// SPDX-License-Identifier: Apache-2.0
// Mask, biases and penalties: rows that sample() processes draw what rows draw that were processed
// before, by the definition.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/error.h>
#include <tilewright/threads.h>

#include "base/simd_targets.h"
#include "sampling/process_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

void check_random_processing(std::uint64_t seed, int rounds, std::int64_t vocabulary) {
  Random random(seed);
  constexpr std::int64_t kRows = 6;
  for (int round = 0; round < rounds; ++round) {
    const ProcessTables tables(random, 4, vocabulary, random.pick<std::int64_t>({1, 5, 40}));
    const DType dtype = random.pick({DType::f32, DType::f16, DType::bf16});
    Tensor logits(dtype, {kRows, vocabulary}, {vocabulary + 5, 1});
    Tensor slots(DType::i32, {kRows});
    SamplingArgs args;
    tables.give(random, args);
    args.slots = slots.view();
    args.temperature = random.pick({0.0F, 0.8F, 1.5F});
    args.top_p = random.pick({1.0F, 0.9F});
    args.seeds = static_cast<std::int64_t>(random.bits());
    SamplingArgs plain = args;
    plain.allowed = plain.bias_ids = plain.bias_values = plain.output_counts = plain.prompt_bits =
        plain.slots = TensorView();
    plain.repetition_penalty = 1.0F;
    plain.frequency_penalty = plain.presence_penalty = 0.0F;
    Tensor tokens(DType::i32, {kRows});
    Tensor status(DType::i32, {kRows});
    Tensor expected(DType::i32, {1});
    Tensor expected_status(DType::i32, {1});
    std::vector<Row> rows;
    for (std::int64_t r = 0; r < kRows; ++r) {
      slots.set({r}, static_cast<double>(random.range(0, 3)));
      const auto kind = random.range(0, static_cast<std::int64_t>(RowKind::count) - 1);
      Row row = make_row(random, static_cast<RowKind>(kind), vocabulary);
      for (std::int64_t i = 0; i < vocabulary; ++i) {
        logits.set({r, i}, row[static_cast<std::size_t>(i)]);
        row[static_cast<std::size_t>(i)] = static_cast<float>(logits.get({r, i}));
      }
      rows.push_back(row);
    }
    args.status = status.view();
    plain.status = expected_status.view();
    sample(logits.view(), args, tokens.view());
    for (std::int64_t r = 0; r < kRows; ++r) {
      const auto entry = static_cast<std::int64_t>(slots.get({r}));
      const Row row = tables.naive(args, entry, rows[static_cast<std::size_t>(r)]);
      sample(TensorView(row.data(), DType::f32, {1, vocabulary}), plain, expected.view());
      ASSERT_EQ(status.get({r}), expected_status.get({0})) << "round " << round << " row " << r;
      if (expected_status.get({0}) >= 4) {
        ASSERT_EQ(tokens.get({r}), tables.first_allowed(args, entry)) << round << " row " << r;
      } else {
        ASSERT_EQ(tokens.get({r}), expected.get({0})) << "round " << round << " row " << r;
      }
    }
  }
}

TEST(Process, RowsDrawWhatTheirDefinitionDraws) {
  for_each_simd_target([] {
    for (const std::int64_t vocabulary : {1, 31, 32, 33, 300, 1111}) {
      check_random_processing(static_cast<std::uint64_t>(vocabulary), 12, vocabulary);
      if (testing::Test::HasFatalFailure()) return;
    }
  });
}

TEST(Process, LongRowsOnThreads) {
  const int before = num_threads();
  for (const int threads : {1, 8}) {
    set_num_threads(threads);
    check_random_processing(1, 2, 40001);
  }
  set_num_threads(before);
}

// The token and the status of a row, greedy.
std::pair<std::int32_t, std::int32_t> greedy(const Row& row, SamplingArgs args) {
  std::int32_t token = -1;
  std::int32_t status = -1;
  args.temperature = 0.0F;
  args.status = TensorView(&status, DType::i32, {1});
  sample(TensorView(row.data(), DType::f32, {1, static_cast<std::int64_t>(row.size())}), args,
         TensorView(&token, DType::i32, {1}));
  return {token, status};
}

TEST(Process, ForbiddenTokensAreNeverDrawn) {
  const std::int32_t mask[2] = {0x10, 0x2};  // tokens 4 and 33; the vocabulary ends at 34
  SamplingArgs args;
  args.allowed = TensorView(mask, DType::i32, {1, 2});
  Row row(34, 1.0F);
  EXPECT_EQ(greedy(row, args), std::pair(4, 0));
  row[33] = 2;
  EXPECT_EQ(greedy(row, args), std::pair(33, 0));
  // Infinities and NaN of forbidden tokens are not there.
  row[0] = kInf;
  row[1] = NAN;
  EXPECT_EQ(greedy(row, args), std::pair(33, 0));
  // A bias does not allow a token.
  const std::int32_t id = 7;
  const float bias = kInf;
  args.bias_ids = TensorView(&id, DType::i32, {1, 1});
  args.bias_values = TensorView(&bias, DType::f32, {1, 1});
  EXPECT_EQ(greedy(row, args), std::pair(33, 0));
  // Nothing to choose from: the lowest allowed, not token 0.
  row[4] = row[33] = -kInf;
  EXPECT_EQ(greedy(row, args), std::pair(4, 4));
  row[4] = NAN;
  EXPECT_EQ(greedy(row, args), std::pair(4, 5));
  // None is allowed, but bits behind the end are.
  const std::int32_t none[2] = {0, -4};
  args.allowed = TensorView(none, DType::i32, {1, 2});
  EXPECT_EQ(greedy(row, args), std::pair(0, 4));
}

TEST(Process, PenaltiesAreThoseOfTheirPapers) {
  const std::int32_t counts[4] = {0, 2, 1, 0};
  const std::int32_t prompt = 0x8;
  SamplingArgs args;
  args.output_counts = TensorView(counts, DType::i32, {1, 4});
  args.prompt_bits = TensorView(&prompt, DType::i32, {1, 1});
  args.repetition_penalty = 2.0F;
  // 3, 3, -2, 2: positive ones are divided, negative ones multiplied, unseen ones stay.
  EXPECT_EQ(greedy({2.9F, 6, -1, 4}, args).first, 1);
  EXPECT_EQ(greedy({3.1F, 6, -1, 4}, args).first, 0);
  EXPECT_EQ(greedy({-2.1F, -2, -1, -2}, args).first, 2);
  EXPECT_EQ(greedy({-1.9F, -2, -1, -2}, args).first, 0);
  // The prompt is no output: frequency and presence leave it.
  args.repetition_penalty = 1.0F;
  args.frequency_penalty = 0.5F;
  EXPECT_EQ(greedy({0, 1.2F, 0, 0.1F}, args).first, 1);
  EXPECT_EQ(greedy({0, 1.0F, 0, 0.1F}, args).first, 3);
  args.presence_penalty = 0.25F;
  EXPECT_EQ(greedy({0, 1.3F, 0, 0.1F}, args).first, 3);
}

TEST(Process, Errors) {
  const Row row(64, 0.0F);
  const TensorView logits(row.data(), DType::f32, {2, 32});
  std::int32_t ints[64] = {};
  std::int32_t tokens[2] = {};
  const auto expect_error = [&](const SamplingArgs& args, const std::string& text) {
    try {
      sample(logits, args, TensorView(tokens, DType::i32, {2}));
      ADD_FAILURE() << "no error, expected: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      EXPECT_THAT(error.what(), testing::HasSubstr(text));
    }
  };
  SamplingArgs args;
  args.allowed = TensorView(ints, DType::i32, {2, 2});
  expect_error(args, "allowed is int32[2, 2]: its shape must be [2, 1]");
  args.allowed = TensorView(ints, DType::i64, {2, 1});
  expect_error(args, "allowed is int64[2, 1]: its dtype must be int32");
  args = {};
  args.bias_ids = TensorView(ints, DType::i32, {2, 3});
  expect_error(args, "they must be given together");
  args.bias_values = TensorView(row.data(), DType::f32, {2, 4});
  expect_error(args, "bias_values is float32[2, 4]: its shape must be [2, 3]");
  args.bias_values = TensorView(row.data(), DType::f32, {2, 3});
  ints[4] = 32;
  expect_error(args, "bias_ids[1] of row 1 is 32: it must be in [-1, 32)");
  ints[4] = -2;
  expect_error(args, "bias_ids[1] of row 1 is -2: it must be in [-1, 32)");
  args = {};
  args.output_counts = TensorView(ints, DType::i32, {2, 31});
  expect_error(args, "output_counts is int32[2, 31]: its shape must be [2, 32]");
  args.output_counts = TensorView(ints, DType::i32, {2, 32}, {1, 2});
  expect_error(args, "output_counts");
  args = {};
  args.prompt_bits = TensorView(ints, DType::i32, {1, 1});
  expect_error(args, "prompt_bits is int32[1, 1]: its shape must be [2, 1]");
  args = {};
  args.repetition_penalty = 0.0F;
  expect_error(args, "repetition_penalty of row 0 is 0: it must be positive and finite");
  args.repetition_penalty = kInf;
  expect_error(args, "repetition_penalty of row 0 is inf");
  args = {};
  args.frequency_penalty = NAN;
  expect_error(args, "frequency_penalty of row 0 is nan: it must be finite");
  args = {};
  args.presence_penalty = -kInf;
  expect_error(args, "presence_penalty of row 0 is -inf: it must be finite");
}

}  // namespace
}  // namespace tilewright
