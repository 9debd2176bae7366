// SPDX-License-Identifier: Apache-2.0
// Section B's line of cost cut into the workers' shares, a thread a worker; the items that are cut,
// and what each worker begins with.
#pragma once

#include "arch/integer.h"
#include "plan/sections.h"

namespace tw {

class Cuts {
 public:
  // `uneven`: the thread knows that section B's rows are not equal; asked where they are all.
  TW_DEVICE Cuts(PartMaker& maker, std::int64_t b_cost, bool uneven, bool has_long_rows)
      : maker_(maker),
        config_(maker.config()),
        header_(maker.header()),
        uneven_(uneven),
        has_long_rows_(has_long_rows),
        b_cost_(b_cost),
        all_work_(b_cost >= maker.part.cost_for_all && config_.workers > 1),
        workers_(all_work_ ? config_.workers : plan::count_workers(config_, b_cost)) {
    if (!has_long_rows) return;
    workers_ = header_.workers;
    all_work_ = all_work_ && workers_ == config_.workers && header_.tail_workers == 0;
  }

  // Behind it the plan is whole.
  TW_DEVICE void find() {
    const bool uneven = any_of_block(uneven_);
    if (!uneven && plan::may_lie_evenly(config_, header_)) {
      shares_ = plan::even_shares(config_, header_.b_items, blocks_of_first_row(), workers_);
      all_work_ = all_work_ && shares_.workers == workers_;
      workers_ = shares_.workers;
    }
    // By a thread that has no worker, where there is one.
    if (thread_id() == num_threads() - 1) {
      if (header_.workers != workers_) header_.workers = workers_;  // else others read it
      header_.status_turn = maker_.memory.turn;
      *maker_.part.view.schedule.header = header_;
    }
    // A warp's first and last lane find the cuts of its neighbours' once more: whether an item is
    // cut before and behind a worker is known without asking others.
    constexpr i32 kOwn = kWarpSize - 2;
    const i32 warps = num_threads() / kWarpSize;
    const i32 lane = lane_id();
    i32 splits = 0;
#pragma unroll 1
    for (i32 first = 0; first <= workers_; first += warps * kOwn) {
      const i32 worker = first + warp_of_thread() * kOwn + lane - 1;
      const bool exists = worker >= 0 && worker <= workers_;
      const bool is_own = exists && lane > 0 && lane <= kOwn;
      plan::Cut cut;
      Place place;
      if (exists) cut = shares_.parts > 0 ? cut_evenly(worker, place) : cut_at(worker, place);
      if (is_own) maker_.part.view.schedule.cuts[worker] = cut;
      const i32 block_behind = shuffle_down(cut.block, 1);
      const std::int64_t item_behind = shuffle_down(cut.item, 1);
      plan::Start start;
      const bool has_share = is_own && worker < workers_;
      // What is looked up for it is on its way while splits are counted.
      if (has_share) {
        start.items = static_cast<i32>(item_behind - cut.item) + (block_behind > 0 ? 1 : 0);
        start.begin = cut.block;
        start.last_end = block_behind;
        if (start.items > 0) set_item(place, cut.item, start);
      }
      splits += list_splits(cut, block_behind, item_behind, is_own, worker, splits, start.split);
      if (has_share) maker_.part.view.schedule.starts[worker] = start;
    }
    if (thread_id() == 0) maker_.part.view.schedule.header->num_splits = splits;
#pragma unroll 1
    for (i32 worker = workers_ + thread_id(); worker < config_.workers; worker += num_threads()) {
      maker_.part.view.schedule.starts[worker] = {};  // all of it is read
    }
  }

 private:
  TW_DEVICE std::int64_t share_begin(i32 worker) const {
    constexpr std::int64_t kMost = std::int64_t{1} << 42;  // times the square of workers: 2^62
    if (has_long_rows_ && header_.tail_workers > 0) return plan::share_begin(header_, worker);
    if (!all_work_ || b_cost_ >= kMost) return plan::share_begin(b_cost_, workers_, worker);
    return static_cast<std::int64_t>(
        multiply_high(static_cast<u64>(b_cost_ * worker), maker_.part.worker_reciprocal));
  }

  // The items that are cut by the lanes' own workers; returns how many begin there, of all threads.
  // `next`: the first one that has blocks at the worker's cut or behind it.
  TW_DEVICE i32 list_splits(const plan::Cut& cut, i32 block_behind, std::int64_t item_behind,
                            bool is_own, i32 worker, i32 splits_before, i32& next) {
    const i32 block_before = shuffle_up(cut.block, 1);
    const std::int64_t item_before = shuffle_up(cut.item, 1);
    const bool cuts_some = is_own && cut.block != 0;
    const bool is_first = cuts_some && !(block_before != 0 && item_before == cut.item);
    const bool is_last = cuts_some && !(block_behind != 0 && item_behind == cut.item);
    i32 all = 0;
    const i32 before = maker_.scan.count_before(is_first, all);
    next = splits_before + before - (cuts_some && !is_first ? 1 : 0);
    plan::Split& split = maker_.part.view.schedule.splits[next];
    if (is_first) {
      split.item = cut.item;
      split.first = worker - 1;
    }
    if (is_last) split.last = worker;
    return all;
  }

  // Where a cut was looked for: in this row, whose items begin with number `item`.
  struct Place {
    i32 row = 0;
    std::int64_t item = 0;
    i32 heads = 1;      // of an item
    i32 all_heads = 0;  // of all items
  };

  // The first item of a share, which is in the row where its cut was looked for, or is the first
  // one behind it.
  TW_DEVICE void set_item(const Place& place, std::int64_t item, plan::Start& start) const {
    start.end = -1;
    if (start.items == 1 && start.last_end > 0) start.end = start.last_end;
    if (has_long_rows_ && item < header_.tail_items) {
      start.item = tail_item(maker_.view(), item);
      return;
    }
    i32 index = static_cast<i32>(item - place.item);
    const bool is_behind = index * place.heads >= place.all_heads;
    const i32 row = place.row + (is_behind ? 1 : 0);
    if (is_behind) index = 0;
    if (has_long_rows_) {
      start.item = plan::row_item(maker_.view().schedule, row, index);
      return;
    }
    start.item = {row, index * place.heads, 0};
    if (!maker_.is_plain()) return;
    const plan::ShortRow known = maker_.short_rows[row];
    const plan::ShortSpan span = maker_.short_spans[row];
    if (span.kv_pos != 0) return;
    if (start.end < 0) start.end = known.blocks;
    start.request = known.request;
    const plan::Request request = maker_.requests[known.request];
    start.q_begin = request.q_begin;
    start.q_len = request.q_len;
    start.kv_len = request.kv_len;
    start.q_pos = request.q_pos;
    start.first_block = span.first_block;
    start.full_begin = span.full_begin;
    start.full_end = span.full_end;
  }

  // Rows are equal.
  TW_DEVICE i32 blocks_of_first_row() const {
    return has_long_rows_ ? maker_.work_rows[0].max_tile_blocks : maker_.short_rows[0].blocks;
  }
  TW_DEVICE plan::Cut cut_evenly(i32 worker, Place& place) const {
    const i32 heads = has_long_rows_ ? maker_.work_rows[0].heads : maker_.short_rows[0].heads;
    const plan::Cut cut = plan::even_cut(shares_, worker, blocks_of_first_row(), config_.cost.fixed,
                                         plan::block_cost(config_, heads, 0));
    const i32 items = plan::groups_of_heads(config_, heads);  // of a row
    const i32 row = plan::div32(static_cast<i32>(cut.item), items);
    place = {row, row * items, heads, config_.num_kv_heads};
    return cut;
  }

  TW_DEVICE plan::Cut cut_at(i32 worker, Place& place) const {
    const std::int64_t target = share_begin(worker);
    if (target >= b_cost_) return {header_.b_items, 0, b_cost_};
    return has_long_rows_ ? cut_in_any_row(target, place) : cut_in_short_row(target, place);
  }

  // All rows are short: what their cuts follow from was kept.
  TW_DEVICE plan::Cut cut_in_short_row(std::int64_t target, Place& place) const {
    const i32 index = find_cost(maker_.cost_before, 0, header_.num_rows, target);
    const plan::ShortRow row = maker_.short_rows[index];
    place = {index, row.items_before, row.heads, config_.num_kv_heads};
    const std::int64_t per_block =
        plan::block_cost(config_, row.heads, row.q_len * config_.group_size);
    std::int64_t item = row.items_before;
    std::int64_t cost = target - maker_.cost_before[index];
    if (row.heads < config_.num_kv_heads) {
      const std::int64_t head_cost = config_.cost.fixed + row.blocks * per_block;
      const std::int64_t before = cost / head_cost;
      item += before;
      cost -= before * head_cost;
    }
    plan::Cut cut = plan::round_cut(config_, item, cost, per_block, row.blocks);
    cut.cost += target - cost;
    return cut;
  }

  // In the tail the place is the row behind it.
  TW_DEVICE plan::Cut cut_in_any_row(std::int64_t target, Place& place) const {
    // What holds it: a tile of a row, its item, and how far the target is behind the item's begin.
    plan::LinePoint point;
    i32 tile = 0;
    std::int64_t long_cost = 0;  // of a tile of a long row
    plan::Row row;
    if (target < header_.tail_cost) {
      const i32 index =
          find_cost(maker_.tail_costs, 0, static_cast<i32>(header_.tail_items), target);
      const plan::Item at = tail_item(maker_.view(), index);
      row = maker_.work_rows[at.row];
      place = {header_.num_a_rows, header_.tail_items, 1, 1};
      tile = at.tile;
      long_cost = long_tile(maker_, row, at.head, at.tile).cost;
      point.item = index;
      point.cost = target - maker_.tail_costs[index];
    } else {
      point.row = find_cost(maker_.cost_before, header_.num_a_rows, header_.num_rows,
                            target - header_.tail_cost);
      row = maker_.work_rows[point.row];
      place = {point.row, header_.tail_items + row.tiles_before, row.heads,
               row.tiles * config_.num_kv_heads};
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
  bool uneven_;
  bool has_long_rows_;
  std::int64_t b_cost_;
  bool all_work_;
  i32 workers_;
  plan::EvenShares shares_;
};

}  // namespace tw
