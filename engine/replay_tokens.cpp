// SPDX-License-Identifier: Apache-2.0
#include "engine/replay_tokens.h"

#include <limits>
#include <unordered_map>

#include "engine/checks.h"
#include "engine/random.h"

namespace tilewright::engine {

TraceTokens::TraceTokens(const std::vector<TraceRequest>& trace) {
  std::int64_t next = 0;
  const auto take = [&](std::int64_t count) {
    const std::int64_t first = next;
    next += count;
    require(next <= std::numeric_limits<std::int32_t>::max(),
            "the trace has {} distinct tokens or more: it must have at most {}; replay fewer of "
            "its requests",
            next, std::numeric_limits<std::int32_t>::max());
    return first;
  };
  std::unordered_map<std::int64_t, std::int64_t> blocks;  // to their first ids
  for (const TraceRequest& request : trace) {
    Ids ids;
    ids.input_tokens = request.input_tokens;
    for (const std::int64_t block : request.blocks) {
      const auto [known, is_new] = blocks.try_emplace(block, 0);
      if (is_new) known->second = take(kTraceBlockTokens);
      ids.blocks.push_back(known->second);
    }
    if (ids.blocks.empty()) ids.input = take(request.input_tokens);
    ids.output = take(request.output_tokens + 1);  // one token follows even an answer of none
    requests_.push_back(std::move(ids));
  }
}

std::vector<std::int32_t> TraceTokens::input(std::size_t request) const {
  const Ids& ids = requests_[request];
  std::vector<std::int32_t> tokens;
  tokens.reserve(static_cast<std::size_t>(ids.input_tokens));
  for (std::int64_t i = 0; i < ids.input_tokens; ++i) {
    const std::int64_t id =
        ids.blocks.empty()
            ? ids.input + i
            : ids.blocks[static_cast<std::size_t>(i / kTraceBlockTokens)] + i % kTraceBlockTokens;
    tokens.push_back(static_cast<std::int32_t>(id));
  }
  return tokens;
}

void fill_token_vector(std::uint64_t seed, TokenVector which, std::uint64_t token, int head,
                       std::span<float> out) {
  constexpr float kStep = 1.7320508F / 32768;
  const std::uint64_t stream =
      mix_bits(mix_bits(seed * 4 + static_cast<std::uint64_t>(which)) ^ mix_bits(token + 1)) +
      (static_cast<std::uint64_t>(head) << 32);
  for (std::size_t i = 0; i < out.size(); i += 4) {
    const std::uint64_t bits = mix_bits(stream + i + 1);
    for (std::size_t j = 0; j < 4 && i + j < out.size(); ++j) {
      out[i + j] = static_cast<float>(static_cast<std::int16_t>(bits >> (16 * j))) * kStep;
    }
  }
}

}  // namespace tilewright::engine
