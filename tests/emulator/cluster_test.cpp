// SPDX-License-Identifier: Apache-2.0
// Clusters: ranks, each other's shared memory, and what goes wrong there.
#include "arch/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "arch/thread.h"
#include "runtime/launch.h"

namespace tw {
namespace {

using emulator::Failure;
using emulator::GuardedBuffer;
using emulator::launch;

constexpr i32 kCluster = 3;

struct ClusterParams {
  u32* sums;  // [blocks]
  bool waits_at_the_end;
};

// Each block's sum of what all ranks of its cluster told it, 1 + 2 + 3, and of what the first one
// has been told by the last.
TW_KERNEL tell_each_other(TW_PARAMETER ClusterParams p) {
  u32* const told = reinterpret_cast<u32*>(shared_memory());  // [cluster]
  sync_cluster();
  if (thread_id() < cluster_size()) {
    store_remote(&told[cluster_rank()], thread_id(), static_cast<u32>(cluster_rank() + 1));
  }
  sync_cluster();
  u32 sum = 0;
  for (i32 rank = 0; rank < cluster_size(); ++rank) sum += told[rank];
  sum += 100 * load_remote(&told[kCluster - 1], 0);
  if (p.waits_at_the_end) sync_cluster();
  if (thread_id() == 0) p.sums[block_id()] = sum;
}

u32 sum_of_sums(u64 seed, bool waits_at_the_end, i32 resident) {
  constexpr i32 kBlocks = 4 * kCluster;
  GuardedBuffer sums("sums", kBlocks * sizeof(u32));
  launch(tell_each_other,
         {.grid = kBlocks,
          .block = 64,
          .shared_bytes = kCluster * sizeof(u32),
          .cluster = kCluster,
          .seed = seed,
          .max_resident_blocks = resident},
         {sums.as<u32>(), waits_at_the_end});
  u32 sum = 0;
  for (i32 block = 0; block < kBlocks; ++block) sum += sums.as<u32>()[block];
  return sum;
}

TEST(EmulatedClusters, BlocksReachEachOther) {
  for (u64 seed = 0; seed < 30; ++seed) {
    for (const i32 resident : {1, 4, 9}) {
      ASSERT_EQ(sum_of_sums(seed, true, resident), 4U * kCluster * (6 + 100 * kCluster));
    }
  }
}

TEST(EmulatedClusters, ABlockThatHasEndedCannotBeRead) {
  i32 failures = 0;
  for (u64 seed = 0; seed < 30; ++seed) {
    try {
      sum_of_sums(seed, false, 3);
    } catch (const Failure& failure) {
      EXPECT_THAT(failure.what(), testing::HasSubstr("block 0 of its cluster, which has ended"));
      ++failures;
    }
  }
  EXPECT_GT(failures, 0);
}

TW_KERNEL one_block_leaves(TW_PARAMETER ClusterParams) {
  if (cluster_rank() != 1) sync_cluster();
}

TW_KERNEL reach_too_far(TW_PARAMETER ClusterParams) {
  sync_cluster();
  if (thread_id() == 0) store_remote(reinterpret_cast<u32*>(shared_memory()), kCluster, 1U);
}

TW_KERNEL tell_at_once(TW_PARAMETER ClusterParams) {
  arrive_at_cluster();
  if (thread_id() == 0) store_remote(reinterpret_cast<u32*>(shared_memory()), 1, 1U);
  wait_for_cluster();
  sync_cluster();
}

void run(void (*kernel)(ClusterParams), i32 grid = kCluster) {
  launch(kernel, {.grid = grid, .shared_bytes = 16, .cluster = kCluster}, {});
}

TEST(EmulatedClusters, MistakesAreFound) {
  const auto failure_of = [](auto* kernel, i32 grid) -> std::string {
    try {
      run(kernel, grid);
    } catch (const Failure& failure) {
      return failure.what();
    }
    return "";
  };
  EXPECT_THAT(failure_of(one_block_leaves, kCluster),
              testing::AllOf(testing::HasSubstr("deadlock"), testing::HasSubstr("sync_cluster")));
  EXPECT_THAT(failure_of(reach_too_far, kCluster), testing::HasSubstr("block 3 of a cluster of 3"));
  EXPECT_THAT(failure_of(tell_at_once, kCluster), testing::HasSubstr("may not have begun"));
  EXPECT_THAT(failure_of(one_block_leaves, 4), testing::HasSubstr("must be a multiple of it"));
}

}  // namespace
}  // namespace tw
