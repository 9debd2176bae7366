// SPDX-License-Identifier: Apache-2.0
#include "engine/shared_pages.h"

#include <algorithm>
#include <numeric>

namespace tilewright::engine {
namespace {

class Finder {
 public:
  Finder(std::span<const std::span<const std::int32_t>> pages, std::size_t most_levels)
      : most_levels_(most_levels), sorted_(pages.size()), common_(pages.size(), 0) {
    std::iota(sorted_.begin(), sorted_.end(), 0);
    if (most_levels == 0) return;
    std::ranges::stable_sort(sorted_, [&](std::size_t a, std::size_t b) {
      return std::ranges::lexicographical_compare(pages[a], pages[b]);
    });
    for (std::size_t i = 1; i < sorted_.size(); ++i) {
      const auto& before = pages[sorted_[i - 1]];
      common_[i] = static_cast<std::size_t>(std::ranges::mismatch(before, pages[sorted_[i]]).in1 -
                                            before.begin());
    }
  }

  SharedPages find() && {
    group(0, sorted_.size(), 0, 0);
    return std::move(out_);
  }

 private:
  // Sorted sequences [begin, end) share their first `page` pages. Those that share more come first.
  void group(std::size_t begin, std::size_t end, std::size_t page, std::size_t level) {
    std::vector<std::size_t> alone;
    for (std::size_t i = begin; i < end;) {
      std::size_t last = i + 1;
      while (level < most_levels_ && last < end && common_[last] > page) ++last;
      if (last == i + 1) {
        alone.push_back(sorted_[i]);
      } else {
        share(i, last, page, level);
      }
      i = last;
    }
    for (const std::size_t sequence : alone) append(sequence, page);
  }

  void share(std::size_t begin, std::size_t end, std::size_t page, std::size_t level) {
    const auto first = common_.begin() + static_cast<std::ptrdiff_t>(begin);
    const std::size_t shared =
        *std::min_element(first + 1, first + static_cast<std::ptrdiff_t>(end - begin));
    if (out_.levels.size() <= level) out_.levels.resize(level + 1);
    const std::size_t at = out_.order.size();
    out_.levels[level].push_back({at, at + end - begin, page, shared});
    group(begin, end, shared, level + 1);
  }

  void append(std::size_t sequence, std::size_t own_page) {
    out_.order.push_back(sequence);
    out_.own_page.push_back(own_page);
  }

  std::size_t most_levels_;
  std::vector<std::size_t> sorted_;
  std::vector<std::size_t> common_;  // pages that sorted_[i] shares with sorted_[i - 1]
  SharedPages out_;
};

}  // namespace

SharedPages find_shared_pages(std::span<const std::span<const std::int32_t>> pages,
                              std::size_t most_levels) {
  return Finder(pages, most_levels).find();
}

}  // namespace tilewright::engine
