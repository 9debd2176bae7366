// SPDX-License-Identifier: Apache-2.0
// The check of Plan::pieces.
#pragma once

#include <gtest/gtest.h>
#include <tilewright/plan.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <tuple>
#include <vector>

namespace tilewright::test {

// Every tile and block once, by workers whose time has no holes.
inline void expect_whole(const std::vector<PlanPiece>& pieces, const PlanStats& stats,
                         int workers) {
  using Tile = std::tuple<int, int, int, int>;  // level, row, KV head, tile
  std::map<Tile, std::vector<PlanPiece>> tiles;
  std::map<int, std::int64_t> busy;
  std::int64_t blocks = 0;
  std::int64_t total = 0;
  int worker = 0;
  for (const PlanPiece& piece : pieces) {
    EXPECT_GE(piece.worker, worker);
    worker = piece.worker;
    ASSERT_LT(worker, workers);
    EXPECT_EQ(piece.start, busy[worker]);
    EXPECT_GT(piece.cost, 0);
    busy[worker] += piece.cost;
    total += piece.cost;
    blocks += piece.num_blocks;
    tiles[{piece.level, piece.row, piece.kv_head, piece.tile}].push_back(piece);
  }
  EXPECT_EQ(static_cast<std::int64_t>(tiles.size()), stats.tiles);
  EXPECT_EQ(blocks, stats.blocks);
  std::int64_t split = 0;
  for (auto& [tile, parts] : tiles) {
    std::ranges::sort(parts, {}, &PlanPiece::first_block);
    split += parts.size() > 1 ? 1 : 0;
    std::int32_t next = 0;
    std::set<std::int32_t> seen;
    for (const PlanPiece& part : parts) {
      EXPECT_EQ(part.first_block, next);
      next += part.num_blocks;
      EXPECT_TRUE(parts.size() == 1 || part.num_blocks > 0);
      EXPECT_TRUE(seen.insert(part.worker).second);
    }
  }
  EXPECT_EQ(split, stats.split_tiles);
  // No worker can finish before the mean.
  std::int64_t latest = 0;
  for (const auto& [who, time] : busy) latest = std::max(latest, time);
  EXPECT_GE(latest * workers, total);
}

}  // namespace tilewright::test
