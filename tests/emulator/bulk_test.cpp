// SPDX-License-Identifier: Apache-2.0
// A ring of stages between a producer warp and consumers, by bulk copies and mbarriers: right, and
// broken in ways that must be found.
#include "arch/bulk.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "arch/thread.h"
#include "runtime/launch.h"

namespace tw {
namespace {

using emulator::GuardedBuffer;
using emulator::launch;
using ::testing::HasSubstr;

enum class Broken { nothing, wait_for_full, wait_for_empty, fewer_bytes, more_bytes, no_init };

struct RingParams {
  const float* values;  // [steps, 64]
  float* sums;          // [64]
  i32 steps;
  Broken broken;
};

constexpr i32 kStages = 3;
constexpr i32 kStageBytes = 64 * sizeof(float);
constexpr i32 kSharedBytes =
    kStages * kStageBytes + 2 * kStages * static_cast<i32>(sizeof(Mbarrier));

// Warp 0 produces, two more consume: each of their threads sums a column.
TW_KERNEL TW_LAUNCH_BOUNDS(96, 1) ring(TW_PARAMETER RingParams p) {
  char* stages = shared_memory();
  auto* full = reinterpret_cast<Mbarrier*>(stages + kStages * kStageBytes);
  Mbarrier* empty = full + kStages;
  if (thread_id() == 0 && p.broken != Broken::no_init) {
    for (i32 i = 0; i < kStages; ++i) {
      mbarrier_init(full + i, 1);
      mbarrier_init(empty + i, 64);
    }
  }
  sync_block();
  if (warp_id() == 0) {
    if (lane_id() != 0) return;
    for (i32 step = 0; step < p.steps; ++step) {
      const i32 stage = step % kStages;
      const u32 round = static_cast<u32>(step / kStages);
      // The first round finds stages empty: the phase before the first one counts as ended.
      if (p.broken != Broken::wait_for_empty) mbarrier_wait(empty + stage, (round & 1) ^ 1);
      const i32 wrong = p.broken == Broken::fewer_bytes  ? -16
                        : p.broken == Broken::more_bytes ? 16
                                                         : 0;
      mbarrier_arrive_expect(full + stage, kStageBytes + wrong);
      copy_bulk(stages + stage * kStageBytes, p.values + step * 64, kStageBytes, full + stage);
    }
    return;
  }
  float sum = 0;
  for (i32 step = 0; step < p.steps; ++step) {
    const i32 stage = step % kStages;
    if (p.broken != Broken::wait_for_full) {
      mbarrier_wait(full + stage, static_cast<u32>(step / kStages) & 1);
    }
    sum += reinterpret_cast<const float*>(stages + stage * kStageBytes)[thread_id() - 32];
    mbarrier_arrive(empty + stage);
  }
  p.sums[thread_id() - 32] = sum;
}

class EmulatedRing : public ::testing::Test {
 protected:
  static constexpr i32 kSteps = 11;

  EmulatedRing() {
    for (i32 i = 0; i < kSteps * 64; ++i) values_.as<float>()[i] = static_cast<float>(i % 61);
    values_.make_read_only();
  }

  // What is wrong, in a seed: nothing, the sums, or what the emulator says.
  std::string result(u64 seed, Broken broken) {
    sums_.fill(0xFF);
    try {
      launch(ring, {.grid = 2, .block = 96, .shared_bytes = kSharedBytes, .seed = seed},
             {values_.as<float>(), sums_.as<float>(), kSteps, broken});
    } catch (const emulator::Failure& failure) {
      return failure.what();
    }
    for (i32 column = 0; column < 64; ++column) {
      float sum = 0;
      for (i32 step = 0; step < kSteps; ++step) sum += values_.as<float>()[step * 64 + column];
      if (sums_.as<float>()[column] != sum) return "sums";
    }
    return "nothing";
  }

  i32 times_wrong(Broken broken) {
    i32 wrong = 0;
    for (u64 seed = 0; seed < 8; ++seed) wrong += result(seed, broken) != "nothing" ? 1 : 0;
    return wrong;
  }

  GuardedBuffer values_{"values", kSteps * 64 * sizeof(float)};
  GuardedBuffer sums_{"sums", 64 * sizeof(float)};
};

TEST_F(EmulatedRing, IsRightInEveryOrder) {
  for (u64 seed = 0; seed < 20; ++seed) EXPECT_EQ(result(seed, Broken::nothing), "nothing");
}
TEST_F(EmulatedRing, MissingWaitsAreFound) {
  EXPECT_GE(times_wrong(Broken::wait_for_full), 7);
  EXPECT_GE(times_wrong(Broken::wait_for_empty), 7);
}
TEST_F(EmulatedRing, WrongByteCountsAreFound) {
  EXPECT_EQ(times_wrong(Broken::fewer_bytes), 8);
  EXPECT_THAT(result(1, Broken::more_bytes), HasSubstr("it waits for a value that nobody stores"));
}
TEST_F(EmulatedRing, MissingInitialisationIsFound) {
  EXPECT_THAT(result(1, Broken::no_init),
              HasSubstr("is used as an mbarrier and was not initialised"));
}

TW_KERNEL copies_and_ends(TW_PARAMETER RingParams p) {
  auto* full = reinterpret_cast<Mbarrier*>(shared_memory() + kStageBytes);
  if (thread_id() != 0) return;
  mbarrier_init(full, 1);
  copy_bulk(shared_memory(), p.values, static_cast<u32>(p.steps), full);
}

TEST_F(EmulatedRing, CopiesThatNobodyWaitsFor) {
  const auto run = [&](i32 bytes) {
    std::string all;
    for (u64 seed = 0; seed < 4; ++seed) {
      try {
        launch(copies_and_ends, {.shared_bytes = kStageBytes + 8, .seed = seed},
               {values_.as<float>(), nullptr, bytes, Broken::nothing});
      } catch (const emulator::Failure& failure) {
        all += failure.what();
      }
    }
    return all;
  };
  EXPECT_THAT(run(kStageBytes), HasSubstr("its block ends while 1 copies are under way"));
  EXPECT_THAT(run(24), HasSubstr("it must be a positive multiple of 16"));
  EXPECT_THAT(run(kStageBytes + 16), HasSubstr("which is not in the block's shared memory"));
}

}  // namespace
}  // namespace tw
