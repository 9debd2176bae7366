// SPDX-License-Identifier: Apache-2.0
// Groups of sequences that begin with the same pages: by example, and random ones against what
// groups must be.
#include "engine/shared_pages.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace tilewright::engine {
namespace {

using Pages = std::vector<std::int32_t>;

SharedPages find(const std::vector<Pages>& sequences, std::size_t most_levels) {
  const std::vector<std::span<const std::int32_t>> spans(sequences.begin(), sequences.end());
  return find_shared_pages(spans, most_levels);
}

TEST(SharedPages, GroupsInGroups) {
  const std::vector<Pages> sequences = {{9}, {1, 2, 3, 4}, {}, {1, 2, 5}, {7, 8}, {1, 2, 3}, {7}};
  const SharedPages shared = find(sequences, 3);
  EXPECT_EQ(shared.order, (std::vector<std::size_t>{5, 1, 3, 6, 4, 2, 0}));
  EXPECT_EQ(shared.own_page, (std::vector<std::size_t>{3, 3, 2, 1, 1, 0, 0}));
  ASSERT_EQ(shared.levels.size(), 2U);
  EXPECT_TRUE(
      std::ranges::equal(shared.levels[0], std::vector<SharedRow>{{0, 3, 0, 2}, {3, 5, 0, 1}}));
  EXPECT_TRUE(std::ranges::equal(shared.levels[1], std::vector<SharedRow>{{0, 2, 2, 3}}));
  const SharedPages one = find(sequences, 1);
  EXPECT_EQ(one.levels.size(), 1U);
  EXPECT_EQ(one.own_page, (std::vector<std::size_t>{2, 2, 2, 1, 1, 0, 0}));
  const SharedPages none = find(sequences, 0);
  EXPECT_TRUE(none.levels.empty());
  EXPECT_EQ(none.order, (std::vector<std::size_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(none.own_page, std::vector<std::size_t>(7, 0));
  EXPECT_TRUE(find({}, 3).order.empty());
}

// Rows cover at least two sequences, all with the pages of the row, and are as long as they can be;
// the rows of a sequence and its own pages follow each other without gaps.
TEST(SharedPages, RandomForests) {
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    std::vector<Pages> sequences(random() % 12);
    for (Pages& pages : sequences) {
      // A page number tells the path that leads to it: equal pages have equal ones before them.
      std::int32_t path = 0;
      for (std::size_t i = random() % 7; i > 0; --i) {
        path = path * 3 + 1 + static_cast<std::int32_t>(random() % 2);
        pages.push_back(path);
      }
    }
    const std::size_t most_levels = random() % 4;
    const SharedPages shared = find(sequences, most_levels);
    std::vector<std::size_t> order = shared.order;
    std::ranges::sort(order);
    for (std::size_t i = 0; i < order.size(); ++i) ASSERT_EQ(order[i], i);
    ASSERT_EQ(order.size(), sequences.size());
    ASSERT_LE(shared.levels.size(), most_levels);
    std::vector<std::size_t> reached(sequences.size(), 0);
    const auto pages = [&](std::size_t i) -> const Pages& { return sequences[shared.order[i]]; };
    for (const auto& level : shared.levels) {
      ASSERT_FALSE(level.empty());
      std::size_t behind = 0;
      for (const SharedRow& row : level) {
        ASSERT_GE(row.begin, behind);
        ASSERT_GE(row.end, row.begin + 2);
        ASSERT_GT(row.last_page, row.first_page);
        behind = row.end;
        std::size_t longest = pages(row.begin).size();
        for (std::size_t i = row.begin; i < row.end; ++i) {
          ASSERT_EQ(reached[i], row.first_page);
          reached[i] = row.last_page;
          const auto differ = std::ranges::mismatch(pages(i), pages(row.begin));
          longest = std::min<std::size_t>(longest, differ.in1 - pages(i).begin());
        }
        ASSERT_EQ(longest, row.last_page);
      }
    }
    for (std::size_t i = 0; i < reached.size(); ++i) {
      ASSERT_EQ(reached[i], shared.own_page[i]);
      if (shared.levels.size() == most_levels || most_levels == 0) continue;
      // With levels to spare nothing that could be shared is left.
      for (std::size_t j = 0; j < reached.size(); ++j) {
        if (i == j || reached[i] >= pages(i).size() || reached[i] >= pages(j).size()) continue;
        ASSERT_NE(pages(i)[reached[i]], pages(j)[reached[i]]);
      }
    }
  }
}

}  // namespace
}  // namespace tilewright::engine
