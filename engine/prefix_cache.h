// SPDX-License-Identifier: Apache-2.0
// Which pages hold which beginnings of token sequences: a radix tree over whole pages. Sequences
// that begin alike share the pages of their common beginning, and finished ones leave theirs behind
// until the room is needed.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "engine/page_pool.h"

namespace tilewright::engine {

class PrefixCache {
 public:
  PrefixCache(PagePool& pool, std::int64_t page_size) : pool_(pool), page_size_(page_size) {}

  // The pages of the longest known beginning of `tokens`, whole pages only. The caller gets a
  // reference to each.
  std::vector<std::int32_t> match(std::span<const std::int32_t> tokens);
  // Remembers the whole pages of `tokens`, of which `pages` hold the first ones. What is known
  // already stays.
  void insert(std::span<const std::int32_t> tokens, std::span<const std::int32_t> pages);
  // Forgets the page used longest ago that nobody else refers to; false when there is none.
  bool evict();

  std::int64_t pages() const { return count_; }

 private:
  struct Node {
    std::map<std::vector<std::int32_t>, std::unique_ptr<Node>> children;  // by the tokens of a page
    std::int32_t page = -1;
    std::uint64_t last_use = 0;
  };
  struct Leaf {
    Node* parent = nullptr;
    std::map<std::vector<std::int32_t>, std::unique_ptr<Node>>::iterator child;
  };

  std::vector<std::int32_t> page_tokens(std::span<const std::int32_t> tokens, std::size_t i) const;
  void find_oldest_leaf(Node& node, Leaf& oldest);

  PagePool& pool_;
  std::int64_t page_size_;
  Node root_;
  std::uint64_t clock_ = 0;
  std::int64_t count_ = 0;
};

}  // namespace tilewright::engine
