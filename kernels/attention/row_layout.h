// SPDX-License-Identifier: Apache-2.0
// How rows of queries, keys and values lie in shared memory: `units` times 16 bytes each, an even
// number. Matrix loads read the same unit of eight rows at a time: in both layouts these lie in
// different banks.
//
// A lane finds the place of one of its units, and from it others by steps that are constants:
// below() by so many rows, a multiple of eight or of a power of two that is larger than the lane's
// row; right() by an even number of units, from a unit whose number has no bit of that one.
#pragma once

#include "arch/memory.h"

namespace tw {

// A unit of space behind each row: every step is an offset.
template <i32 units>
struct SpacedRows {
  static_assert(units % 2 == 0);
  static constexpr i32 kPitch = (units + 1) * 16;

  TW_DEVICE static constexpr i32 offset(i32 row, i32 unit) { return row * kPitch + unit * 16; }

  TW_DEVICE static SharedPlace below(SharedPlace place, i32 rows) { return place + rows * kPitch; }
  TW_DEVICE static SharedPlace right(SharedPlace place, i32 by) { return place + by * 16; }
};

// No space, but a row's units change places, by the row's number. Copies fill whole lines of 128
// bytes, which is faster: with spaces a GPU brings 2.5 to 4% less (seen on Hopper). The first row
// begins at a multiple of 128 bytes.
template <i32 units>
struct SwizzledRows {
  static_assert(units % 2 == 0);
  static constexpr i32 kPitch = units * 16;
  // So many neighbours change places.
  static constexpr i32 kNeighbours = units % 8 == 0 ? 8 : units % 4 == 0 ? 4 : 2;

  TW_DEVICE static constexpr i32 swizzle(i32 row) { return row / (8 / kNeighbours) % kNeighbours; }
  TW_DEVICE static constexpr i32 offset(i32 row, i32 unit) {
    return row * kPitch + (unit ^ swizzle(row)) * 16;
  }

  TW_DEVICE static SharedPlace below(SharedPlace place, i32 rows) {
    return flip(place, static_cast<u32>(swizzle(rows)) * 16) + rows * kPitch;
  }
  TW_DEVICE static SharedPlace right(SharedPlace place, i32 by) {
    const i32 flipped = by % kNeighbours;
    return flip(place, static_cast<u32>(flipped) * 16) + (by - flipped) * 16;
  }
};

}  // namespace tw
