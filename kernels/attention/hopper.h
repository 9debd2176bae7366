// SPDX-License-Identifier: Apache-2.0
// The kernels of one attention on Hopper: tilewright_attention runs a plan, tilewright_join_levels
// joins what several levels gave for one query. A block of threads fills an SM: two warp groups
// compute, the warps of the others find the work and load.
#pragma once

#include "attention/hopper_loader.h"
#include "attention/hopper_planner.h"
#include "attention/hopper_tile.h"
#include "attention/levels.h"

namespace tw {

// The groups that compute: all pieces that are handed over.
TW_DEVICE void compute_pieces(const AttentionParams& p, HopperMemory& memory) {
  HopperTurns turns;
  begin_turns(memory);
  for (;;) {
    const HopperPiece& piece = memory.pieces[turns.pieces % Hopper::kPieces];
    memory.piece[turns.pieces % Hopper::kPieces].wait_full(turns.pieces / Hopper::kPieces);
    const i32 kind = uniform(piece.kind);
    if (kind == Piece::none) break;
    const bool few = kind == Piece::few_rows;
    HopperResults results;
    const bool stores = few ? HopperTile<true>(p, memory, turns, results).run()
                            : HopperTile<false>(p, memory, turns, results).run();
    // Written once for both: it is more than all else that is not products and softmax.
    rejoin_warp();
    finish_tile(p, memory, turns, results, few, any_of_warp(stores));
  }
  if (p.zero_padding != 0) zero_padding(p);
}

// The warps behind those that compute, each with a task, as registers allow: those of the third
// warp group have more than those of the fourth, where there is one.
TW_DEVICE void find_pieces_or_load(const HopperParams& p, HopperMemory& memory, i32 warp) {
  if (warp == 0) {
    HopperPlanner(p, memory).run();
  } else if (warp == 1) {
    if constexpr (Hopper::kManyLoaders) {
      HopperLoader(p, memory).set_up_rows();
    } else {
      HopperLoader(p, memory).load_queries();
    }
  } else if (warp < 2 + Hopper::kLoaders) {
    HopperLoader(p, memory).load_blocks<false>(warp - 2);
  } else if constexpr (!Hopper::kManyLoaders) {
    HopperLoader(p, memory).load_blocks<true>(0);
  }
}
TW_DEVICE void load_values_or_queries(const HopperParams& p, HopperMemory& memory, i32 warp) {
  if (warp < Hopper::kLoaders) {
    HopperLoader(p, memory).load_blocks<true>(warp);
  } else if (warp == Hopper::kLoaders) {
    HopperLoader(p, memory).load_queries();
  }
}

// By lanes of a warp that does not compute.
TW_DEVICE void prefetch_maps(const HopperParams& p) {
  const i32 level = lane_id() / 2;
  if (warp_id() != Shape::kWarps || level >= p.plan.num_levels || p.box_tokens[level] == 0) return;
  prefetch_map(lane_id() % 2 == 0 ? p.k_boxes[level] : p.v_boxes[level]);
}

}  // namespace tw

TW_KERNEL TW_LAUNCH_BOUNDS(tw::Hopper::kThreads, 1)
    tilewright_attention(TW_PARAMETER tw::HopperParams params) {
  auto& memory = *reinterpret_cast<tw::HopperMemory*>(tw::aligned_shared_memory());
  if (tw::thread_id() == 0) tw::init_mbarriers(memory);
  tw::prefetch_maps(params);
  tw::sync_block();
  tw::wait_for_previous_kernel();
  if (!tw::rows_are_requests(params)) tw::let_next_kernel_start();
  // All together as many registers as an SM has.
  constexpr bool kMany = tw::Hopper::kManyLoaders;
  const int warp = tw::warp_id() - tw::Shape::kWarps;
  if (warp < 0) {
    tw::take_registers<kMany ? 216 : 224>();
    tw::compute_pieces(params, memory);
  } else if (warp < 4) {
    tw::give_registers<kMany ? 48 : 56>();
    tw::find_pieces_or_load(params, memory, warp);
  } else {
    tw::give_registers<32>();
    tw::load_values_or_queries(params, memory, warp - 4);
  }
}
