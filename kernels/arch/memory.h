// SPDX-License-Identifier: Apache-2.0
// Loads, stores, asynchronous copies and atomics, with the order and the cache they promise.
#pragma once

#include "arch/types.h"

namespace tw {

TW_DEVICE u32 shared_address(const void* pointer) {
  return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// A place in shared memory from which offsets are counted. It takes one register: the compiler,
// which cannot see where it comes from, would else compute each sum with an offset before a loop
// and keep them all.
struct SharedPlace {
  u32 address;
};
TW_DEVICE SharedPlace shared_place(const void* pointer) {
  SharedPlace place{shared_address(pointer)};
  asm volatile("" : "+r"(place.address));
  return place;
}
TW_DEVICE SharedPlace operator+(SharedPlace place, i32 bytes) {
  return {place.address + static_cast<u32>(bytes)};
}
// The place at the other side of the bits: where rows are swizzled.
TW_DEVICE SharedPlace flip(SharedPlace place, u32 bits) {
  return {place.address ^ bits};
}

// How long the L2 cache should keep what copies bring.
struct CachePolicy {
  u64 bits;
};
TW_DEVICE CachePolicy keep_as_usual() {
  CachePolicy policy;
  asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy.bits));
  return policy;
}
// What is read once should not drive out the rest.
TW_DEVICE CachePolicy evict_first() {
  CachePolicy policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy.bits));
  return policy;
}
// Copies 16 bytes from global to shared memory, asynchronously.
TW_DEVICE void copy_async_16(SharedPlace place, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(place.address),
               "l"(global)
               : "memory");
}
TW_DEVICE void copy_async_16(SharedPlace place, const void* global, CachePolicy policy) {
  asm volatile(
      "cp.async.cg.shared.global.L2::cache_hint.L2::128B [%0], [%1], 16, %2;" ::"r"(place.address),
      "l"(global), "l"(policy.bits)
      : "memory");
}
// The same; where not `valid`, zeros are written and nothing is read.
TW_DEVICE void copy_async_16(SharedPlace place, const void* global, bool valid) {
  const u32 bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(place.address),
               "l"(global), "r"(bytes)
               : "memory");
}
// Copies since the last commit become one group.
TW_DEVICE void copy_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most `groups` of this thread's latest groups are still under way. What they wrote
// is visible to this thread; a barrier makes it so for others.
template <i32 groups>
TW_DEVICE void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

TW_DEVICE Bytes16 load_16(const void* pointer) {
  return *static_cast<const Bytes16*>(pointer);
}
TW_DEVICE void store_16(void* pointer, const Bytes16& value) {
  *static_cast<Bytes16*>(pointer) = value;
}

TW_DEVICE void store_global_16(void* pointer, const Bytes16& value) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(pointer), "r"(value.word[0]),
               "r"(value.word[1]), "r"(value.word[2]), "r"(value.word[3])
               : "memory");
}

// Reads past the L1 cache: what other blocks of this launch wrote before a release that this thread
// acquired.
struct alignas(8) Float2 {
  float x, y;
};
struct alignas(16) Float4 {
  float x, y, z, w;
};
TW_DEVICE Float2 load_from_l2(const Float2* pointer) {
  Float2 v;
  asm volatile("ld.global.cg.v2.f32 {%0, %1}, [%2];"
               : "=f"(v.x), "=f"(v.y)
               : "l"(pointer)
               : "memory");
  return v;
}
TW_DEVICE Float4 load_from_l2(const Float4* pointer) {
  Float4 v;
  asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(pointer)
               : "memory");
  return v;
}

// A pointer that is in a register from here on: else the compiler makes it where it is used, or
// again at each use.
template <typename T>
TW_DEVICE T* kept(T* pointer) {
  asm volatile("" : "+l"(pointer));
  return pointer;
}
// Tells the compiler where it is: else accesses ask.
TW_DEVICE void take_for_shared(const void* pointer) {
  __builtin_assume(__isShared(pointer));
}

// Read once, kept out of the way of what is read again.
TW_DEVICE i32 load_once(const i32* pointer) {
  i32 value;
  asm volatile("ld.global.nc.L1::no_allocate.b32 %0, [%1];" : "=r"(value) : "l"(pointer));
  return value;
}

// Adds, and orders: what this thread wrote (and, after a barrier, its block) before is visible to
// whoever sees the sum, and what others released is visible here.
TW_DEVICE i32 atomic_add_acq_rel(i32* pointer, i32 value) {
  i32 before;
  asm volatile("atom.global.acq_rel.gpu.add.s32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(pointer), "r"(value)
               : "memory");
  return before;
}
// Relaxed: only the sum is exact.
TW_DEVICE i32 atomic_add(i32* pointer, i32 value) {
  return atomicAdd(pointer, value);
}
TW_DEVICE u32 atomic_add(u32* pointer, u32 value) {
  return atomicAdd(pointer, value);
}
// To shared memory where `adds`, without a branch.
TW_DEVICE void add_shared_if(bool adds, u32* pointer, u32 value) {
  asm volatile(
      "{\n.reg .pred p;\n"
      "setp.ne.u32 p, %0, 0;\n"
      "@p red.relaxed.cta.shared::cta.add.u32 [%1], %2;\n}" ::"r"(static_cast<u32>(adds)),
      "r"(shared_address(pointer)), "r"(value)
      : "memory");
}
template <typename T>
TW_DEVICE T atomic_add_64(T* pointer, T value) {
  static_assert(sizeof(T) == 8);
  return static_cast<T>(atomicAdd(reinterpret_cast<u64*>(pointer), static_cast<u64>(value)));
}
// Counts from 0 to `most` and round again.
TW_DEVICE u32 atomic_count(u32* pointer, u32 most) {
  return atomicInc(pointer, most);
}
TW_DEVICE u32 atomic_or(u32* pointer, u32 value) {
  return atomicOr(pointer, value);
}
TW_DEVICE i32 atomic_max(i32* pointer, i32 value) {
  return atomicMax(pointer, value);
}
TW_DEVICE i32 load_relaxed(const i32* pointer) {
  i32 value;
  asm volatile("ld.global.relaxed.gpu.s32 %0, [%1];" : "=r"(value) : "l"(pointer) : "memory");
  return value;
}
TW_DEVICE i32 load_acquire(const i32* pointer) {
  i32 value;
  asm volatile("ld.global.acquire.gpu.s32 %0, [%1];" : "=r"(value) : "l"(pointer) : "memory");
  return value;
}
TW_DEVICE void store_release(i32* pointer, i32 value) {
  asm volatile("st.global.release.gpu.s32 [%0], %1;" ::"l"(pointer), "r"(value) : "memory");
}

}  // namespace tw
