// SPDX-License-Identifier: Apache-2.0
// From what copies brought to what matrix products take, in place: fp8 is widened, keys are
// rotated. Where there is nothing of both, nothing is done.
#pragma once

#include "attention/rotate.h"
#include "attention/widen.h"

namespace tw {

// KeyRows, ValueRows: how they lie.
template <i32 keys, typename KeyRows, typename ValueRows, i32 threads, bool kWidensKeys,
          bool kWidensValues>
struct Landed {
  // Of `keys` keys in shared memory, at `positions`. `meet` is a barrier of the threads, behind all
  // writes.
  template <typename Meet>
  TW_DEVICE static void finish(char* k, char* k_rests, char* v, const i32* positions, i32 thread,
                               const Meet& meet) {
    if constexpr (kWidensKeys) {
      WidenRows<Spec::Key, keys, Spec::kHeadDim, KeyRows, threads>::run(k, thread);
    }
    if constexpr (kWidensValues) {
      WidenRows<Spec::Value, keys, Spec::kValueDim, ValueRows, threads>::run(v, thread);
    }
    if constexpr (Variant::kHasRope) {
      if constexpr (kWidensKeys) meet();
      rotate_rows<KeyRows, threads>(k, k_rests, keys, thread,
                                    [&](i32 key) { return positions[key]; });
    }
    if constexpr (kWidensKeys || kWidensValues || Variant::kHasRope) meet();
  }
};

}  // namespace tw
