// SPDX-License-Identifier: Apache-2.0
// Which pieces of a plan a block of threads works on, and what becomes of a piece's result.
#pragma once

#include "attention/results.h"

namespace tw {

// A part of an item, or all of it.
struct Piece {
  plan::Item item;
  i64 index;  // of the item in its section
  i32 begin;  // blocks, of those that the tile needs
  i32 end;    // -1: all the rest
  i32 slot;   // where the result of a part goes; -1: it is the whole item
  enum Kind : i32 { none, some } kind;
};

// The last i of [begin, end) for which value_at(i) is at most `limit`, where the values do not fall
// and that of `begin` is. By all lanes of a warp, which look at 32 values at a time: each look
// waits for memory.
template <typename ValueAt>
TW_DEVICE i32 find_by_warp(i32 begin, i32 end, i64 limit, const ValueAt& value_at) {
  while (end - begin > 1) {
    const i32 step = (end - begin + kWarpSize - 1) / kWarpSize;
    const i32 at = begin + lane_id() * step;
    begin += (count_bits(ballot(at < end && value_at(at) <= limit)) - 1) * step;
    if (begin + step < end) end = begin + step;
  }
  return begin;
}

// A block's way through its share of section B. In shared memory, as only one thread walks.
struct Share {
  i32 worker;
  plan::Cut from;
  plan::Cut to;
  i64 index;
  bool no_a_items;  // none was left when the block asked
};

// One thread's way through the pieces of its block.
class PieceFinder {
 public:
  TW_DEVICE PieceFinder(const AttentionParams& params, Share& the_share)
      : p(params), share(the_share), schedule(params.plan.schedule) {}

  TW_DEVICE void begin() {
    share.no_a_items = schedule.header->a_items == 0;
    begin_share(schedule.header->b_items > 0 ? block_id() : schedule.header->workers);
  }

  // The next piece, long before the block is free for it: of the last items of section A none is
  // taken so early, as a block that held two would leave none for another.
  TW_DEVICE Piece next_early() {
    const Piece piece = next_of_share();
    return piece.kind == Piece::none && many_a_items_left() ? take_a_item() : piece;
  }

  TW_DEVICE Piece next_of_share() {
    Piece piece{{}, 0, 0, -1, -1, Piece::none};
    for (; share.worker < schedule.header->workers; begin_share(share.worker + num_blocks())) {
      if (share.index > share.to.item || (share.index == share.to.item && share.to.block == 0)) {
        continue;
      }
      const bool from_start = share.index != share.from.item || share.from.block == 0;
      const bool to_end = share.index != share.to.item;
      piece.index = share.index;
      piece.begin = from_start ? 0 : share.from.block;
      piece.end = to_end ? -1 : share.to.block;
      if (!from_start || !to_end) {
        piece.slot = from_start ? plan::second_slot(share.worker) : plan::first_slot(share.worker);
      }
      piece.item = plan::b_item(schedule, share.index++);
      piece.kind = Piece::some;
      return piece;
    }
    return piece;
  }

  TW_DEVICE Piece take_a_item() {
    const i64 items = schedule.header->a_items;
    Piece piece{{}, 0, 0, -1, -1, Piece::none};
    if (share.no_a_items) return piece;
    piece.index = atomic_add(p.a_taken, 1);
    // Each block asks once in vain; the last one of these leaves the counter as it was.
    if (piece.index == items + num_blocks() - 1) *p.a_taken = 0;
    if (piece.index >= items) {
      share.no_a_items = true;
      return piece;
    }
    piece.item = plan::a_item(schedule, piece.index);
    piece.kind = Piece::some;
    return piece;
  }

 private:
  TW_DEVICE void begin_share(i32 worker) {
    share.worker = worker;
    if (worker >= schedule.header->workers) return;
    share.from = schedule.cuts[worker];
    share.to = schedule.cuts[worker + 1];
    share.index = share.from.item;
  }

  TW_DEVICE bool many_a_items_left() const {
    return !share.no_a_items &&
           load_relaxed(p.a_taken) < schedule.header->a_items - 2 * num_blocks();
  }

  const AttentionParams& p;
  Share& share;
  const plan::Schedule& schedule;
};

// A piece and the tile that it is a part of.
struct TilePiece {
  Tile tile;
  Piece piece;
  plan::Split split;  // of the piece, where it is a part
  i32 split_index;
};

// By a warp.
TW_DEVICE void find_split(const AttentionParams& p, TilePiece& part) {
  const plan::Schedule& schedule = p.plan.schedule;
  const i32 at = find_by_warp(0, schedule.header->num_splits, part.piece.index,
                              [&](i32 split) { return schedule.splits[split].item; });
  if (lane_id() == 0) {
    part.split = schedule.splits[at];
    part.split_index = at;
  }
}

// Whether a tile's rows are so few that keys are the work, not products.
TW_DEVICE bool is_decode(const AttentionParams& p, const Tile& tile) {
  return tile.num_rows <= Shape::kDecodeRows && !p.plan.batch_invariant;
}

// The block that finishes the last part of a split item merges all parts. Where all rows are to be
// joined with those of other levels, that is left to the join, which many blocks do.
TW_DEVICE void merge_if_last(const AttentionParams& p, TilePiece& part, MergeMemory& memory) {
  const Tile& tile = part.tile;
  if (!any_of_workers(thread_id() < tile.num_rows &&
                      !is_joined(p, tile.rows[thread_id()].q_index))) {
    if (part.piece.begin == 0) leave_parts(p, tile, part.split_index);
    return;
  }
  if (thread_id() == 0) {
    i32* const arrivals = p.split_arrivals + part.split.first;
    const bool last = atomic_add_acq_rel(arrivals, 1) == part.split.last - part.split.first;
    if (last) *arrivals = 0;
    part.tile.message = last ? 1 : 0;
  }
  sync_workers();
  if (tile.message != 0) merge_parts(p, tile, part.split, memory);
}

// Rows of the output behind the batch's last query token.
TW_DEVICE void zero_padding(const AttentionParams& p) {
  using Out = Spec::Out;
  const i32 q_tokens = p.plan.schedule.header->q_tokens;
  const i32 heads = p.plan.schedule.config.num_kv_heads * Spec::kGroupSize;
  const i64 rows = static_cast<i64>(p.padded_tokens - q_tokens) * heads;
  for (i64 i = block_id(); i < rows; i += num_blocks()) {
    const i64 token = q_tokens + i / heads;
    const i64 head = i % heads;
    Out* const out = reinterpret_cast<Out*>(p.out + token * p.out_token + head * p.out_head);
    for (i32 d = thread_id(); d < Spec::kValueDim; d += Shape::kThreads) {
      out[d] = from_float<Out>(0.0F);
    }
    if (p.lse != nullptr && thread_id() == 0) {
      p.lse[token * p.lse_token + head * p.lse_head] = -kInfinity;
    }
  }
}

}  // namespace tw
