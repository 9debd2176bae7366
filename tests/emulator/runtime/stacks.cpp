// SPDX-License-Identifier: Apache-2.0
#include "runtime/stacks.h"

#include <sys/mman.h>

#include <boost/context/detail/fcontext.hpp>
#include <new>
#include <vector>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define TW_EMULATOR_ASAN
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define TW_EMULATOR_ASAN
#endif
#ifdef TW_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace tw::emulator {
namespace {

using boost::context::detail::jump_fcontext;
using boost::context::detail::make_fcontext;
using boost::context::detail::transfer_t;

// Larger than the frame of any kernel: a frame that begins in the stack must not end behind the
// guard.
constexpr std::size_t kGuardBytes = std::size_t{4} << 20;

std::vector<char*>& free_stacks() {
  static std::vector<char*> stacks;
  return stacks;
}

// The first thing a fiber does when it is switched to: keeps where the one before it stopped.
void arrive(transfer_t from) {
  auto* before = static_cast<Fiber*>(from.data);
  before->context = from.fctx;
#ifdef TW_EMULATOR_ASAN
  const void* bottom = nullptr;
  std::size_t size = 0;
  __sanitizer_finish_switch_fiber(self->sanitizer_stack, &bottom, &size);
  before->stack_bottom = bottom;
  before->stack_size = size;
#endif
}

void start(transfer_t from) {
  arrive(from);
  self->entry();
  __builtin_unreachable();
}

}  // namespace

char* take_stack() {
  if (!free_stacks().empty()) {
    char* stack = free_stacks().back();
    free_stacks().pop_back();
    return stack;
  }
  void* map = mmap(nullptr, kStackBytes + kGuardBytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) throw std::bad_alloc();
  mprotect(map, kGuardBytes, PROT_NONE);
  return static_cast<char*>(map) + kGuardBytes;
}

void give_stack(char* stack) {
  free_stacks().push_back(stack);
}

bool overflows(const char* stack, const char* address) {
  return address < stack && address >= stack - kGuardBytes;
}

void prepare(Fiber& fiber, void (*entry)()) {
#ifdef TW_EMULATOR_ASAN
  // The fiber before it may have been left where it stood.
  ASAN_UNPOISON_MEMORY_REGION(fiber.stack, kStackBytes);
#endif
  fiber.stack_bottom = fiber.stack;
  fiber.stack_size = kStackBytes;
  fiber.sanitizer_stack = nullptr;
  fiber.entry = entry;
  // Stacks lie whole pages apart: without an offset of its own, every thread's locals would fall
  // into the same few sets of the cache.
  const std::size_t offset = static_cast<std::size_t>(fiber.thread) * 37 % 64 * 64;
  fiber.context = make_fcontext(fiber.stack + kStackBytes - offset, kStackBytes - offset, start);
}

void switch_to(Fiber& next, [[maybe_unused]] bool done) {
  Fiber* from = self;
  self = &next;
#ifdef TW_EMULATOR_ASAN
  __sanitizer_start_switch_fiber(done ? nullptr : &from->sanitizer_stack, next.stack_bottom,
                                 next.stack_size);
#endif
  arrive(jump_fcontext(next.context, from));
}

}  // namespace tw::emulator
