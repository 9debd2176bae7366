// SPDX-License-Identifier: Apache-2.0
// Section B's line of cost cut into the workers' shares, and the items that are cut.
#pragma once

#include "plan/sections.h"

namespace tw {

// A cut in the tail, whose costs are known.
TW_DEVICE plan::Cut find_tail_cut(PartMaker& maker, std::int64_t cost, i32& item) {
  const std::int64_t* costs = maker.tail_costs;
  i32 begin = 0;
  i32 end = static_cast<i32>(maker.header().tail_items);
#pragma unroll 1
  while (end - begin > 1) {
    const i32 middle = begin + (end - begin) / 2;
    if (costs[middle] <= cost) {
      begin = middle;
    } else {
      end = middle;
    }
  }
  item = begin;
  return {begin, 0, cost - costs[begin]};
}

// The cut behind `point` in a row of several items: lanes look at items of its row. All lanes.
template <typename Blocks>
TW_DEVICE plan::Cut walk_to_cut(PartMaker& maker, const Blocks& blocks, plan::LinePoint point,
                                std::int64_t target) {
  const plan::Config& config = maker.config();
  const plan::Row& row = maker.rows[point.row];
  const std::int64_t row_begin = maker.header().tail_items + row.tiles_before;
  const std::int64_t row_end = row_begin + plan::items_of(config, row);
#pragma unroll 1
  for (std::int64_t base = point.item;; base += kWarpSize) {
    const std::int64_t item = base + lane_id();
    const bool is_item = item < row_end;
    const i32 tile = static_cast<i32>((item - row_begin) % row.tiles);
    i32 needed = 0;
    std::int64_t cost = 0;
    if (is_item) {
      const i32 head = static_cast<i32>((item - row_begin) / row.tiles) * row.heads;
      needed = blocks(row, head, tile);
      cost = config.cost.fixed + needed * plan::block_cost(config, row, tile);
    }
    std::int64_t end = cost;  // behind the item
#pragma unroll
    for (i32 step = 1; step < kWarpSize; step *= 2) {
      const std::int64_t below = shuffle_up(end, step);
      if (lane_id() >= step) end += below;
    }
    const u32 found = ballot(is_item && point.cost < end);
    if (found != 0) {
      const i32 lane = lowest_bit(found);
      plan::Cut cut;
      if (lane_id() == lane) {
        cut = plan::cut_inside(config, row, tile, needed, item, point.cost - (end - cost), target);
      }
      return {shuffle(cut.item, lane), shuffle(cut.block, lane), shuffle(cut.cost, lane)};
    }
    point.cost -= shuffle(end, kWarpSize - 1);
  }
}

// The cut of a share's begin. All lanes, each with a share of its own or none.
template <typename Blocks>
TW_DEVICE void find_cuts_of_warp(PartMaker& maker, const Blocks& blocks, i32 worker,
                                 bool has_worker) {
  const plan::Config& config = maker.config();
  const plan::Header& header = maker.header();
  plan::LinePoint point;
  std::int64_t target = 0;
  bool walks = false;
  plan::Cut cut;
  if (has_worker) {
    target = plan::share_begin(header, worker);
    if (target >= header.b_cost) {
      cut = {header.b_items, 0, header.b_cost};
    } else if (target < header.tail_cost) {
      i32 item = 0;
      const plan::Cut in_tail = find_tail_cut(maker, target, item);
      const plan::Item at = plan::a_item(maker.view().schedule, header.a_items + item);
      const plan::Row& row = maker.rows[at.row];
      cut = plan::cut_inside(config, row, at.tile, blocks(row, at.head, at.tile), item,
                             in_tail.cost, target);
    } else {
      point = plan::find_point(maker.view().schedule, target);
      const plan::Row& row = maker.rows[point.row];
      walks = row.tiles > 1 || config.heads_differ != 0;
      if (!walks) {
        cut = plan::cut_inside(config, row, 0, row.max_tile_blocks, point.item, point.cost, target);
      }
    }
  }
#pragma unroll 1
  for (u32 left = ballot(walks); left != 0; left &= left - 1) {
    const i32 lane = lowest_bit(left);
    const plan::LinePoint from = {shuffle(point.row, lane), shuffle(point.item, lane),
                                  shuffle(point.cost, lane)};
    const plan::Cut found = walk_to_cut(maker, blocks, from, shuffle(target, lane));
    if (lane_id() == lane) cut = found;
  }
  if (has_worker) maker.cuts[worker] = cut;
}

template <typename Blocks>
TW_DEVICE void find_cuts(PartMaker& maker, const Blocks& blocks) {
  // Neighbouring workers in different warps: those that walk do so side by side.
  const i32 warps = num_threads() / kWarpSize;
  const i32 workers = maker.header().workers;
#pragma unroll 1
  for (i32 base = 0; base <= workers; base += num_threads()) {
    const i32 worker = base + lane_id() * warps + warp_id();
    find_cuts_of_warp(maker, blocks, worker, worker <= workers);
  }
  sync_block();
}

// The items that are cut, and the plan's cuts written out.
TW_DEVICE void list_splits(PartMaker& maker) {
  const plan::Cut* cuts = maker.cuts;
  plan::Schedule& schedule = maker.view().schedule;
  const i32 workers = maker.header().workers;
  i32 splits = 0;
#pragma unroll 1
  for (i32 base = 0; base <= workers; base += num_threads()) {
    const i32 worker = base + thread_id();
    const bool is_inner = worker >= 1 && worker < workers;
    const auto cuts_item = [&](i32 w, std::int64_t item) {
      return w >= 1 && w < workers && cuts[w].block != 0 && cuts[w].item == item;
    };
    const bool cuts_some = is_inner && cuts[worker].block != 0;
    const std::int64_t item = cuts_some ? cuts[worker].item : -1;
    const bool is_first = cuts_some && !cuts_item(worker - 1, item);
    i32 all = 0;
    const i32 at = splits + maker.scan.count_before(is_first, all) - (is_first ? 0 : 1);
    if (is_first) {
      schedule.splits[at].item = item;
      schedule.splits[at].first = worker - 1;
    }
    if (cuts_some && !cuts_item(worker + 1, item)) schedule.splits[at].last = worker;
    if (worker <= workers) schedule.cuts[worker] = cuts[worker];
    splits += all;
  }
  if (thread_id() == 0) maker.header().num_splits = splits;
}

}  // namespace tw
