// SPDX-License-Identifier: Apache-2.0
// The page pool and the prefix cache: by example, and against a simple model of both.
#include "engine/page_pool.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>
#include <vector>

#include "engine/prefix_cache.h"

namespace tilewright::engine {
namespace {

using Tokens = std::vector<std::int32_t>;

void insert(PrefixCache& cache, const Tokens& tokens, const Tokens& pages) {
  PrefixCache::Place place;
  cache.insert(tokens, pages, place);
}

TEST(PagePool, GivesEachPageOnceUntilItIsReleasedAsOftenAsItIsHeld) {
  PagePool pool(3);
  std::set<std::int32_t> pages;
  for (int i = 0; i < 3; ++i) pages.insert(*pool.allocate());
  EXPECT_EQ(pages, (std::set<std::int32_t>{0, 1, 2}));
  EXPECT_FALSE(pool.allocate());
  pool.add_reference(1);
  pool.release(1);
  EXPECT_EQ(pool.used(), 3);
  EXPECT_FALSE(pool.allocate());
  pool.release(1);
  EXPECT_EQ(pool.used(), 2);
  EXPECT_EQ(pool.allocate(), 1);
  EXPECT_EQ(pool.references(1), 1);
}

TEST(PrefixCache, MatchesWholePagesOnly) {
  PagePool pool(4);
  PrefixCache cache(pool, 2);
  const std::int32_t first = *pool.allocate();
  const std::int32_t second = *pool.allocate();
  const std::int32_t third = *pool.allocate();
  insert(cache, Tokens{1, 2, 3, 4, 5}, Tokens{first, second, third});
  EXPECT_EQ(cache.pages(), 2);
  EXPECT_EQ(pool.references(third), 1);  // half full: not remembered
  EXPECT_EQ(cache.match(Tokens{1, 2, 3, 4, 5, 6}), (Tokens{first, second}));
  EXPECT_EQ(pool.references(first), 3);
  EXPECT_EQ(cache.match(Tokens{1, 2, 3}), Tokens{first});
  EXPECT_EQ(cache.match(Tokens{1, 2, 4, 3}), Tokens{first});
  EXPECT_EQ(cache.match(Tokens{2, 1}), Tokens{});
  EXPECT_EQ(cache.match(Tokens{1}), Tokens{});
}

TEST(PrefixCache, KeepsWhatItKnowsAlready) {
  PagePool pool(2);
  PrefixCache cache(pool, 1);
  const std::int32_t known = *pool.allocate();
  const std::int32_t same = *pool.allocate();
  insert(cache, Tokens{7}, Tokens{known});
  insert(cache, Tokens{7}, Tokens{same});
  EXPECT_EQ(cache.match(Tokens{7}), Tokens{known});
  EXPECT_EQ(pool.references(same), 1);
}

TEST(PrefixCache, EvictsTheLeafUsedLongestAgoThatNobodyHolds) {
  PagePool pool(4);
  PrefixCache cache(pool, 1);
  const std::int32_t root = *pool.allocate();
  const std::int32_t left = *pool.allocate();
  const std::int32_t right = *pool.allocate();
  insert(cache, Tokens{1, 2}, Tokens{root, left});
  insert(cache, Tokens{1, 3}, Tokens{root, right});
  for (const std::int32_t page : {root, left}) pool.release(page);  // `right` stays held
  EXPECT_TRUE(cache.evict());
  EXPECT_EQ(pool.references(left), 0);
  EXPECT_FALSE(cache.evict());  // the root has a child that is held
  pool.release(right);
  EXPECT_TRUE(cache.evict());
  EXPECT_TRUE(cache.evict());
  EXPECT_FALSE(cache.evict());
  EXPECT_EQ(pool.used(), 0);
  EXPECT_EQ(cache.pages(), 0);
}

// What the cache should know: the page of every prefix of whole pages.
class CacheModel {
 public:
  explicit CacheModel(std::size_t page_size) : page_size_(page_size) {}

  Tokens match(const Tokens& tokens) const {
    Tokens pages;
    for (std::size_t n = page_size_; n <= tokens.size(); n += page_size_) {
      const auto found = pages_.find(head(tokens, n));
      if (found == pages_.end()) break;
      pages.push_back(found->second);
    }
    return pages;
  }
  void insert(const Tokens& tokens, const Tokens& pages) {
    for (std::size_t n = page_size_; n <= tokens.size(); n += page_size_) {
      pages_.try_emplace(head(tokens, n), pages[n / page_size_ - 1]);
    }
  }
  // Takes out the prefix of a page that was evicted; it must have been a leaf.
  void evict(std::int32_t page) {
    for (auto entry = pages_.begin(); entry != pages_.end(); ++entry) {
      if (entry->second != page) continue;
      for (const auto& [other, other_page] : pages_) {
        EXPECT_FALSE(other.size() > entry->first.size() &&
                     head(other, entry->first.size()) == entry->first)
            << "page " << page << " was evicted before page " << other_page << " behind it";
      }
      pages_.erase(entry);
      return;
    }
    ADD_FAILURE() << "page " << page << " was evicted, but not cached";
  }
  const std::map<Tokens, std::int32_t>& pages() const { return pages_; }

 private:
  static Tokens head(const Tokens& tokens, std::size_t n) {
    return {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(n)};
  }

  std::size_t page_size_;
  std::map<Tokens, std::int32_t> pages_;
};

// Sequences come, are matched, take pages, are remembered and leave, over few tokens so that they
// often begin alike.
TEST(PrefixCache, AgreesWithASimpleModelOverRandomLives) {
  constexpr std::int32_t kPages = 24;
  for (const std::size_t page_size : {1, 2, 3}) {
    SCOPED_TRACE(page_size);
    std::mt19937 random(11);
    PagePool pool(kPages);
    PrefixCache cache(pool, static_cast<std::int64_t>(page_size));
    CacheModel model(page_size);
    std::vector<Tokens> held;
    int evictions = 0;
    const auto expected_references = [&] {
      std::vector<int> references(kPages, 0);
      for (const Tokens& pages : held) {
        for (const std::int32_t page : pages) ++references[static_cast<std::size_t>(page)];
      }
      for (const auto& [prefix, page] : model.pages()) {
        ++references[static_cast<std::size_t>(page)];
      }
      return references;
    };
    for (int step = 0; step < 3000; ++step) {
      if (held.size() < 3 && random() % 2 == 0) {
        Tokens tokens(random() % (4 * page_size) + 1);
        for (std::int32_t& token : tokens) token = static_cast<std::int32_t>(random() % 2);
        Tokens pages = cache.match(tokens);
        ASSERT_EQ(pages, model.match(tokens));
        while (pages.size() * page_size < tokens.size()) {
          std::optional<std::int32_t> page = pool.allocate();
          if (!page) {
            ASSERT_TRUE(cache.evict());
            ++evictions;
            page = pool.allocate();
            ASSERT_TRUE(page);
            model.evict(*page);
          }
          pages.push_back(*page);
        }
        held.push_back(pages);
        if (random() % 4 != 0) {
          insert(cache, tokens, pages);
          model.insert(tokens, pages);
        }
      } else if (!held.empty()) {
        const auto leaver = held.begin() + static_cast<std::ptrdiff_t>(random() % held.size());
        for (const std::int32_t page : *leaver) pool.release(page);
        held.erase(leaver);
      }
      const std::vector<int> references = expected_references();
      std::int64_t used = 0;
      for (std::int32_t page = 0; page < kPages; ++page) {
        ASSERT_EQ(pool.references(page), references[static_cast<std::size_t>(page)]) << page;
        used += references[static_cast<std::size_t>(page)] > 0;
      }
      ASSERT_EQ(pool.used(), used);
      ASSERT_EQ(cache.pages(), static_cast<std::int64_t>(model.pages().size()));
    }
    for (const Tokens& pages : held) {
      for (const std::int32_t page : pages) pool.release(page);
    }
    while (cache.evict()) {
    }
    EXPECT_EQ(pool.used(), 0);
    EXPECT_GT(evictions, page_size == 1 ? 0 : 10);
  }
}

}  // namespace
}  // namespace tilewright::engine
