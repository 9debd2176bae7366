// SPDX-License-Identifier: Apache-2.0
// Rows of several tiles, or of many requests: what each tile costs, once, and what lies before it
// in its row. The schedule looks costs up here; no mask is asked again.
#pragma once

#include "plan/line.h"

namespace tw {

TW_DEVICE i32 num_tiles(const plan::Config& config, const plan::Row& row) {
  return row.tiles * heads_to_measure(config);
}

template <typename Blocks>
class LongRows {
 public:
  TW_DEVICE LongRows(PartMaker& maker, const Blocks& blocks, i32 count)
      : maker_(maker), blocks_(blocks), list_(maker.long_rows()), count_(count) {}

  // The list is made. Sets the rows' costs, the tiles', and memory.long_cost.
  TW_DEVICE void measure() {
    if (thread_id() == 0) maker_.memory.long_cost = 0;
    sync_block();
    number_tiles();
    if (!blocks_.are_listed()) count_by_threads();
    if (blocks_.are_listed() || (blocks_.by_warps() && !maker_.is_plain())) count_by_warps();
    sync_block();
    sum_rows();
    sync_block();
  }

 private:
  struct Tile {
    plan::Row& row;
    bool is_of_one;  // all its query tokens are one request's
    i32 head;
    i32 tile;
  };

  TW_DEVICE plan::Row& row_of(const plan::LongRow& at) const {
    return maker_.work_rows[at.row >= 0 ? at.row : -1 - at.row];
  }

  TW_DEVICE void number_tiles() {
    i32 tiles = 0;
#pragma unroll 1
    for (i32 base = 0; base < count_; base += num_threads()) {
      const i32 k = base + thread_id();
      Sums mine;
      if (k < count_) mine.items = num_tiles(maker_.config(), row_of(list_[k]));
      Sums all;
      const i32 first = tiles + maker_.scan.exclusive(mine, all).items;
      if (k < count_) {
        list_[k].first_tile = first;
        maker_.first_tile[row_of(list_[k]).segment] = first;
      }
      tiles += all.items;
    }
    tiles_ = tiles;
    sync_block();
  }

  TW_DEVICE Tile tile_at(i32 number) const {
    i32 begin = 0;
    i32 end = count_;
#pragma unroll 1
    while (end - begin > 1) {
      const i32 middle = begin + (end - begin) / 2;
      if (list_[middle].first_tile <= number) {
        begin = middle;
      } else {
        end = middle;
      }
    }
    plan::Row& row = row_of(list_[begin]);
    const bool is_of_one = list_[begin].row >= 0;
    const i32 index = number - list_[begin].first_tile;
    if (maker_.config().heads_differ == 0) return {row, is_of_one, 0, index};
    return {row, is_of_one, index / row.tiles, index % row.tiles};
  }

  TW_DEVICE void count_by_threads() {
    const bool by_warps = blocks_.by_warps();
#pragma unroll 1
    for (i32 i = thread_id(); i < tiles_; i += num_threads()) {
      const Tile at = tile_at(i);
      if (!at.is_of_one && by_warps) continue;
      i32 request = at.row.index;
      i32 token = at.row.q_begin;
      if (!maker_.is_plain()) {
        const RowRequest of = request_of_row(maker_, at.row);
        request = of.index;
        token = of.token;
      }
      const TileEntries entries = entries_of_tile(maker_.config(), at.row, at.tile);
      maker_.tile_costs[i] = blocks_
                                 .of_thread(at.row, at.head, at.tile, request,
                                            token + entries.begin, token + entries.end)
                                 .blocks();
    }
  }

  TW_DEVICE void count_by_warps() {
    const i32 warps = num_threads() / kWarpSize;
#pragma unroll 1
    for (i32 i = warp_id(); i < tiles_; i += warps) {
      const Tile at = tile_at(i);
      if (at.is_of_one && !blocks_.are_listed()) continue;
      const i32 blocks = blocks_.of_warp(at.row, at.head, at.tile);
      if (lane_id() == 0) maker_.tile_costs[i] = blocks;
    }
  }

  // From blocks to costs, a warp a row.
  TW_DEVICE void sum_rows() {
    const plan::Config& config = maker_.config();
    const i32 warps = num_threads() / kWarpSize;
#pragma unroll 1
    for (i32 k = warp_id(); k < count_; k += warps) {
      plan::Row& row = row_of(list_[k]);
      std::int64_t* const costs = maker_.tile_costs + list_[k].first_tile;
      const i32 tiles = num_tiles(config, row);
      std::int64_t sum = 0;
      i32 most = 0;
#pragma unroll 1
      for (i32 base = 0; base < tiles; base += kWarpSize) {
        const i32 i = base + lane_id();
        Sums mine;
        if (i < tiles) {
          const i32 blocks = static_cast<i32>(costs[i]);
          most = blocks > most ? blocks : most;
          mine.cost = config.cost.fixed + blocks * plan::block_cost(config, row, i % row.tiles);
        }
        const Sums past = scan_warp(mine);
        if (i < tiles) costs[i] = sum + past.cost - mine.cost;
        sum += shuffle(past.cost, kWarpSize - 1);
      }
#pragma unroll
      for (i32 step = kWarpSize / 2; step > 0; step /= 2) {
        const i32 other = shuffle_xor(most, step);
        most = other > most ? other : most;
      }
      if (lane_id() != 0) continue;
      row.head_cost = sum;
      row.max_tile_blocks = most;
      atomic_add_64(&maker_.memory.long_cost, plan::row_cost(config, row));
    }
  }

  PartMaker& maker_;
  const Blocks& blocks_;
  plan::LongRow* list_;
  i32 count_;
  i32 tiles_ = 0;
};

// A tile of a long row: where it begins among those of its head (of all heads, where they differ),
// and what it costs.
struct LongTile {
  std::int64_t begin;
  std::int64_t cost;
};

TW_DEVICE LongTile long_tile(const PartMaker& maker, const plan::Row& row, i32 head, i32 tile) {
  const plan::Config& config = maker.config();
  const i32 index = config.heads_differ != 0 ? head * row.tiles + tile : tile;
  const std::int64_t* const costs = maker.tile_costs + maker.first_tile[row.segment];
  const std::int64_t begin = costs[index];
  const bool is_last = index == num_tiles(config, row) - 1;
  return {begin, (is_last ? row.head_cost : costs[index + 1]) - begin};
}

}  // namespace tw
