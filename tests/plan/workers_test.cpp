// SPDX-License-Identifier: Apache-2.0
// How many workers a schedule takes, what each of them has, and where they are.
#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <set>
#include <utility>
#include <vector>

#include "plan/schedules.h"

namespace tilewright::plan {
namespace {

// Few workers are a power of two, each with at least the least share; all there may be are all.
TEST(Schedule, WorkersAreRounded) {
  Config config;
  config.workers = 12;
  config.least_share = 100;
  config.rounds_workers = 1;
  config.cost = {1, 1, 0};
  for (const auto& [cost, workers] : {std::pair(0, 1),
                                      {199, 1},
                                      {200, 2},
                                      {399, 2},
                                      {400, 4},
                                      {799, 4},
                                      {800, 8},
                                      {1199, 8},
                                      {1200, 12},
                                      {100000, 12}}) {
    EXPECT_EQ(count_workers(config, cost), workers) << cost;
  }
  // A smaller batch's blocks allow smaller shares.
  config.largest_block = 500;
  EXPECT_EQ(count_workers(config, 1200), 2);
}

// Of decoding, where equal rows have equal shares.
Config even_config(int workers, std::int32_t heads) {
  Config config = llama_config(workers);
  config.joint_rows = 16 * heads;
  config.max_heads = heads;
  config.evens_shares = 1;
  config.cost.block_row = 0;
  return config;
}

// Equal rows are dealt out whole, or in equal parts, where few workers are left over for it.
TEST(Schedule, EqualRowsHaveEvenShares) {
  Config config = even_config(33, 8);
  const auto shares = [&](const std::vector<std::int32_t>& kv_lens) {
    OwnedSchedule owned(config, decode_rows(kv_lens));
    make(owned, Blocks{config, 0});
    return std::pair(owned.get().header->workers, owned.get().header->num_splits);
  };
  EXPECT_EQ(shares(std::vector<std::int32_t>(32, 4096)), std::pair(32, 0));
  EXPECT_EQ(shares(std::vector<std::int32_t>(64, 4096)), std::pair(32, 0));
  EXPECT_EQ(shares(std::vector<std::int32_t>(16, 4096)), std::pair(32, 16));  // halves
  EXPECT_EQ(shares({1 << 20}), std::pair(33, 1));
  // 65 blocks: of two each, as the longest of 33 would have.
  EXPECT_EQ(shares({64 * 65}), std::pair(33, 1));
  EXPECT_EQ(shares({64 * 64}), std::pair(32, 1));
  EXPECT_EQ(shares({64 * 34}), std::pair(17, 1));
  // Nine would have no work.
  EXPECT_EQ(shares(std::vector<std::int32_t>(24, 4096)).first, 33);
  EXPECT_EQ(shares(std::vector<std::int32_t>(48, 4096)).first, 33);
  std::vector<std::int32_t> uneven(32, 4096);
  uneven[7] = 4000;
  EXPECT_EQ(shares(uneven).first, 33);
  config.evens_shares = 0;
  EXPECT_EQ(shares(std::vector<std::int32_t>(32, 4096)).first, 33);
}

// Parts of equal items are as long as each other, but for a block.
TEST(Schedule, PartsOfEqualRowsAreEqual) {
  const Config config = even_config(32, 4);
  OwnedSchedule owned(config, decode_rows({64 * 23, 64 * 23, 64 * 23}));
  make(owned, Blocks{config, 0});
  const Schedule& s = owned.get();
  ASSERT_EQ(s.header->workers, 30);  // five for each of six items
  EXPECT_EQ(s.header->num_splits, 6);
  const std::int64_t item = s.header->b_cost / 6;
  const int begins[] = {0, 5, 10, 15, 19};
  for (std::int32_t worker = 0; worker <= 30; ++worker) {
    const int begin = begins[worker % 5];
    EXPECT_EQ(s.cuts[worker].item, worker / 5);
    EXPECT_EQ(s.cuts[worker].block, begin);
    const std::int64_t inside = begin == 0 ? 0 : config.cost.fixed + begin * 4 * config.cost.block;
    EXPECT_EQ(s.cuts[worker].cost, worker / 5 * item + inside);
  }
}

// Decoding requests beside a prompt have as many workers as their cost is of all; the prompt's last
// wave is shared out among the others.
TEST(Schedule, WorkersAreDividedBetweenDecodeAndPrefill) {
  const Config config = gpu_config(10);
  OwnedSchedule owned(config, decode_rows_and(4096, 2048, 8192));
  make(owned, Blocks{config, 0});
  const Schedule& s = owned.get();
  const Header& h = *s.header;
  EXPECT_EQ(h.num_a_rows, 1);
  const std::int64_t decode = h.b_cost - h.tail_cost;
  EXPECT_EQ(decode, 64 * 8 * (10 + 32 * 104));
  std::int64_t prefill = 0;
  for (std::int32_t tile = 0; tile < 64; ++tile) {
    prefill += 8 * item_cost(config, s.rows[0], 0, tile, Blocks{config, 0});
  }
  const std::int32_t decoding = h.workers - h.tail_workers;
  const std::int64_t share = (decode + prefill) / 132;
  EXPECT_LE(decode / decoding, share);
  EXPECT_GT(decode / (decoding - 1), share);
  EXPECT_EQ(h.workers, 132);
  EXPECT_EQ(h.a_items % h.tail_workers, 0);
  EXPECT_EQ(h.tail_items, 512 % h.tail_workers);
  // No worker has both.
  EXPECT_EQ(s.cuts[h.tail_workers].item, h.tail_items);
  EXPECT_EQ(s.cuts[h.tail_workers].block, 0);
  EXPECT_EQ(s.cuts[h.tail_workers].cost, h.tail_cost);
}

// Those that decode lie evenly among the places of a GPU, the others in order.
TEST(Schedule, DecodeIsSpreadBesidePrefill) {
  const Config config = gpu_config(10);
  OwnedSchedule owned(config, decode_rows_and(4096, 2048, 8192));
  make(owned, Blocks{config, 0});
  const Header& h = *owned.get().header;
  const std::int32_t decoding = h.workers - h.tail_workers;
  std::int32_t others = 0;
  std::int32_t found = 0;
  for (std::int32_t place = 0; place < config.workers; ++place) {
    const std::int32_t worker = worker_at(config, h, place);
    if (worker < h.tail_workers) {
      EXPECT_EQ(worker, others++);
    } else {
      EXPECT_EQ(worker, h.tail_workers + found++);
    }
    EXPECT_EQ(found, (place + 1) * decoding / config.workers);
  }
  EXPECT_EQ(others, h.tail_workers);
}

// Rows of a prefix that many requests share, and nothing taken in turn: workers stay in order.
TEST(Schedule, NothingIsSpreadWithoutSectionA) {
  const Config config = gpu_config(100);
  OwnedSchedule owned(config, decode_rows_and(256, 64, 32768));
  make(owned, Blocks{config, 0});
  ASSERT_EQ(owned.get().header->a_items, 0);
  for (std::int32_t place = 0; place < config.workers; ++place) {
    EXPECT_EQ(worker_at(config, *owned.get().header, place), place);
  }
}

TEST(Schedule, EveryWorkerHasOnePlace) {
  std::mt19937 random(7);
  for (int round = 0; round < 1000; ++round) {
    SCOPED_TRACE(round);
    RandomSchedule made(random);
    const Schedule& s = made.owned.get();
    std::set<std::int32_t> workers;
    for (std::int32_t place = 0; place < s.config.workers; ++place) {
      const std::int32_t worker = worker_at(s.config, *s.header, place);
      ASSERT_TRUE(0 <= worker && worker < s.config.workers);
      ASSERT_TRUE(workers.insert(worker).second) << worker;
    }
  }
}

}  // namespace
}  // namespace tilewright::plan
