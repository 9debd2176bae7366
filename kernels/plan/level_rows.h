// SPDX-License-Identifier: Apache-2.0
// Rows of a KV that is a list of levels, or whose rows are not simply the requests: level by level,
// for positions follow from the keys that query tokens have in the levels before.
#pragma once

#include "plan/requests.h"

namespace tw {

class LevelRows {
 public:
  TW_DEVICE LevelRows(PartMaker& maker, i32 level)
      : maker_(maker),
        level_(level),
        input_(maker.part, level, maker.limits),
        q_rows_(maker.view().levels[level].q_rows),
        first_(maker.header().num_rows) {}

  // Appends the level's rows and segments.
  TW_DEVICE void read() {
    bool well = append_rows();
    if (well && q_rows_ != nullptr) well = list_is_well();
    if (well) {
      set_positions();
      cover_tokens();
      clear_bad_rows();
    } else {
      end_ = first_;
      drop_rows();
    }
    if (thread_id() == 0) {
      maker_.header().num_rows = maker_.header().num_segments = end_;
      maker_.memory.level_end[level_ + 1] = end_;
    }
    sync_block();
  }

 private:
  TW_DEVICE bool rows_are_requests() const { return input_.input.num_rows < 0; }

  TW_DEVICE i32 q_bound(i32 row) const {
    return rows_are_requests() ? maker_.view().requests[row].q_begin : input_.input.qo_indptr[row];
  }
  TW_DEVICE i32 q_end(i32 row, i32 rows) const {
    if (!rows_are_requests()) return input_.input.qo_indptr[row + 1];
    return row + 1 < rows ? maker_.view().requests[row + 1].q_begin : maker_.header().q_tokens;
  }

  // Rows with query tokens, in order. False: the ranges are malformed.
  TW_DEVICE bool append_rows() {
    const i32 rows = rows_are_requests() ? maker_.header().num_requests : input_.input.num_rows;
    const i32 most = q_rows_ != nullptr ? input_.input.num_q_rows : maker_.header().q_tokens;
    i32 at = first_;
    bool bad = false;
#pragma unroll 1
    for (i32 base = 0; base < rows; base += num_threads()) {
      const i32 index = base + thread_id();
      plan::Row row;
      bool live = false;
      if (index < rows) {
        const i32 begin = q_bound(index);
        const i32 end = q_end(index, rows);
        const bool wrong = begin < 0 || end < begin || end > most;
        bad = bad || wrong;
        live = !wrong && begin < end;
        u32 bits = 0;
        row.level = level_;
        row.index = index;
        row.q_begin = begin;
        row.q_len = live ? end - begin : 0;
        row.kv_len = input_.kv_len(index, bits);
        row.head_cost = bits;  // until the row is measured: what is wrong with it
      }
      i32 all = 0;
      const i32 before = maker_.scan.count_before(live, all);
      if (live) {
        row.segment = at + before;
        maker_.level_rows[row.segment] = row;
      }
      at += all;
    }
    end_ = at;
    return !any_of_block(bad);
  }

  // Whether the list of query tokens names those of the batch only, and none twice. Notes that they
  // are covered.
  TW_DEVICE bool list_is_well() {
    bool bad = false;
    const i32 end = entries_end();
#pragma unroll 1
    for (i32 entry = entries_begin() + thread_id(); entry < end; entry += num_threads()) {
      const i32 token = q_rows_[entry];
      if (token < 0 || token >= maker_.header().q_tokens) {
        bad = true;
        continue;
      }
      u32* const word = reinterpret_cast<u32*>(maker_.view().token_levels) + token / 4;
      const u32 bit = 1U << (token % 4 * 8 + level_);
      bad = bad || (atomic_or(word, bit) & bit) != 0;
    }
    return !any_of_block(bad);
  }

  // Entries of the level's rows follow each other.
  TW_DEVICE i32 entries_begin() const {
    return first_ < end_ ? maker_.level_rows[first_].q_begin : 0;
  }
  TW_DEVICE i32 entries_end() const {
    return first_ < end_ ? maker_.level_rows[end_ - 1].q_begin + maker_.level_rows[end_ - 1].q_len
                         : 0;
  }

  TW_DEVICE void drop_rows() {
    const u32 others = ~(1U << level_);
#pragma unroll 1
    for (i32 token = thread_id(); token < maker_.header().q_tokens; token += num_threads()) {
      maker_.view().token_levels[token] &= static_cast<u8>(others);
    }
    maker_.mark_all(plan::kBadLevelRows);
  }

  TW_DEVICE void set_positions() {
    const plan::IntList& kv_pos = input_.input.kv_pos;
#pragma unroll 1
    for (i32 i = first_ + thread_id(); i < end_; i += num_threads()) {
      plan::Row& row = maker_.level_rows[i];
      if (kv_pos.given()) {
        if (kv_pos.has(row.index)) {
          row.kv_pos = kv_pos[row.index];
        } else {
          row.head_cost |= plan::kBadPosition;
        }
      } else {
        row.kv_pos = maker_.view().token_keys[maker_.view().token_of(row, 0)];
      }
      if (!positions_fit(maker_.view().interleave, row.kv_pos, row.kv_len)) {
        row.head_cost |= plan::kBadPosition;
        row.kv_len = 0;
      }
    }
    sync_block();
  }

  // Adds the rows' keys to those of their query tokens.
  TW_DEVICE void cover_tokens() {
    const bool placed = input_.input.kv_pos.given();
    const i32 end = entries_end();
#pragma unroll 1
    for (i32 entry = entries_begin() + thread_id(); entry < end; entry += num_threads()) {
      plan::Row& row = maker_.level_rows[row_of(entry)];
      const i32 token = q_rows_ != nullptr ? q_rows_[entry] : entry;
      const i32 before = maker_.view().token_keys[token];
      const std::int64_t keys = std::int64_t{before} + row.kv_len;
      // Several threads may say that a row is bad: in words of their own.
      if (!placed && before != row.kv_pos) row.tiles = 1;
      if (keys > maker_.limits.kv_len) row.heads = 0;
      maker_.view().token_keys[token] = static_cast<i32>(plan::min64(keys, maker_.limits.kv_len));
      if (q_rows_ == nullptr) {
        maker_.view().token_levels[token] |= static_cast<u8>(1U << level_);
      }
    }
    sync_block();
  }

  TW_DEVICE i32 row_of(i32 entry) const {
    return first_row_at(maker_.level_rows, first_, end_, entry + 1) - 1;
  }

  // Bad rows have no keys, and their requests are marked.
  TW_DEVICE void clear_bad_rows() {
#pragma unroll 1
    for (i32 i = first_ + thread_id(); i < end_; i += num_threads()) {
      plan::Row& row = maker_.level_rows[i];
      u32 bits = static_cast<u32>(row.head_cost);
      if (row.tiles != 0) bits |= plan::kBadLevelRows;
      if (row.heads == 0) bits |= plan::kBadKvLen;
      if (bits != 0) {
        row.kv_len = 0;
        maker_.mark_row(row, bits);
      }
      row.head_cost = 0;
      maker_.view().segments[row.segment] = {row.level, row.index, row.kv_len, -1};
    }
  }

  PartMaker& maker_;
  i32 level_;
  RowInput input_;
  const i32* q_rows_;
  i32 first_;
  i32 end_ = 0;
};

// The rows of all levels, and what follows for the requests.
TW_DEVICE void read_level_rows(PartMaker& maker) {
  plan::View& view = maker.view();
  const i32 tokens = maker.header().q_tokens;
#pragma unroll 1
  for (i32 token = thread_id(); token < tokens; token += num_threads()) {
    view.token_levels[token] = 0;
    view.token_keys[token] = 0;
  }
  if (thread_id() == 0) maker.memory.level_end[0] = 0;
  sync_block();
#pragma unroll 1
  for (i32 level = 0; level < view.num_levels; ++level) LevelRows(maker, level).read();
#pragma unroll 1
  for (i32 token = thread_id(); token < tokens; token += num_threads()) {
    const i32 keys = view.token_keys[token];
    const i32 request = request_of(view, token);
    atomic_max(&view.requests[request].kv_len, keys);
    maker.part.view.token_keys[token] = keys;
    maker.part.view.token_requests[token] = request;
  }
  sync_block();
#pragma unroll 1
  for (i32 r = thread_id(); r < maker.header().num_requests; r += num_threads()) {
    const u32 bad = set_position(maker, r, view.requests[r]);
    if (bad != 0) maker.mark_request(r, bad);
    maker.part.view.requests[r] = view.requests[r];
  }
  sync_block();
}

}  // namespace tw
