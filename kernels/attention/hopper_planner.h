// SPDX-License-Identifier: Apache-2.0
// The warp that finds pieces of work and sets up their tiles, some ahead of the one that is
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
      HopperPiece& piece = memory.pieces[turn % Hopper::kPieces];
      const u32 before = turn - 1;
      const Piece& last = memory.pieces[before % Hopper::kPieces];
      memory.piece[turn % Hopper::kPieces].wait_empty(turn / Hopper::kPieces);
      bool found = find(piece, [&] { finder.find_early(last, piece); });
      if (!found) {
        // Of the last items one is taken when the tile before it needs no more keys.
        if (turn > 0) wait_for(memory.loaded[before % Hopper::kPieces], before / Hopper::kPieces);
        found = find(piece, [&] { finder.take_a_item(piece); });
      }
      if (found) set_up(piece);
      arrive_as_warp(memory.piece[turn % Hopper::kPieces].full);
      if (!found) break;
    }
  }

 private:
  // What one lane finds; whether there is something.
  template <typename Find>
  TW_DEVICE static bool find(const Piece& piece, const Find& look) {
    bool found = false;
    if (lane_id() == 0) {
      look();
      found = piece.kind != Piece::none;
    }
    sync_warp();
    return any_of_warp(found);
  }

  TW_DEVICE void set_up(HopperPiece& piece) {
    if (lane_id() == 0) set_up_keys(p, piece, piece.tile);
    if (lane_id() == 1) set_up_blocks(p, piece, piece.tile);
    if (lane_id() == 2 && piece.slot >= 0) piece.split = p.plan.schedule.splits[piece.split_index];
    sync_warp();
    if (piece.blocks() > 0) return;
    for (i32 r = lane_id(); r < piece.rows(); r += kWarpSize) {
      set_up_query_row<true>(p, piece, r, piece.tile);
    }
  }

  const AttentionParams& p;
  HopperMemory& memory;
  PieceFinder finder;
};

}  // namespace tw
