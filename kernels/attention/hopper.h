// SPDX-License-Identifier: Apache-2.0
// The kernels of one attention on Hopper: tilewright_attention runs a plan, tilewright_join_levels
// joins what several levels gave for one query. A block of threads fills an SM: two warp groups
// compute, the warps of a third one find the work and load.
#pragma once

#include "attention/hopper_loader.h"
#include "attention/hopper_planner.h"
#include "attention/hopper_prefill.h"
#include "attention/levels.h"

namespace tw {

// The groups that compute: all pieces that the loader hands over.
TW_DEVICE void compute_pieces(const AttentionParams& p, HopperMemory& memory) {
  HopperTurns turns;
  HopperPrefill::begin_turns(memory);
  for (u32 turn = 0;; ++turn) {
    TilePiece& part = memory.tiles[turn % 2];
    Handover& handover = memory.tile[turn % 2];
    handover.wait_full(turn / 2);
    if (part.piece.kind == Piece::none) break;
    const i32 count = part.tile.part_end - part.tile.first_block;
    if (is_decode(p, part.tile)) {
      sync_workers();  // all are done with the stages
      Decode decode(p, part.tile, memory.decode);
      decode.run(
          count, [] {}, [] {});
      decode.store(part.piece.slot);
    } else {
      HopperPrefill prefill(p, part.tile, memory, turns);
      prefill.run(count);
      prefill.store(part.piece.slot);
    }
    if (part.piece.slot >= 0) merge_if_last(p, part, memory.merge);
    arrive_as_warp(handover.empty);
  }
  if (p.zero_padding != 0) zero_padding(p);
}

// The warps behind those that compute, each with a task.
TW_DEVICE void find_pieces_or_load(const AttentionParams& p, HopperMemory& memory, i32 warp) {
  constexpr i32 kParts = Hopper::kParts;
  // With two warp groups, those that do not load keys and values are in one of them.
  constexpr i32 kFirst = kParts == 1 ? 2 : 4;
  if (warp >= kFirst + kParts) {
    HopperLoader(p, memory).load_values(warp - kFirst - kParts);
  } else if (warp >= kFirst) {
    HopperLoader(p, memory).load_keys(warp - kFirst);
  } else if (warp == 1) {
    HopperLoader(p, memory).load_queries();
  } else if (warp == 0) {
    HopperPlanner(p, memory).run();
  }
}

}  // namespace tw

TW_KERNEL TW_LAUNCH_BOUNDS(tw::Hopper::kThreads, 1)
    tilewright_attention(TW_PARAMETER tw::AttentionParams params) {
  auto& memory = *reinterpret_cast<tw::HopperMemory*>(tw::aligned_shared_memory());
  if (tw::thread_id() == 0) tw::init_mbarriers(memory);
  tw::sync_block();
  tw::wait_for_previous_kernel();
  // All together as many registers as an SM has.
  constexpr bool kOneGroup = tw::Hopper::kParts == 1;
  const int warp = tw::warp_id() - tw::Shape::kWarps;
  if (warp < 0) {
    tw::take_registers<kOneGroup ? 224 : 216>();
    tw::compute_pieces(params, memory);
  } else if (kOneGroup || warp < 4) {
    tw::give_registers<kOneGroup ? 56 : 48>();
    tw::find_pieces_or_load(params, memory, warp);
  } else {
    tw::give_registers<32>();
    tw::find_pieces_or_load(params, memory, warp);
  }
}
