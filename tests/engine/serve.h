// SPDX-License-Identifier: Apache-2.0
// Requests for the engine, and what it answers.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace tilewright::test {

inline std::vector<std::int32_t> random_tokens(std::mt19937& random, std::size_t count) {
  std::vector<std::int32_t> tokens(count);
  for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(4 + random() % 255);
  return tokens;
}

// Six greedy requests: four begin with the same 40 tokens, of which two are the same altogether.
inline std::vector<engine::Request> some_requests() {
  std::mt19937 random(5);
  const auto shared = random_tokens(random, 40);
  std::vector<engine::Request> requests(6);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    engine::Request& request = requests[i];
    request.id = std::to_string(i);
    if (i < 4) request.prompt = shared;
    const auto own = random_tokens(random, 1 + 7 * i);
    request.prompt.insert(request.prompt.end(), own.begin(), own.end());
    request.max_new_tokens = 12 + static_cast<std::int64_t>(i) * 3;
    request.ignore_eos = true;
  }
  requests[3].prompt = requests[2].prompt;
  return requests;
}

struct Served {
  std::map<std::string, engine::Result> results;
  std::map<std::string, std::string> streamed;
  std::vector<std::string> order;
  engine::EngineStats stats;

  std::map<std::string, std::vector<std::int32_t>> tokens() const {
    std::map<std::string, std::vector<std::int32_t>> out;
    for (const auto& [id, result] : results) out[id] = result.tokens;
    return out;
  }
};

// All requests, submitted at once. `model`: Model or DeviceModel.
template <typename AnyModel>
Served serve(AnyModel& model, const engine::Tokenizer& tokenizer,
             const std::vector<engine::Request>& requests,
             const engine::EngineOptions& options = {}) {
  using namespace engine;  // NOLINT(google-build-using-namespace)
  Served served;
  Engine::Events events;
  const auto name = [](const Result& result) {
    return result.index == 0 ? result.id : fmt::format("{}/{}", result.id, result.index);
  };
  events.token = [&](const Result& result, const std::string& text) {
    served.streamed[name(result)] += text;
    EXPECT_GE(result.tokens.size(), 1U);
  };
  events.finished = [&](const Result& result) {
    EXPECT_TRUE(served.results.emplace(name(result), result).second)
        << name(result) << " finished twice";
    served.order.push_back(name(result));
  };
  Engine serving(model, tokenizer, options, events);
  for (const Request& request : requests) serving.submit(request);
  while (serving.step()) {
  }
  served.stats = serving.stats();
  std::size_t samples = 0;
  for (const Request& request : requests) samples += static_cast<std::size_t>(request.n);
  EXPECT_EQ(served.results.size(), samples);
  // Nothing runs: only the prefix cache may hold pages.
  EXPECT_EQ(served.stats.kv_pages_used, served.stats.kv_pages_cached);
  if (!options.share_prefixes) {
    EXPECT_EQ(served.stats.kv_pages_used, 0);
  }
  for (const auto& [id, result] : served.results) {
    EXPECT_EQ(served.streamed[id], result.text);
    EXPECT_EQ(result.itl_ms.size() + 1, result.tokens.size());
  }
  return served;
}

}  // namespace tilewright::test
