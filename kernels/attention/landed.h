// SPDX-License-Identifier: Apache-2.0
// From what copies brought to what matrix products take, in place. Where keys and values are
// elements of the queries' kind, nothing is to be done.
#pragma once

#include "attention/widen.h"

namespace tw {

template <i32 keys, i32 threads>
struct Landed {
  static constexpr bool kWidensKeys = sizeof(Spec::Key) == 1;
  static constexpr bool kWidensValues = sizeof(Spec::Value) == 1;

  // Of `keys` keys in shared memory. `meet` is a barrier of the threads, behind all writes.
  template <typename Meet>
  TW_DEVICE static void finish(char* k, char* v, i32 thread, const Meet& meet) {
    if constexpr (kWidensKeys) {
      WidenRows<Spec::Key, keys, Spec::kHeadDim, Shape::kHeadPitch, threads>::run(k, thread);
    }
    if constexpr (kWidensValues) {
      WidenRows<Spec::Value, keys, Spec::kValueDim, Shape::kValuePitch, threads>::run(v, thread);
    }
    if constexpr (kWidensKeys || kWidensValues) meet();
  }
};

}  // namespace tw
