// SPDX-License-Identifier: Apache-2.0
// Hopper and later: blocks of a cluster run at the same time, side by side, and reach each other's
// shared memory. A place there is named by the same place in one's own, and the block's rank.
#pragma once

#include "arch/memory.h"
#include "arch/types.h"

namespace tw {

TW_DEVICE i32 cluster_rank() {
  u32 rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<i32>(rank);
}
// Blocks of this cluster.
TW_DEVICE i32 cluster_size() {
  u32 size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return static_cast<i32>(size);
}
// All threads of the cluster; what they wrote before is visible behind it. A block must not end
// before one that follows the last access to its memory.
TW_DEVICE void sync_cluster() {
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
}
// The same in two halves, between which a thread does what needs no other block; once a thread.
// Blocks may begin one after the other: before the first barrier another one's memory is not there.
TW_DEVICE void arrive_at_cluster() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
TW_DEVICE void wait_for_cluster() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

TW_DEVICE u32 remote_address(const void* mine, i32 rank) {
  u32 address;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(address)
      : "r"(shared_address(mine)), "r"(rank));
  return address;
}
TW_DEVICE void store_remote(u32* mine, i32 rank, u32 value) {
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(remote_address(mine, rank)), "r"(value)
               : "memory");
}
TW_DEVICE void store_remote(u64* mine, i32 rank, u64 value) {
  asm volatile("st.shared::cluster.u64 [%0], %1;" ::"r"(remote_address(mine, rank)), "l"(value)
               : "memory");
}
// What was there before.
TW_DEVICE u32 add_remote(u32* mine, i32 rank, u32 value) {
  u32 before;
  asm volatile("atom.shared::cluster.add.u32 %0, [%1], %2;"
               : "=r"(before)
               : "r"(remote_address(mine, rank)), "r"(value)
               : "memory");
  return before;
}
TW_DEVICE u32 load_remote(const u32* mine, i32 rank) {
  u32 value;
  asm volatile("ld.shared::cluster.u32 %0, [%1];"
               : "=r"(value)
               : "r"(remote_address(mine, rank))
               : "memory");
  return value;
}
TW_DEVICE u64 load_remote(const u64* mine, i32 rank) {
  u64 value;
  asm volatile("ld.shared::cluster.u64 %0, [%1];"
               : "=l"(value)
               : "r"(remote_address(mine, rank))
               : "memory");
  return value;
}

}  // namespace tw
