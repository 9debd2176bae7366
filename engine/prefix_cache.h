// SPDX-License-Identifier: Apache-2.0
// Which pages hold which beginnings of token sequences: a radix tree over whole pages. Sequences
// that begin alike share the pages of their common beginning, and finished ones leave theirs behind
// until the room is needed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "engine/page_pool.h"

namespace tilewright::engine {

class PrefixCache {
 public:
  // How far a sequence is in the tree, so that its next pages need no walk from the root.
  struct Place {
    std::uint64_t node = 0;
    std::size_t pages = 0;  // of the sequence, up to the node
  };

  PrefixCache(PagePool& pool, std::int64_t page_size) : pool_(pool), page_size_(page_size) {}

  // The pages of the longest known beginning of `tokens`, whole pages only. The caller gets a
  // reference to each.
  std::vector<std::int32_t> match(std::span<const std::int32_t> tokens);
  // Remembers the whole pages of `tokens`, of which `pages` hold the first ones. What is known
  // already stays. `place` is of an earlier call for the same sequence, or fresh.
  void insert(std::span<const std::int32_t> tokens, std::span<const std::int32_t> pages,
              Place& place);
  // Forgets the page used longest ago that no sequence holds; false when there is none. O(log
  // pages), plus one for each sequence that holds an older leaf.
  bool evict();

  std::int64_t pages() const { return static_cast<std::int64_t>(nodes_.size()); }

 private:
  using Id = std::uint64_t;
  static constexpr Id kRoot = 0;

  struct TokenOrder {
    using is_transparent = void;
    bool operator()(std::span<const std::int32_t> a, std::span<const std::int32_t> b) const {
      return std::ranges::lexicographical_compare(a, b);
    }
  };
  using Children = std::map<std::vector<std::int32_t>, Id, TokenOrder>;  // by the tokens of a page

  struct Node {
    Id parent = kRoot;
    std::int32_t page = -1;
    std::uint64_t last_use = 0;  // of this node; those behind it may have been used later
    Children children;
    Children::iterator in_parent;
  };

  std::span<const std::int32_t> page_tokens(std::span<const std::int32_t> tokens,
                                            std::size_t i) const;
  Children& children(Id node) { return node == kRoot ? roots_ : nodes_.at(node).children; }
  Id add(Id parent, std::span<const std::int32_t> tokens, std::int32_t page);
  void use(Id id, std::uint64_t time);

  PagePool& pool_;
  std::int64_t page_size_;
  Children roots_;
  std::unordered_map<Id, Node> nodes_;
  std::set<std::pair<std::uint64_t, Id>> leaves_;  // by last use
  std::uint64_t clock_ = 0;
  Id last_id_ = kRoot;
};

}  // namespace tilewright::engine
