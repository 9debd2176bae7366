// SPDX-License-Identifier: Apache-2.0
// The warps that copy queries, keys and values into shared memory, ahead of those that compute.
#pragma once

#include "attention/hopper_memory.h"
#include "attention/keys.h"

namespace tw {

// How a warp copies `rows` rows of `units` times 16 bytes into a matrix as wgmma takes it.
template <i32 units, i32 rows>
struct MatrixCopy {
  static constexpr i32 kLanes = units <= 8 ? 8 : units <= 16 ? 16 : 32;
  static constexpr i32 kAtOnce = kWarpSize / kLanes;
  static constexpr i32 kPasses = rows / kAtOnce;
  static constexpr i32 kBatch = kPasses < 8 ? kPasses : 8;
  static_assert(units <= 32 && rows % 8 == 0);

  // Of a row's address in the table: those that a thread copies lie together.
  TW_DEVICE static i32 table_index(i32 row) { return row % kAtOnce * kPasses + row / kAtOnce; }

  // Into rows [first, first + rows). `column_bytes`: from a block of columns to the next.
  TW_DEVICE static void copy(char* to, i32 column_bytes, i32 first, const char* const* table) {
    const u32 lane = static_cast<u32>(lane_id());
    const i32 unit = static_cast<i32>(lane % kLanes);
    if (unit >= units) return;
    const i32 row = static_cast<i32>(lane / kLanes);  // and those kAtOnce further, a pass
    const SharedPlace place = shared_place(
        to + unit / 8 * column_bytes + (first + row) * Hopper::kRowBytes + (unit ^ row) % 8 * 16);
#pragma unroll
    for (i32 begin = 0; begin < kPasses; begin += kBatch) {
      // Addresses are read before the first copy: a read between copies costs each of them three
      // instructions more.
      const char* from[kBatch];
#pragma unroll
      for (i32 i = 0; i < kBatch; ++i) from[i] = table[row * kPasses + begin + i] + unit * 16;
#pragma unroll
      for (i32 i = 0; i < kBatch; ++i) {
        const i32 passed = (begin + i) * kAtOnce;
        copy_async_16(flip(place, passed % 8 * 16), passed * Hopper::kRowBytes, from[i]);
      }
    }
  }
};

// The keys of a tile, or its values, for who looks up many of them: where its pages are in one
// table (the plain case) all that takes is in registers.
template <bool kValues>
class TileRows {
 public:
  TW_DEVICE TileRows(const AttentionParams& params, const Tile& the_tile)
      : p(params),
        tile(the_tile),
        plain(the_tile.plain),
        kv_len(the_tile.kv_len),
        page_shift(the_tile.segments[0].page_shift),
        entries(the_tile.segments[0].entries) {
    const CacheView& cache = p.cache[the_tile.segments[0].level];
    pages = cache.pages;
    page_bytes = kValues ? cache.v_page : cache.k_page;
    token_bytes = kValues ? cache.v_token : cache.k_token;
    start = kValues ? cache.v + the_tile.kv_head * cache.v_head
                    : cache.k + the_tile.kv_head * cache.k_head;
  }

  TW_DEVICE i32 page_of(i32 key) const {
    if (plain) return load_once(entries + (last(key) >> page_shift));
    return page_of_key(tile, key);
  }
  // Where it lies, and its position.
  struct Row {
    const char* address;
    i32 position;
  };
  TW_DEVICE Row row_of(i32 key, i32 page) const {
    if (!plain) {
      const KeyAddress at = address_of_key(p, tile, key, page);
      return {kValues ? at.value : at.key, at.position};
    }
    const bool follows = static_cast<u32>(page) < static_cast<u32>(pages);
    const i32 slot = last(key) & ((1 << page_shift) - 1);
    return {start + (follows ? page : 0) * page_bytes + slot * token_bytes,
            follows && key < kv_len ? tile.kv_pos + key : kNoKey};
  }

 private:
  TW_DEVICE i32 last(i32 key) const { return key < kv_len ? key : kv_len - 1; }

  const AttentionParams& p;
  const Tile& tile;
  const bool plain;
  const i32 kv_len;
  const i32 page_shift;
  const i32* const entries;
  i32 pages;
  i64 page_bytes;
  i64 token_bytes;
  const char* start;
};

// By one warp: all that tiles need of one kind, or a part of it.
class HopperLoader {
 public:
  TW_DEVICE HopperLoader(const AttentionParams& params, HopperMemory& the_memory)
      : p(params), memory(the_memory) {}

  TW_DEVICE void load_queries() {
    u32 tiles = 0;
    for_each_tile([&](const TileOf<Shape::kRows>& tile) {
      using Copy = MatrixCopy<Shape::kHeadUnits, Shape::kRows>;
#pragma unroll
      for (i32 i = 0; i < Shape::kRows; i += kWarpSize) {
        const i32 r = i + lane_id();
        const QueryRow row = query_row(p, tile, r);
        // What is computed of others goes nowhere.
        const bool exists = r < tile.num_rows && row.q_index < p.out_tokens;
        memory.q_rows[Copy::table_index(r)] = exists ? query_at(p, row) : p.q;
      }
      memory.q.wait_empty(tiles++);
      sync_warp();
      Copy::copy(memory.stages.q[0], sizeof(memory.stages.q[0]), 0, memory.q_rows);
      mbarrier_arrive_behind_copies(&memory.q.full);
      sync_warp();  // the table may change
    });
  }

  // Of part `part` of all blocks.
  TW_DEVICE void load_keys(i32 part) {
    const i32 first = part * Hopper::kPartRows;
    const char** const table = memory.k_rows + first;
    u32 step = 0;
    for_each_tile([&](const Tile& tile) {
      using Copy = MatrixCopy<Shape::kHeadUnits, Hopper::kPartRows>;
      const i32 count = tile.part_end - tile.first_block;
      for_each_block<false>(tile, first, [&](i32 i, const auto& row_of) {
        const u32 stage = step % Hopper::kStages;
        Handover& place = memory.k[stage];
        if (i < count) {
          sync_warp();  // the last rows have been copied
#pragma unroll
          for (i32 j = 0; j < kLaneRows; ++j) {
            const i32 key = j * kWarpSize + lane_id();
            const TileRows<false>::Row row = row_of(j);
            table[Copy::table_index(key)] = row.address;
            memory.positions[step % Hopper::kSteps][first + key] = row.position;
          }
          if (first + lane_id() == 0) {
            memory.full[step % Hopper::kSteps] = tile.is_full(tile.first_block + i);
          }
        }
        place.wait_empty(step / Hopper::kStages);
        sync_warp();
        if (i < count) {
          Copy::copy(memory.stages.k[stage][0], sizeof(memory.stages.k[0][0]), first, table);
        }
        mbarrier_arrive_behind_copies(&place.full);
        arrive_as_warp(place.full);  // for what was written otherwise
        ++step;
      });
    });
  }

  // A step later than the block's keys.
  TW_DEVICE void load_values(i32 part) {
    const i32 first = part * Hopper::kPartRows;
    const char** const table = memory.v_rows + first;
    u32 step = 0;
    for_each_tile([&](const Tile& tile) {
      using Copy = MatrixCopy<Shape::kValueTiles, Hopper::kPartRows>;
      const i32 count = tile.part_end - tile.first_block;
      const auto hand_over_nothing = [&] {
        Handover& place = memory.v[step % Hopper::kStages];
        place.wait_empty(step / Hopper::kStages);
        mbarrier_arrive_behind_copies(&place.full);
        ++step;
      };
      hand_over_nothing();
      for_each_block<true>(tile, first, [&](i32 i, const auto& row_of) {
        if (i == count) return;
        const u32 stage = step % Hopper::kStages;
        Handover& place = memory.v[stage];
        sync_warp();
#pragma unroll
        for (i32 j = 0; j < kLaneRows; ++j) {
          table[Copy::table_index(j * kWarpSize + lane_id())] = row_of(j).address;
        }
        place.wait_empty(step / Hopper::kStages);
        sync_warp();
        Copy::copy(memory.stages.v[stage][0], sizeof(memory.stages.v[0][0]), first, table);
        mbarrier_arrive_behind_copies(&place.full);
        ++step;
      });
    });
  }

 private:
  static constexpr i32 kLaneRows = Hopper::kPartRows / kWarpSize;

  // Calls load(tile) for all tiles that take matrix products and have keys, one after the other.
  template <typename Load>
  TW_DEVICE void for_each_tile(const Load& load) {
    bool behind_decode = false;
    for (u32 turn = 0;; ++turn) {
      memory.tile[turn % 2].wait_full(turn / 2);
      const HopperPiece& piece = memory.pieces[turn % 2];
      if (piece.kind == Piece::none) break;
      if (piece.kind == Piece::few_rows) {  // whose keys are loaded by those who compute
        behind_decode = true;
      } else {
        // They have used the memory of the stages in another way.
        if (behind_decode) memory.tile[(turn - 1) % 2].wait_empty((turn - 1) / 2 + 1);
        behind_decode = false;
        if (piece.tile.first_block < piece.tile.part_end) load(piece.tile);
      }
      arrive_as_warp(memory.loaded[turn % 2]);
      arrive_as_warp(memory.tile[turn % 2].empty);
    }
    copy_async_wait<0>();
  }

  // Calls load(i, row_of) for the blocks that are computed here, and once more for the number
  // behind them: row_of(j) is row `first` + j * 32 + lane of block i. Pages are asked for a block
  // ahead.
  template <bool kValues, typename Load>
  TW_DEVICE void for_each_block(const Tile& tile, i32 first, const Load& load) {
    const TileRows<kValues> rows(p, tile);
    const i32 count = tile.part_end - tile.first_block;
    const auto key_of = [&](i32 i, i32 j) {
      return tile.block(tile.first_block + i) * Shape::kBlock + first + j * kWarpSize + lane_id();
    };
    i32 pages[kLaneRows];
#pragma unroll
    for (i32 j = 0; j < kLaneRows; ++j) pages[j] = rows.page_of(key_of(0, j));
#pragma unroll 1
    for (i32 i = 0; i <= count; ++i) {
      load(i, [&](i32 j) {
        const i32 page = pages[j];
        if (i + 1 < count) pages[j] = rows.page_of(key_of(i + 1, j));
        return rows.row_of(key_of(i, j), page);
      });
    }
  }

  const AttentionParams& p;
  HopperMemory& memory;
};

}  // namespace tw
