// SPDX-License-Identifier: Apache-2.0
// Properties of the scheduler on thousands of random batches: every unit of work exactly once,
// shares as even as promised, partial results within the slots that the workspace has.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "plan/schedules.h"

namespace tilewright::plan {
namespace {

// (row, head, tile, block) in one number; block -1 is the item itself, which must be finished even
// without blocks.
std::uint64_t unit(const Row& row, const Item& item, std::int32_t block) {
  return ((static_cast<std::uint64_t>(row.index) * 64 + static_cast<std::uint64_t>(item.head)) *
              8192 +
          static_cast<std::uint64_t>(item.tile)) *
             8192 +
         static_cast<std::uint64_t>(block + 1);
}

// Calls visit(worker, item index, item, block_begin, block_end, blocks of the item) for every part
// of a share.
template <typename Visit>
void walk_shares(const Schedule& s, const Blocks& blocks, const Visit& visit) {
  if (s.header->b_items == 0) return;
  for (std::int32_t worker = 0; worker < s.header->workers; ++worker) {
    const Cut& from = s.cuts[worker];
    const Cut& to = s.cuts[worker + 1];
    for (std::int64_t i = from.item; i < to.item || (i == to.item && to.block > 0); ++i) {
      const Item item = b_item(s, i);
      const std::int32_t all = blocks(s.rows[item.row], item.head, item.tile);
      visit(worker, i, item, i == from.item ? from.block : 0, i == to.item ? to.block : all, all);
    }
  }
}

// The cost of a share, counted item by item.
template <typename Blocks>
std::int64_t walked_cost(const Schedule& s, std::int32_t worker, const Blocks& blocks) {
  const Cut& from = s.cuts[worker];
  const Cut& to = s.cuts[worker + 1];
  std::int64_t cost = 0;
  for (std::int64_t index = from.item; index < to.item || (index == to.item && to.block > 0);
       ++index) {
    const Item at = b_item(s, index);
    const Row& row = s.rows[at.row];
    const std::int64_t begin = index == from.item ? from.block : 0;
    const std::int64_t end = index == to.item ? to.block : blocks(row, at.head, at.tile);
    cost +=
        (begin == 0 ? s.config.cost.fixed : 0) + (end - begin) * block_cost(s.config, row, at.tile);
  }
  return cost;
}

TEST(Schedule, EveryUnitExactlyOnce) {
  std::mt19937 random(1);
  for (int round = 0; round < 1000; ++round) {
    SCOPED_TRACE(round);
    RandomSchedule made(random);
    const Scenario& scenario = made.scenario;
    const Schedule& s = made.owned.get();
    std::vector<std::uint64_t> units;
    std::size_t items = 0;
    const auto add = [&](const Item& item, std::int32_t begin, std::int32_t end) {
      const Row& row = s.rows[item.row];
      if (begin == 0) {
        ++items;
        units.push_back(unit(row, item, -1));
      }
      for (std::int32_t block = begin; block < end; ++block)
        units.push_back(unit(row, item, block));
    };
    for (std::int64_t i = 0; i < s.header->a_items; ++i) {
      const Item item = a_item(s, i);
      add(item, 0, scenario.blocks(s.rows[item.row], item.head, item.tile));
    }
    walk_shares(s, scenario.blocks,
                [&](std::int32_t, std::int64_t, const Item& item, std::int32_t begin,
                    std::int32_t end, std::int32_t) { add(item, begin, end); });
    std::sort(units.begin(), units.end());
    ASSERT_EQ(std::adjacent_find(units.begin(), units.end()), units.end());
    std::size_t expected_items = 0;
    std::size_t expected_units = 0;
    for (const Row& row : scenario.rows) {
      const std::int32_t tiles = tiles_of(scenario.config, row.q_len);
      const std::int32_t heads = heads_of(scenario.config, row.q_len);
      for (std::int32_t head = 0; head < scenario.config.num_kv_heads; head += heads) {
        for (std::int32_t tile = 0; tile < tiles; ++tile) {
          ++expected_items;
          expected_units += static_cast<std::size_t>(scenario.blocks(row, head, tile));
        }
      }
    }
    ASSERT_EQ(items, expected_items);
    ASSERT_EQ(units.size(), expected_items + expected_units);
  }
}

TEST(Schedule, SharesAreWithinOneFixedCostAndOneBlock) {
  std::mt19937 random(2);
  int divided = 0;
  for (int round = 0; round < 3000; ++round) {
    SCOPED_TRACE(round);
    RandomSchedule made(random);
    const Scenario& scenario = made.scenario;
    const Schedule& s = made.owned.get();
    const Header& h = *s.header;
    if (h.b_items == 0) continue;
    const CostModel& cost = s.config.cost;
    const std::int64_t slack =
        cost.fixed + 1 +
        std::max(cost.block + static_cast<std::int64_t>(cost.block_row) * s.config.tile_rows,
                 s.config.max_heads * (cost.block + static_cast<std::int64_t>(cost.block_row) *
                                                        s.config.joint_rows));
    // The workers of the tail, where it has its own, and all others.
    const std::int64_t tail_cost = h.tail_workers > 0 ? h.tail_cost : 0;
    const std::int32_t others = h.workers - h.tail_workers;
    std::int64_t total = 0;
    for (std::int32_t worker = 0; worker < h.workers; ++worker) {
      const std::int64_t share = share_cost(s, worker);
      ASSERT_EQ(share, walked_cost(s, worker, scenario.blocks)) << "worker " << worker;
      total += share;
      const std::int64_t ideal =
          worker < h.tail_workers ? tail_cost / h.tail_workers : (h.b_cost - tail_cost) / others;
      ASSERT_LE(std::abs(share - ideal), slack) << "worker " << worker;
      ASSERT_TRUE(h.workers == 1 || share > 0 || s.cuts[worker].block == 0) << "worker " << worker;
    }
    ASSERT_EQ(total, h.b_cost);
    ASSERT_LE(h.workers, s.config.workers);
    ASSERT_GE(others, 1);
    if (others > 1) {
      ASSERT_GE((h.b_cost - tail_cost) / others, s.config.least_share);
    }
    if (h.tail_workers > 1) {
      ASSERT_GE(tail_cost / h.tail_workers, s.config.least_share);
    }
    divided += h.tail_workers > 0 ? 1 : 0;
  }
  EXPECT_GT(divided, 20);
}

TEST(Schedule, SplitsNameTheSlotsThatWorkersWrite) {
  std::mt19937 random(3);
  int splits_seen = 0;
  for (int round = 0; round < 3000; ++round) {
    SCOPED_TRACE(round);
    RandomSchedule made(random);
    const Scenario& scenario = made.scenario;
    const Schedule& s = made.owned.get();
    // The slots that workers write, by item, in the order of blocks.
    std::map<std::int64_t, std::vector<std::int32_t>> written;
    std::set<std::int32_t> slots;
    walk_shares(s, scenario.blocks,
                [&](std::int32_t worker, std::int64_t index, const Item&, std::int32_t begin,
                    std::int32_t end, std::int32_t all) {
                  if (begin == 0 && end == all) return;
                  const std::int32_t slot = begin == 0 ? second_slot(worker) : first_slot(worker);
                  ASSERT_TRUE(slots.insert(slot).second);
                  ASSERT_LT(slot, 2 * s.config.workers);
                  written[index].push_back(slot);
                });
    ASSERT_LT(s.header->num_splits, std::max(s.header->workers, 1));
    ASSERT_EQ(written.size(), static_cast<std::size_t>(s.header->num_splits));
    for (std::int32_t i = 0; i < s.header->num_splits; ++i) {
      const Split& split = s.splits[i];
      std::vector<std::int32_t> expected{second_slot(split.first)};
      for (std::int32_t worker = split.first + 1; worker <= split.last; ++worker) {
        expected.push_back(first_slot(worker));
      }
      ASSERT_EQ(written[split.item], expected);
      ++splits_seen;
    }
  }
  EXPECT_GT(splits_seen, 1000);
}

TEST(Schedule, SectionAIsWholeWavesLongestFirst) {
  std::mt19937 random(4);
  int items_seen = 0;
  int shared_waves = 0;
  int short_waves = 0;
  for (int round = 0; round < 2000; ++round) {
    SCOPED_TRACE(round);
    Scenario scenario = random_scenario(random);
    for (Row& row : scenario.rows) row.q_len *= 8;
    OwnedSchedule owned(scenario.config, scenario.rows);
    make(owned, scenario.blocks);
    const Schedule& s = owned.get();
    std::int64_t total = 0;
    for (const Row& row : scenario.rows) {
      Row measured = row;
      measure_row(s.config, measured, scenario.blocks);
      total += row_cost(s.config, measured);
    }
    // The last wave is shared out, or its items are too short for that.
    const std::int32_t others = workers_of_rows(s.config, total, total / s.config.workers,
                                                s.header->b_cost - s.header->tail_cost);
    const std::int64_t rest = s.header->a_items % (s.config.workers - others);
    if (rest > 0) {
      std::int64_t cost = 0;
      for (std::int64_t i = s.header->a_items - rest; i < s.header->a_items; ++i) {
        const Item item = a_item(s, i);
        cost += item_cost(s.config, s.rows[item.row], item.head, item.tile, scenario.blocks);
      }
      ASSERT_FALSE(shares_tail(s.config, rest, cost));
      ASSERT_EQ(s.header->tail_items, 0);
    }
    short_waves += rest > 0 ? 1 : 0;
    shared_waves += s.header->tail_items > 0 ? 1 : 0;
    Item last;
    std::int64_t last_longest = 0;
    for (std::int64_t i = 0; i < s.header->a_items; ++i) {
      const Item item = a_item(s, i);
      const Row& row = s.rows[item.row];
      ASSERT_LE(item_cost(s.config, row, item.head, item.tile, scenario.blocks),
                ceil_div(total, s.config.workers));
      const bool same_group =
          i > 0 && item.head / s.config.heads_per_group == last.head / s.config.heads_per_group;
      if (same_group) {
        ASSERT_LE(longest_item(s.config, row), last_longest);
      }
      if (same_group && item.row == last.row) {
        ASSERT_LE(item.tile, last.tile);
      }
      last = item;
      last_longest = longest_item(s.config, row);
      ++items_seen;
    }
  }
  EXPECT_GT(items_seen, 10000);
  EXPECT_GT(shared_waves, 100);
  EXPECT_GT(short_waves, 100);
}

TEST(Schedule, DecodeIsCutIntoEqualShares) {
  Config config = llama_config(16);
  config.heads_per_group = 8;
  config.least_share = 100;
  std::vector<std::int32_t> kv_lens(32, 256);
  kv_lens[0] = 32768;
  OwnedSchedule owned(config, decode_rows(kv_lens));
  const Blocks blocks{config, 0};
  make(owned, blocks);
  const Schedule& s = owned.get();
  EXPECT_EQ(s.header->a_items, 0);
  EXPECT_EQ(s.header->b_items, 32 * 8);
  EXPECT_EQ(s.header->workers, 16);
  // Half of the blocks belong to one request of 32: it is cut, and nobody waits for it.
  EXPECT_GE(s.header->num_splits, 4);
}

// Both tiles of a prefix are cut at the same keys, and computed at the same time.
TEST(Schedule, TilesOfAPrefixAreCutAlike) {
  const Config config = gpu_config(100);
  OwnedSchedule owned(config, decode_rows_and(256, 64, 32768));
  make(owned, Blocks{config, 0});
  const Schedule& s = owned.get();
  const Header& h = *s.header;
  EXPECT_EQ(h.a_items, 0);
  ASSERT_EQ(h.tail_items, 16);
  ASSERT_EQ(h.tail_workers % 16, 0);
  EXPECT_GT(h.tail_workers, 64);
  EXPECT_EQ(h.workers, 132);
  const std::int32_t parts = h.tail_workers / 16;
  for (std::int32_t worker = 0; worker < h.tail_workers; ++worker) {
    EXPECT_EQ(s.cuts[worker].item, worker / parts);
    EXPECT_EQ(s.cuts[worker].block, s.cuts[worker % parts].block);
  }
}

TEST(Schedule, FewRowsShareAnItemWithOtherHeads) {
  Config config;
  config.num_kv_heads = 8;
  config.group_size = 4;
  config.joint_rows = 32;
  config.max_heads = 8;
  for (const auto& [q_len, heads] : {std::pair(1, 8), {2, 4}, {3, 2}, {4, 2}, {5, 1}, {100, 1}}) {
    EXPECT_EQ(heads_of(config, q_len), heads) << q_len;
  }
  config.num_kv_heads = 6;
  EXPECT_EQ(heads_of(config, 1), 6);
  EXPECT_EQ(heads_of(config, 2), 3);
}

TEST(Schedule, EmptyBatch) {
  Config config;
  OwnedSchedule owned(config, {});
  make(owned, Blocks{config, 0});
  EXPECT_EQ(owned.get().header->a_items, 0);
  EXPECT_EQ(owned.get().header->b_items, 0);
  EXPECT_EQ(owned.get().header->num_splits, 0);
}

TEST(Schedule, TilesOfManyRowsCostAsMuchAsFullOnes) {
  Config config;
  config.tile_rows = 128;
  config.cost = {10, 8, 1};
  EXPECT_EQ(block_cost(config, 2, 16), 2 * (8 + 16));
  EXPECT_EQ(block_cost(config, 2, 17), 2 * (8 + 17));
  config.cost.full_from = 17;
  EXPECT_EQ(block_cost(config, 2, 16), 2 * (8 + 16));
  EXPECT_EQ(block_cost(config, 2, 17), 2 * (8 + 128));
  EXPECT_EQ(block_cost(config, 2, 128), 2 * (8 + 128));
}

TEST(Schedule, HugeCostsDoNotOverflow) {
  Config config;
  config.num_kv_heads = 128;
  config.group_size = 16;
  config.tile_rows = 16;
  config.block_tokens = 64;
  config.workers = 4096;
  config.heads_per_group = 128;
  config.cost = {10, 8, 1};
  config.least_share = 512;
  OwnedSchedule owned(config, decode_rows(std::vector<std::int32_t>(64, 1 << 30)));
  const Blocks blocks{config, 0};
  make(owned, blocks);
  const Schedule& s = owned.get();
  EXPECT_EQ(s.header->workers, 4096);
  EXPECT_EQ(s.cuts[4096].item, s.header->b_items);
  for (std::int32_t worker = 0; worker < 4096; ++worker) {
    ASSERT_NEAR(static_cast<double>(share_cost(s, worker)),
                static_cast<double>(s.header->b_cost) / 4096, 40);
  }
}

}  // namespace
}  // namespace tilewright::plan
