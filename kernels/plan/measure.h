// SPDX-License-Identifier: Apache-2.0
// Tiles and costs of the rows: a thread for each row of one tile, warps for the tiles of the
// others.
#pragma once

#include "plan/part_maker.h"
#include "plan/tile_ranges.h"

namespace tw {

// How many blocks a tile needs.
template <typename Mask>
TW_DEVICE_CALL i32 count_blocks(const plan::View& view, const plan::PartInput& part,
                                const plan::Row& row, i32 head, i32 tile) {
  const Mask mask(part);
  if (!mask.has_mask() || mask.one_interval()) {
    return plan::tile_span(view, mask, row, head, tile).blocks();
  }
  return plan::tile_ranges(view, mask, row, head, tile).blocks;
}

// The same for the scheduler, by the mask that the attention has among several.
template <typename... Masks>
struct TileBlocks {
  const plan::View& view;
  const plan::PartInput& part;

  TW_DEVICE i32 operator()(const plan::Row& row, i32 head, i32 tile) const {
    // Of decode rows it is known already.
    if (row.tiles == 1 && view.schedule.config.heads_differ == 0) return row.max_tile_blocks;
    return count(row, head, tile);
  }
  TW_DEVICE i32 count(const plan::Row& row, i32 head, i32 tile) const {
    i32 blocks = 0;
    i32 index = 0;
    ((part.mask == index++ ? (blocks = count_blocks<Masks>(view, part, row, head, tile)) : 0), ...);
    return blocks;
  }
};

struct RowMeasure {
  std::int64_t cost = 0;
  i32 most_blocks = 0;

  TW_DEVICE void add(const plan::Config& config, const plan::Row& row, i32 tile, i32 blocks) {
    cost += config.cost.fixed + blocks * plan::block_cost(config, row, tile);
    if (blocks > most_blocks) most_blocks = blocks;
  }
};

TW_DEVICE i32 heads_to_measure(const plan::Config& config) {
  return config.heads_differ != 0 ? config.num_kv_heads : 1;
}

// Rows of several tiles: each warp takes some tiles of one row at a time.
template <typename Blocks>
TW_DEVICE void measure_long_rows(PartMaker& maker, const Blocks& blocks) {
  const plan::Config& config = maker.config();
  const i32 heads = heads_to_measure(config);
  const i32 warps = num_threads() / kWarpSize;
  const i32 lane = lane_id();
  i32 first_warp = 0;  // of the next row: rows of few tiles go to different warps
#pragma unroll 1
  for (i32 base = 0; base < maker.header().num_rows; base += kWarpSize) {
    const i32 of_lane = base + lane;
    const bool is_long =
        of_lane < maker.header().num_rows && (maker.rows[of_lane].tiles > 1 || heads > 1);
#pragma unroll 1
    for (u32 left = ballot(is_long); left != 0; left &= left - 1) {
      plan::Row& row = maker.rows[base + lowest_bit(left)];
      const i32 tiles = row.tiles * heads;
      const i32 warp = (warp_id() + warps - first_warp) % warps;
      first_warp = (first_warp + tiles / kWarpSize + 1) % warps;
      if (warp * kWarpSize >= tiles) continue;
      RowMeasure measure;
#pragma unroll 1
      for (i32 at = warp * kWarpSize + lane; at < tiles; at += warps * kWarpSize) {
        const i32 tile = at % row.tiles;
        measure.add(config, row, tile, blocks.count(row, at / row.tiles, tile));
      }
#pragma unroll
      for (i32 step = kWarpSize / 2; step > 0; step /= 2) {
        measure.cost += shuffle_xor(measure.cost, step);
        const i32 other = shuffle_xor(measure.most_blocks, step);
        if (other > measure.most_blocks) measure.most_blocks = other;
      }
      if (lane != 0) continue;
      atomic_add_64(&row.head_cost, measure.cost);
      atomic_max(&row.max_tile_blocks, measure.most_blocks);
    }
  }
}

template <typename Blocks>
TW_DEVICE void measure_rows(PartMaker& maker, const Blocks& blocks) {
  const plan::Config& config = maker.config();
  const i32 heads = heads_to_measure(config);
  bool any_long = false;
#pragma unroll 1
  for (i32 i = thread_id(); i < maker.header().num_rows; i += num_threads()) {
    plan::Row& row = maker.rows[i];
    plan::start_row(config, row);
    if (row.tiles == 1 && heads == 1) {
      RowMeasure measure;
      measure.add(config, row, 0, blocks.count(row, 0, 0));
      row.head_cost = measure.cost;
      row.max_tile_blocks = measure.most_blocks;
    } else {
      any_long = true;
    }
  }
  if (!any_of_block(any_long)) return;
  measure_long_rows(maker, blocks);
  sync_block();
}

}  // namespace tw
