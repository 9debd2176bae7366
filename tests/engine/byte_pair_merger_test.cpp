// SPDX-License-Identifier: Apache-2.0
// Byte-pair merges against the definition: search all pairs, merge the best, again.
#include "engine/byte_pair_merger.h"

#include <gtest/gtest.h>

#include <map>
#include <string>

#include "support/random.h"

namespace tilewright::test {
namespace {

using engine::BytePairMerger;
using Ids = std::vector<std::int32_t>;
using Pair = std::pair<std::int32_t, std::int32_t>;

std::array<std::int32_t, 256> identity() {
  std::array<std::int32_t, 256> ids{};
  for (int i = 0; i < 256; ++i) ids[i] = i;
  return ids;
}

Ids merged_by_definition(Ids ids, const std::map<Pair, Pair>& merges) {  // to (rank, token)
  while (true) {
    std::size_t best = ids.size();
    Pair best_merge;
    for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
      const auto found = merges.find({ids[i], ids[i + 1]});
      if (found == merges.end()) continue;
      if (best == ids.size() || found->second.first < best_merge.first) {
        best = i;
        best_merge = found->second;
      }
    }
    if (best == ids.size()) return ids;
    ids[best] = best_merge.second;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
}

TEST(BytePairMerger, AgreesWithTheDefinition) {
  Random random(11);
  for (int vocabulary = 0; vocabulary < 60; ++vocabulary) {
    BytePairMerger merger(identity());
    std::map<Pair, Pair> merges;
    Ids tokens = {'a', 'b', 'c'};
    for (int rank = 0; rank < 40; ++rank) {
      const auto last = static_cast<std::int64_t>(tokens.size()) - 1;
      const Pair pair = {tokens[random.range(0, last)], tokens[random.range(0, last)]};
      // Some merges make a token that another one makes too.
      const auto token = static_cast<std::int32_t>(
          random.chance(0.2) ? tokens[random.range(0, last)] : 256 + rank);
      const auto next_rank = static_cast<std::int32_t>(merges.size());
      const bool is_new = merges.emplace(pair, Pair{next_rank, token}).second;
      ASSERT_EQ(merger.add(pair.first, pair.second, token), is_new);
      if (is_new) tokens.push_back(token);
    }
    for (int round = 0; round < 50; ++round) {
      std::string piece;
      Ids ids;
      for (std::int64_t i = random.range(0, 60); i > 0; --i) {
        piece += random.pick({'a', 'b', 'c'});
        ids.push_back(piece.back());
      }
      Ids out = {-7};
      merger.apply(piece, out);
      Ids expected = merged_by_definition(ids, merges);
      expected.insert(expected.begin(), -7);
      ASSERT_EQ(out, expected) << piece;
    }
  }
}

TEST(BytePairMerger, EqualRanksGoFromTheLeft) {
  BytePairMerger merger(identity());
  merger.add('a', 'a', 300);
  Ids out;
  merger.apply("aaa", out);
  EXPECT_EQ(out, (Ids{300, 'a'}));
}

TEST(BytePairMerger, BytesWithoutATokenAreLeftOut) {
  auto ids = identity();
  ids['x'] = -1;
  BytePairMerger merger(ids);
  merger.add('a', 'b', 300);
  Ids out;
  merger.apply("xaxbx", out);
  EXPECT_EQ(out, (Ids{300}));
  out.clear();
  merger.apply("xx", out);
  merger.apply("", out);
  EXPECT_TRUE(out.empty());
}

// The square of this length would take hours.
TEST(BytePairMerger, LongPieces) {
  BytePairMerger merger(identity());
  std::int32_t token = 'a';
  for (int level = 0; level < 22; ++level) {
    merger.add(token, token, 300 + level);
    token = 300 + level;
  }
  Ids out;
  merger.apply(std::string((1 << 20) + 1, 'a'), out);
  EXPECT_EQ(out, (Ids{300 + 19, 'a'}));
}

}  // namespace
}  // namespace tilewright::test
