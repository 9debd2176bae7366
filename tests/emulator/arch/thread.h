// SPDX-License-Identifier: Apache-2.0
// kernels/arch/thread.h for the emulator.
#pragma once

#include "arch/types.h"
#include "runtime/machine.h"

namespace tw {

using emulator::Site;

TW_DEVICE i32 thread_id() {
  return emulator::self->thread;
}
TW_DEVICE i32 num_threads() {
  return emulator::self->block->num_threads;
}
TW_DEVICE i32 block_id() {
  return emulator::self->block->id;
}
TW_DEVICE i32 num_blocks() {
  return emulator::grid_size;
}
TW_DEVICE i32 lane_id() {
  return emulator::self->lane;
}
// Reduces on the GPU, so here too all lanes must ask together.
TW_DEVICE i32 uniform(i32 value, Site site = Site::here()) {
  return emulator::exchange(value, 0, site);
}
TW_DEVICE void keep_order() {}
TW_DEVICE i32 warp_of_thread() {
  return thread_id() / kWarpSize;
}
TW_DEVICE i32 warp_id(Site site = Site::here()) {
  return uniform(warp_of_thread(), site);
}

TW_DEVICE char* shared_memory() {
  return emulator::self->block->shared;
}

TW_DEVICE char* aligned_shared_memory() {
  emulator::check_aligned<1024>(shared_memory());
  return shared_memory();
}

TW_DEVICE void sync_block(Site site = Site::here()) {
  emulator::wait_at_barrier(0, num_threads(), emulator::Point::sync_block, site, false);
}
TW_DEVICE void sync_warp(Site site = Site::here()) {
  emulator::meet(emulator::Point::sync_warp, site);
}
TW_DEVICE void rejoin_warp(Site site = Site::here()) {
  sync_warp(site);
}
TW_DEVICE bool any_of_block(bool value, Site site = Site::here()) {
  return emulator::wait_at_barrier(0, num_threads(), emulator::Point::any_of_block, site, value) >
         0;
}
TW_DEVICE i32 count_of_block(bool value, Site site = Site::here()) {
  return emulator::wait_at_barrier(0, num_threads(), emulator::Point::count_of_block, site, value);
}
template <i32 number>
TW_DEVICE void named_barrier(i32 threads, Site site = Site::here()) {
  static_assert(number >= 1 && number < emulator::kNumBarriers);
  emulator::wait_at_barrier(number, threads, emulator::Point::named_barrier, site, false);
}
template <i32 number>
TW_DEVICE bool any_at_barrier(i32 threads, bool value, Site site = Site::here()) {
  static_assert(number >= 1 && number < emulator::kNumBarriers);
  return emulator::wait_at_barrier(number, threads, emulator::Point::named_barrier, site, value) >
         0;
}

template <typename T>
TW_DEVICE T shuffle(T value, i32 lane, Site site = Site::here()) {
  return emulator::exchange(value, lane & (kWarpSize - 1), site);
}
template <typename T>
TW_DEVICE T shuffle_xor(T value, i32 mask, Site site = Site::here()) {
  return emulator::exchange(value, (lane_id() ^ mask) & (kWarpSize - 1), site);
}
template <typename T>
TW_DEVICE T shuffle_up(T value, i32 lanes, Site site = Site::here()) {
  return emulator::exchange(value, lane_id() < lanes ? lane_id() : lane_id() - lanes, site);
}
template <typename T>
TW_DEVICE T shuffle_down(T value, i32 lanes, Site site = Site::here()) {
  const i32 source = lane_id() + lanes;
  return emulator::exchange(value, source < kWarpSize ? source : lane_id(), site);
}
TW_DEVICE u32 ballot(bool value, Site site = Site::here()) {
  emulator::Warp& warp = *emulator::self->warp;
  const u32 phase = warp.phase;
  warp.operand[phase][lane_id()].bits = value ? 1 : 0;
  emulator::meet(emulator::Point::ballot, site, [](emulator::Warp& all, u32 now) {
    u64 mask = 0;
    for (i32 lane = 0; lane < kWarpSize; ++lane) mask |= all.operand[now][lane].bits << lane;
    all.result[now] = mask;
  });
  return static_cast<u32>(warp.result[phase]);
}
TW_DEVICE bool any_of_warp(bool value, Site site = Site::here()) {
  return ballot(value, site) != 0;
}
namespace emulator {
template <typename Join>
TW_DEVICE u32 reduce_warp(u32 value, Site site, const Join& join) {
  for (i32 mask = kWarpSize / 2; mask > 0; mask /= 2) {
    value = join(value, exchange(value, lane_id() ^ mask, site));
  }
  return value;
}
}  // namespace emulator
TW_DEVICE u32 warp_sum(u32 value, Site site = Site::here()) {
  return emulator::reduce_warp(value, site, [](u32 a, u32 b) { return a + b; });
}
TW_DEVICE u32 warp_max(u32 value, Site site = Site::here()) {
  return emulator::reduce_warp(value, site, [](u32 a, u32 b) { return a > b ? a : b; });
}
TW_DEVICE u32 warp_min(u32 value, Site site = Site::here()) {
  return emulator::reduce_warp(value, site, [](u32 a, u32 b) { return a < b ? a : b; });
}
TW_DEVICE i32 count_bits(u32 value) {
  return __builtin_popcount(value);
}
TW_DEVICE i32 lowest_bit(u32 value) {
  return __builtin_ffs(static_cast<i32>(value)) - 1;
}

TW_DEVICE void wait_for_previous_kernel() {}
TW_DEVICE void let_next_kernel_start() {}

}  // namespace tw
