// SPDX-License-Identifier: Apache-2.0
// The threads of a block that compute: all of them, but in Hopper's kernel, where the warps behind
// them bring them their work and their keys.
#pragma once

#include "arch/thread.h"
#include "attention/shape.h"

namespace tw {

inline constexpr i32 kWorkersBarrier = 1;

TW_DEVICE void sync_workers() {
  if constexpr (Spec::kHopper) {
    named_barrier<kWorkersBarrier>(Shape::kThreads);
  } else {
    sync_block();
  }
}
// True for all when it is for some of them.
TW_DEVICE bool any_of_workers(bool value) {
  if constexpr (Spec::kHopper) {
    return any_at_barrier<kWorkersBarrier>(Shape::kThreads, value);
  } else {
    return any_of_block(value);
  }
}

}  // namespace tw
