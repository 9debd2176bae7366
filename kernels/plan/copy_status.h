// SPDX-License-Identifier: Apache-2.0
// Puts the status words of the last update where the host reads them. A copy by the driver cannot:
// which of the two arrays they are in is known on the device alone, as graphs are replayed.
#pragma once

#include "arch/thread.h"
#include "plan/update_params.h"

namespace tw {

// One block. Not launched ahead of the update's end.
TW_DEVICE void copy_status(const plan::StatusCopy& copy) {
  // Nobody has written the turn where the only update so far was captured, and never ran.
  const u32* const words = copy.words + (*copy.turn & 1) * copy.stride;
#pragma unroll 1
  for (i32 r = thread_id(); r < copy.count; r += num_threads()) {
    copy.to[r] = static_cast<i32>(words[r]);
  }
}

}  // namespace tw
