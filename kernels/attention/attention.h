// SPDX-License-Identifier: Apache-2.0
// The kernels of one attention, for all GPUs: tilewright_attention runs a plan,
// tilewright_join_levels joins what several levels gave for one query.
#pragma once

#include "attention/decode.h"
#include "attention/levels.h"
#include "attention/pieces.h"
#include "attention/prefill.h"

namespace tw {

struct WorkerState {
  Piece pieces[kPieces];  // the current one, and what is known of those behind it
  Share share;
  i32 message;  // from one thread to all
};

template <bool kDecodeOnly>
struct WorkerMemory : WorkerState {
  union {
    PrefillMemory prefill;
    DecodeMemory decode;
  };
};
template <>
struct WorkerMemory<true> : WorkerState {
  DecodeMemory decode;
};

static_assert(sizeof(WorkerMemory<Spec::kDecodeOnly>) <=
              attention_shared_bytes(Spec::kHeadDim, Spec::kValueDim, Spec::kBlock,
                                     Spec::kDecodeStages, Variant::kRopeDim, kBlockForm,
                                     Spec::kDecodeOnly, kNarrowCache));

// A block of threads at work on one plan. Plans whose limits leave room for decode alone have a
// kernel that needs less of an SM.
template <bool kDecodeOnly>
class Worker {
 public:
  using Memory = WorkerMemory<kDecodeOnly>;

  TW_DEVICE explicit Worker(const AttentionParams& params)
      : p(params),
        memory(*reinterpret_cast<Memory*>(aligned_shared_memory())),
        finder(params, memory.share) {}

  TW_DEVICE void run() {
    if (is_finder()) finder.find_first(memory.pieces[0], memory.decode.tiles[0]);
    sync_block();
    while (memory.pieces[0].kind != Piece::none) {
      if (memory.pieces[0].kind == Piece::few_rows) {
        if constexpr (!Spec::kListsBlocks) run_decodes();  // else there are none
      } else if constexpr (!kDecodeOnly) {
        run_prefill();
      }
      sync_block();
    }
    if (p.zero_padding != 0) zero_padding(p);
  }

 private:
  // One thread of the last warp: the first ones have more to do.
  TW_DEVICE bool is_finder() const { return thread_id() == Shape::kThreads - 1; }

  // Pieces of few rows, from pieces[0] on, which follow each other; the piece behind them is
  // pieces[0] then. While one piece is computed, two warps set up the rows of the next, and the
  // keys and blocks of the one behind that.
  TW_DEVICE void run_decodes() {
    Decode decode(p, memory.pieces, memory.decode);
    for (i32 step = memory.share.first_is_placed ? 1 : 0;; step = step == 0 ? 1 : 2) {
      if (step == 1) decode.begin();
      const i32 at = decode.current();
      prepare(at, step);
      if (step == 0) {
        sync_block();
        continue;
      }
      if (step == 1) {
        decode.take_queries();
        continue;
      }
      decode.run();
      const i32 next = next_piece(at);
      const bool goes_on = memory.pieces[next].kind == Piece::few_rows;
      decode.store(goes_on);
      // Of the last items of section A none is taken before the block is about to be free: one that
      // held two would leave none for another.
      if (is_finder() && memory.pieces[next].kind == Piece::none) {
        finder.take_a_item(memory.pieces[next]);
      }
      const bool is_part = memory.pieces[at].slot >= 0;
      sync_block();
      if (is_part) merge_if_last(p, memory.decode.tiles[at], memory.pieces[at], memory.message);
      if (!goes_on) {
        if (is_finder()) move_up(memory.pieces[next]);
        return;
      }
      decode.go_on();
    }
  }

  // Step 0: sets up keys and blocks of pieces[at]. Step 1, before it is computed: its rows, and the
  // next piece's keys and blocks. From then on: the same for the pieces one further on.
  TW_DEVICE void prepare(i32 at, i32 step) {
    const i32 warp = warp_id();
    const i32 rows = step < 2 ? at : next_piece(at);
    if (warp == Shape::kWarps - 2 && step > 0) prepare_rows(at, rows, step);
    if (warp != Shape::kWarps - 1) return;
    const i32 place = step == 0 ? at : next_piece(rows);
    if (step > 0) {
      if (memory.pieces[rows].kind != Piece::few_rows) return;
      if (is_finder()) finder.find_next(memory.pieces[rows], memory.pieces[place]);
      sync_warp();
    }
    if (memory.pieces[place].kind != Piece::few_rows) return;
    DecodeTile& tile = memory.decode.tiles[place];
    if (lane_id() == 0) set_up_queries_and_keys(p, memory.pieces[place], tile);
    if (is_finder()) set_up_blocks(p, memory.pieces[place], tile);
  }
  TW_DEVICE void prepare_rows(i32 at, i32 rows, i32 step) {
    if (lane_id() >= Shape::kDecodeRows) return;
    if (memory.pieces[rows].kind == Piece::few_rows) {
      set_up_query_row<false>(p, memory.pieces[rows], lane_id(), memory.decode.tiles[rows]);
    }
    if (step < 2) return;
    // What is waited for, but not needed before the piece's end.
    Piece& piece = memory.pieces[at];
    TileRow& row = memory.decode.tiles[at].rows[lane_id()];
    if (lane_id() == 0 && piece.slot >= 0) piece.split = p.plan.schedule.splits[piece.split_index];
    ask_outcome(p, row);
  }

  // pieces[0]; the piece behind it is pieces[0] then.
  TW_DEVICE void run_prefill() {
    Piece& piece = memory.pieces[0];
    Piece& next = memory.pieces[1];
    PrefillTile& tile = memory.prefill.tile;
    if (thread_id() == Shape::kThreads - kWarpSize) {
      set_up_queries_and_keys(p, piece, tile);
    }
    if (is_finder()) set_up_blocks(p, piece, tile);
    for (i32 r = thread_id(); r < PrefillTile::kMostRows; r += Shape::kThreads) {
      set_up_query_row<true>(p, piece, r, tile);
    }
    sync_block();
    list_blocks(p, piece.row, piece.end, tile.ranges, tile.part_end);
    Prefill prefill(p, memory.prefill);
    // To find the next piece takes several latencies of memory, so it is done while others wait for
    // keys.
    const auto at_begin = [&] {
      if (!is_finder()) return;
      finder.find_early(piece, next);
      if (piece.slot >= 0) piece.split = p.plan.schedule.splits[piece.split_index];
    };
    const auto at_end = [&] {
      if (is_finder() && next.kind == Piece::none) finder.take_a_item(next);
    };
    prefill.run(tile.part_end - tile.first_block, at_begin, at_end);
    prefill.store(piece.slot);
    const bool is_part = piece.slot >= 0;
    sync_block();
    if (is_part) merge_if_last(p, tile, piece, memory.message);
    if (is_finder()) move_up(next);
  }

  TW_DEVICE void move_up(const Piece& next) {
    memory.pieces[0] = next;
    memory.share.first_is_placed = false;
  }

  const AttentionParams& p;
  Memory& memory;
  PieceFinder finder;
};

}  // namespace tw

TW_KERNEL TW_LAUNCH_BOUNDS(tw::Shape::kThreads, tw::Spec::kBlocksPerSm)
    tilewright_attention(TW_PARAMETER tw::AttentionParams params) {
  tw::wait_for_previous_kernel();
  // Others mix pieces that wait for memory with those that compute, and early blocks of the next
  // one would mix them unevenly. The join of levels has none that would.
  if (tw::Spec::kDecodeOnly || !tw::rows_are_requests(params)) tw::let_next_kernel_start();
  tw::Worker<tw::Spec::kDecodeOnly>(params).run();
}
