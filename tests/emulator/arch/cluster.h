// SPDX-License-Identifier: Apache-2.0
// kernels/arch/cluster.h for the emulator.
#pragma once

#include "arch/memory.h"
#include "arch/thread.h"
#include "runtime/machine.h"

namespace tw {

TW_DEVICE i32 cluster_rank() {
  return emulator::self->block->rank;
}
TW_DEVICE i32 cluster_size() {
  return static_cast<i32>(emulator::self->block->cluster->blocks.size());
}
TW_DEVICE void sync_cluster(Site site = Site::here()) {
  emulator::wait_at_cluster_barrier(site);
}
// All of it is in the second half.
TW_DEVICE void arrive_at_cluster() {}
TW_DEVICE void wait_for_cluster(Site site = Site::here()) {
  emulator::wait_at_cluster_barrier(site);
}

template <typename T>
TW_DEVICE T* remote_address(const T* mine, i32 rank) {
  return static_cast<T*>(emulator::remote_place(mine, sizeof(T), rank));
}
template <typename T>
TW_DEVICE void store_remote(T* mine, i32 rank, T value) {
  *remote_address(mine, rank) = value;
}
TW_DEVICE u32 add_remote(u32* mine, i32 rank, u32 value) {
  return atomic_add(remote_address(mine, rank), value);
}
template <typename T>
TW_DEVICE T load_remote(const T* mine, i32 rank) {
  return *remote_address(mine, rank);
}

}  // namespace tw
