// SPDX-License-Identifier: Apache-2.0
// The warp that finds pieces of work and sets up their tiles, one ahead of the tile that is
// computed.
#pragma once

#include "attention/hopper_memory.h"

namespace tw {

class HopperPlanner {
 public:
  TW_DEVICE HopperPlanner(const AttentionParams& params, HopperMemory& the_memory)
      : p(params), memory(the_memory), finder(params, the_memory.share) {}

  TW_DEVICE void run() {
    if (lane_id() == 0) finder.begin();
    for (u32 turn = 0;; ++turn) {
      TilePiece& part = memory.tiles[turn % 2];
      memory.tile[turn % 2].wait_empty(turn / 2);
      bool found = put(part, [&] { return finder.next_early(); });
      if (!found) {
        // Of the last items one is taken when the tile before it needs no more keys.
        if (turn > 0) wait_for(memory.loaded[(turn - 1) % 2], (turn - 1) / 2);
        found = put(part, [&] { return finder.take_a_item(); });
      }
      if (found) {
        const Piece& piece = part.piece;
        set_up_tile<kWarpSize>(p, piece.item, piece.begin, piece.end, part.tile, lane_id(),
                               [] { sync_warp(); });
        if (piece.slot >= 0) find_split(p, part);
      }
      arrive_as_warp(memory.tile[turn % 2].full);
      if (!found) break;
    }
  }

 private:
  // What find() finds, by the first lane, becomes the tile's piece; whether there is one.
  template <typename Find>
  TW_DEVICE static bool put(TilePiece& part, const Find& find) {
    bool found = false;
    if (lane_id() == 0) {
      part.piece = find();
      found = part.piece.kind != Piece::none;
    }
    sync_warp();
    return any_of_warp(found);
  }

  const AttentionParams& p;
  HopperMemory& memory;
  PieceFinder finder;
};

}  // namespace tw
