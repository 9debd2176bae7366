// SPDX-License-Identifier: Apache-2.0
// Blocks beside each other: atomics, merging by the last block to arrive, and orders that follow
// from the seed alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <vector>

#include "arch/memory.h"
#include "arch/thread.h"
#include "runtime/launch.h"

namespace tw {
namespace {

using emulator::GuardedBuffer;
using emulator::launch;

struct MergeParams {
  float* partials;  // [blocks, 32]
  float* sum;       // [32]
  i32* counter;
  bool counts_too_early;
};

TW_KERNEL merge_by_last(TW_PARAMETER MergeParams p) {
  i32 before = 0;
  if (p.counts_too_early && thread_id() == 0) before = atomic_add_acq_rel(p.counter, 1);
  p.partials[block_id() * 32 + thread_id()] = static_cast<float>(block_id() * 100 + thread_id());
  sync_block();
  if (!p.counts_too_early && thread_id() == 0) before = atomic_add_acq_rel(p.counter, 1);
  if (!any_of_block(thread_id() == 0 && before == num_blocks() - 1)) return;
  float sum = 0;
  for (i32 block = 0; block < num_blocks(); ++block) {
    const auto* const pairs = reinterpret_cast<const Float2*>(p.partials + block * 32);
    const Float2 pair = load_from_l2(pairs + thread_id() / 2);
    sum += thread_id() % 2 == 0 ? pair.x : pair.y;
  }
  p.sum[thread_id()] = sum;
  if (thread_id() == 0) *p.counter = 0;
}

bool merges(u64 seed, bool counts_too_early, i32 resident) {
  constexpr i32 kBlocks = 7;
  GuardedBuffer partials("partials", kBlocks * 32 * sizeof(float));
  GuardedBuffer sum("sum", 32 * sizeof(float));
  GuardedBuffer counter("counter", sizeof(i32));
  counter.fill(0);
  launch(merge_by_last, {.grid = kBlocks, .seed = seed, .max_resident_blocks = resident},
         {partials.as<float>(), sum.as<float>(), counter.as<i32>(), counts_too_early});
  EXPECT_EQ(*counter.as<i32>(), 0);
  bool right = true;
  for (i32 i = 0; i < 32; ++i) {
    right = right && sum.as<float>()[i] == static_cast<float>(100 * 21 + 7 * i);
  }
  return right;
}

TEST(EmulatedMerge, TheLastBlockSeesAllPartials) {
  for (u64 seed = 0; seed < 20; ++seed) {
    EXPECT_TRUE(merges(seed, false, 1 + static_cast<i32>(seed % 7))) << seed;
  }
}

TEST(EmulatedMerge, CountingBeforeStoringIsFound) {
  i32 wrong = 0;
  for (u64 seed = 0; seed < 40; ++seed) wrong += merges(seed, true, 7) ? 0 : 1;
  EXPECT_GE(wrong, 4);
}

struct TicketParams {
  i32* next;
  i32* order;  // who came first, second, ...
};

TW_KERNEL take_tickets(TW_PARAMETER TicketParams p) {
  const i32 thread = block_id() * num_threads() + thread_id();
  for (i32 round = 0; round < 2; ++round) {
    p.order[atomic_add(p.next, 1)] = thread;
    sync_warp();
  }
}

std::vector<i32> order_of(u64 seed) {
  GuardedBuffer next("next", sizeof(i32));
  GuardedBuffer order("order", 2 * 3 * 64 * sizeof(i32));
  next.fill(0);
  launch(take_tickets, {.grid = 3, .block = 64, .seed = seed}, {next.as<i32>(), order.as<i32>()});
  return {order.as<i32>(), order.as<i32>() + 2 * 3 * 64};
}

TEST(EmulatedOrder, FollowsFromTheSeed) {
  std::set<std::vector<i32>> orders;
  for (u64 seed = 0; seed < 10; ++seed) {
    const std::vector<i32> order = order_of(seed);
    EXPECT_EQ(order, order_of(seed));
    orders.insert(order);
    std::vector<i32> count(3 * 64);
    for (const i32 thread : order) ++count[thread];
    EXPECT_THAT(count, ::testing::Each(2));
  }
  EXPECT_EQ(orders.size(), 10U);
}

TEST(EmulatedOrder, AnyBlockAndAnyLaneMayBeFirst) {
  std::set<i32> blocks;
  std::set<i32> lanes;
  for (u64 seed = 0; seed < 100; ++seed) {
    const i32 first = order_of(seed)[0];
    blocks.insert(first / 64);
    lanes.insert(first % 32);
  }
  EXPECT_EQ(blocks.size(), 3U);
  EXPECT_GE(lanes.size(), 20U);
}

struct VoteParams {
  i32* result;  // [6, 64]
};

TW_KERNEL votes(TW_PARAMETER VoteParams p) {
  i32* result = p.result + thread_id();
  result[0] = shuffle_up(thread_id(), 3);
  result[64] = shuffle_down(thread_id(), 3);
  result[128] = shuffle(static_cast<i64>(thread_id()) << 33, 33) >> 33 == warp_id() * 32 + 1;
  result[192] = static_cast<i32>(ballot(lane_id() % 3 == warp_id()));
  result[256] = count_of_block(thread_id() % 5 == 0);
  result[320] = (any_of_warp(thread_id() == 40) ? 1 : 0) +
                (any_of_block(thread_id() == 40) ? 2 : 0) + (any_of_block(false) ? 4 : 0);
}

TEST(EmulatedVotes, AreThoseOfTheManual) {
  GuardedBuffer result("result", 6 * 64 * sizeof(i32));
  for (u64 seed = 0; seed < 5; ++seed) {
    launch(votes, {.block = 64, .seed = seed}, {result.as<i32>()});
    for (i32 thread = 0; thread < 64; ++thread) {
      const i32* of = result.as<i32>() + thread;
      const i32 lane = thread % 32;
      EXPECT_EQ(of[0], lane < 3 ? thread : thread - 3);
      EXPECT_EQ(of[64], lane > 28 ? thread : thread + 3);
      EXPECT_EQ(of[128], 1);
      u32 mask = 0;
      for (i32 i = thread / 32; i < 32; i += 3) mask |= 1U << i;
      EXPECT_EQ(static_cast<u32>(of[192]), mask);
      EXPECT_EQ(of[256], 13);
      EXPECT_EQ(of[320], thread < 32 ? 2 : 3);
    }
  }
}

}  // namespace
}  // namespace tw
