// SPDX-License-Identifier: Apache-2.0
// The engine on a tiny random model: what it answers must not depend on how requests are batched,
// chunked, paged, shared, preempted or threaded.
#include "engine/engine.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <random>
#include <tuple>

#include "engine/batch_invariant.h"
#include "engine/expect_error.h"
#include "engine/serve.h"
#include "engine/tiny_model.h"

namespace tilewright::engine {
namespace {

using test::expect_error;
using test::random_tokens;
using test::Served;
using test::some_requests;
using test::TemporaryFile;
using test::TinyModel;

struct Loaded {
  explicit Loaded(TinyModel tiny = {}, DType dtype = DType::f32)
      : path(tiny.write().bytes()), file(path.path()), tokenizer(file), model(file, dtype) {}

  TemporaryFile path;
  GgufFile file;
  Tokenizer tokenizer;
  Model model;
};

Served serve(Loaded& loaded, const std::vector<Request>& requests,
             const EngineOptions& options = {}) {
  return test::serve(loaded.model, loaded.tokenizer, requests, options);
}

TEST(Engine, TokensDoNotDependOnHowTheWorkIsSplit) {
  Loaded loaded;
  const auto requests = some_requests();
  const auto expected = serve(loaded, requests).tokens();
  EXPECT_EQ(expected.at("2"), [&] {
    auto tokens = expected.at("3");
    tokens.resize(expected.at("2").size());
    return tokens;
  }());
  EXPECT_NE(expected.at("0"), expected.at("1"));
  for (const Request& request : requests) {
    EXPECT_EQ(static_cast<std::int64_t>(expected.at(request.id).size()), request.max_new_tokens);
  }
  struct Case {
    int max_batch;
    std::int64_t token_budget, kv_pages, page_size;
    bool share;
    int threads;
    bool share_attention = true;
  };
  for (const Case& c : std::initializer_list<Case>{{1, 512, 64, 16, true, 1},
                                                   {1, 1, 64, 16, false, 1},
                                                   {2, 7, 64, 16, true, 2},
                                                   {3, 16, 256, 5, true, 1},
                                                   {6, 6, 512, 1, true, 2},
                                                   {6, 64, 512, 1, false, 3},
                                                   {8, 512, 4, 128, true, 1},
                                                   {8, 512, 128, 4, true, 2, false},
                                                   {8, 33, 128, 8, false, 2}}) {
    set_num_threads(c.threads);
    omp_set_num_threads(c.threads);
    const Served other =
        serve(loaded, requests,
              {c.max_batch, c.token_budget, c.kv_pages, c.page_size, c.share, c.share_attention});
    EXPECT_EQ(other.tokens(), expected)
        << "max_batch " << c.max_batch << ", token_budget " << c.token_budget << ", page_size "
        << c.page_size << ", share " << c.share << ", threads " << c.threads;
  }
}

TEST(Engine, PreemptedRequestsLoseNothing) {
  Loaded loaded;
  const auto requests = some_requests();
  const auto expected = serve(loaded, requests).tokens();
  for (const bool share : {false, true}) {
    for (const std::int64_t budget : {8, 512}) {
      // The longest request alone needs 87 / 4 pages.
      const Served tight = serve(loaded, requests, {6, budget, 22, 4, share});
      EXPECT_EQ(tight.tokens(), expected) << "share " << share << ", budget " << budget;
      EXPECT_GT(tight.stats.preemptions, 0) << "share " << share << ", budget " << budget;
      EXPECT_LE(tight.stats.kv_pages_peak, 22);
    }
  }
}

// Random requests under random options against each request alone.
TEST(Engine, AnyMixAnswersAsEachAlone) {
  Loaded loaded;
  std::mt19937 random(17);
  const auto shared = random_tokens(random, 30);
  for (int round = 0; round < 6; ++round) {
    std::vector<Request> requests(2 + random() % 6);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      Request& request = requests[i];
      request.id = std::to_string(i);
      request.prompt.assign(shared.begin(), shared.begin() + random() % 30);
      const auto own = random_tokens(random, 1 + random() % 10);
      request.prompt.insert(request.prompt.end(), own.begin(), own.end());
      request.max_new_tokens = 1 + random() % 10;
      request.temperature = random() % 2 == 0 ? 0.0F : 1.0F;
      request.seed = static_cast<std::int64_t>(random() % 100);
    }
    EngineOptions options;
    options.max_batch = 1 + static_cast<int>(random() % 6);
    options.token_budget = options.max_batch + static_cast<std::int64_t>(random() % 20);
    options.page_size = 1 + random() % 7;
    options.kv_pages = 49 / options.page_size + 1 + static_cast<std::int64_t>(random() % 10);
    options.share_prefixes = random() % 3 != 0;
    const auto together = serve(loaded, requests, options).tokens();
    for (const Request& request : requests) {
      EXPECT_EQ(together.at(request.id), serve(loaded, {request}).tokens().at(request.id))
          << "round " << round << ", request " << request.id;
    }
  }
}

TEST(Engine, BatchInvariantLogitsDependOnTheRequestAlone) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Loaded loaded({}, dtype);
    test::expect_batch_invariant_logits(loaded.model, loaded.tokenizer);
  }
}

TEST(Engine, SeedsDecideWhateverTheBatch) {
  Loaded loaded;
  auto requests = some_requests();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].temperature = 0.5F + 0.3F * static_cast<float>(i);
    requests[i].seed = static_cast<std::int64_t>(i) % 2;
  }
  requests[1].top_k = 20;
  requests[2].top_p = 0.8F;
  requests[4].min_p = 0.02F;
  const auto expected = serve(loaded, requests).tokens();
  EXPECT_EQ(serve(loaded, requests, {2, 9, 64, 8, false}).tokens(), expected);
  EXPECT_EQ(serve(loaded, requests, {6, 64, 22, 4, true}).tokens(), expected);
  std::vector<Request> reversed(requests.rbegin(), requests.rend());
  EXPECT_EQ(serve(loaded, reversed).tokens(), expected);
  for (Request& request : requests) request.seed += 2;
  EXPECT_NE(serve(loaded, requests).tokens(), expected);
}

TEST(Engine, CommonBeginningsAreStoredAndComputedOnce) {
  Loaded loaded;
  std::mt19937 random(9);
  const auto system = random_tokens(random, 233);  // long enough to be read once for all
  std::vector<Request> requests(5);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].id = std::to_string(i);
    requests[i].prompt = system;
    requests[i].prompt.push_back(static_cast<std::int32_t>(10 + i));
    requests[i].max_new_tokens = 6;
  }
  const Served shared = serve(loaded, requests, {8, 512, 200, 8, true});
  const Served apart = serve(loaded, requests, {8, 512, 200, 8, false});
  EXPECT_EQ(shared.tokens(), apart.tokens());
  EXPECT_EQ(shared.results.at("0").shared_tokens, 0);
  for (const char* id : {"1", "2", "3", "4"}) {
    EXPECT_EQ(shared.results.at(id).shared_tokens, 233);  // 29 whole pages and a copied one
    EXPECT_EQ(apart.results.at(id).shared_tokens, 0);
  }
  // 239 tokens take 30 pages, of which 29 are shared.
  EXPECT_EQ(shared.stats.kv_pages_peak, 29 + 5);
  EXPECT_EQ(apart.stats.kv_pages_peak, 5 * 30);
  EXPECT_EQ(shared.stats.page_copies, 4);
  EXPECT_EQ(apart.stats.page_copies, 0);
  EXPECT_LT(shared.stats.kv_bytes_read, apart.stats.kv_bytes_read);
  EXPECT_EQ(apart.stats.kv_bytes_read, apart.stats.kv_bytes_unshared);
  EXPECT_LT(shared.stats.kv_bytes_read, shared.stats.kv_bytes_unshared);
  const Served flat = serve(loaded, requests, {8, 512, 200, 8, true, false});
  EXPECT_EQ(flat.tokens(), apart.tokens());
  EXPECT_EQ(flat.stats.kv_bytes_read, shared.stats.kv_bytes_unshared);
  EXPECT_EQ(flat.stats.kv_bytes_read, flat.stats.kv_bytes_unshared);
}

// Sample i is the request with seed + i; the samples share the pages of the prompt.
TEST(Engine, SamplesAnswerAsRequestsWithTheirSeeds) {
  Loaded loaded;
  auto requests = some_requests();
  requests.resize(2);
  std::vector<Request> apart;
  for (Request& request : requests) {
    request.n = 5;
    request.temperature = 1;
    request.seed = 40;
    for (std::int32_t i = 0; i < request.n; ++i) {
      apart.push_back(request);
      apart.back().n = 1;
      apart.back().seed = request.seed + i;
      if (i > 0) apart.back().id = fmt::format("{}/{}", request.id, i);
    }
  }
  const auto expected = serve(loaded, apart, {1, 512, 64, 16, false}).tokens();
  EXPECT_NE(expected.at("0"), expected.at("0/1"));
  for (const EngineOptions& options :
       std::initializer_list<EngineOptions>{{8, 512, 256, 16, true},
                                            {3, 20, 256, 4, true},
                                            {8, 512, 22, 4, true},
                                            {8, 64, 256, 7, false}}) {
    EXPECT_EQ(serve(loaded, requests, options).tokens(), expected)
        << "max_batch " << options.max_batch << ", page_size " << options.page_size;
  }
}

TEST(Engine, SamplesHoldThePagesOfThePromptOnce) {
  Loaded loaded;
  std::mt19937 random(3);
  Request request;
  request.prompt = random_tokens(random, 53);  // 6 pages and 5 tokens
  request.n = 8;
  request.temperature = 1;
  request.max_new_tokens = 3;  // they fit the last page
  request.ignore_eos = true;
  const Served served = serve(loaded, {request}, {8, 512, 128, 8, true});
  EXPECT_EQ(served.stats.kv_pages_peak, 6 + 8);
  EXPECT_EQ(served.stats.page_copies, 7);
  EXPECT_EQ(serve(loaded, {request}, {8, 512, 128, 8, false}).stats.kv_pages_peak, 8 * 7);
}

TEST(Engine, AConversationFindsItsOwnAnswerInTheCache) {
  Loaded loaded;
  std::map<std::string, Result> results;
  Engine::Events events;
  events.finished = [&](const Result& result) { results[result.id] = result; };
  Engine engine(loaded.model, loaded.tokenizer, {8, 512, 128, 4, true}, events);
  Request request;
  request.id = "first";
  request.prompt = {10, 11, 12, 13, 14, 15};
  request.max_new_tokens = 11;
  request.ignore_eos = true;
  engine.submit(request);
  while (engine.step()) {
  }
  const auto& answer = results["first"].tokens;
  request.id = "second";
  request.prompt.insert(request.prompt.end(), answer.begin(), answer.end());
  request.prompt.push_back(20);
  engine.submit(request);
  while (engine.step()) {
  }
  EXPECT_EQ(results["second"].shared_tokens,
            16);  // of 6 + 11, the last of which was never computed
}

TEST(Engine, StopTextsEndTheAnswerBeforeThem) {
  Loaded loaded;
  Request request;
  request.id = "a";
  request.prompt = {4 + 'H', 4 + 'i'};
  request.max_new_tokens = 40;
  request.ignore_eos = true;
  const Result whole = serve(loaded, {request}).results.at("a");
  EXPECT_EQ(whole.finish_reason, FinishReason::length);
  ASSERT_GE(whole.text.size(), 20U);
  // Longer than the bytes of any token here, so it crosses their boundaries.
  for (const std::size_t at : {0, 5, 11}) {
    const std::string stop = whole.text.substr(at, 7);
    const std::size_t found = whole.text.find(stop);
    Request stopping = request;
    stopping.stop = {"never in it", stop};
    const Result result = serve(loaded, {stopping}).results.at("a");
    EXPECT_EQ(result.text, whole.text.substr(0, found));
    EXPECT_EQ(result.finish_reason, FinishReason::stop);
    EXPECT_LT(result.tokens.size(), whole.tokens.size());
    EXPECT_TRUE(std::equal(result.tokens.begin(), result.tokens.end(), whole.tokens.begin()));
    // Of several the one that is complete first.
    stopping.stop = {whole.text.substr(at + 1, 6), whole.text.substr(at + 3, 2)};
    std::size_t begin = 0, end = whole.text.size() + 1;
    for (const std::string& text : stopping.stop) {
      const std::size_t start = whole.text.find(text);
      if (start + text.size() < end) std::tie(begin, end) = std::pair(start, start + text.size());
    }
    EXPECT_EQ(serve(loaded, {stopping}).results.at("a").text, whole.text.substr(0, begin));
  }
  // What looks like a stop text for a while is handed out after all.
  Request nearly = request;
  nearly.stop = {whole.text.substr(3, 4) + "\x01 never",
                 whole.text.substr(whole.text.size() - 3) + "\x01"};
  const Result result = serve(loaded, {nearly}).results.at("a");
  EXPECT_EQ(result.text, whole.text);
  EXPECT_EQ(result.tokens, whole.tokens);
}

TEST(Engine, EndsAtEndOfTurnUnlessToldNotTo) {
  Request request;
  request.id = "a";
  request.prompt = {50, 60, 70};
  request.max_new_tokens = 20;
  request.ignore_eos = true;
  Loaded plain;
  const auto tokens = serve(plain, {request}).tokens().at("a");
  TinyModel ending;
  ending.end_of_turn = tokens[6];
  const auto first = std::find(tokens.begin(), tokens.end(), tokens[6]) - tokens.begin();
  Loaded loaded(ending);
  EXPECT_EQ(serve(loaded, {request}).tokens().at("a"), tokens);
  request.ignore_eos = false;
  const Result result = serve(loaded, {request}).results.at("a");
  EXPECT_EQ(result.finish_reason, FinishReason::stop);
  EXPECT_EQ(result.tokens, std::vector<std::int32_t>(tokens.begin(), tokens.begin() + first + 1));
}

TEST(Engine, EndsWhereTheContextEnds) {
  Loaded loaded;
  Request request;
  request.id = "a";
  request.prompt.assign(250, 33);
  request.max_new_tokens = 1000;
  request.ignore_eos = true;
  const Result result = serve(loaded, {request}, {1, 64, 16, 16, true}).results.at("a");
  EXPECT_EQ(result.tokens.size(), 6U);
  EXPECT_EQ(result.finish_reason, FinishReason::length);
  request.prompt.assign(255, 33);
  EXPECT_EQ(serve(loaded, {request}).results.at("a").tokens.size(), 1U);
}

TEST(Engine, ShortRequestsOvertakeLongOnes) {
  Loaded loaded;
  auto requests = some_requests();
  requests[0].max_new_tokens = 40;
  requests[4].max_new_tokens = 1;
  const Served all = serve(loaded, requests);
  EXPECT_EQ(all.order.front(), "4");
  EXPECT_EQ(all.order.back(), "0");
}

TEST(Engine, RefusesRequestsItCannotServe) {
  Loaded loaded;
  Engine engine(loaded.model, loaded.tokenizer, {8, 512, 4, 16, true}, {});
  Request good;
  good.prompt = {5, 6};
  good.max_new_tokens = 4;
  const auto refused = [&](const std::function<void(Request&)>& change,
                           std::initializer_list<std::string_view> parts) {
    Request request = good;
    change(request);
    expect_error([&] { engine.submit(request); }, parts);
  };
  refused([](Request& r) { r.prompt.clear(); }, {"prompt is empty"});
  refused([](Request& r) { r.prompt.assign(256, 5); }, {"256 tokens", "context"});
  refused([](Request& r) { r.prompt = {5, -1}; }, {"token is -1", "[0, 263)"});
  refused([](Request& r) { r.prompt = {263}; }, {"token is 263"});
  refused([](Request& r) { r.n = 0; }, {"n is 0", "[1, 1024]"});
  refused([](Request& r) { r.max_new_tokens = 0; }, {"max_new_tokens is 0"});
  refused([](Request& r) { r.max_new_tokens = 64; }, {"5 KV pages", "there are 4"});
  refused([](Request& r) { r.temperature = -1; }, {"temperature is -1"});
  refused([](Request& r) { r.temperature = NAN; }, {"temperature is nan"});
  refused([](Request& r) { r.top_p = 1.5F; }, {"top_p is 1.5"});
  refused([](Request& r) { r.min_p = -0.5F; }, {"min_p is -0.5"});
  refused([](Request& r) { r.stop = {"x", ""}; }, {"stop is empty"});
  EXPECT_FALSE(engine.step());
  engine.submit(good);
  EXPECT_TRUE(engine.step());
}

TEST(Engine, RefusesOptionsThatMakeNoSense) {
  Loaded loaded;
  const auto refused = [&](const EngineOptions& options,
                           std::initializer_list<std::string_view> parts) {
    expect_error([&] { Engine(loaded.model, loaded.tokenizer, options, {}); }, parts);
  };
  refused({0, 512, 4, 16, true}, {"max_batch is 0"});
  refused({8, 7, 4, 16, true}, {"token_budget is 7", "8"});
  refused({8, 512, 4, 0, true}, {"page_size is 0"});
  refused({8, 512, 0, 16, true}, {"kv_pages is 0"});
  refused({8, 512, 1 << 24, 1024, true}, {"kv_pages is 16777216"});
}

}  // namespace
}  // namespace tilewright::engine
