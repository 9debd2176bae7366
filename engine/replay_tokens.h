// SPDX-License-Identifier: Apache-2.0
// Tokens for the requests of a trace, which has lengths only, and random queries, keys and values
// for them: functions of who a token is, so that pages which requests share hold what each of them
// expects, and a check can make them again without looking into any page.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/trace.h"

namespace tilewright::engine {

// Equal ids where the trace says that tokens are equal (the same offset in the same block), and ids
// of their own for all others.
class TraceTokens {
 public:
  // Error when there are more distinct tokens than an i32 has numbers.
  explicit TraceTokens(const std::vector<TraceRequest>& trace);

  std::vector<std::int32_t> input(std::size_t request) const;
  // The i-th token of the answer.
  std::int32_t output(std::size_t request, std::int64_t i) const {
    return static_cast<std::int32_t>(requests_[request].output + i);
  }

 private:
  struct Ids {
    std::int64_t input_tokens = 0;
    std::vector<std::int64_t> blocks;  // the first id of each; empty: from `input` on
    std::int64_t input = 0;
    std::int64_t output = 0;
  };
  std::vector<Ids> requests_;
};

enum class TokenVector : std::uint8_t { query, key, value };

// A head's vector of a token: uniform of mean 0 and variance 1, multiples of 2^-15 * sqrt(3).
// `token`: of keys and values the token's id, of queries see query_token().
void fill_token_vector(std::uint64_t seed, TokenVector which, std::uint64_t token, int head,
                       std::span<float> out);

// Queries differ from request to request also where the tokens are shared.
inline std::uint64_t query_token(std::size_t request, std::int64_t position) {
  return static_cast<std::uint64_t>(request) << 32 | static_cast<std::uint64_t>(position);
}

}  // namespace tilewright::engine
