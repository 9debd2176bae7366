// SPDX-License-Identifier: Apache-2.0
// fp8 rows in shared memory become rows of the elements that matrix products take, in place: copies
// bring the bytes that the cache has, and a row has room for twice as many.
#pragma once

#include "arch/fp8.h"
#include "arch/thread.h"
#include "attention/shape.h"

namespace tw {

// `keys` rows of `dim` elements, as Rows lie, by `threads` threads. A row is one warp's:
// its lanes have read all of it before they overwrite it. A barrier of the threads must follow.
template <typename From, i32 keys, i32 dim, typename Rows, i32 threads>
struct WidenRows {
  static constexpr i32 kUnits = dim / 8;  // of eight elements: a lane's
  static constexpr i32 kLanes = power_of_two_from(kUnits > 1 ? kUnits : 2);
  static constexpr i32 kPassRows = threads / kLanes;
  static constexpr i32 kPasses = round_up(keys, kPassRows) / kPassRows;
  static constexpr i32 kAtOnce = kPasses < 4 ? kPasses : 4;
  static_assert(dim % 8 == 0 && kUnits <= kWarpSize && kPasses % kAtOnce == 0);

  TW_DEVICE static void run(char* rows, i32 thread) {
    const i32 unit = thread % kLanes;
    const i32 row = thread / kLanes;
#pragma unroll
    for (i32 first = 0; first < kPasses; first += kAtOnce) {
      Bytes8 raw[kAtOnce];
#pragma unroll
      for (i32 pass = 0; pass < kAtOnce; ++pass) {
        const i32 r = (first + pass) * kPassRows + row;
        if (unit < kUnits && r < keys) {
          raw[pass] =
              *reinterpret_cast<const Bytes8*>(rows + Rows::offset(r, unit / 2) + unit % 2 * 8);
        }
      }
      sync_warp();
#pragma unroll
      for (i32 pass = 0; pass < kAtOnce; ++pass) {
        const i32 r = (first + pass) * kPassRows + row;
        if (unit < kUnits && r < keys) {
          store_16(rows + Rows::offset(r, unit),
                   Bytes16{{widened(raw[pass].word[0]), widened(raw[pass].word[0] >> 16),
                            widened(raw[pass].word[1]), widened(raw[pass].word[1] >> 16)}});
        }
      }
    }
  }

 private:
  TW_DEVICE static u32 widened(u32 two) {
    return widen_pair<Shape::Element, From>(static_cast<u16>(two));
  }
};

}  // namespace tw
