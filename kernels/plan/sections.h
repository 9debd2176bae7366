// SPDX-License-Identifier: Apache-2.0
// Sections A and B: which rows are whose, their order, and prefix sums of their tiles and costs.
#pragma once

#include "plan/measure.h"

namespace tw {

// Sorts rows by `order` when section A has some: B's keep theirs behind them. A row of A stands
// behind those that are longer and, of the same length, before it. Returns A's rows.
TW_DEVICE i32 sort_rows(PartMaker& maker, const plan::RowOrder& order) {
  const i32 rows = maker.header().num_rows;
  plan::Row* const given = maker.rows;
  // Until prefix sums take its place, cost_before is the length that A's rows are sorted by.
  bool any = false;
#pragma unroll 1
  for (i32 i = thread_id(); i < rows; i += num_threads()) {
    const bool in_a = order.in_section_a(given[i]);
    given[i].cost_before = in_a ? plan::longest_item(order.config, given[i]) : 0;
    any = any || in_a;
  }
  if (!any_of_block(any)) return 0;
  i32 a_rows = 0;
#pragma unroll 1
  for (i32 base = 0; base < rows; base += num_threads()) {
    const i32 i = base + thread_id();
    a_rows += count_of_block(i < rows && given[i].cost_before > 0);
  }
  i32 before = 0;  // rows of A before these
#pragma unroll 1
  for (i32 base = 0; base < rows; base += num_threads()) {
    const i32 i = base + thread_id();
    const std::int64_t length = i < rows ? given[i].cost_before : 0;
    i32 all = 0;
    i32 at = a_rows + i - before - maker.scan.count_before(length > 0, all);
    if (length > 0) {
      at = 0;
#pragma unroll 8
      for (i32 j = 0; j < rows; ++j) {
        const std::int64_t other = given[j].cost_before;
        at += other > length || (other == length && j < i) ? 1 : 0;
      }
    }
    if (i < rows) maker.other_rows[at] = given[i];
    before += all;
  }
  maker.rows = maker.other_rows;
  maker.other_rows = given;
  sync_block();
  if (thread_id() == 0) maker.view().schedule.rows = maker.rows;
  return a_rows;
}

// What lies before each row; returns the sums of both sections: tiles of a KV head of A, items and
// cost of B.
struct SectionSums {
  std::int64_t a_tiles = 0;
  std::int64_t b_items = 0;
  std::int64_t b_cost = 0;
};

TW_DEVICE SectionSums sum_rows(PartMaker& maker, i32 a_rows) {
  const plan::Config& config = maker.config();
  SectionSums sums;
#pragma unroll 1
  for (i32 base = 0; base < maker.header().num_rows; base += num_threads()) {
    const i32 i = base + thread_id();
    const bool is_row = i < maker.header().num_rows;
    const bool in_a = i < a_rows;
    Sums mine = {0, 0};
    if (is_row && !in_a) {
      mine = {plan::items_of(config, maker.rows[i]), plan::row_cost(config, maker.rows[i])};
    }
    Sums all;
    const Sums before = maker.scan.exclusive(mine, all);
    if (is_row && !in_a) {
      maker.rows[i].tiles_before = sums.b_items + before.first;
      maker.rows[i].cost_before = sums.b_cost + before.second;
    }
    sums.b_items += all.first;
    sums.b_cost += all.second;
    if (base >= a_rows) continue;
    const Sums before_a = maker.scan.exclusive({in_a ? maker.rows[i].tiles : 0, 0}, all);
    if (in_a) {
      maker.rows[i].tiles_before = sums.a_tiles + before_a.first;
      maker.rows[i].cost_before = 0;
    }
    sums.a_tiles += all.first;
  }
  return sums;
}

// Costs of the tail's items, and before each of them; returns all of them.
template <typename Blocks>
TW_DEVICE std::int64_t sum_tail(PartMaker& maker, const Blocks& blocks) {
  const plan::Schedule& schedule = maker.view().schedule;
  const plan::Header& header = maker.header();
  const i32 items = static_cast<i32>(header.tail_items);
  std::int64_t cost = 0;
#pragma unroll 1
  for (i32 base = 0; base < items; base += num_threads()) {
    const i32 i = base + thread_id();
    Sums mine = {0, 0};
    if (i < items) {
      const plan::Item at = plan::a_item(schedule, header.a_items + i);
      mine.first =
          plan::item_cost(schedule.config, schedule.rows[at.row], at.head, at.tile, blocks);
    }
    Sums all;
    const Sums before = maker.scan.exclusive(mine, all);
    if (i < items) maker.tail_costs[i] = cost + before.first;
    cost += all.first;
  }
  return cost;
}

// Sets the header's sections and the rows' prefix sums.
template <typename Blocks>
TW_DEVICE void lay_out_sections(PartMaker& maker, const Blocks& blocks) {
  const plan::Config& config = maker.config();
  plan::Header& header = maker.header();
  std::int64_t cost = 0;
#pragma unroll 1
  for (i32 base = 0; base < header.num_rows; base += num_threads()) {
    const i32 i = base + thread_id();
    cost += i < header.num_rows ? plan::row_cost(config, maker.rows[i]) : 0;
  }
  const plan::RowOrder order{config,
                             plan::ceil_div(maker.scan.total({cost, 0}).first, config.workers)};
  const i32 a_rows = sort_rows(maker, order);
  const SectionSums sums = sum_rows(maker, a_rows);
  if (thread_id() == 0) {
    header.num_a_rows = a_rows;
    const std::int64_t items = sums.a_tiles * config.num_kv_heads;
    header.tail_items = items % config.workers;
    header.a_items = items - header.tail_items;
    header.tail_cost = 0;
  }
  sync_block();
  const std::int64_t tail_cost = a_rows > 0 ? sum_tail(maker, blocks) : 0;
  if (thread_id() == 0) {
    header.tail_cost = tail_cost;
    header.b_items = header.tail_items + sums.b_items;
    header.b_cost = tail_cost + sums.b_cost;
    header.workers = plan::count_workers(config, header.b_cost);
  }
  sync_block();
}

}  // namespace tw
