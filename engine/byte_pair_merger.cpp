// SPDX-License-Identifier: Apache-2.0
#include "engine/byte_pair_merger.h"

#include <functional>
#include <queue>
#include <tuple>

namespace tilewright::engine {
namespace {

constexpr std::int64_t kNone = -1;
constexpr std::int32_t kMerged = -1;  // the token of a symbol that went into its left neighbour

struct Symbol {
  std::int32_t token;
  std::int64_t previous;
  std::int64_t next;
};

// A merge that was possible when it was queued; it still is when both tokens are what they were.
struct Candidate {
  std::int32_t rank;
  std::int64_t left;
  std::int32_t left_token, right_token, merged_token;

  // Lowest rank first, then leftmost.
  bool operator>(const Candidate& other) const {
    return std::tie(rank, left) > std::tie(other.rank, other.left);
  }
};

std::uint64_t key_of(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
}

}  // namespace

bool BytePairMerger::add(std::int32_t left, std::int32_t right, std::int32_t merged) {
  const auto rank = static_cast<std::int32_t>(merges_.size());
  return merges_.emplace(key_of(left, right), Merge{rank, merged}).second;
}

const BytePairMerger::Merge* BytePairMerger::find(std::int32_t left, std::int32_t right) const {
  const auto found = merges_.find(key_of(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

void BytePairMerger::apply(std::string_view piece, std::vector<std::int32_t>& out) const {
  std::vector<Symbol> symbols;
  symbols.reserve(piece.size());
  for (const char c : piece) {
    const std::int32_t token = byte_tokens_[static_cast<unsigned char>(c)];
    const auto index = static_cast<std::int64_t>(symbols.size());
    if (token >= 0) symbols.push_back({token, index - 1, index + 1});
  }
  if (symbols.empty()) return;
  symbols.back().next = kNone;

  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::int64_t left) {
    if (left == kNone || symbols[left].next == kNone) return;
    const std::int32_t right_token = symbols[symbols[left].next].token;
    if (const Merge* merge = find(symbols[left].token, right_token)) {
      queue.push({merge->rank, left, symbols[left].token, right_token, merge->token});
    }
  };
  for (std::size_t i = 0; i + 1 < symbols.size(); ++i) consider(static_cast<std::int64_t>(i));

  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.left];
    if (left.token != best.left_token || left.next == kNone) continue;
    Symbol& right = symbols[left.next];
    if (right.token != best.right_token) continue;
    left.token = best.merged_token;
    right.token = kMerged;
    left.next = right.next;
    if (left.next != kNone) symbols[left.next].previous = best.left;
    consider(left.previous);
    consider(best.left);
  }
  for (std::int64_t i = 0; i != kNone; i = symbols[i].next) out.push_back(symbols[i].token);
}

}  // namespace tilewright::engine
