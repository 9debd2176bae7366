// SPDX-License-Identifier: Apache-2.0
// How a warp copies rows into matrices as wgmma takes them: one by one, or by boxes of pages.
#pragma once

#include "attention/hopper_memory.h"

namespace tw {

// How a warp copies `rows` rows of `units` times 16 bytes into a matrix as wgmma takes it.
template <i32 units, i32 rows>
struct MatrixCopy {
  static constexpr i32 kLanes = units <= 8 ? 8 : units <= 16 ? 16 : 32;
  static constexpr i32 kAtOnce = kWarpSize / kLanes;
  static constexpr i32 kPasses = rows / kAtOnce;
  static constexpr i32 kBatch = kPasses < 8 ? kPasses : 8;
  static_assert(units <= 32 && rows % 8 == 0);

  // Of a row's address in the table: those that a thread copies lie together.
  TW_DEVICE static i32 table_index(i32 row) { return row % kAtOnce * kPasses + row / kAtOnce; }

  // Into rows [first, first + rows). `column_bytes`: from a block of columns to the next.
  TW_DEVICE static void copy(char* to, i32 column_bytes, i32 first, const char* const* table) {
    const u32 lane = static_cast<u32>(lane_id());
    const i32 unit = static_cast<i32>(lane % kLanes);
    if (unit >= units) return;
    const i32 row = static_cast<i32>(lane / kLanes);  // and those kAtOnce further, a pass
    const SharedPlace place = shared_place(
        to + unit / 8 * column_bytes + (first + row) * Hopper::kRowBytes + (unit ^ row) % 8 * 16);
#pragma unroll
    for (i32 begin = 0; begin < kPasses; begin += kBatch) {
      // Addresses are read before the first copy: a read between copies costs each of them three
      // instructions more.
      const char* from[kBatch];
#pragma unroll
      for (i32 i = 0; i < kBatch; ++i) from[i] = table[row * kPasses + begin + i] + unit * 16;
#pragma unroll
      for (i32 i = 0; i < kBatch; ++i) {
        const i32 passed = (begin + i) * kAtOnce;
        copy_async_16(flip(place, passed % 8 * 16), passed * Hopper::kRowBytes, from[i]);
      }
    }
  }
};

// A warp's part of a block of keys or values by boxes, one a page and a block of columns, of which a
// lane copies one at the most. What follows from the tile is kept in registers.
template <bool kValues>
class BoxCopy {
 public:
  static constexpr i32 kColumns = kValues ? Hopper::kValueColumns : Hopper::kHeadColumns;
  static constexpr u32 kBytes = kColumns * Hopper::kPartRows * Hopper::kRowBytes;
  const bool exist;  // else rows are copied one by one

  // Rows [first, first + Hopper::kPartRows) of each block.
  TW_DEVICE BoxCopy(const HopperParams& p, const HopperPiece& piece, i32 first)
      : exist(piece.tile.plain && p.box_tokens[piece.tile.segments[0].level] > 0),
        map(kValues ? p.v_boxes[piece.tile.segments[0].level]
                    : p.k_boxes[piece.tile.segments[0].level]),
        head(piece.tile.kv_head),
        last_token((1 << piece.tile.segments[0].page_shift) - 1),
        // Rows of several tiles are read again.
        policy(piece.row.tiles == 1 ? evict_first() : keep_as_usual()) {
    const i32 tokens = exist ? p.box_tokens[piece.tile.segments[0].level] : 1;
    constexpr i32 kAll = Hopper::kPartRows;
    const i32 shift = lowest_bit(static_cast<u32>(kAll)) - lowest_bit(static_cast<u32>(tokens));
    column = lane_id() >> shift;
    row = (lane_id() & ((1 << shift) - 1)) * tokens;
    offset = column * Shape::kBlock * Hopper::kRowBytes + (first + row) * Hopper::kRowBytes;
  }

  // The page of the lane's box, from those of the part's rows, lane by lane.
  template <i32 count>
  TW_DEVICE i32 page_of_lane(const i32 (&pages)[count]) const {
    i32 page = shuffle(pages[0], row % kWarpSize);
#pragma unroll
    for (i32 j = 1; j < count; ++j) {
      const i32 other = shuffle(pages[j], row % kWarpSize);
      if (row >= j * kWarpSize) page = other;
    }
    return page;
  }

  // `key`: of the part's first row.
  TW_DEVICE void copy(char* stage, i32 key, i32 page, Mbarrier& full) const {
    if (column >= kColumns) return;
    copy_box(stage + offset, map, column * 64, (key + row) & last_token, head, page, policy, &full);
  }

 private:
  const BoxMap& map;
  const i32 head;
  const i32 last_token;  // of a page
  const CachePolicy policy;
  i32 column;
  i32 row;  // of the part: the box's first
  i32 offset;
};

}  // namespace tw
