// SPDX-License-Identifier: Apache-2.0
// How often this program has called operator new, from any thread. One source file of the program
// defines TILEWRIGHT_TEST_COUNT_ALLOCATIONS before it includes this, and so replaces operator new.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>

namespace tilewright::test {

inline std::atomic<std::int64_t> allocation_count{0};

// Calls of operator new since its construction.
class AllocationCounter {
 public:
  std::int64_t count() const { return allocation_count.load() - start_; }

 private:
  std::int64_t start_ = allocation_count.load();
};

inline void* counted_allocation(std::size_t bytes, std::size_t alignment) {
  ++allocation_count;
  void* memory = nullptr;
  if (alignment < sizeof(void*)) alignment = sizeof(void*);
  if (posix_memalign(&memory, alignment, bytes > 0 ? bytes : 1) != 0) throw std::bad_alloc();
  return memory;
}

}  // namespace tilewright::test

#ifdef TILEWRIGHT_TEST_COUNT_ALLOCATIONS
void* operator new(std::size_t bytes) {
  return tilewright::test::counted_allocation(bytes, alignof(std::max_align_t));
}
void* operator new[](std::size_t bytes) {
  return tilewright::test::counted_allocation(bytes, alignof(std::max_align_t));
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return tilewright::test::counted_allocation(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return tilewright::test::counted_allocation(bytes, static_cast<std::size_t>(alignment));
}
// std::stable_sort asks for its buffer this way. Left to a sanitizer, its memory would not be ours
// to free.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept {
  try {
    return operator new(bytes);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void* operator new[](std::size_t bytes, const std::nothrow_t& nothrow) noexcept {
  return operator new(bytes, nothrow);
}
// Not inlined: GCC takes the two for different allocators where it sees only one of them.
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete[](void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete[](void* memory, std::size_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete[](void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept {
  std::free(memory);
}
#endif
