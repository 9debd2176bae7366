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
      const HopperPiece& last = memory.pieces[before % Hopper::kPieces];
      memory.piece[turn % Hopper::kPieces].wait_empty(turn / Hopper::kPieces);
      bool found = find(piece, [&] { finder.find_early(last, piece); });
      if (!found) {
        // Of the last items one is taken when the tile before it needs no more keys.
        if (turn > 0) wait_for(memory.loaded[before % Hopper::kPieces], before / Hopper::kPieces);
        found = find(piece, [&] { finder.take_a_item(piece); });
      }
      const bool repeats = found && turn > 0 && has_same_keys(last, piece);
      if (lane_id() == 0 && found) {
        piece.repeats = repeats;
        set_up_queries(piece, piece.tile);
      }
      arrive_as_warp(memory.found[turn % Hopper::kPieces]);
      if (found) set_up(piece, repeats ? &last : nullptr);
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

  // Whether two tiles differ in their head alone, and that does not matter to the mask.
  TW_DEVICE bool has_same_keys(const Piece& last, const Piece& piece) const {
    return last.item.row == piece.item.row && last.item.tile == piece.item.tile &&
           p.plan.schedule.config.heads_differ == 0;
  }

  // `last`: the piece before, where it has the same keys and queries.
  TW_DEVICE void set_up(HopperPiece& piece, const HopperPiece* last) {
    TileKeys& keys = piece.tile;
    if (last != nullptr) {
      const TileKeys& known = last->tile;
      const auto* const from = reinterpret_cast<const u32*>(&known);
      auto* const to = reinterpret_cast<u32*>(&keys);
      for (i32 i = lane_id(); i < static_cast<i32>(sizeof(TileKeys) / sizeof(u32));
           i += kWarpSize) {
        to[i] = from[i];
      }
    } else {
      if (lane_id() == 0) set_up_keys(p, piece, keys);
      if (rows_are_requests(p)) {
        if (lane_id() == 1) set_up_blocks(p, piece, keys);
      } else {
        sync_warp();
        const plan::TileSpan span = span_by_warp(p, piece);
        if (lane_id() == 1) keys.ranges = span;
      }
    }
    sync_warp();
    if (lane_id() == 0) {
      keys.first_block = piece.begin;
      keys.part_end = piece.end < 0 ? keys.ranges.blocks() : piece.end;
    }
    if (lane_id() == 2 && piece.slot >= 0) piece.split = p.plan.schedule.splits[piece.split_index];
  }

  const AttentionParams& p;
  HopperMemory& memory;
  PieceFinder finder;
};

}  // namespace tw
