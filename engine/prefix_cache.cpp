// SPDX-License-Identifier: Apache-2.0
#include "engine/prefix_cache.h"

namespace tilewright::engine {

std::vector<std::int32_t> PrefixCache::page_tokens(std::span<const std::int32_t> tokens,
                                                   std::size_t i) const {
  const auto page = tokens.subspan(i * static_cast<std::size_t>(page_size_),
                                   static_cast<std::size_t>(page_size_));
  return {page.begin(), page.end()};
}

std::vector<std::int32_t> PrefixCache::match(std::span<const std::int32_t> tokens) {
  std::vector<std::int32_t> pages;
  ++clock_;
  Node* node = &root_;
  for (std::size_t i = 0; i < tokens.size() / static_cast<std::size_t>(page_size_); ++i) {
    const auto child = node->children.find(page_tokens(tokens, i));
    if (child == node->children.end()) break;
    node = child->second.get();
    node->last_use = clock_;
    pool_.add_reference(node->page);
    pages.push_back(node->page);
  }
  return pages;
}

void PrefixCache::insert(std::span<const std::int32_t> tokens,
                         std::span<const std::int32_t> pages) {
  ++clock_;
  Node* node = &root_;
  for (std::size_t i = 0; i < tokens.size() / static_cast<std::size_t>(page_size_); ++i) {
    std::unique_ptr<Node>& child = node->children[page_tokens(tokens, i)];
    if (child == nullptr) {
      child = std::make_unique<Node>();
      child->page = pages[i];
      pool_.add_reference(pages[i]);
      ++count_;
    }
    node = child.get();
    node->last_use = clock_;
  }
}

void PrefixCache::find_oldest_leaf(Node& node, Leaf& oldest) {
  for (auto child = node.children.begin(); child != node.children.end(); ++child) {
    if (!child->second->children.empty()) {
      find_oldest_leaf(*child->second, oldest);
    } else if (pool_.references(child->second->page) == 1 &&
               (oldest.parent == nullptr ||
                child->second->last_use < oldest.child->second->last_use)) {
      oldest = {&node, child};
    }
  }
}

bool PrefixCache::evict() {
  Leaf oldest;
  find_oldest_leaf(root_, oldest);
  if (oldest.parent == nullptr) return false;
  pool_.release(oldest.child->second->page);
  oldest.parent->children.erase(oldest.child);
  --count_;
  return true;
}

}  // namespace tilewright::engine
