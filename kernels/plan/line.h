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
  i32 long_rows = 0;    // not in the other sums yet
  bool uneven = false;  // the thread's rows are not what equal ones would be; without long ones
};

// Sums::count has rows in its low half and long ones in its high one.
inline constexpr i32 kOneLongRow = 1 << 16;
TW_DEVICE i32 rows_in(i32 count) {
  return count & (kOneLongRow - 1);
}
TW_DEVICE i32 long_rows_in(i32 count) {
  return count >> 16;
}

// Whose the query tokens of a row are, the first of them, and whether all are.
struct RowRequest {
  plan::Request request;
  i32 index = 0;
  i32 token = 0;
  bool is_one = true;
};

TW_DEVICE RowRequest request_of_row(const PartMaker& maker, const plan::Row& row) {
  RowRequest of;
  const i32* const list = maker.view().levels[row.level].q_rows;
  of.token = list != nullptr ? list[row.q_begin] : row.q_begin;
  of.index = request_of(maker.view(), of.token);
  of.request = maker.requests[of.index];
  of.is_one = list != nullptr ? row.q_len == 1
                              : row.q_begin + row.q_len <= of.request.q_begin + of.request.q_len;
  return of;
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
    RowRequest of;
    bool live = false;
    if (i < candidates) {
      if (plain) {
        live = row_of_request(maker, input, i, row, of.request);
        of.index = i;
        of.token = row.q_begin;
      } else {
        row = maker.level_rows[i];
        live = row.q_len > 0;
        if (live) of = request_of_row(maker, row);
      }
    }
    Sums mine;
    plan::TileSpan span;
    if (live) {
      plan::start_row(config, row);
      mine.count = 1 + kOneLongRow;
      if (row.tiles == 1 && config.heads_differ == 0 && of.is_one && !blocks.are_listed()) {
        span = row.q_len == 1
                   ? blocks.of_token(row, of.index, of.request, of.token)
                   : blocks.of_thread(row, 0, 0, of.index, of.token, of.token + row.q_len);
        row.max_tile_blocks = span.blocks();
        const i32 packed = row.q_len * config.group_size;
        row.head_cost =
            config.cost.fixed + row.max_tile_blocks * plan::block_cost(config, row.heads, packed);
        const i32 groups = plan::groups_of_heads(config, row);
        mine = {row.head_cost * groups, groups, 1};
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
        maker.part.view.segments[at] = {0, i, row.kv_len, -1};
      }
      row.tiles_before = sums.items + before.items;
      row.cost_before = sums.cost + before.cost;
      maker.rows()[at] = row;
      // Of the rows of levels, which all threads have read up to here, some were left out.
      if (maker.work_rows != maker.rows()) maker.work_rows[at] = row;
      // With long rows what lies before each is found later.
      if (sums.long_rows == 0) {
        maker.cost_before[at] = row.cost_before;
        maker.short_rows[at] = {static_cast<i32>(row.tiles_before), static_cast<u16>(row.q_len),
                                static_cast<u16>(row.heads), row.max_tile_blocks, row.index};
        maker.short_spans[at] = {span.begin, span.full_begin, span.full_end, row.kv_pos};
      } else if (mine.count != 1) {
        maker.long_rows()[long_before].row = of.is_one ? at : -1 - at;
      }
    }
    sums.rows += rows_in(all.count);
    sums.items += all.items;
    sums.cost += all.cost;
    sums.uneven = sums.uneven || (live && !plan::is_equal_part(mine.items, mine.cost, sums.rows,
                                                               sums.items, sums.cost));
  }
  return sums;
}

}  // namespace tw
