// SPDX-License-Identifier: Apache-2.0
// Which pieces of a plan a block of threads works on, and what becomes of a piece's result.
#pragma once

#include "attention/merge.h"

namespace tw {

// A block's way through its shares of section B: a worker is as many blocks as items have heads at
// the most, and each computes one of them. In shared memory, as only one thread walks.
struct Share {
  plan::Start start;
  i32 place;  // of the worker among all of them, see plan::worker_at
  i32 worker;
  i32 done;              // of start.items
  bool no_a_items;       // none was left when the block asked
  bool begins_with_a;    // not yet: without section B the first ones are given by block
  i32 given;             // so many
  bool first_is_placed;  // the first tile's keys and blocks are set up
};

// One thread's way through the pieces of its block. Shares of section B are the longest pieces of
// work, so they go first; then section A, from its longest items on.
class PieceFinder {
 public:
  TW_DEVICE PieceFinder(const AttentionParams& params, Share& the_share)
      : p(params), share(the_share), schedule(params.plan.schedule) {}

  TW_DEVICE void begin() {
    share.no_a_items = Spec::kDecodeOnly || schedule.header->a_items == 0;
    share.first_is_placed = false;
    share.begins_with_a = !share.no_a_items && schedule.header->b_items == 0;
    share.given = share.begins_with_a ? static_cast<i32>(num_blocks()) : 0;
    if (share.begins_with_a) {
      share.place = place_of_block();
      share.start.items = share.done = 0;
    } else {
      begin_share(place_of_block());
    }
  }

  // The first piece of the block, or none. Where one read tells enough to ask for its keys, it is
  // one of few rows, `tile` is set up but for its rows, and share.first_is_placed.
  TW_DEVICE void find_first(Piece& piece, Tile& tile) {
    begin();
    const plan::Start start = share.start;
    if (start.items == 0 || start.request < 0) {
      find_next(piece, piece);
      if (piece.kind == Piece::none) take_a_item(piece);
      return;
    }
    // All that the first keys' addresses follow from is known.
    piece.row.index = start.request;
    piece.row.q_begin = start.q_begin;
    piece.row.q_len = start.q_len;
    piece.row.kv_len = start.kv_len;
    piece.row.level = piece.row.segment = piece.row.kv_pos = 0;
    piece.row.tiles = 1;
    piece.has_q_pos = true;
    piece.q_pos = start.q_pos;
    piece.item = start.item;
    // Rows of few queries have as many heads an item as there may be.
    piece.row.heads = static_cast<i32>(most_heads());
    set_part(piece);
    if (piece.kind != Piece::few_rows) return;
    share.first_is_placed = true;
    set_up_queries_and_keys(p, piece, tile);
    if (knows_blocks(start, tile.ranges)) {
      tile.part_end = start.end;
    } else {
      set_up_blocks(p, piece, tile);
    }
  }

  // The piece of the block's shares behind `last`, or none.
  TW_DEVICE void find_next(const Piece& last, Piece& piece) {
    const plan::Start& start = share.start;
    while (share.done == start.items) {
      piece.kind = Piece::none;
      const i32 place = share.place + workers_at_a_time();
      if (place >= schedule.config.workers) return;
      begin_share(place);
    }
    const bool same_row = share.done > 0 && go_to_next_item(last, piece);
    if (share.done == 0) piece.item = start.item;
    piece.row = same_row ? last.row : schedule.rows[piece.item.row];
    piece.has_q_pos = same_row && last.has_q_pos;
    piece.q_pos = last.q_pos;
    set_part(piece);
  }

  // The piece behind `last`, found while `last` still runs, or none. Of the last items of section A
  // none is taken this early: a block that held two would leave none for another.
  TW_DEVICE void find_early(const Piece& last, Piece& piece) {
    find_next(last, piece);
    if (piece.kind == Piece::none && (share.begins_with_a || many_a_items_left())) {
      take_a_item(piece);
    }
  }

  TW_DEVICE void take_a_item(Piece& piece) {
    piece.kind = Piece::none;
    if (Spec::kDecodeOnly || share.no_a_items) return;
    const i64 items = schedule.header->a_items;
    i64 index = block_id();
    if (share.begins_with_a) {
      share.begins_with_a = false;
    } else {
      const i64 taken = atomic_add(p.a_taken, 1);
      // Each block that had an item asks once in vain; the last one of these leaves the counter as
      // it was.
      if (taken == (share.given > 0 ? items : items + num_blocks()) - 1) *p.a_taken = 0;
      index = share.given + taken;
    }
    if (index >= items) {
      share.no_a_items = true;
      return;
    }
    piece.item = plan::a_item(schedule, index);
    piece.row = schedule.rows[piece.item.row];
    piece.has_q_pos = false;
    piece.head = piece.item.head;
    piece.begin = 0;
    piece.end = piece.slot = -1;
    set_kind(piece);
  }

 private:
  TW_DEVICE bool many_a_items_left() const {
    return !share.no_a_items &&
           share.given + load_relaxed(p.a_taken) < schedule.header->a_items - 2 * num_blocks();
  }

  // Of an item: a power of two, so that nothing waits for a division.
  TW_DEVICE u32 most_heads() const {
    return Spec::kDecodeOnly ? static_cast<u32>(schedule.config.max_heads) : 1;
  }
  TW_DEVICE i32 place_of_block() const { return block_id() >> lowest_bit(most_heads()); }
  TW_DEVICE i32 workers_at_a_time() const { return num_blocks() >> lowest_bit(most_heads()); }

  TW_DEVICE void begin_share(i32 place) {
    const i32 worker =
        Spec::kHopper ? plan::worker_at(schedule.config, *schedule.header, place) : place;
    share.start = schedule.starts[worker];
    share.place = place;
    share.worker = worker;
    share.done = 0;
  }

  // Whether it is in the same row.
  TW_DEVICE bool go_to_next_item(const Piece& last, Piece& piece) const {
    if (!Spec::kDecodeOnly && last.item.row < schedule.header->num_a_rows) {
      const i64 first = schedule.cuts[share.worker].item;
      piece.item = plan::b_item(schedule, first + share.done);
      return false;
    }
    piece.item = last.item;
    if (++piece.item.tile < last.row.tiles) return true;
    piece.item.tile = 0;
    piece.item.head += last.row.heads;
    if (piece.item.head < schedule.config.num_kv_heads) return true;
    piece.item.head = 0;
    ++piece.item.row;
    return false;
  }

  // Which part of its item the share's next piece is.
  TW_DEVICE void set_part(Piece& piece) {
    const plan::Start& start = share.start;
    const bool is_first = share.done == 0;
    const bool is_cut_behind = share.done + 1 == start.items && start.last_end > 0;
    piece.begin = is_first ? start.begin : 0;
    piece.end = is_first ? start.end : is_cut_behind ? start.last_end : -1;
    piece.head = piece.item.head + (block_id() & static_cast<i32>(most_heads() - 1));
    piece.slot = -1;
    if (piece.begin > 0) piece.slot = slot_of(p, plan::first_slot(share.worker), piece.head);
    if (piece.begin == 0 && is_cut_behind) {
      piece.slot = slot_of(p, plan::second_slot(share.worker), piece.head);
    }
    piece.split_index = start.split + (!is_first && start.begin > 0 ? 1 : 0);
    ++share.done;
    set_kind(piece);
  }
  TW_DEVICE void set_kind(Piece& piece) {
    piece.num_rows = plan::rows_of_tile(schedule.config, piece.row, piece.item.tile);
    // Lists of blocks are made by all threads, between pieces.
    const bool few =
        piece.num_rows <= Shape::kDecodeRows && !p.plan.batch_invariant && !Spec::kListsBlocks;
    piece.kind = Spec::kDecodeOnly || few ? Piece::few_rows : Piece::many_rows;
  }

  const AttentionParams& p;
  Share& share;
  const plan::Schedule& schedule;
};

// The block that finishes the last part of a split item merges all parts. Where all rows are to
// be joined with those of other levels, that is left to the join, which many blocks do. Behind a
// barrier after the part is stored; ends with one. `message`: in shared memory.
template <i32 most_rows>
TW_DEVICE void merge_if_last(const AttentionParams& p, const TileOf<most_rows>& tile,
                             const Piece& piece, i32& message) {
  const auto is_merged = [&] {
    bool some = false;
#pragma unroll 1
    for (i32 r = thread_id(); r < tile.num_rows; r += Shape::kThreads) {
      some = some || !tile.rows[r].is_joined;
    }
    return any_of_workers(some);
  };
  if (!rows_are_requests(p) && !is_merged()) {
    if (piece.begin == 0) leave_parts(p, tile, piece.split);
    sync_workers();
    return;
  }
  if (thread_id() == 0) {
    i32* const arrivals = p.split_arrivals + slot_of(p, piece.split.first, piece.head);
    const bool last = atomic_add_acq_rel(arrivals, 1) == piece.split.last - piece.split.first;
    if (last) *arrivals = 0;
    message = last ? 1 : 0;
  }
  sync_workers();
  if (message != 0) {
    if constexpr (Spec::kDecodeOnly) {
      merge_parts(p, tile, piece.split);
    } else {
      merge_parts_apart(p, tile, piece.split);
    }
  }
  sync_workers();
}

// Rows of the output behind the batch's last query token.
TW_DEVICE void zero_padding(const AttentionParams& p) {
  const i32 q_tokens = p.plan.schedule.header->q_tokens;
  const i32 heads = p.plan.schedule.config.num_kv_heads * Spec::kGroupSize;
  using Out = Spec::Out;
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
