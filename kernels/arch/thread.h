// SPDX-License-Identifier: Apache-2.0
// Who runs: threads, warps, blocks; barriers, shuffles and votes.
#pragma once

#include "arch/types.h"

namespace tw {

// Read anew at every use: else the compiler computes what follows from it, for all phases of a
// kernel, before the outer loop, and keeps that in registers that the inner loops lack.
TW_DEVICE i32 thread_id() {
  i32 id;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(id));
  return id;
}
TW_DEVICE i32 num_threads() {
  return static_cast<i32>(blockDim.x);
}
TW_DEVICE i32 block_id() {
  return static_cast<i32>(blockIdx.x);
}
// Read anew, too.
TW_DEVICE i32 num_blocks() {
  i32 count;
  asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(count));
  return count;
}
TW_DEVICE i32 lane_id() {
  return static_cast<i32>(static_cast<u32>(thread_id()) % kWarpSize);
}
// A value that is the same in all lanes. The reduction tells the compiler so, and leaves it in a
// uniform register; behind a shuffle it would stay in one of each lane.
TW_DEVICE i32 uniform(i32 value) {
  return static_cast<i32>(__reduce_or_sync(kAllLanes, static_cast<u32>(value)));
}
// No instruction is moved across it by ptxas, which orders all others as it likes. An event for
// profilers, of which no other use is made: it takes the time to issue it.
TW_DEVICE void keep_order() {
  asm volatile("pmevent 1;" ::: "memory");
}
TW_DEVICE i32 warp_of_thread() {
  return static_cast<i32>(static_cast<u32>(thread_id()) / kWarpSize);
}
// The same, as a value that is the same in all lanes.
TW_DEVICE i32 warp_id() {
  return uniform(warp_of_thread());
}

// The dynamic shared memory of the block, 16-byte aligned.
TW_DEVICE char* shared_memory() {
  extern __shared__ __align__(16) char memory[];
  return memory;
}

// The same memory, in a kernel that has no other: aligned to 1024 bytes, as swizzled matrices are.
// Shared memory begins with 1024 bytes of the system's on Hopper.
TW_DEVICE char* aligned_shared_memory() {
  extern __shared__ __align__(1024) char aligned_memory[];
  return aligned_memory;
}

TW_DEVICE void sync_block() {
  __syncthreads();
}
TW_DEVICE void sync_warp() {
  __syncwarp();
}
// Behind a call the compiler does not know that a warp's threads run together, and in the loops
// around it, neither: it makes what warps do together twice then, and asks each time. Here they are
// brought together, and of an instruction that is for threads together it concludes that they are.
TW_DEVICE void rejoin_warp() {
  sync_warp();
  asm volatile(
      "{\n.reg .b32 unused;\n"
      "movmatrix.sync.aligned.m8n8.trans.b16 unused, %0;\n}" ::"r"(0U));
}
// True for all when it is for some thread of the block.
TW_DEVICE bool any_of_block(bool value) {
  return __syncthreads_or(value) != 0;
}
TW_DEVICE i32 count_of_block(bool value) {
  return __syncthreads_count(value);
}
// A barrier of `threads` threads of the block, a multiple of 32; numbers 1 to 15.
template <i32 number>
TW_DEVICE void named_barrier(i32 threads) {
  asm volatile("bar.sync %0, %1;" ::"n"(number), "r"(threads) : "memory");
}
// The same; true for all when it is for some thread of them.
template <i32 number>
TW_DEVICE bool any_at_barrier(i32 threads, bool value) {
  u32 any;
  asm volatile(
      "{\n.reg .pred p, q;\n"
      "setp.ne.u32 p, %3, 0;\n"
      "barrier.cta.red.or.pred q, %1, %2, p;\n"
      "selp.u32 %0, 1, 0, q;\n}"
      : "=r"(any)
      : "n"(number), "r"(threads), "r"(static_cast<u32>(value))
      : "memory");
  return any != 0;
}

template <typename T>
TW_DEVICE T shuffle(T value, i32 lane) {
  return __shfl_sync(kAllLanes, value, lane);
}
template <typename T>
TW_DEVICE T shuffle_xor(T value, i32 mask) {
  return __shfl_xor_sync(kAllLanes, value, mask);
}
template <typename T>
TW_DEVICE T shuffle_up(T value, i32 lanes) {
  return __shfl_up_sync(kAllLanes, value, static_cast<u32>(lanes));
}
template <typename T>
TW_DEVICE T shuffle_down(T value, i32 lanes) {
  return __shfl_down_sync(kAllLanes, value, static_cast<u32>(lanes));
}
TW_DEVICE u32 ballot(bool value) {
  return __ballot_sync(kAllLanes, value);
}
TW_DEVICE bool any_of_warp(bool value) {
  return __any_sync(kAllLanes, value) != 0;
}
// Over the warp, by one instruction.
TW_DEVICE u32 warp_sum(u32 value) {
  return __reduce_add_sync(kAllLanes, value);
}
TW_DEVICE u32 warp_max(u32 value) {
  return __reduce_max_sync(kAllLanes, value);
}
TW_DEVICE u32 warp_min(u32 value) {
  return __reduce_min_sync(kAllLanes, value);
}
TW_DEVICE i32 count_bits(u32 value) {
  return __popc(value);
}
// The position of the lowest set bit; value is not 0.
TW_DEVICE i32 lowest_bit(u32 value) {
  return __ffs(static_cast<i32>(value)) - 1;
}

// Programmatic launch: waits until the kernels before this one in the stream are done and their
// writes visible, if this one was started early; and lets the next one start early. Both do nothing
// before Hopper.
TW_DEVICE void wait_for_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
TW_DEVICE void let_next_kernel_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace tw
