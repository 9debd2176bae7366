// SPDX-License-Identifier: Apache-2.0
// Reference-counted pages of the KV cache.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace tilewright::engine {

// Sequences hold pages; the prefix cache may hold a page too, once.
class PagePool {
 public:
  explicit PagePool(std::int32_t pages)
      : references_(static_cast<std::size_t>(pages), 0),
        cached_(static_cast<std::size_t>(pages), false) {
    for (std::int32_t page = pages; page > 0; --page) free_.push_back(page - 1);
  }

  // A page with one reference; nothing when all are in use.
  std::optional<std::int32_t> allocate() {
    if (free_.empty()) return std::nullopt;
    const std::int32_t page = free_.back();
    free_.pop_back();
    references_[static_cast<std::size_t>(page)] = 1;
    return page;
  }
  void add_reference(std::int32_t page) {
    if (only_cached(page)) --only_cached_;
    ++references_[static_cast<std::size_t>(page)];
  }
  void release(std::int32_t page) {
    if (--references_[static_cast<std::size_t>(page)] == 0) free_.push_back(page);
    if (only_cached(page)) ++only_cached_;
  }

  // The prefix cache's reference to a page that a sequence holds.
  void keep(std::int32_t page) {
    add_reference(page);
    cached_[static_cast<std::size_t>(page)] = true;
  }
  void forget(std::int32_t page) {
    if (only_cached(page)) --only_cached_;
    cached_[static_cast<std::size_t>(page)] = false;
    release(page);
  }
  bool only_cached(std::int32_t page) const {
    return cached_[static_cast<std::size_t>(page)] && references(page) == 1;
  }

  int references(std::int32_t page) const { return references_[static_cast<std::size_t>(page)]; }
  std::int64_t size() const { return static_cast<std::int64_t>(references_.size()); }
  std::int64_t used() const { return size() - static_cast<std::int64_t>(free_.size()); }
  // By sequences, each page counted once.
  std::int64_t held() const { return used() - only_cached_; }

 private:
  std::vector<int> references_;
  std::vector<bool> cached_;
  std::vector<std::int32_t> free_;
  std::int64_t only_cached_ = 0;
};

}  // namespace tilewright::engine
