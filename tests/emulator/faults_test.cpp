// SPDX-License-Identifier: Apache-2.0
// What a kernel can do wrong, and what the emulator says about it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "arch/matrix.h"
#include "arch/memory.h"
#include "arch/thread.h"
#include "runtime/launch.h"

namespace tw {
namespace {

using emulator::Failure;
using emulator::GuardedBuffer;
using emulator::Launch;
using emulator::launch;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

template <typename... Params>
std::string failure_of(void (*kernel)(Params...), const Launch& how,
                       const std::type_identity_t<Params>&... params) {
  try {
    launch(kernel, how, params...);
  } catch (const Failure& failure) {
    return failure.what();
  }
  return "no failure";
}

TW_KERNEL half_waits(TW_PARAMETER i32 first) {
  if (thread_id() >= first) sync_block();
}

TEST(EmulatedDeadlock, WarpsThatDoNotComeToABarrier) {
  EXPECT_THAT(failure_of(half_waits, {.block = 128}, 64),
              AllOf(StartsWith("deadlock: every thread waits"), HasSubstr("warps 0 to 1: done"),
                    HasSubstr("warps 2 to 3: at sync_block (faults_test.cpp:"),
                    HasSubstr("where 64 of 128 threads have come")));
}

TEST(EmulatedDeadlock, LanesThatDoNotComeToABarrier) {
  for (u64 seed = 0; seed < 10; ++seed) {
    EXPECT_THAT(failure_of(half_waits, {.block = 32, .seed = seed}, 7),
                AllOf(StartsWith("block 0, thread "), HasSubstr("deadlock"), HasSubstr("lanes 0x"),
                      HasSubstr("sync_block (faults_test.cpp:")));
  }
}

TW_KERNEL lanes_part(TW_PARAMETER i32 first) {
  if (lane_id() < first) {
    shuffle_xor(1, 1);
  } else {
    sync_warp();
  }
}

TEST(EmulatedDeadlock, LanesThatComeToDifferentInstructions) {
  EXPECT_THAT(failure_of(lanes_part, {.block = 32}, 16),
              AllOf(HasSubstr("a warp disagrees"), HasSubstr("a shuffle (faults_test.cpp:"),
                    HasSubstr("sync_warp (faults_test.cpp:")));
}

TW_KERNEL waits_at_named_barrier(TW_PARAMETER i32 threads) {
  named_barrier<3>(threads);
}

TEST(EmulatedDeadlock, NamedBarrierForOtherNumbersOfThreads) {
  EXPECT_EQ(failure_of(waits_at_named_barrier, {.block = 128}, 64), "no failure");
  EXPECT_THAT(failure_of(waits_at_named_barrier, {.block = 96}, 64), HasSubstr("32 of 64 threads"));
  EXPECT_THAT(failure_of(waits_at_named_barrier, {.block = 96}, 40), HasSubstr("a multiple of 32"));
}

TW_KERNEL waits_for_block_0(i32* TW_PARAMETER flag) {
  if (thread_id() != 0) return;
  if (block_id() == 0) store_release(flag, 1);
  while (load_acquire(flag) == 0) {
  }
}

// All blocks are resident: right. One at a time: block 0 may never come to run.
TEST(EmulatedDeadlock, WaitingForABlockThatIsNotResident) {
  GuardedBuffer flag("flag", sizeof(i32));
  i32 failures = 0;
  for (u64 seed = 0; seed < 6; ++seed) {
    flag.fill(0);
    EXPECT_EQ(failure_of(waits_for_block_0, {.grid = 3, .seed = seed}, flag.as<i32>()),
              "no failure");
    flag.fill(0);
    const std::string failure = failure_of(
        waits_for_block_0, {.grid = 3, .seed = seed, .max_resident_blocks = 1}, flag.as<i32>());
    if (failure == "no failure") continue;
    EXPECT_THAT(failure, HasSubstr("it waits for a value that nobody stores"));
    ++failures;
  }
  EXPECT_GE(failures, 2);
}

struct AccessParams {
  char* global;
  i64 global_offset;
  i64 shared_offset;
};
TW_KERNEL reads_global(TW_PARAMETER AccessParams p) {
  if (thread_id() == 5) shared_memory()[0] = p.global[p.global_offset];
}
TW_KERNEL reads_16(TW_PARAMETER AccessParams p) {
  if (thread_id() == 5) store_16(shared_memory(), load_16(p.global + p.global_offset));
}
TW_KERNEL writes_global(TW_PARAMETER AccessParams p) {
  if (thread_id() == 5) p.global[p.global_offset] = 1;
}
TW_KERNEL writes_shared(TW_PARAMETER AccessParams p) {
  if (thread_id() == 5) shared_memory()[p.shared_offset] = 1;
}
TW_KERNEL copies(TW_PARAMETER AccessParams p) {
  if (thread_id() == 5)
    copy_async_16(shared_place(shared_memory() + p.shared_offset), p.global + p.global_offset);
  copy_async_commit();
  copy_async_wait<0>();
}
TW_KERNEL loads_matrix(TW_PARAMETER AccessParams p) {
  u32 r[2];
  load_matrix_x2(r, shared_memory() + p.shared_offset + lane_id() % 16 * 16);
}
TW_KERNEL takes_for_shared(TW_PARAMETER AccessParams p) {
  if (thread_id() != 5) return;
  take_for_shared(p.shared_offset < 0 ? p.global : shared_memory() + p.shared_offset);
}

class EmulatedAccess : public ::testing::Test {
 protected:
  std::string run(void (*kernel)(AccessParams), i64 global_offset, i64 shared_offset = 0) {
    return failure_of(kernel, {.block = 32, .shared_bytes = 256},
                      {keys_.data(), global_offset, shared_offset});
  }
  GuardedBuffer keys_{"keys", 64};
};

TEST_F(EmulatedAccess, Global) {
  EXPECT_EQ(run(reads_global, 63), "no failure");
  EXPECT_EQ(run(reads_global, 64),
            "block 0, thread 5: reads 0 bytes behind the end of keys (64 bytes)");
  EXPECT_EQ(run(reads_global, -4096), "block 0, thread 5: reads 4096 bytes before keys (64 bytes)");
  EXPECT_EQ(run(writes_global, 70),
            "block 0, thread 5: writes 6 bytes behind the end of keys (64 bytes)");
  EXPECT_EQ(run(reads_16, 48), "no failure");
  EXPECT_THAT(run(reads_16, 64), HasSubstr("bytes behind the end of keys"));
  EXPECT_EQ(run(reads_16, 8),
            "block 0, thread 5: byte 8 of keys (64 bytes) must be aligned to 16 bytes");
}

TEST_F(EmulatedAccess, GlobalJustBefore) {
  EXPECT_EQ(run(writes_global, -1), "no failure");
  EXPECT_FALSE(keys_.intact());
}

TEST_F(EmulatedAccess, WriteToReadOnly) {
  keys_.make_read_only();
  EXPECT_EQ(run(reads_global, 0), "no failure");
  EXPECT_EQ(run(writes_global, 3), "block 0, thread 5: writes byte 3 of keys (64 bytes)");
}

TEST_F(EmulatedAccess, Shared) {
  EXPECT_EQ(run(writes_shared, 0, 255), "no failure");
  EXPECT_EQ(run(writes_shared, 0, 256),
            "block 0, thread 5: writes 0 bytes behind the end of shared memory (256 bytes)");
  EXPECT_EQ(run(writes_shared, 0, -1), "block 0 wrote outside of its 256 bytes of shared memory");
  EXPECT_EQ(run(loads_matrix, 0, 0), "no failure");
  EXPECT_THAT(run(loads_matrix, 0, 16),
              HasSubstr("ldmatrix at 0 bytes behind the end of shared memory"));
  EXPECT_EQ(run(takes_for_shared, 0, 255), "no failure");
  EXPECT_THAT(run(takes_for_shared, 0, -1), HasSubstr("what is taken for shared memory"));
}

TEST_F(EmulatedAccess, Copies) {
  EXPECT_EQ(run(copies, 48, 240), "no failure");
  EXPECT_THAT(run(copies, 64, 0), HasSubstr("reads 0 bytes behind the end of keys"));
  EXPECT_THAT(run(copies, 0, 256),
              HasSubstr("cp.async at 0 bytes behind the end of shared memory"));
  EXPECT_THAT(run(copies, 0, 8), HasSubstr("byte 8 of shared memory (256 bytes) must be aligned"));
  EXPECT_THAT(run(copies, 4, 0), HasSubstr("byte 4 of keys (64 bytes) must be aligned"));
}

TW_KERNEL writes_under_a_copy(TW_PARAMETER AccessParams p) {
  copy_async_16(shared_place(shared_memory() + 16 * thread_id()), p.global);
  shared_memory()[16 * thread_id()] = 1;
  copy_async_wait<0>();
  copy_async_commit();
  copy_async_wait<0>();
}

TEST_F(EmulatedAccess, WriteWhereACopyWillLand) {
  EXPECT_THAT(
      failure_of(writes_under_a_copy, {.block = 32, .shared_bytes = 512}, {keys_.data(), 0, 0}),
      HasSubstr("was written while an asynchronous copy to it was under way"));
}

// NOLINTNEXTLINE(misc-no-recursion)
i32 descend(i32 depth) {
  volatile i32 frame[64] = {};
  frame[depth % 64] = depth;
  return depth == 0 ? 0 : descend(depth - 1) + frame[depth % 64];
}
TW_KERNEL overflows_stack(TW_PARAMETER i32 depth) {
  descend(depth);
}

TEST(EmulatedStack, Overflow) {
  EXPECT_THAT(failure_of(overflows_stack, {.block = 32}, 10000),
              HasSubstr("stack of 262144 bytes"));
}

TEST(EmulatedLaunch, RefusesWhatNoGpuTakes) {
  EXPECT_THAT(failure_of(half_waits, {.block = 48}, 0), HasSubstr("block is 48"));
  EXPECT_THAT(failure_of(half_waits, {.grid = 0}, 0), HasSubstr("grid is 0"));
}

}  // namespace
}  // namespace tw
