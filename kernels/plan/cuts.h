// SPDX-License-Identifier: Apache-2.0
// Section B's line of cost cut into the workers' shares, a thread a worker, and the items that are
// cut.
#pragma once

#include "plan/sections.h"

namespace tw {

class Cuts {
 public:
  TW_DEVICE Cuts(PartMaker& maker, std::int64_t b_cost, bool has_long_rows)
      : maker_(maker),
        config_(maker.config()),
        header_(maker.header()),
        has_long_rows_(has_long_rows),
        b_cost_(b_cost),
        workers_(plan::count_workers(maker.config(), b_cost)) {}

  // Behind it all records are in the plan, but for the splits.
  TW_DEVICE void find() {
    if (thread_id() == 0) header_.workers = workers_;
    sync_block();
#pragma unroll 1
    for (i32 worker = thread_id(); worker <= workers_; worker += num_threads()) {
      const plan::Cut cut = cut_at(plan::share_begin(b_cost_, workers_, worker));
      maker_.cuts[worker] = cut;
      maker_.part.view.schedule.cuts[worker] = cut;
    }
    // By a thread that has no worker, where there is one.
    if (thread_id() == num_threads() - 1) {
      header_.status_turn = maker_.memory.turn;
      *maker_.part.view.schedule.header = header_;
    }
    sync_block();
  }

  // The items that are cut.
  TW_DEVICE void list_splits() {
    const plan::Cut* cuts = maker_.cuts;
    plan::Split* const splits = maker_.part.view.schedule.splits;
    i32 count = 0;
#pragma unroll 1
    for (i32 base = 0; base < workers_; base += num_threads()) {
      const i32 worker = base + thread_id();
      const auto cuts_item = [&](i32 w, std::int64_t item) {
        return w >= 1 && w < workers_ && cuts[w].block != 0 && cuts[w].item == item;
      };
      const bool cuts_some = worker >= 1 && worker < workers_ && cuts[worker].block != 0;
      const std::int64_t item = cuts_some ? cuts[worker].item : -1;
      const bool is_first = cuts_some && !cuts_item(worker - 1, item);
      i32 all = 0;
      const i32 at = count + maker_.scan.count_before(is_first, all) - (is_first ? 0 : 1);
      if (is_first) {
        splits[at].item = item;
        splits[at].first = worker - 1;
      }
      if (cuts_some && !cuts_item(worker + 1, item)) splits[at].last = worker;
      count += all;
    }
    if (thread_id() == 0) maker_.part.view.schedule.header->num_splits = count;
  }

 private:
  // A row of section B, as far as cuts ask.
  TW_DEVICE plan::Row row_at(i32 index) const {
    if (has_long_rows_) return maker_.rows()[index];
    const plan::ShortRow& known = maker_.short_rows[index];
    plan::Row row;
    row.q_len = known.q_len;
    row.heads = plan::heads_of(config_, known.q_len);
    row.tiles = 1;
    row.max_tile_blocks = known.blocks;
    row.head_cost = config_.cost.fixed + known.blocks * plan::block_cost(config_, row, 0);
    row.tiles_before = known.items_before;
    row.cost_before = maker_.cost_before[index];
    return row;
  }

  TW_DEVICE plan::Cut cut_at(std::int64_t target) const {
    if (target >= b_cost_) return {header_.b_items, 0, b_cost_};
    // What holds it: a tile of a row, its item, and how far the target is behind the item's begin.
    plan::LinePoint point;
    i32 tile = 0;
    std::int64_t long_cost = 0;  // of a tile of a long row
    plan::Row row;
    if (target < header_.tail_cost) {
      const i32 index =
          find_cost(maker_.tail_costs, 0, static_cast<i32>(header_.tail_items), target);
      const plan::Item at = tail_item(maker_.view(), index);
      row = maker_.rows()[at.row];
      tile = at.tile;
      long_cost = long_tile(maker_, row, at.head, at.tile).cost;
      point.item = index;
      point.cost = target - maker_.tail_costs[index];
    } else {
      point.row = find_cost(maker_.cost_before, header_.num_a_rows, header_.num_rows,
                            target - header_.tail_cost);
      row = row_at(point.row);
      plan::go_into_row(config_, header_, row, target, point);
      if (row.tiles > 1 || config_.heads_differ != 0) {
        const std::int64_t* const costs = maker_.tile_costs + maker_.first_tile[row.segment];
        const i32 index = find_cost(costs, 0, num_tiles(config_, row), point.cost);
        tile = index % row.tiles;
        long_cost = long_tile(maker_, row, index / row.tiles, tile).cost;
        point.item += index;
        point.cost -= costs[index];
      }
    }
    const i32 blocks = long_cost == 0 ? row.max_tile_blocks
                                      : static_cast<i32>((long_cost - config_.cost.fixed) /
                                                         plan::block_cost(config_, row, tile));
    return plan::cut_inside(config_, row, tile, blocks, point.item, point.cost, target);
  }

  PartMaker& maker_;
  const plan::Config& config_;
  plan::Header& header_;
  bool has_long_rows_;
  std::int64_t b_cost_;
  i32 workers_;
};

}  // namespace tw
