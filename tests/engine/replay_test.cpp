// SPDX-License-Identifier: Apache-2.0
// Replays of small traces: identities of tokens, what is served, and the check, which must find
// what is wrong.
#include "engine/replay.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <set>

#include "engine/expect_error.h"
#include "engine/trace_generator.h"

namespace tilewright::engine {
namespace {

using test::expect_error;

std::vector<TraceRequest> small_trace(std::int64_t requests = 20) {
  TraceShape shape = default_shape(TraceFormat::mooncake);
  shape.rate = 50;
  shape.input_median = 300;
  shape.longest_input = 1500;
  shape.output_median = 5;
  shape.longest_output = 12;
  shape.turn_median = 100;
  return generate_trace(TraceFormat::mooncake, requests, 5, shape);
}

ReplayOptions small_options() {
  ReplayOptions options;
  options.shape = {4, 2, 16, DType::f32};
  options.scheduler = {8, 256, 300, 16, true};
  options.step_seconds = 0.02;
  options.verify = 150;
  return options;
}

std::unique_ptr<Replay> served(const std::vector<TraceRequest>& trace,
                               const ReplayOptions& options) {
  auto replay = std::make_unique<Replay>(trace, options);
  while (replay->step()) {
  }
  return replay;
}

TEST(TraceTokens, AreEqualWhereTheTraceSaysSo) {
  TraceRequest a, b, c;
  a.input_tokens = 1030;
  a.output_tokens = 3;
  a.blocks = {10, 11, 12};
  b.input_tokens = 700;
  b.blocks = {10, 99};
  c.input_tokens = 4;  // no blocks
  const TraceTokens tokens({a, b, c});
  const auto first = tokens.input(0), second = tokens.input(1), third = tokens.input(2);
  ASSERT_EQ(first.size(), 1030U);
  ASSERT_EQ(second.size(), 700U);
  EXPECT_TRUE(std::equal(first.begin(), first.begin() + 512, second.begin()));
  std::set<std::int32_t> all(first.begin(), first.end());
  all.insert(second.begin(), second.end());
  all.insert(third.begin(), third.end());
  for (std::int64_t i = 0; i < 3; ++i) all.insert(tokens.output(0, i));
  all.insert(tokens.output(1, 0));
  all.insert(tokens.output(2, 0));
  EXPECT_EQ(all.size(), 1030U + 188U + 4U + 5U);
}

TEST(TraceTokens, MoreThanAnI32CanNumber) {
  TraceRequest request;
  request.input_tokens = kMostTraceTokens;
  expect_error([&] { TraceTokens(std::vector<TraceRequest>(130, request)); },
               {"distinct tokens", "2147483647", "fewer"});
}

TEST(TokenVectors, AreRandomAndTheirOwn) {
  std::vector<float> a(1000), b(1000);
  fill_token_vector(1, TokenVector::key, 5, 0, a);
  fill_token_vector(1, TokenVector::key, 5, 0, b);
  EXPECT_EQ(a, b);
  double mean = 0, square = 0;
  for (const float value : a) {
    mean += value / 1000;
    square += static_cast<double>(value) * value / 1000;
  }
  EXPECT_NEAR(mean, 0, 0.15);
  EXPECT_NEAR(square, 1, 0.15);
  const auto correlation = [&](std::uint64_t seed, TokenVector which, std::uint64_t token,
                               int head) {
    fill_token_vector(seed, which, token, head, b);
    double dot = 0;
    for (std::size_t i = 0; i < a.size(); ++i) dot += a[i] * b[i];
    return std::fabs(dot / 1000);
  };
  EXPECT_LT(correlation(2, TokenVector::key, 5, 0), 0.15);
  EXPECT_LT(correlation(1, TokenVector::value, 5, 0), 0.15);
  EXPECT_LT(correlation(1, TokenVector::key, 6, 0), 0.15);
  EXPECT_LT(correlation(1, TokenVector::key, 5, 1), 0.15);
}

TEST(SampleReservoir, IsUniform) {
  std::vector<int> chosen(20, 0);
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    SampleReservoir reservoir(5, seed);
    for (std::size_t i = 0; i < 20; ++i) {
      if (ReplaySample* sample = reservoir.offer()) sample->request = i;
    }
    ASSERT_EQ(reservoir.samples().size(), 5U);
    for (const ReplaySample& sample : reservoir.samples()) ++chosen[sample.request];
  }
  for (const int count : chosen) EXPECT_NEAR(count, 500, 100);
}

TEST(Replay, ServesEveryRequestAndEveryOutputIsRight) {
  const auto trace = small_trace();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool share : {true, false}) {
      ReplayOptions options = small_options();
      options.shape.dtype = dtype;
      options.scheduler.share_prefixes = share;
      const auto replay = served(trace, options);
      const ReplayTotals& totals = replay->totals();
      EXPECT_EQ(totals.requests, 20);
      EXPECT_EQ(totals.first_token_seconds.size(), 20U);
      std::int64_t input = 0, output = 0, computed = 0;
      for (const TraceRequest& request : trace) {
        input += request.input_tokens;
        output += request.output_tokens;
      }
      for (const ReplayStep& step : replay->steps()) {
        computed += step.tokens;
        EXPECT_LE(step.shared_pages, step.pages);
        EXPECT_GE(step.kv_bytes_unshared, step.kv_bytes);
      }
      EXPECT_EQ(totals.input_tokens, input);
      EXPECT_EQ(totals.output_tokens, output);
      EXPECT_EQ(totals.shared_tokens > 0, share);
      if (replay->scheduler_stats().preemptions == 0) {
        EXPECT_EQ(computed, input + output - 20 - totals.shared_tokens);
      }
      const ReplayVerdict verdict = replay->verify();
      EXPECT_EQ(verdict.checked, 150);
      EXPECT_EQ(verdict.wrong, 0) << ::testing::PrintToString(verdict.examples);
    }
  }
}

TEST(Replay, StaysRightWhenPagesAreScarce) {
  std::vector<TraceRequest> trace(8);
  for (TraceRequest& request : trace) request.input_tokens = 60, request.output_tokens = 100;
  ReplayOptions options = small_options();
  options.scheduler.kv_pages = 40;  // for eight at their beginning, for four at their end
  const auto replay = served(trace, options);
  EXPECT_GT(replay->scheduler_stats().preemptions, 0);
  EXPECT_EQ(replay->totals().requests, 8);
  EXPECT_EQ(replay->totals().output_tokens, 800);
  EXPECT_EQ(replay->verify().wrong, 0);
}

TEST(Replay, IsTheSameTwice) {
  const auto trace = small_trace();
  const auto a = served(trace, small_options()), b = served(trace, small_options());
  ASSERT_EQ(a->steps().size(), b->steps().size());
  for (std::size_t i = 0; i < a->steps().size(); ++i) {
    EXPECT_EQ(a->steps()[i].tokens, b->steps()[i].tokens);
    EXPECT_EQ(a->steps()[i].kv_bytes, b->steps()[i].kv_bytes);
  }
  EXPECT_EQ(a->totals().first_token_seconds, b->totals().first_token_seconds);
  ReplayOptions without = small_options();
  without.attend = false;
  EXPECT_EQ(served(trace, without)->steps().size(), a->steps().size());
}

TEST(Replay, TheClockJumpsToArrivalsAndSpeedScalesThem) {
  std::vector<TraceRequest> trace(2);
  for (TraceRequest& request : trace) request.input_tokens = request.output_tokens = 2;
  trace[1].arrival = 100;
  ReplayOptions options = small_options();
  options.step_seconds = 0.5;
  const auto replay = served(trace, options);
  EXPECT_EQ(replay->steps().size(), 4U);
  EXPECT_DOUBLE_EQ(replay->totals().clock, 101);
  options.speed = 10;
  EXPECT_DOUBLE_EQ(served(trace, options)->totals().clock, 11);
  options.speed = std::numeric_limits<double>::infinity();
  EXPECT_DOUBLE_EQ(served(trace, options)->totals().clock, 1);
}

TEST(Replay, AnEmptyAnswerIsOneToken) {
  std::vector<TraceRequest> trace(1);
  trace[0].input_tokens = 3;
  const auto replay = served(trace, small_options());
  EXPECT_EQ(replay->totals().output_tokens, 1);
  EXPECT_EQ(replay->steps().size(), 1U);
}

// One value that is off by more than rounding, in any place, must be found.
TEST(ReplayCheck, FindsWrongOutputs) {
  const auto trace = small_trace(4);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    ReplayOptions options = small_options();
    options.shape.dtype = dtype;
    std::int64_t step = 0;
    options.after_run = [&](const TensorView& out) {
      if (++step != 2) return;
      // NaN is a wrong value too.
      if (dtype == DType::f32) {
        std::fill_n(static_cast<float*>(out.data), out.numel(), 0.25F);
      } else {
        std::fill_n(static_cast<std::uint16_t*>(out.data), out.numel(), std::uint16_t{0x7FC0});
      }
    };
    options.verify = 1'000'000;  // all
    const ReplayVerdict verdict = served(trace, options)->verify();
    EXPECT_GT(verdict.wrong, 0);
    EXPECT_LT(verdict.wrong, verdict.checked);
    EXPECT_EQ(std::isinf(verdict.worst), dtype == DType::bf16);
    ASSERT_FALSE(verdict.examples.empty());
    EXPECT_THAT(verdict.examples[0], ::testing::StartsWith("step 1, request "));
  }
}

TEST(ReplayCheck, FindsOneWrongKeyAmongAThousand) {
  // The output of a request whose last token but one is another's: as if one page row were wrong.
  std::vector<TraceRequest> trace(2);
  for (TraceRequest& request : trace) request.input_tokens = 1024;
  trace[0].blocks = {0, 1};
  trace[1].blocks = {0, 2};
  ReplayOptions options = small_options();
  options.verify = 1'000'000;
  const auto replay = served(trace, options);
  EXPECT_EQ(replay->verify().wrong, 0);
  const ReplayShape shape = options.shape;
  const TraceTokens right(trace);
  // Request 0 has 513 tokens of another sequence: block 0, then one token of block 2.
  ReplaySample sample;
  sample.request = 1;
  sample.position = 512;
  sample.out.assign(16, 0.0F);
  // What request 0 would give there, with the query of request 1: only the last key differs.
  double denominator = 0;
  std::vector<double> out(16, 0.0);
  const auto tokens = right.input(0);
  std::vector<float> query(16), key(16), value(16);
  fill_token_vector(0, TokenVector::query, query_token(1, 512), 0, query);
  for (std::size_t i = 0; i <= 512; ++i) {
    fill_token_vector(0, TokenVector::key, static_cast<std::uint64_t>(tokens[i]), 0, key);
    fill_token_vector(0, TokenVector::value, static_cast<std::uint64_t>(tokens[i]), 0, value);
    double dot = 0;
    for (std::size_t d = 0; d < 16; ++d) dot += static_cast<double>(query[d]) * key[d];
    const double weight = std::exp(dot / 4);
    denominator += weight;
    for (std::size_t d = 0; d < 16; ++d) out[d] += weight * value[d];
  }
  for (std::size_t d = 0; d < 16; ++d) sample.out[d] = static_cast<float>(out[d] / denominator);
  EXPECT_GT(error_of(sample, shape, right, 0), 1);
  sample.position = 511;  // nor is it the output of another position
  EXPECT_GT(error_of(sample, shape, right, 0), 1);
}

TEST(Replay, OptionsOutOfRange) {
  const auto trace = small_trace(2);
  const auto with = [&](const auto& change) {
    ReplayOptions options = small_options();
    change(options);
    Replay replay(trace, options);
  };
  expect_error([&] { with([](auto& o) { o.speed = 0; }); }, {"speed is 0"});
  expect_error([&] { with([](auto& o) { o.speed = std::nan(""); }); }, {"speed is nan"});
  expect_error([&] { with([](auto& o) { o.step_seconds = -1; }); }, {"step_seconds is -1"});
  expect_error([&] { with([](auto& o) { o.verify = -1; }); }, {"verify is -1"});
  expect_error([&] { with([](auto& o) { o.shape.dtype = DType::i32; }); }, {"dtype"});
  expect_error([&] { with([](auto& o) { o.scheduler.kv_pages = 2; }); }, {"KV pages: there are 2"});
  expect_error([&] { with([](auto& o) { o.shape.num_kv_heads = 3; }); }, {"num_kv_heads"});
  expect_error([] { Replay({}, small_options()); }, {"trace is empty"});
}

}  // namespace
}  // namespace tilewright::engine
