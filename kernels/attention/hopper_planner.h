// SPDX-License-Identifier: Apache-2.0
// The warp group that finds pieces of work and sets up their tiles, one ahead of the tile that is
// computed.
#pragma once

#include "attention/hopper_memory.h"

namespace tw {

class HopperPlanner {
 public:
  TW_DEVICE HopperPlanner(const AttentionParams& params, HopperMemory& the_memory)
      : p(params), memory(the_memory), finder(params, the_memory.share) {}

  TW_DEVICE void run() {
    if (thread() == 0) finder.begin();
    Piece& next = memory.next;
    for (u32 turn = 0;; ++turn) {
      // One warp asks, the others sleep at a barrier.
      if (thread() < kWarpSize) memory.tile[turn % 2].wait_empty(turn / 2);
      sync();
      if (thread() == 0) next = finder.next_early();
      sync();
      if (next.kind == Piece::none) {
        // Of the last items one is taken when the tile before it needs no more keys.
        if (turn > 0 && thread() < kWarpSize) {
          wait_for(memory.loaded[(turn - 1) % 2], (turn - 1) / 2);
        }
        sync();
        if (thread() == 0) next = finder.take_a_item();
        sync();
      }
      TilePiece& part = memory.tiles[turn % 2];
      if (thread() == 0) part.piece = next;
      const bool is_last = next.kind == Piece::none;
      if (!is_last) {
        set_up_tile<Hopper::kPlanners>(p, next.item, next.begin, next.end, part.tile, thread(),
                                       [] { sync(); });
        if (next.slot >= 0 && thread() < kWarpSize) find_split(p, part);
      }
      arrive_as_warp(memory.tile[turn % 2].full);
      if (is_last) break;
    }
  }

 private:
  TW_DEVICE static i32 thread() { return thread_id() - Shape::kThreads - Hopper::kLoaders; }
  TW_DEVICE static void sync() { named_barrier<kPlannersBarrier>(Hopper::kPlanners); }

  const AttentionParams& p;
  HopperMemory& memory;
  PieceFinder finder;
};

}  // namespace tw
