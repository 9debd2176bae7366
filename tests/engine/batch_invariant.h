// SPDX-License-Identifier: Apache-2.0
// Batch-invariant mode: the logits of requests, by the bit, alone and in any company.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "engine/serve.h"

namespace tilewright::test {

// Of each sample ("id/index"), one row after the other.
using SampleLogits = std::map<std::string, std::vector<float>>;

template <typename AnyModel>
SampleLogits invariant_logits(AnyModel& model, const engine::Tokenizer& tokenizer,
                              const std::vector<engine::Request>& requests,
                              engine::EngineOptions options) {
  SampleLogits logits;
  options.batch_invariant = true;
  engine::Engine::Events events;
  events.logits = [&](const engine::Result& result, std::span<const float> row) {
    auto& all = logits[fmt::format("{}/{}", result.id, result.index)];
    all.insert(all.end(), row.begin(), row.end());
  };
  engine::Engine engine(model, tokenizer, options, events);
  for (const engine::Request& request : requests) engine.submit(request);
  while (engine.step()) {
  }
  return logits;
}

inline void expect_same_bits(const SampleLogits& logits, const SampleLogits& expected) {
  ASSERT_EQ(logits.size(), expected.size());
  for (const auto& [name, values] : expected) {
    const auto& found = logits.at(name);
    ASSERT_EQ(found.size(), values.size()) << name;
    EXPECT_EQ(std::memcmp(found.data(), values.data(), values.size() * sizeof(float)), 0) << name;
  }
}

// Of a tiny model: batches of any size, chunks, pages, preemption, shared or not.
template <typename AnyModel>
void expect_batch_invariant_logits(AnyModel& model, const engine::Tokenizer& tokenizer) {
  auto requests = some_requests();
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].temperature = 1;
    requests[i].seed = static_cast<std::int64_t>(i);
    requests[i].max_new_tokens = 60;
  }
  requests[1].n = 3;
  const auto expected = invariant_logits(model, tokenizer, requests, {{1, 512, 64, 16, false}});
  ASSERT_EQ(expected.size(), 8U);
  for (const engine::EngineOptions& options :
       std::initializer_list<engine::EngineOptions>{{{8, 512, 256, 16, true, true}},
                                                    {{8, 512, 256, 4, true, false}},
                                                    {{3, 9, 256, 5, true, true}},
                                                    {{8, 40, 30, 4, true, true}},
                                                    {{5, 33, 128, 8, false, false}}}) {
    SCOPED_TRACE(testing::Message()
                 << "max_batch " << options.max_batch << ", token_budget " << options.token_budget
                 << ", page_size " << options.page_size << ", share " << options.share_prefixes);
    expect_same_bits(invariant_logits(model, tokenizer, requests, options), expected);
  }
}

}  // namespace tilewright::test
