// SPDX-License-Identifier: Apache-2.0
// Shared memory of Hopper's kernel, and the mbarriers by which its warp groups hand over what lies
// there: one finds the work, one loads, two compute. All count the tiles, and the blocks of keys of
// those that take products: from a count follows a place, and the parity of the mbarriers' phase.
#pragma once

#include "arch/bulk.h"
#include "arch/wgmma.h"
#include "attention/decode.h"
#include "attention/pieces.h"
#include "attention/workers.h"

namespace tw {

struct Hopper {
  static constexpr i32 kGroups = 2;       // warp groups that compute, 64 rows of a tile each
  static constexpr i32 kLoaders = 128;    // threads that load: one warp group
  static constexpr i32 kPlanners = 128;   // and one that finds the work
  static constexpr i32 kThreads = Shape::kThreads + kLoaders + kPlanners;
  static_assert(kThreads == kHopperThreads);
  static constexpr i32 kKeyStages =
      hopper_key_stages(Spec::kHeadDim, Spec::kValueDim, Shape::kBlock);
  static constexpr i32 kValueStages = 2;
  // Of positions: keys of a stage may be on their way while those before it are still masked.
  static constexpr i32 kPositionStages = 4;
  static constexpr i32 kLoaderWarps = kLoaders / kWarpSize;
  static constexpr i32 kPlannerWarps = kPlanners / kWarpSize;
  static constexpr i32 kRowBytes = 128;   // a row of one block of columns, 64 elements
  static constexpr i32 kHeadColumns = round_up(Spec::kHeadDim, 64) / 64;
  static constexpr i32 kValueColumns = round_up(Spec::kValueDim, 64) / 64;
};

struct alignas(1024) HopperStages {
  char q[Hopper::kHeadColumns][Shape::kRows * Hopper::kRowBytes];
  char k[Hopper::kKeyStages][Hopper::kHeadColumns][Shape::kBlock * Hopper::kRowBytes];
  char v[Hopper::kValueStages][Hopper::kValueColumns][Shape::kBlock * Hopper::kRowBytes];
};

// A place that is filled and emptied in turn.
struct Handover {
  Mbarrier full;
  Mbarrier empty;

  // `turn`: how often it was filled before.
  TW_DEVICE void wait_full(u32 turn) { mbarrier_wait(&full, turn & 1); }
  TW_DEVICE void wait_empty(u32 turn) { mbarrier_wait(&empty, (turn & 1) ^ 1); }
};

// Where the rows lie that a warp of loaders copies next.
struct HopperAddresses {
  alignas(16) const char* keys[kWarpSize];  // or queries
  alignas(16) const char* values[2][kWarpSize];  // of this block and the last one
};

struct HopperMemory {
  union {
    HopperStages stages;
    DecodeMemory decode;
  };
  TilePiece tiles[2];
  Piece next;
  Share share;
  MergeMemory merge;
  i32 positions[Hopper::kPositionStages][Shape::kBlock];
  bool full[Hopper::kPositionStages];  // every row of the tile attends to all keys of the block
  HopperAddresses addresses[Hopper::kLoaderWarps];
  Handover tile[2];
  Mbarrier loaded[2];  // no more keys of the tile are asked for
  Handover q;
  Handover k[Hopper::kKeyStages];
  Handover v[Hopper::kValueStages];
  // The groups take turns: while one has its products under way, the other has its softmax.
  Mbarrier may_multiply[Hopper::kGroups];
};

static_assert(sizeof(HopperMemory) <=
              hopper_shared_bytes(Spec::kHeadDim, Spec::kValueDim, Spec::kBlock,
                                  Spec::kDecodeStages));
// What makes lists of spans crashes NVRTC 13.0 in a kernel whose warp groups have registers of their
// own.
static_assert(kOneSpan);

// By one thread; then a barrier.
TW_DEVICE void init_mbarriers(HopperMemory& memory) {
  const auto init = [](Handover& place, u32 fills, u32 releases = Shape::kWarps) {
    mbarrier_init(&place.full, fills);
    mbarrier_init(&place.empty, releases);
  };
#pragma unroll
  for (i32 i = 0; i < 2; ++i) {
    init(memory.tile[i], Hopper::kPlannerWarps, Shape::kWarps + Hopper::kLoaderWarps);
    mbarrier_init(&memory.loaded[i], Hopper::kLoaderWarps);
  }
  init(memory.q, Hopper::kLoaders);
#pragma unroll
  for (i32 i = 0; i < Hopper::kKeyStages; ++i) {
    init(memory.k[i], Hopper::kLoaders + Hopper::kLoaderWarps);
  }
#pragma unroll
  for (i32 i = 0; i < Hopper::kValueStages; ++i) init(memory.v[i], Hopper::kLoaders);
#pragma unroll
  for (i32 i = 0; i < Hopper::kGroups; ++i) {
    mbarrier_init(&memory.may_multiply[i], Shape::kWarps / Hopper::kGroups);
  }
}

// An arrival of a warp, behind what all its lanes did before.
TW_DEVICE void arrive_as_warp(Mbarrier& mbarrier) {
  sync_warp();
  if (lane_id() == 0) mbarrier_arrive(&mbarrier);
}

}  // namespace tw
