// SPDX-License-Identifier: Apache-2.0
// Section B's line of cost cut into the workers' shares, a thread a worker, and the items that are
// cut.
#pragma once

#include "plan/sections.h"

namespace tw {

// The cut of a share's begin.
TW_DEVICE plan::Cut find_cut(const PartMaker& maker, std::int64_t target) {
  const plan::Config& config = maker.config();
  const plan::Header& header = maker.header();
  if (target >= header.b_cost) return {header.b_items, 0, header.b_cost};
  // What holds it: a tile of a row, its item, and how far the target is behind the item's begin.
  plan::LinePoint point;
  i32 tile = 0;
  std::int64_t long_cost = 0;  // of a tile of a long row
  plan::Row row;
  if (target < header.tail_cost) {
    const i32 index = find_cost(maker.tail_costs, 0, static_cast<i32>(header.tail_items), target);
    const plan::Item at = tail_item(maker.view(), index);
    row = maker.rows()[at.row];
    tile = at.tile;
    long_cost = long_tile(maker, row, at.head, at.tile).cost;
    point.item = index;
    point.cost = target - maker.tail_costs[index];
  } else {
    point.row =
        find_cost(maker.cost_before, header.num_a_rows, header.num_rows, target - header.tail_cost);
    row = maker.rows()[point.row];
    plan::go_into_row(maker.view().schedule, row, target, point);
    if (row.tiles > 1 || config.heads_differ != 0) {
      const std::int64_t* const costs = maker.tile_costs + maker.first_tile[row.segment];
      const i32 index = find_cost(costs, 0, num_tiles(config, row), point.cost);
      tile = index % row.tiles;
      long_cost = long_tile(maker, row, index / row.tiles, tile).cost;
      point.item += index;
      point.cost -= costs[index];
    }
  }
  const i32 blocks =
      long_cost == 0
          ? row.max_tile_blocks
          : static_cast<i32>((long_cost - config.cost.fixed) / plan::block_cost(config, row, tile));
  return plan::cut_inside(config, row, tile, blocks, point.item, point.cost, target);
}

TW_DEVICE void find_cuts(PartMaker& maker) {
  plan::Header& header = maker.header();
  const i32 workers = header.workers;
#pragma unroll 1
  for (i32 worker = thread_id(); worker <= workers; worker += num_threads()) {
    const plan::Cut cut = find_cut(maker, plan::share_begin(header, worker));
    maker.cuts[worker] = cut;
    maker.view().schedule.cuts[worker] = cut;
  }
  sync_block();
}

// The items that are cut; returns their number.
TW_DEVICE i32 list_splits(PartMaker& maker) {
  const plan::Cut* cuts = maker.cuts;
  const plan::Schedule& schedule = maker.view().schedule;
  const i32 workers = maker.header().workers;
  i32 splits = 0;
#pragma unroll 1
  for (i32 base = 0; base < workers; base += num_threads()) {
    const i32 worker = base + thread_id();
    const auto cuts_item = [&](i32 w, std::int64_t item) {
      return w >= 1 && w < workers && cuts[w].block != 0 && cuts[w].item == item;
    };
    const bool cuts_some = worker >= 1 && worker < workers && cuts[worker].block != 0;
    const std::int64_t item = cuts_some ? cuts[worker].item : -1;
    const bool is_first = cuts_some && !cuts_item(worker - 1, item);
    i32 all = 0;
    const i32 at = splits + maker.scan.count_before(is_first, all) - (is_first ? 0 : 1);
    if (is_first) {
      schedule.splits[at].item = item;
      schedule.splits[at].first = worker - 1;
    }
    if (cuts_some && !cuts_item(worker + 1, item)) schedule.splits[at].last = worker;
    splits += all;
  }
  return splits;
}

}  // namespace tw
