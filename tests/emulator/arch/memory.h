// SPDX-License-Identifier: Apache-2.0
// kernels/arch/memory.h for the emulator. Everything runs on one OS thread, so atomics are plain
// accesses; other threads may run before and after each.
#pragma once

#include "arch/types.h"
#include "runtime/machine.h"

namespace tw {

// An offset in the block's shared memory; only the difference of two of them means something.
TW_DEVICE u32 shared_address(const void* pointer) {
  return static_cast<u32>(static_cast<const char*>(pointer) - emulator::self->block->shared);
}

struct SharedPlace {
  const char* pointer;
};
TW_DEVICE SharedPlace shared_place(const void* pointer) {
  return {static_cast<const char*>(pointer)};
}
TW_DEVICE SharedPlace operator+(SharedPlace place, i32 bytes) {
  return {place.pointer + bytes};
}
TW_DEVICE SharedPlace flip(SharedPlace place, u32 bits) {
  return {emulator::flip_address(place.pointer, bits)};
}

struct CachePolicy {};
TW_DEVICE CachePolicy keep_as_usual() {
  return {};
}
TW_DEVICE CachePolicy evict_first() {
  return {};
}
TW_DEVICE void copy_async_16(SharedPlace place, const void* global, bool valid = true) {
  emulator::issue_copy(const_cast<char*>(place.pointer), global, 16, valid);
}
TW_DEVICE void copy_async_16(SharedPlace place, const void* global, CachePolicy /*policy*/) {
  copy_async_16(place, global);
}
TW_DEVICE void copy_async_commit() {
  emulator::commit_copies();
}
template <i32 groups>
TW_DEVICE void copy_async_wait() {
  static_assert(groups >= 0);
  emulator::wait_for_copies(groups);
}

TW_DEVICE Bytes16 load_16(const void* pointer) {
  emulator::check_aligned<16>(pointer);
  return *static_cast<const Bytes16*>(pointer);
}
TW_DEVICE void store_16(void* pointer, const Bytes16& value) {
  emulator::check_aligned<16>(pointer);
  *static_cast<Bytes16*>(pointer) = value;
}
TW_DEVICE void store_global_16(void* pointer, const Bytes16& value) {
  store_16(pointer, value);
}

struct alignas(8) Float2 {
  float x, y;
};
struct alignas(16) Float4 {
  float x, y, z, w;
};
TW_DEVICE Float2 load_from_l2(const Float2* pointer) {
  emulator::check_aligned<8>(pointer);
  return *pointer;
}
TW_DEVICE Float4 load_from_l2(const Float4* pointer) {
  emulator::check_aligned<16>(pointer);
  return *pointer;
}
template <typename T>
TW_DEVICE T* kept(T* pointer) {
  return pointer;
}
TW_DEVICE void take_for_shared(const void* pointer) {
  emulator::check_shared(pointer, 1, 1, "what is taken for shared memory");
}
TW_DEVICE i32 load_once(const i32* pointer) {
  return *pointer;
}

namespace emulator {
template <typename T, typename F>
TW_DEVICE T atomically(T* pointer, F change) {
  check_aligned<sizeof(T)>(pointer);
  interleave();
  note_progress();
  const T before = *pointer;
  *pointer = change(before);
  interleave();
  return before;
}
}  // namespace emulator

TW_DEVICE i32 atomic_add(i32* pointer, i32 value) {
  return emulator::atomically(
      pointer, [=](i32 old) { return static_cast<i32>(static_cast<u32>(old) + value); });
}
TW_DEVICE u32 atomic_add(u32* pointer, u32 value) {
  return emulator::atomically(pointer, [=](u32 old) { return old + value; });
}
TW_DEVICE void add_shared_if(bool adds, u32* pointer, u32 value) {
  if (!adds) return;
  emulator::check_shared(pointer, sizeof(u32), sizeof(u32), "an addition to shared memory");
  atomic_add(pointer, value);
}
template <typename T>
TW_DEVICE T atomic_add_64(T* pointer, T value) {
  static_assert(sizeof(T) == 8);
  return emulator::atomically(pointer, [=](T old) { return old + value; });
}
TW_DEVICE i32 atomic_add_acq_rel(i32* pointer, i32 value) {
  return atomic_add(pointer, value);
}
TW_DEVICE u32 atomic_count(u32* pointer, u32 most) {
  return emulator::atomically(pointer, [=](u32 old) { return old >= most ? 0 : old + 1; });
}
TW_DEVICE u32 atomic_or(u32* pointer, u32 value) {
  return emulator::atomically(pointer, [=](u32 old) { return old | value; });
}
TW_DEVICE i32 atomic_max(i32* pointer, i32 value) {
  return emulator::atomically(pointer, [=](i32 old) { return old > value ? old : value; });
}
TW_DEVICE i32 load_relaxed(const i32* pointer) {
  return *static_cast<const volatile i32*>(pointer);
}
TW_DEVICE i32 load_acquire(const i32* pointer) {
  emulator::poll();
  return *static_cast<const volatile i32*>(pointer);
}
TW_DEVICE void store_release(i32* pointer, i32 value) {
  emulator::atomically(pointer, [=](i32) { return value; });
}

}  // namespace tw
