// SPDX-License-Identifier: Apache-2.0
// How rows of queries, keys and values lie in shared memory: `units` times 16 bytes each, an even
// number. Matrix loads read the same unit of eight rows at a time: in both layouts these lie in
// different banks. A lane has a place for the first of its units, and goes on from it by steps that
// are constants.
#pragma once

#include "arch/memory.h"

namespace tw {

// A unit of space behind each row: every step is an offset.
template <i32 units>
struct SpacedRows {
  static_assert(units % 2 == 0);
  static constexpr i32 kPitch = (units + 1) * 16;

  TW_DEVICE static constexpr i32 offset(i32 row, i32 unit) { return row * kPitch + unit * 16; }

  // A place `rows` below, and `right` units (an even number) to the right, of one in an even unit
  // or behind it.
  TW_DEVICE static SharedPlace below(SharedPlace place, i32 rows) { return place + rows * kPitch; }
  TW_DEVICE static SharedPlace right(SharedPlace place, i32 right) { return place + right * 16; }
};

// No space, but a row's units change places, by the row's number. Copies fill whole lines of 128
// bytes: with spaces between rows they are slower, by 2.5% of what memory brings (seen on a Hopper
// GPU). Rows begin at multiples of 128 bytes, eight of them.
template <i32 units>
struct SwizzledRows {
  static_assert(units % 2 == 0);
  static constexpr i32 kPitch = units * 16;
  // So many neighbours change places, which divide a row.
  static constexpr i32 kNeighbours = units % 8 == 0 ? 8 : units % 4 == 0 ? 4 : 2;

  TW_DEVICE static constexpr i32 swizzle(i32 row) { return row / (8 / kNeighbours) % kNeighbours; }
  TW_DEVICE static constexpr i32 offset(i32 row, i32 unit) {
    return row * kPitch + (unit ^ swizzle(row)) * 16;
  }

  // `rows` a multiple of eight, or of a power of two that the lane's row is less than.
  TW_DEVICE static SharedPlace below(SharedPlace place, i32 rows) {
    return flip(place, static_cast<u32>(swizzle(rows)) * 16) + rows * kPitch;
  }
  // `right` even, the lane's unit 0 or 1.
  TW_DEVICE static SharedPlace right(SharedPlace place, i32 right) {
    const i32 flipped = right % kNeighbours;
    return flip(place, static_cast<u32>(flipped) * 16) + (right - flipped) * 16;
  }
};

}  // namespace tw
