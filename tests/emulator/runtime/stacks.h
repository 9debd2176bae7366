// SPDX-License-Identifier: Apache-2.0
// Stacks of fibers and the switch between them, also as the address sanitizer wants it.
#pragma once

#include <cstddef>

#include "runtime/machine.h"

namespace tw::emulator {

// Address space only: pages that nobody touches cost nothing.
inline constexpr std::size_t kStackBytes = std::size_t{256} << 10;

// Below each stack lies memory that nobody may touch. Stacks are kept for the next launch.
char* take_stack();
void give_stack(char* stack);
// Whether the address is below this stack.
bool overflows(const char* stack, const char* address);

// A fiber that starts with entry() when it is switched to for the first time.
void prepare(Fiber& fiber, void (*entry)());
// Runs `next` instead of the fiber that runs now; returns when somebody switches back, which
// nobody does if this one is done.
void switch_to(Fiber& next, bool done = false);

}  // namespace tw::emulator
