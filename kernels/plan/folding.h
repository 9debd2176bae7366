// SPDX-License-Identifier: Apache-2.0
// Rows of outer levels that are not worth partial results of their own become segments before the
// rows below them: what fold_levels (src/attention/level_folding.cpp) does, to the bit.
//
// There the rows below a row are found one after the other: each begins where the one before it
// ends. Here each row of an inner level knows which row begins where it ends, and who is below whom
// is handed on from row to row in steps of 1, 2, 4, ... of these.
#pragma once

#include "plan/part_maker.h"

namespace tw {

class Folding {
 public:
  // Rows of each level stand one after the other, in the order of their query tokens, and have the
  // segments of the same numbers.
  TW_DEVICE explicit Folding(PartMaker& maker)
      : maker_(maker),
        rows_(maker.level_rows),
        num_rows_(maker.header().num_rows),
        owner_(maker.fold),
        parent_(maker.fold + maker.limits.rows),
        next_(maker.fold + 2 * maker.limits.rows) {}

  // Marks folded rows by a negative q_len.
  TW_DEVICE void fold() {
#pragma unroll 1
    for (i32 i = thread_id(); i < num_rows_; i += num_threads()) parent_[i] = -1;
#pragma unroll 1
    for (i32 level = maker_.view().num_levels - 2; level >= 0; --level) {
      if (maker_.view().levels[level].q_rows == nullptr) fold_level(level);
    }
#pragma unroll 1
    for (i32 i = thread_id(); i < num_rows_; i += num_threads()) {
      if (parent_[i] >= 0) maker_.view().segments[i].parent = parent_[i];
    }
    uncover_tokens();
  }

 private:
  TW_DEVICE i32 begin_of(i32 level) const {
    return maker_.memory.level_end[level];
  }
  TW_DEVICE i32 end_of(i32 level) const {
    return maker_.memory.level_end[level + 1];
  }
  TW_DEVICE static i32 past(const plan::Row& row) {
    return row.q_begin + row.q_len;
  }

  TW_DEVICE i32 lower_bound(i32 level, i32 token) const {
    return first_row_at(rows_, begin_of(level), end_of(level), token);
  }

  // The outermost row of a level inside `level` whose query tokens begin at `token`; -1: none.
  // `likely` is where that may be.
  TW_DEVICE i32 row_at(i32 level, i32 token, i32 likely) const {
#pragma unroll 1
    for (i32 inner = level + 1; inner < maker_.view().num_levels; ++inner) {
      if (maker_.view().levels[inner].q_rows != nullptr) continue;
      const bool is_there =
          begin_of(inner) <= likely && likely < end_of(inner) && rows_[likely].q_begin == token;
      const i32 at = is_there ? likely : lower_bound(inner, token);
      if (at < end_of(inner) && rows_[at].q_begin == token && rows_[at].q_len > 0) return at;
    }
    return -1;
  }

  TW_DEVICE void fold_level(i32 level) {
    find_neighbours(level);
    hand_on_owners(level);
    check_children(level);
    choose(level);
    extend_children(level);
  }

  // Rows of inner levels.
  template <typename Visit>
  TW_DEVICE void over_inner(i32 level, const Visit& visit) {
#pragma unroll 1
    for (i32 i = end_of(level) + thread_id(); i < num_rows_; i += num_threads()) visit(i);
  }
  template <typename Visit>
  TW_DEVICE void over_level(i32 level, const Visit& visit) {
#pragma unroll 1
    for (i32 i = begin_of(level) + thread_id(); i < end_of(level); i += num_threads()) visit(i);
  }

  // Until rows are measured, these fields of a row of `level` tell of the rows below it.
  TW_DEVICE static i32& child_tiles(plan::Row& row) {
    return row.max_tile_blocks;
  }
  TW_DEVICE static i32& is_whole(plan::Row& row) {
    return row.tiles;
  }
  TW_DEVICE static i32& is_wrong(plan::Row& row) {
    return row.heads;
  }

  TW_DEVICE void find_neighbours(i32 level) {
    over_inner(level, [&](i32 i) {
      owner_[i] = -1;
      next_[i] = rows_[i].q_len > 0 ? row_at(level, past(rows_[i]), i + 1) : -1;
    });
    sync_block();
    over_level(level, [&](i32 i) {
      plan::Row& row = rows_[i];
      child_tiles(row) = is_whole(row) = is_wrong(row) = 0;
      const i32 first = row_at(level, row.q_begin, -1);
      if (first >= 0) owner_[first] = i;
    });
    sync_block();
  }

  // Whether a row is below one of `level`: can be reached from the first of those by neighbours.
  TW_DEVICE void hand_on_owners(i32 level) {
    i32* next = next_;  // how far a row looks doubles each time
    i32* next_but = next_ + maker_.limits.rows;
    bool more = true;
#pragma unroll 1
    while (more) {
      more = false;
      over_inner(level, [&](i32 i) {
        const i32 after = next[i];
        const i32 owner = owner_[i];
        if (after >= 0 && owner >= 0 && rows_[after].q_begin < past(rows_[owner])) {
          owner_[after] = owner;
          more = true;
        }
        next_but[i] = after >= 0 ? next[after] : -1;
      });
      more = any_of_block(more);
      i32* const last = next;
      next = next_but;
      next_but = last;
    }
  }

  // The segment of a row's chain that is, or will be, the one below `owner`'s.
  TW_DEVICE i32 outermost(const plan::Row& row, const plan::Row& owner) const {
    i32 segment = row.segment;
#pragma unroll 1
    while (parent_[segment] >= 0 && parent_[segment] != owner.segment) segment = parent_[segment];
    return segment;
  }

  TW_DEVICE void check_children(i32 level) {
#pragma unroll 1
    for (i32 base = end_of(level); base < num_rows_; base += num_threads()) {
      const i32 i = base + thread_id();
      const i32 owner = i < num_rows_ ? owner_[i] : -1;
      add_tiles(owner, owner >= 0 ? check_child(rows_[i], rows_[owner]) : 0);
    }
    sync_block();
  }

  // Returns the row's tiles.
  TW_DEVICE i32 check_child(const plan::Row& row, plan::Row& owner) {
    if (past(row) == past(owner)) is_whole(owner) = 1;
    // A folded row between the two must not have children elsewhere: its segment has one parent.
    const plan::Row& between = rows_[outermost(row, owner)];
    const i32 length = between.q_len < 0 ? -between.q_len : between.q_len;
    if (row.kv_pos != owner.kv_pos + owner.kv_len || between.q_begin < owner.q_begin ||
        between.q_begin + length > past(owner)) {
      is_wrong(owner) = 1;
    }
    return plan::tiles_of(maker_.config(), row.q_len);
  }

  // Mostly all lanes have the same owner: one of them adds for all.
  TW_DEVICE void add_tiles(i32 owner, i32 tiles) {
    const u32 some = ballot(owner >= 0);
    if (some == 0) return;
    const i32 first = shuffle(owner, lowest_bit(some));
    if (any_of_warp(owner >= 0 && owner != first)) {
      if (owner >= 0) atomic_add(&child_tiles(rows_[owner]), tiles);
      return;
    }
#pragma unroll 1
    for (i32 step = kWarpSize / 2; step > 0; step /= 2) tiles += shuffle_xor(tiles, step);
    if (lane_id() == 0) atomic_add(&child_tiles(rows_[first]), tiles);
  }

  TW_DEVICE void choose(i32 level) {
    over_level(level, [&](i32 i) {
      plan::Row& row = rows_[i];
      if (is_whole(row) == 0 || is_wrong(row) != 0) return;
      const bool shared = !maker_.view().batch_invariant &&
                          plan::sharing_is_cheaper(maker_.config(), row, child_tiles(row));
      if (!shared) row.q_len = -row.q_len;
    });
    sync_block();
  }

  TW_DEVICE void extend_children(i32 level) {
    over_inner(level, [&](i32 i) {
      if (owner_[i] < 0 || rows_[owner_[i]].q_len > 0) return;
      plan::Row& row = rows_[i];
      const plan::Row& owner = rows_[owner_[i]];
      // Children that share an inner segment extend its chain alike.
      parent_[outermost(row, owner)] = owner.segment;
      row.kv_len += owner.kv_len;
      row.kv_pos = owner.kv_pos;
    });
    sync_block();
  }

  // Takes folded rows off their query tokens, and says whether some token has more or less than
  // one row left.
  TW_DEVICE void uncover_tokens() {
    bool joins = false;
#pragma unroll 1
    for (i32 token = thread_id(); token < maker_.header().q_tokens; token += num_threads()) {
      u32 levels = maker_.view().token_levels[token];
#pragma unroll 1
      for (i32 level = 0; level < maker_.view().num_levels - 1; ++level) {
        if ((levels >> level & 1) == 0 || maker_.view().levels[level].q_rows != nullptr) continue;
        if (rows_[lower_bound(level, token + 1) - 1].q_len < 0) levels &= ~(1U << level);
      }
      maker_.part.view.token_levels[token] = static_cast<u8>(levels);
      joins = joins || count_bits(levels) != 1;
    }
    joins = any_of_block(joins);
    if (thread_id() == 0) maker_.header().joins_levels = joins ? 1 : 0;
  }

  PartMaker& maker_;
  plan::Row* rows_;
  i32 num_rows_;
  i32* owner_;   // the row of `level` that a row is below; -1: none
  i32* parent_;  // of segments
  i32* next_;    // the row that begins where a row ends; two arrays
};

}  // namespace tw
