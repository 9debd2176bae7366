// SPDX-License-Identifier: Apache-2.0
// How a warp copies rows into matrices as wgmma takes them: one by one, or by boxes of pages.
#pragma once

#include "attention/hopper_memory.h"
#include "attention/row_layout.h"

namespace tw {

// How a warp copies `rows` rows of `units` times 16 bytes into a matrix as wgmma takes it: eight
// lanes a row, each the same unit of all blocks of columns, so that an address serves several
// copies.
template <i32 units, i32 rows>
struct MatrixCopy {
  static constexpr i32 kLanes = Hopper::kRowBytes / 16;
  using Rows = SwizzledRows<kLanes>;  // of one block of columns
  static constexpr i32 kColumns = (units + kLanes - 1) / kLanes;
  static constexpr i32 kAtOnce = kWarpSize / kLanes;
  static constexpr i32 kPasses = rows / kAtOnce;
  static constexpr i32 kBatch = kPasses < 8 ? kPasses : 8;
  static_assert(rows % 8 == 0);

  // Of a row's address in the table: those that a thread copies lie together.
  TW_DEVICE static i32 table_index(i32 row) { return row % kAtOnce * kPasses + row / kAtOnce; }

  // Into rows [first, first + rows). `column_bytes`: from a block of columns to the next.
  TW_DEVICE static void copy(char* to, i32 column_bytes, i32 first, const char* const* table) {
    const u32 lane = static_cast<u32>(lane_id());
    const i32 unit = static_cast<i32>(lane % kLanes);
    const i32 row = static_cast<i32>(lane / kLanes);  // and those kAtOnce further, a pass
    const SharedPlace place = shared_place(to + Rows::offset(first + row, unit));
#pragma unroll
    for (i32 begin = 0; begin < kPasses; begin += kBatch) {
      // Addresses are read before the first copy: a read between copies costs each of them three
      // instructions more.
      const char* from[kBatch];
#pragma unroll
      for (i32 i = 0; i < kBatch; ++i) from[i] = table[row * kPasses + begin + i] + unit * 16;
#pragma unroll
      for (i32 i = 0; i < kBatch; ++i) {
        const SharedPlace below = Rows::below(place, (begin + i) * kAtOnce);
#pragma unroll
        for (i32 column = 0; column < kColumns; ++column) {
          if ((column + 1) * kLanes > units && column * kLanes + unit >= units) break;
          copy_async_16(below + column * column_bytes, from[i] + column * Hopper::kRowBytes);
        }
      }
    }
  }
};

// A warp's copies of its rows of blocks of keys or values by boxes, one a page and 64 elements,
// lane by lane. What follows from the tile is kept in registers.
template <bool kValues>
class BoxCopy {
 public:
  static constexpr i32 kColumns = kValues ? Hopper::kValueColumns : Hopper::kHeadColumns;
  static constexpr i32 kRows = Hopper::kLoaderRows;
  static constexpr u32 kBytes = kColumns * kRows * Hopper::kRowBytes;
  // Boxes of a lane: they hold eight tokens or more.
  static constexpr i32 kMost = (kColumns * kRows / 8 + kWarpSize - 1) / kWarpSize;
  struct Pages {
    i32 id[kMost];
  };
  const bool exist;  // else rows are copied one by one

  TW_DEVICE BoxCopy(const HopperParams& p, const HopperPiece& piece)
      : exist(piece.tile.plain && p.box_tokens[piece.tile.segments[0].level] > 0),
        map(kValues ? p.v_boxes[piece.tile.segments[0].level]
                    : p.k_boxes[piece.tile.segments[0].level]),
        head(piece.tile.kv_head),
        page_shift(piece.tile.segments[0].page_shift),
        entries(piece.tile.segments[0].entries),
        // Rows of several tiles are read again.
        policy(piece.row.tiles == 1 ? evict_first() : keep_as_usual()) {
    const i32 tokens = exist ? p.box_tokens[piece.tile.segments[0].level] : kRows;
    tokens_shift = lowest_bit(static_cast<u32>(tokens));
  }

  // Those of the lane's boxes of the rows whose first key is `begin`, of keys that there are.
  TW_DEVICE Pages pages(i32 begin) const {
    Pages pages;
#pragma unroll
    for (i32 i = 0; i < kMost; ++i) {
      const i32 row = row_of(i);
      pages.id[i] =
          column_of(i) < kColumns ? load_once(entries + ((begin + row) >> page_shift)) : 0;
    }
    return pages;
  }

  TW_DEVICE void copy(char* stage, i32 begin, const Pages& pages, Mbarrier& full) const {
#pragma unroll
    for (i32 i = 0; i < kMost; ++i) {
      const i32 column = column_of(i);
      if (column >= kColumns) return;
      const i32 row = row_of(i);
      copy_box(stage + (column * Shape::kBlock + row) * Hopper::kRowBytes, map, column * 64,
               (begin + row) & ((1 << page_shift) - 1), head, pages.id[i], policy, &full);
    }
  }

 private:
  // Of the lane's i-th box: 64 elements each, and the first of its rows.
  TW_DEVICE i32 column_of(i32 i) const {
    return ((lane_id() + i * kWarpSize) << tokens_shift) / kRows;
  }
  TW_DEVICE i32 row_of(i32 i) const {
    return ((lane_id() + i * kWarpSize) << tokens_shift) % kRows;
  }

  const BoxMap& map;
  const i32 head;
  const i32 page_shift;
  const i32* const entries;
  const CachePolicy policy;
  i32 tokens_shift;  // of a box
};

}  // namespace tw
