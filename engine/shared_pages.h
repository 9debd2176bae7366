// SPDX-License-Identifier: Apache-2.0
// Which sequences of a step begin with the same pages: a forest of groups in groups, with the
// members of each next to each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace tilewright::engine {

// Sequences [begin, end) of the new order all have pages [first_page, last_page), the same ones.
struct SharedRow {
  std::size_t begin = 0;
  std::size_t end = 0;
  std::size_t first_page = 0;
  std::size_t last_page = 0;

  friend bool operator==(const SharedRow&, const SharedRow&) = default;
};

struct SharedPages {
  std::vector<std::size_t> order;              // the new order, as indices of the old one
  std::vector<std::size_t> own_page;           // a sequence, in the new order: first not shared
  std::vector<std::vector<SharedRow>> levels;  // a group of level l + 1 is inside one of level l
};

// `pages`: of each sequence those it may share, from its beginning on. Groups nested deeper than
// `most_levels` are not looked for.
SharedPages find_shared_pages(std::span<const std::span<const std::int32_t>> pages,
                              std::size_t most_levels);

}  // namespace tilewright::engine
