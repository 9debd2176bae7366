// SPDX-License-Identifier: Apache-2.0
// Shuffles, votes and barriers: reductions that are right in every order, and one that is not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "arch/memory.h"
#include "arch/thread.h"
#include "runtime/launch.h"

namespace tw {
namespace {

using emulator::GuardedBuffer;
using emulator::launch;

struct SumParams {
  const float* values;
  float* sums;
  i32 count;
  bool with_barrier;
};

// One sum a block.
TW_KERNEL TW_LAUNCH_BOUNDS(256, 1) block_sum(TW_PARAMETER SumParams p) {
  float* parts = reinterpret_cast<float*>(shared_memory());
  float sum = 0;
  for (i32 i = thread_id(); i < p.count; i += num_threads()) {
    sum += p.values[block_id() * p.count + i];
  }
#pragma unroll
  for (i32 step = 16; step > 0; step /= 2) sum += shuffle_xor(sum, step);
  const i32 warp = warp_id();
  if (lane_id() == 0) parts[warp] = sum;
  if (p.with_barrier) sync_block();
  if (thread_id() == 0) {
    float total = 0;
    for (i32 i = 0; i < num_threads() / kWarpSize; ++i) total += parts[i];
    p.sums[block_id()] = total;
  }
}

class BlockSum : public ::testing::Test {
 protected:
  static constexpr i32 kBlocks = 5;
  static constexpr i32 kCount = 300;

  BlockSum() {
    for (i32 i = 0; i < kBlocks * kCount; ++i) values_.as<float>()[i] = static_cast<float>(i % 97);
    values_.make_read_only();
  }

  bool right(u64 seed, bool with_barrier) {
    sums_.fill(0xFF);
    launch(block_sum, {.grid = kBlocks, .block = 256, .shared_bytes = 32, .seed = seed},
           {values_.as<float>(), sums_.as<float>(), kCount, with_barrier});
    EXPECT_TRUE(values_.intact() && sums_.intact());
    bool all = true;
    for (i32 block = 0; block < kBlocks; ++block) {
      float sum = 0;
      for (i32 i = 0; i < kCount; ++i) sum += values_.as<float>()[block * kCount + i];
      all = all && sums_.as<float>()[block] == sum;
    }
    return all;
  }

  GuardedBuffer values_{"values", kBlocks* kCount * sizeof(float)};
  GuardedBuffer sums_{"sums", kBlocks * sizeof(float)};
};

TEST_F(BlockSum, IsRightInEveryOrder) {
  for (u64 seed = 0; seed < 20; ++seed) EXPECT_TRUE(right(seed, true)) << seed;
}

TEST_F(BlockSum, WithoutItsBarrierIsFound) {
  i32 found = 0;
  for (u64 seed = 0; seed < 20; ++seed) found += right(seed, false) ? 0 : 1;
  EXPECT_GE(found, 15);
}

}  // namespace
}  // namespace tw
