// SPDX-License-Identifier: Apache-2.0
// The engine on a GPU with a tiny random model: in f32 it gives the tokens that it gives on the
// CPU, however the work is split. Skipped without a GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <random>
#include <utility>

#include "engine/batch_invariant.h"
#include "engine/device_model.h"
#include "engine/no_device_model.h"
#include "engine/scorer.h"
#include "engine/serve.h"
#include "engine/tiny_model.h"

namespace tilewright::engine {
namespace {

using test::serve;
using test::some_requests;
using test::TemporaryFile;
using test::TinyModel;

class DeviceEngine : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto why = test::no_device_model()) GTEST_SKIP() << *why;
  }

  static TinyModel tiny() {
    TinyModel model;
    model.tied = true;
    return model;
  }

  TemporaryFile path_{tiny().write().bytes()};
  GgufFile file_{path_.path()};
  Tokenizer tokenizer_{file_};
};

std::vector<Request> seeded_requests() {
  std::vector<Request> requests = some_requests();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    Request& request = requests[i];
    request.temperature = i % 2 == 0 ? 0.9F : 0.0F;
    request.top_k = i % 3 == 0 ? 20 : 0;
    request.top_p = 0.95F;
    request.seed = static_cast<std::int64_t>(i) * 7;
    request.n = i == 1 ? 3 : 1;
  }
  return requests;
}

TEST_F(DeviceEngine, TokensAreThoseOfTheCpu) {
  Model on_cpu(file_, DType::f32);
  DeviceModel on_gpu(file_, DType::f32);
  for (const auto& requests : {some_requests(), seeded_requests()}) {
    const auto expected = serve(on_cpu, tokenizer_, requests).tokens();
    struct Case {
      int max_batch;
      std::int64_t token_budget, kv_pages, page_size;
      bool share;
      bool share_attention = true;
    };
    // In turn: alone, prefill in small chunks, one token a step, few pages (preemption), many.
    for (const Case& c : std::initializer_list<Case>{{1, 512, 64, 16, true},
                                                     {2, 7, 64, 16, true},
                                                     {3, 16, 256, 5, true},
                                                     {6, 6, 512, 1, false},
                                                     {8, 64, 12, 16, true},
                                                     {8, 64, 64, 16, true, false},
                                                     {20, 512, 512, 16, true}}) {
      SCOPED_TRACE(testing::Message() << c.max_batch << " requests, budget " << c.token_budget);
      const auto served =
          serve(on_gpu, tokenizer_, requests,
                {c.max_batch, c.token_budget, c.kv_pages, c.page_size, c.share, c.share_attention});
      EXPECT_EQ(served.tokens(), expected);
      EXPECT_GT(served.stats.device_busy, 0);
      EXPECT_GT(served.stats.kv_bytes_read, 0);
      EXPECT_GE(served.stats.kv_bytes_unshared, served.stats.kv_bytes_read);
    }
  }
}

// An answer may end with its token or with a text: what was computed further is dropped.
TEST_F(DeviceEngine, AnswersEndWhereTheyShould) {
  Model on_cpu(file_, DType::f32);
  DeviceModel on_gpu(file_, DType::f32);
  std::vector<Request> requests = seeded_requests();
  const auto whole = serve(on_cpu, tokenizer_, requests);
  for (Request& request : requests) {
    request.ignore_eos = false;
    const std::string& text = whole.results.at(request.id).text;
    if (text.size() > 4) request.stop = {text.substr(text.size() / 2, 2)};
  }
  const auto expected = serve(on_cpu, tokenizer_, requests);
  const auto served = serve(on_gpu, tokenizer_, requests);
  EXPECT_EQ(served.tokens(), expected.tokens());
  for (const auto& [id, result] : expected.results) {
    EXPECT_EQ(served.results.at(id).text, result.text) << id;
    EXPECT_EQ(served.results.at(id).finish_reason, result.finish_reason) << id;
  }
}

TEST_F(DeviceEngine, TimesByKindOfWorkAndLogits) {
  DeviceModel model(file_, DType::bf16);
  EngineOptions options;
  options.profile = true;
  const auto served = serve(model, tokenizer_, some_requests(), options);
  const StepTimes& times = served.stats.times;
  for (const double kind : {times.attention, times.matmul, times.sampling, times.plan}) {
    EXPECT_GT(kind, 0);
  }
  EXPECT_LE(times.attention + times.matmul + times.sampling + times.plan, served.stats.device_busy);
  // bf16 gives the same answers each time.
  EXPECT_EQ(serve(model, tokenizer_, some_requests(), options).tokens(), served.tokens());

  std::int64_t rows = 0;
  Engine::Events events;
  events.logits = [&](const Result&, std::span<const float> logits) {
    ++rows;
    EXPECT_EQ(static_cast<std::int64_t>(logits.size()), model.config().vocabulary);
    EXPECT_TRUE(std::isfinite(logits[0]) && std::isfinite(logits.back()));
  };
  Engine engine(model, tokenizer_, {}, events);
  for (const Request& request : some_requests()) engine.submit(request);
  std::int64_t tokens = 0;
  for (const Request& request : some_requests()) tokens += request.max_new_tokens;
  while (engine.step()) {
  }
  EXPECT_EQ(rows, tokens);
}

TEST_F(DeviceEngine, BatchInvariantLogitsDependOnTheRequestAlone) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    DeviceModel model(file_, dtype);
    test::expect_batch_invariant_logits(model, tokenizer_);
  }
}

// Longer than a chunk of the scorer.
TEST_F(DeviceEngine, ScoresAreThoseOfTheCpu) {
  TinyModel tiny;
  tiny.context = 512;
  const TemporaryFile path(tiny.write().bytes());
  const GgufFile file(path.path());
  std::mt19937 random(4);
  const auto tokens = test::random_tokens(random, 280);
  const auto vocabulary = static_cast<int>(tiny.vocabulary());
  for (const auto& [dtype, tolerance] : {std::pair{DType::f32, 1e-3}, {DType::bf16, 3.0}}) {
    Model on_cpu(file, dtype);
    DeviceModel on_gpu(file, dtype);
    const Score expected = score(on_cpu, tokens, vocabulary);
    const Score scored = score(on_gpu, tokens, vocabulary);
    ASSERT_EQ(scored.nll.size(), expected.nll.size());
    ASSERT_EQ(scored.top.size(), expected.top.size());
    EXPECT_NEAR(std::log(scored.perplexity), std::log(expected.perplexity), tolerance / 20);
    for (std::size_t i = 0; i < tokens.size(); ++i) {
      if (i < expected.nll.size()) {
        EXPECT_NEAR(scored.nll[i], expected.nll[i], tolerance) << i;
      }
      const std::map<std::int32_t, float> logits(expected.top[i].begin(), expected.top[i].end());
      ASSERT_EQ(scored.top[i].size(), logits.size());
      for (const auto& [token, logit] : scored.top[i]) {
        ASSERT_NEAR(logit, logits.at(token), tolerance) << i << ", token " << token;
      }
    }
    // One token, and none of the likeliest ones wanted.
    const Score one = score(on_gpu, std::vector<std::int32_t>{5}, 0);
    EXPECT_TRUE(one.nll.empty());
    EXPECT_TRUE(one.top.at(0).empty());
  }
}

// What is captured has the same products as what is not, and the tokens are the CPU's.
TEST_F(DeviceEngine, BatchInvariantTokens) {
  Model on_cpu(file_, DType::f32);
  DeviceModel on_gpu(file_, DType::f32);
  const auto requests = seeded_requests();
  const auto expected = serve(on_cpu, tokenizer_, requests).tokens();
  for (const bool profile : {false, true}) {
    EngineOptions options;
    options.batch_invariant = true;
    options.profile = profile;
    EXPECT_EQ(serve(on_gpu, tokenizer_, requests, options).tokens(), expected);
  }
}

}  // namespace
}  // namespace tilewright::engine
