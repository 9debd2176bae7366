// SPDX-License-Identifier: Apache-2.0
// The kernels of an attention whose queries are f32, for all GPUs: tilewright_attention runs a
// plan, tilewright_join_levels joins what several levels gave for one query. No matrix instruction
// takes f32 as it is, so scores and outputs are made of single multiply-adds: a lane has a key each
// while scores are made, and some columns each while values are added up.
#pragma once

#include "attention/levels.h"
#include "attention/pieces.h"
#include "attention/scalar_rows.h"

namespace tw {

struct ScalarMemory {
  Piece pieces[2];  // the current one, and the next
  Share share;
  i32 message;  // from one thread to all
  ScalarTile tile;
  ScalarParts parts;
};
static_assert(sizeof(ScalarMemory) <=
              scalar_shared_bytes(Spec::kHeadDim, Spec::kValueDim, kBlockForm));

// A block of threads at work on one plan. Of a tile of many rows each warp has some rows; of one of
// few rows each has some of the keys.
class ScalarWorker {
 public:
  TW_DEVICE explicit ScalarWorker(const AttentionParams& params)
      : p(params),
        memory(*reinterpret_cast<ScalarMemory*>(aligned_shared_memory())),
        finder(params, memory.share) {}

  TW_DEVICE void run() {
    if (is_finder()) finder.find_first(memory.pieces[0], memory.tile);
    sync_block();
    while (memory.pieces[0].kind != Piece::none) run_piece();
    if (p.zero_padding != 0) zero_padding(p);
  }

 private:
  // One thread of the last warp: the first ones have more rows.
  TW_DEVICE static bool is_finder() { return thread_id() == Shape::kThreads - 1; }

  // pieces[0]; the piece behind it is pieces[0] then.
  TW_DEVICE void run_piece() {
    Piece& piece = memory.pieces[0];
    Piece& next = memory.pieces[1];
    ScalarTile& tile = memory.tile;
    if (thread_id() == Shape::kThreads - kWarpSize) set_up_queries_and_keys(p, piece, tile);
    if (is_finder()) set_up_blocks(p, piece, tile);
    for (i32 r = thread_id(); r < ScalarTile::kMostRows; r += Shape::kThreads) {
      set_up_query_row<true>(p, piece, r, tile);
    }
    sync_block();
    list_blocks(p, piece.row, piece.end, tile.ranges, tile.part_end);
    if (is_finder()) {
      finder.find_early(piece, next);
      if (piece.slot >= 0) piece.split = p.plan.schedule.splits[piece.split_index];
    }
    sync_warp();
    if (piece.kind == Piece::few_rows) {
      run_few_rows(piece.slot);
    } else {
      run_many_rows(piece.slot);
    }
    if (is_finder() && next.kind == Piece::none) finder.take_a_item(next);
    const bool is_part = piece.slot >= 0;
    sync_block();
    if (is_part) merge_if_last(p, tile, piece, memory.message);
    if (is_finder()) piece = next;
    sync_block();
  }

  TW_DEVICE void run_many_rows(i32 slot) {
#pragma unroll 1
    for (i32 first = warp_id() * ScalarRows::kRows; first < memory.tile.num_rows;
         first += Shape::kWarps * ScalarRows::kRows) {
      ScalarRows rows(p, memory.tile, first);
      rows.add_keys(0, 1);
      rows.store(slot);
    }
  }

  TW_DEVICE void run_few_rows(i32 slot) {
#pragma unroll 1
    for (i32 first = 0; first < memory.tile.num_rows; first += ScalarRows::kRows) {
      ScalarRows rows(p, memory.tile, first);
      rows.add_keys(warp_id(), Shape::kWarps);
      rows.put(memory.parts);
      sync_block();
      store_joined(memory.parts, p, memory.tile, first, slot);
      sync_block();
    }
  }

  const AttentionParams& p;
  ScalarMemory& memory;
  PieceFinder finder;
};

}  // namespace tw

TW_KERNEL TW_LAUNCH_BOUNDS(tw::Shape::kThreads, tw::Spec::kBlocksPerSm)
    tilewright_attention(TW_PARAMETER tw::AttentionParams params) {
  tw::wait_for_previous_kernel();
  tw::ScalarWorker(params).run();
}
