// SPDX-License-Identifier: Apache-2.0
// The rows on section B's line: what each costs, and what lies before it, in one pass. Rows whose
// query tokens are one tile of one request, decoding ones that is, are measured by a thread each
// while they are in its registers.
#pragma once

#include "plan/requests.h"
#include "plan/tile_blocks.h"

namespace tw {

// Of all rows.
struct LineSums {
  std::int64_t cost = 0;
  std::int64_t items = 0;
  i32 rows = 0;
  i32 long_rows = 0;  // not in the other sums yet
};

// Sums::count has rows in its low half and long ones in its high one.
inline constexpr i32 kOneLongRow = 1 << 16;
TW_DEVICE i32 rows_in(i32 count) {
  return count & (kOneLongRow - 1);
}
TW_DEVICE i32 long_rows_in(i32 count) {
  return count >> 16;
}

// Whether a row is measured by a thread: of one tile and one request, and then of which.
TW_DEVICE bool is_short(const PartMaker& maker, const plan::Row& row, i32& request, i32& token) {
  request = row.index;
  token = row.q_begin;
  if (row.tiles > 1 || maker.config().heads_differ != 0) return false;
  if (maker.is_plain()) return true;
  if (maker.view().levels[row.level].q_rows != nullptr) {
    if (row.q_len > 1) return false;
    token = static_cast<i32>(maker.view().token_of(row, 0));
  }
  request = request_of(maker.view(), token);
  const plan::Request& of = maker.view().requests[request];
  return token + row.q_len <= of.q_begin + of.q_len;
}

// Writes the rows that have query tokens, and the list of the long ones.
template <typename Blocks>
TW_DEVICE LineSums line_up(PartMaker& maker, const Blocks& blocks) {
  const plan::Config& config = maker.config();
  const RowInput input(maker.part, 0, maker.limits);
  const bool plain = maker.is_plain();
  const i32 candidates = plain ? maker.header().num_requests : maker.header().num_rows;
  LineSums sums;
#pragma unroll 1
  for (i32 base = 0; base < candidates; base += num_threads()) {
    const i32 i = base + thread_id();
    plan::Row row;
    bool live = false;
    if (i < candidates) {
      if (plain) {
        live = row_of_request(maker, input, i, row);
      } else {
        row = maker.level_rows[i];
        live = row.q_len > 0;
      }
    }
    Sums mine;
    if (live) {
      plan::start_row(config, row);
      mine.count = 1 + kOneLongRow;
      i32 request = 0;
      i32 token = 0;
      if (is_short(maker, row, request, token)) {
        row.max_tile_blocks = blocks.of_thread(row, 0, 0, request, token, token + row.q_len);
        row.head_cost = config.cost.fixed + row.max_tile_blocks * plan::block_cost(config, row, 0);
        mine = {plan::row_cost(config, row), static_cast<i32>(plan::items_of(config, row)), 1};
      }
    }
    Sums all;
    const Sums before = maker.scan.exclusive(mine, all);
    const i32 long_before = sums.long_rows + long_rows_in(before.count);
    sums.long_rows += long_rows_in(all.count);
    if (live) {
      const i32 at = sums.rows + rows_in(before.count);
      if (plain) {
        row.segment = at;
        maker.view().segments[at] = {0, i, row.kv_len, -1};
      }
      row.tiles_before = sums.items + before.items;
      row.cost_before = sums.cost + before.cost;
      maker.rows()[at] = row;
      // With long rows what lies before each is found later.
      if (sums.long_rows == 0) {
        maker.cost_before[at] = row.cost_before;
        maker.short_rows[at] = {row.tiles_before, row.q_len, row.max_tile_blocks};
      } else if (mine.count != 1) {
        maker.long_rows()[long_before].row = at;
      }
    }
    sums.rows += rows_in(all.count);
    sums.items += all.items;
    sums.cost += all.cost;
  }
  return sums;
}

}  // namespace tw
