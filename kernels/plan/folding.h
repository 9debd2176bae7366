// SPDX-License-Identifier: Apache-2.0
// Rows of outer levels that are not worth partial results of their own become segments before the
// rows below them: what fold_levels (src/attention/level_folding.cpp) does, to the bit. Rows of one
// level do not depend on each other here: what one of them reads and changes lies within its query
// tokens. A warp takes each, and its lanes the rows below it.
#pragma once

#include "plan/part_maker.h"

namespace tw {

// The outermost row of a level inside `level` whose query tokens begin at `token`; -1: none.
TW_DEVICE_CALL i32 row_at(const plan::UpdateMemory& memory, i32 level, i32 token) {
  const plan::Row* const rows = memory.view.schedule.rows;
#pragma unroll 1
  for (i32 inner = level + 1; inner < memory.view.num_levels; ++inner) {
    if (memory.view.levels[inner].q_rows != nullptr) continue;
    const i32 past = memory.level_end[inner + 1];
    i32 begin = memory.level_end[inner];
    i32 end = past;
#pragma unroll 1
    while (begin < end) {
      const i32 middle = begin + (end - begin) / 2;
      if (rows[middle].q_begin < token) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    if (begin < past && rows[begin].q_begin == token && rows[begin].q_len > 0) return begin;
  }
  return -1;
}

class Folding {
 public:
  // Rows of each level stand one after the other, in the order of their query tokens, and have the
  // segments of the same numbers. All threads.
  TW_DEVICE explicit Folding(PartMaker& maker) : maker_(maker), lane_(lane_id()) {
    const i32 level = thread_id();
    if (level <= plan::kMaxLevels) maker.memory.level_end[level] = end_of(level - 1);
    sync_block();
  }

  // Marks folded rows by a negative q_len.
  TW_DEVICE void fold() {
#pragma unroll 1
    for (i32 level = maker_.view().num_levels - 2; level >= 0; --level) {
      if (maker_.view().levels[level].q_rows == nullptr) {
        const i32 warps = num_threads() / kWarpSize;
#pragma unroll 1
        for (i32 i = maker_.memory.level_end[level] + warp_id();
             i < maker_.memory.level_end[level + 1]; i += warps)
          fold_row(i);
      }
      sync_block();
    }
  }

 private:
  // Where the rows of levels up to `level` end.
  TW_DEVICE i32 end_of(i32 level) const {
    i32 begin = 0;
    i32 end = maker_.header().num_rows;
#pragma unroll 1
    while (begin < end) {
      const i32 middle = begin + (end - begin) / 2;
      if (maker_.rows[middle].level <= level) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin;
  }

  // The segment of a child's chain that is, or will be, the one below `row`'s.
  TW_DEVICE i32 outermost(const plan::Row& child, const plan::Row& row) const {
    const plan::Segment* segments = maker_.view().segments;
    i32 segment = child.segment;
#pragma unroll 1
    while (segments[segment].parent >= 0 && segments[segment].parent != row.segment) {
      segment = segments[segment].parent;
    }
    return segment;
  }

  TW_DEVICE bool is_as_it_must_be(const plan::Row& child, const plan::Row& row) const {
    const i32 end = row.q_begin + row.q_len;
    if (child.q_begin + child.q_len > end || child.kv_pos != row.kv_pos + row.kv_len) return false;
    // A folded row between the two must not have children elsewhere: its segment has one parent.
    const plan::Row& between = maker_.rows[outermost(child, row)];
    const i32 length = between.q_len < 0 ? -between.q_len : between.q_len;
    return between.q_begin >= row.q_begin && between.q_begin + length <= end;
  }

  // Calls visit(child) for the rows below `row`, each by some lane; false if one is not as it must
  // be. All lanes.
  template <bool kCheck, typename Visit>
  TW_DEVICE bool over_children(const plan::Row& row, const Visit& visit) const {
    const i32 end = row.q_begin + row.q_len;
#pragma unroll 1
    for (i32 token = row.q_begin; token < end;) {
      const i32 first = row_at(maker_.memory, row.level, token);
      if (first < 0) return false;
      // The next rows of the same level are children too, as long as they follow each other and no
      // row of a level further out begins where one of them does.
      const i32 at = first + lane_;
      const bool inside = at < maker_.memory.level_end[maker_.rows[first].level + 1];
      const plan::Row& child = maker_.rows[inside ? at : first];
      bool follows = inside && child.q_len > 0 && child.q_begin < end;
      if (lane_ > 0 && follows) {
        const plan::Row& before = maker_.rows[at - 1];
        follows = before.q_len > 0 && child.q_begin == before.q_begin + before.q_len &&
                  row_at(maker_.memory, row.level, child.q_begin) == at;
      }
      const u32 others = ~ballot(follows);
      const i32 count = others == 0 ? kWarpSize : lowest_bit(others);
      const bool mine = lane_ < count;
      if (kCheck && any_of_warp(mine && !is_as_it_must_be(child, row))) return false;
      // Lanes read chains of segments that others change.
      const i32 token_after = shuffle(child.q_begin + child.q_len, count - 1);
      if (mine) visit(maker_.rows[at]);
      sync_warp();
      token = token_after;
    }
    return true;
  }

  TW_DEVICE bool shared_is_cheaper(const plan::Row& row, std::int64_t child_tiles) const {
    if (maker_.view().batch_invariant) return false;
    return plan::sharing_is_cheaper(maker_.config(), row, child_tiles);
  }

  TW_DEVICE void fold_row(i32 index) {
    plan::Row& row = maker_.rows[index];
    std::int64_t child_tiles = 0;
    const bool whole = over_children<true>(row, [&](const plan::Row& child) {
      child_tiles += plan::tiles_of(maker_.config(), child.q_len);
    });
#pragma unroll
    for (i32 step = kWarpSize / 2; step > 0; step /= 2) {
      child_tiles += shuffle_xor(child_tiles, step);
    }
    if (!whole || shared_is_cheaper(row, child_tiles)) return;
    over_children<false>(row, [&](plan::Row& child) {
      // Children that share an inner segment find their chain extended already.
      maker_.view().segments[outermost(child, row)].parent = row.segment;
      child.kv_len += row.kv_len;
      child.kv_pos = row.kv_pos;
    });
    const u32 others = ~(1U << row.level);
#pragma unroll 1
    for (i32 i = lane_; i < row.q_len; i += kWarpSize) {
      maker_.view().token_levels[row.q_begin + i] &= static_cast<u8>(others);
    }
    sync_warp();
    if (lane_ == 0) row.q_len = -row.q_len;
  }

  PartMaker& maker_;
  i32 lane_;
};

// Takes folded rows out, and says whether some query token has more or less than one row left.
TW_DEVICE void remove_folded(PartMaker& maker) {
  plan::Header& header = maker.header();
  bool folded = false;
#pragma unroll 1
  for (i32 i = thread_id(); i < header.num_rows; i += num_threads()) {
    folded = folded || maker.rows[i].q_len < 0;
  }
  bool joins = false;
#pragma unroll 1
  for (i32 token = thread_id(); token < header.q_tokens; token += num_threads()) {
    joins = joins || count_bits(maker.view().token_levels[token]) != 1;
  }
  joins = any_of_block(joins);
  if (thread_id() == 0) header.joins_levels = joins ? 1 : 0;
  if (!any_of_block(folded)) return;
  const i32 rows = header.num_rows;
  i32 kept = 0;
#pragma unroll 1
  for (i32 base = 0; base < rows; base += num_threads()) {
    const i32 i = base + thread_id();
    plan::Row row;
    if (i < rows) row = maker.rows[i];
    const bool stays = i < rows && row.q_len > 0;
    // All of these rows are read when the first of them is overwritten.
    i32 all = 0;
    const i32 before = maker.scan.count_before(stays, all);
    if (stays) maker.rows[kept + before] = row;
    kept += all;
  }
  if (thread_id() == 0) header.num_rows = kept;
  sync_block();
}

TW_DEVICE void fold_levels(PartMaker& maker) {
  Folding(maker).fold();
  remove_folded(maker);
}

}  // namespace tw
