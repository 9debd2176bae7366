// SPDX-License-Identifier: Apache-2.0
// Shared memory of Hopper's kernel, and the mbarriers by which its warps hand over what lies
// there: one finds the work, some load, two warp groups compute. All count the pieces, and blocks
// of keys: from a count follows a place, and the parity of the mbarriers' phase.
#pragma once

#include "arch/bulk.h"
#include "arch/wgmma.h"
#include "attention/pieces.h"
#include "attention/workers.h"

namespace tw {

struct Hopper {
  static constexpr i32 kGroups = 2;  // warp groups that compute
  static constexpr i32 kGroupRows = Shape::kRows / kGroups;
  static constexpr i32 kThreads = hopper_threads(Spec::kHeadDim, Spec::kValueDim);
  static constexpr i32 kStages = kHopperKeyStages;  // of keys
  // Of values, which stay a block longer.
  static constexpr i32 kValueStages =
      hopper_value_stages(Spec::kHeadDim, Spec::kValueDim, Spec::kBlock);
  // Warps that load keys, and as many that load values: each has so many rows of every block.
  static constexpr i32 kLoaders = hopper_loaders(Spec::kHeadDim, Spec::kValueDim);
  static constexpr i32 kLoaderRows = Shape::kBlock / kLoaders;
  // Whether there is a fourth warp group. Then a warp of its own sets up the rows of tiles, beside
  // the one that copies their queries.
  static constexpr bool kManyLoaders = kLoaders > 1;
  // Arrivals of a loader at a place: with the bytes of its boxes, and behind all else.
  static constexpr u32 kFills = 2;
  static constexpr u32 kPieces = hopper_pieces(Spec::kHeadDim, Spec::kValueDim);
  // Of positions, which are read when their keys' place may be filled again.
  static constexpr i32 kSteps = 4;
  static constexpr i32 kStoreBytes =
      hopper_store_bytes(Spec::kHeadDim, Spec::kValueDim, Spec::kBlock);
  static constexpr i32 kRowBytes = 128;  // a row of one block of columns, 64 elements
  static constexpr i32 kHeadColumns = round_up(Spec::kHeadDim, 64) / 64;
  static constexpr i32 kValueColumns = round_up(Spec::kValueDim, 64) / 64;
};

struct alignas(1024) HopperStages {
  char q[Hopper::kHeadColumns][Shape::kRows * Hopper::kRowBytes];
  char k[Hopper::kStages][Hopper::kHeadColumns][Shape::kBlock * Hopper::kRowBytes];
  char v[Hopper::kValueStages][Hopper::kValueColumns][Shape::kBlock * Hopper::kRowBytes];
};

// By all who need it; `turn`: how often it has happened before.
TW_DEVICE void wait_for(Mbarrier& mbarrier, u32 turn) {
  mbarrier_wait(&mbarrier, turn & 1);
}

// A place that is filled and emptied in turn.
struct Handover {
  Mbarrier full;
  Mbarrier empty;

  // `turn`: how often it was filled before.
  TW_DEVICE void wait_full(u32 turn) { wait_for(full, turn); }
  TW_DEVICE void wait_empty(u32 turn) { wait_for(empty, turn - 1); }
  // May wait a while for it.
  TW_DEVICE bool is_full(u32 turn) { return mbarrier_try_wait(&full, turn & 1); }
  TW_DEVICE bool is_empty(u32 turn) { return mbarrier_test(&empty, (turn - 1) & 1); }
};

// A piece and its tile, whose rows are set up when it is found.
struct HopperPiece : Piece {
  bool repeats;   // keys and queries of the piece before it, with another head
  bool is_plain;  // of many rows: a complete output of each is asked for, and nothing failed
  TileOf<Shape::kRows> tile;
  // The positions that a row attends to, [begin, end); begin > end: not an interval.
  i32 row_begin[Shape::kRows];
  i32 row_end[Shape::kRows];
  char* outputs[Shape::kRows];  // of many rows: where each goes, null where there is none

  TW_DEVICE i32 blocks() const { return tile.part_end - tile.first_block; }
};

struct HopperMemory {
  HopperStages stages;
  alignas(128) char store_space[Shape::kWarps][Hopper::kStoreBytes > 0 ? Hopper::kStoreBytes : 16];
  HopperPiece pieces[Hopper::kPieces];
  Share share;
  i32 message;  // from one thread that computes to all of them
  // Of a block of keys: their positions, and what else there is to know, as bits.
  i32 positions[Hopper::kSteps][Shape::kBlock];
  u32 block[Hopper::kSteps][Hopper::kLoaders];  // as each loader sees its rows
  static constexpr u32 kFull = 1;               // every row of the tile attends to all its keys
  static constexpr u32 kRegular = 2;  // key i of it is at position begin + i, as far as there are
  // Where the rows lie that are copied next.
  alignas(16) const char* q_rows[Shape::kRows];
  alignas(16) const char* k_rows[Hopper::kLoaders][kHopperTableRows];
  alignas(16) const char* v_rows[Hopper::kLoaders][kHopperTableRows];
  Mbarrier found[Hopper::kPieces];  // its queries may be loaded: keys take longer to find
  Handover piece[Hopper::kPieces];
  Mbarrier loaded[Hopper::kPieces];  // no more keys of the tile are asked for
  Mbarrier rows[Hopper::kPieces];    // they are set up, where that is a warp's own task
  Handover q[Hopper::kGroups];       // a group's rows
  Handover k[Hopper::kStages];
  Handover v[Hopper::kValueStages];
  // The groups take turns: while one has its products under way, the other has its softmax.
  Mbarrier may_multiply[Hopper::kGroups];
  Handover joined;  // results of few rows, from the second group to the first

  // Where this lane's part of eight columns of those results lies, four values that are
  // kWarpSize apart: queries of few rows leave most of their place free.
  TW_DEVICE float* result(i32 columns) {
    constexpr i32 kBytes = 4 * 4 * kWarpSize;
    constexpr i32 kUsed = Shape::kDecodeRows * Hopper::kRowBytes;
    constexpr i32 kGroupBytes = Hopper::kGroupRows * Hopper::kRowBytes;
    constexpr i32 kHere = (kGroupBytes - kUsed) / kBytes;  // in one group's rows of 64 elements
    static_assert(Shape::kValueTiles < kHere * Hopper::kGroups * Hopper::kHeadColumns,
                  "and their sums");
    const i32 place = columns / kHere;
    char* const from = stages.q[0] + place * kGroupBytes + kUsed + columns % kHere * kBytes;
    return reinterpret_cast<float*>(from) + lane_id();
  }
};

static_assert(sizeof(HopperMemory) <=
              hopper_shared_bytes(Spec::kHeadDim, Spec::kValueDim, Spec::kBlock));
// What makes lists of spans crashes NVRTC 13.0 in a kernel whose warp groups have registers of
// their own.
static_assert(kBlockForm == BlockForm::span);

// By one thread; then a barrier.
TW_DEVICE void init_mbarriers(HopperMemory& memory) {
  // Warps that use a piece and do not compute: of queries, rows, keys and values.
  constexpr u32 kHelpers = 1 + (Hopper::kManyLoaders ? 1 : 0) + 2 * Hopper::kLoaders;
  constexpr u32 kFills = Hopper::kFills * Hopper::kLoaders;
  const auto init = [](Handover& place, u32 fills, u32 releases = Shape::kWarps) {
    mbarrier_init(&place.full, fills);
    mbarrier_init(&place.empty, releases);
  };
#pragma unroll
  for (u32 i = 0; i < Hopper::kPieces; ++i) {
    mbarrier_init(&memory.found[i], 1);
    init(memory.piece[i], 1, Shape::kWarps + kHelpers);
    mbarrier_init(&memory.loaded[i], kHelpers);
    mbarrier_init(&memory.rows[i], 1);
  }
#pragma unroll
  for (i32 i = 0; i < Hopper::kStages; ++i) {
    init(memory.k[i], kFills);
  }
#pragma unroll
  for (i32 i = 0; i < Hopper::kValueStages; ++i) {
    init(memory.v[i], kFills);
  }
#pragma unroll
  for (i32 i = 0; i < Hopper::kGroups; ++i) {
    init(memory.q[i], 1, Shape::kWarps / Hopper::kGroups);
    mbarrier_init(&memory.may_multiply[i], Shape::kWarps / Hopper::kGroups);
  }
  init(memory.joined, 1, 1);
}

// By a warp: waits until its copies row by row have landed, and matrix instructions may read them.
TW_DEVICE void land_copies() {
  copy_async_commit();
  copy_async_wait<0>();
  fence_async_proxy();
}

// An arrival of a warp, behind what all its lanes did before.
TW_DEVICE void arrive_as_warp(Mbarrier& mbarrier) {
  sync_warp();
  mbarrier_arrive_if(lane_id() == 0, &mbarrier);
}

}  // namespace tw
