// SPDX-License-Identifier: Apache-2.0
// Byte-pair encoding of one piece: the pair of neighbours with the lowest merge rank is merged
// until no pair has a rank.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace tilewright::engine {

class BytePairMerger {
 public:
  // Bytes of text begin as the tokens of these; -1 for a byte that has none.
  explicit BytePairMerger(const std::array<std::int32_t, 256>& byte_tokens)
      : byte_tokens_(byte_tokens) {}

  // Ranks follow the order of calls. False when the pair is already there.
  bool add(std::int32_t left, std::int32_t right, std::int32_t merged);

  // Appends the tokens of `piece`, in O(n log n). Bytes without a token are left out before
  // merging.
  void apply(std::string_view piece, std::vector<std::int32_t>& out) const;

 private:
  struct Merge {
    std::int32_t rank;
    std::int32_t token;
  };
  const Merge* find(std::int32_t left, std::int32_t right) const;

  std::array<std::int32_t, 256> byte_tokens_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // by left << 32 | right
};

}  // namespace tilewright::engine
