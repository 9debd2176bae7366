// SPDX-License-Identifier: Apache-2.0
// The entries of a row that come first, as a sorted list in shared memory.
#pragma once

#include "arch/thread.h"
#include "sampling/kept.h"
#include "sampling/params.h"

namespace tw {

// Sorts in falling order by the whole block: bitonic (Batcher, "Sorting networks and their
// applications", 1968), with entries of 0, which are less than any, up to a power of two.
TW_DEVICE void sort_best(u64* entries, i32 count) {
  i32 size = 2;
#pragma unroll 1
  while (size < count) size *= 2;
#pragma unroll 1
  for (i32 i = count + thread_id(); i < size; i += num_threads()) entries[i] = 0;
  sync_block();
#pragma unroll 1
  for (i32 sorted = 2; sorted <= size; sorted *= 2) {
#pragma unroll 1
    for (i32 distance = sorted / 2; distance > 0; distance /= 2) {
#pragma unroll 1
      for (i32 pair = thread_id(); pair < size / 2; pair += num_threads()) {
        const i32 within = pair & (distance - 1);
        const i32 at = (pair - within) * 2 + within;
        const u64 first = entries[at];
        const u64 second = entries[at + distance];
        const bool falls = (at & sorted) == 0;
        if ((first < second) == falls) {
          entries[at] = second;
          entries[at + distance] = first;
        }
      }
      sync_block();
    }
  }
}

// What top_k() gives of a row; behind `count` entries there are none.
template <typename T>
TW_DEVICE void store_best(const TopKParams& p, i64 row, const u64* sorted, i32 count) {
#pragma unroll 1
  for (i32 i = thread_id(); i < p.k; i += num_threads()) {
    const u64 entry = sorted[i < count ? i : 0];
    const float value = i < count ? value_of_entry(entry) : -kInfinity;
    const i32 id = i < count ? id_of_entry(entry) : -1;
    static_cast<T*>(p.values)[row * p.values_stride + i] = from_float<T>(value);
    const i64 at = row * p.indices_stride + i;
    if (p.indices_64 != 0) {
      static_cast<i64*>(p.indices)[at] = id;
    } else {
      static_cast<i32*>(p.indices)[at] = id;
    }
  }
}

}  // namespace tw
