// SPDX-License-Identifier: Apache-2.0
// Runs a kernel in the emulator:
//   launch(add_vectors, {.grid = 4, .block = 128, .shared_bytes = 1024, .seed = seed}, params);
#pragma once

#include <stdexcept>
#include <type_traits>

#include "arch/types.h"
#include "runtime/guarded_buffer.h"

namespace tw::emulator {

struct Launch {
  i32 grid = 1;
  i32 block = 32;  // a multiple of 32, at most 1024
  i64 shared_bytes = 0;
  i32 cluster = 1;  // blocks that start together: the grid is a multiple of it
  // Decides the order of blocks, of threads, and when copies land. Equal seeds run equally.
  u64 seed = 0;
  // Blocks that run at the same time (at least a cluster); the others start when some of them end.
  i32 max_resident_blocks = 4;
};

// What a kernel did wrong: deadlock, access out of bounds, misalignment, a warp that disagrees.
class Failure : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Statistics {
  u64 switches = 0;  // from one thread to another
  u64 meetings = 0;  // instructions of a warp
};

// Calls `body(context)` in every thread of the grid.
Statistics run_grid(const Launch& launch, void (*body)(const void*), const void* context);

// Waits until the kernel is done; throws Failure. Launches of several OS threads run in turn.
template <typename... Params>
Statistics launch(void (*kernel)(Params...), const Launch& launch,
                  const std::type_identity_t<Params>&... params) {
  const auto call = [&] { kernel(params...); };
  return run_grid(
      launch, [](const void* context) { (*static_cast<decltype(call)*>(context))(); }, &call);
}

}  // namespace tw::emulator
