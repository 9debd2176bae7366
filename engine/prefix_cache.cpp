// SPDX-License-Identifier: Apache-2.0
#include "engine/prefix_cache.h"

namespace tilewright::engine {

std::span<const std::int32_t> PrefixCache::page_tokens(std::span<const std::int32_t> tokens,
                                                       std::size_t i) const {
  const auto size = static_cast<std::size_t>(page_size_);
  return tokens.subspan(i * size, size);
}

// A leaf that is evicted hands its last use on to its parent, so it is enough to note the use of
// the last node of a path.
void PrefixCache::use(Id id, std::uint64_t time) {
  if (id == kRoot) return;
  Node& node = nodes_.at(id);
  if (node.children.empty()) {
    leaves_.erase({node.last_use, id});
    leaves_.emplace(std::max(node.last_use, time), id);
  }
  node.last_use = std::max(node.last_use, time);
}

std::vector<std::int32_t> PrefixCache::match(std::span<const std::int32_t> tokens) {
  std::vector<std::int32_t> pages;
  Id id = kRoot;
  for (std::size_t i = 0; i < tokens.size() / static_cast<std::size_t>(page_size_); ++i) {
    const Children& known = children(id);
    const auto child = known.find(page_tokens(tokens, i));
    if (child == known.end()) break;
    id = child->second;
    pages.push_back(nodes_.at(id).page);
    pool_.add_reference(pages.back());
  }
  use(id, ++clock_);
  return pages;
}

PrefixCache::Id PrefixCache::add(Id parent, std::span<const std::int32_t> tokens,
                                 std::int32_t page) {
  if (parent != kRoot && children(parent).empty()) {
    leaves_.erase({nodes_.at(parent).last_use, parent});
  }
  const Id id = ++last_id_;
  Node& node = nodes_[id];
  node.parent = parent;
  node.page = page;
  node.last_use = clock_;
  node.in_parent = children(parent).emplace(std::vector(tokens.begin(), tokens.end()), id).first;
  leaves_.emplace(node.last_use, id);
  pool_.keep(page);
  return id;
}

void PrefixCache::insert(std::span<const std::int32_t> tokens, std::span<const std::int32_t> pages,
                         Place& place) {
  if (place.node != kRoot && !nodes_.contains(place.node)) place = {};  // it was evicted
  ++clock_;
  for (; place.pages < tokens.size() / static_cast<std::size_t>(page_size_); ++place.pages) {
    const auto key = page_tokens(tokens, place.pages);
    const Children& known = children(place.node);
    const auto child = known.find(key);
    place.node = child != known.end() ? child->second : add(place.node, key, pages[place.pages]);
  }
  use(place.node, clock_);
}

bool PrefixCache::evict() {
  const auto oldest = std::ranges::find_if(
      leaves_, [&](const auto& leaf) { return pool_.only_cached(nodes_.at(leaf.second).page); });
  if (oldest == leaves_.end()) return false;
  const Id id = oldest->second;
  leaves_.erase(oldest);
  const Node& node = nodes_.at(id);
  const Id parent = node.parent;
  const std::uint64_t last_use = node.last_use;
  pool_.forget(node.page);
  children(parent).erase(node.in_parent);
  nodes_.erase(id);
  if (parent != kRoot && children(parent).empty()) {
    leaves_.emplace(nodes_.at(parent).last_use, parent);
    use(parent, last_use);
  }
  return true;
}

}  // namespace tilewright::engine
