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
  const i32 kv_len;

  TW_DEVICE TileRows(const AttentionParams& params, const Tile& the_tile)
      : kv_len(the_tile.kv_len),
        p(params),
        tile(the_tile),
        plain(the_tile.plain),
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
  TW_DEVICE const char* address_of(i32 key, i32 page) const {
    if (!plain) {
      const KeyAddress at = address_of_key(p, tile, key, page);
      return kValues ? at.value : at.key;
    }
    const i32 slot = last(key) & ((1 << page_shift) - 1);
    return start + (follows(page) ? page : 0) * page_bytes + slot * token_bytes;
  }
  TW_DEVICE i32 position_of(i32 key, i32 page) const {
    if (!plain) return address_of_key(p, tile, key, page).position;
    return follows(page) && key < kv_len ? tile.kv_pos + key : kNoKey;
  }

 private:
  TW_DEVICE bool follows(i32 page) const {
    return static_cast<u32>(page) < static_cast<u32>(pages);
  }
  TW_DEVICE i32 last(i32 key) const { return key < kv_len ? key : kv_len - 1; }

  const AttentionParams& p;
  const Tile& tile;
  const bool plain;
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
  TW_DEVICE HopperLoader(const HopperParams& params, HopperMemory& the_memory)
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

  // Keys, or values, a step behind their block's keys: part `part` of all blocks.
  template <bool kValues>
  TW_DEVICE void load_blocks(i32 part) {
    const i32 first = part * Hopper::kPartRows;
    u32 step = 0;
    for_each_tile([&](const Tile& tile) {
      const i32 count = tile.part_end - tile.first_block;
      const TileRows<kValues> rows(p, tile);
      const i32 level = tile.segments[0].level;
      const i32 box_tokens = tile.plain ? p.box_tokens[level] : 0;
      const auto key_of = [&](i32 i, i32 j) {
        return tile.block(tile.first_block + i) * Shape::kBlock + first + j * kWarpSize + lane_id();
      };
      // Pages are asked for a block ahead.
      i32 pages[kLaneRows];
#pragma unroll
      for (i32 j = 0; j < kLaneRows; ++j) pages[j] = rows.page_of(key_of(0, j));
#pragma unroll 1
      for (i32 turn = 0; turn <= count; ++turn, ++step) {
        const i32 i = kValues ? turn - 1 : turn;
        const u32 stage = step % Hopper::kStages;
        Handover& place = kValues ? memory.v[stage] : memory.k[stage];
        if (i < 0 || i == count) {
          place.wait_empty(step / Hopper::kStages);
          arrive(place, 0);
          continue;
        }
        i32 page[kLaneRows];
#pragma unroll
        for (i32 j = 0; j < kLaneRows; ++j) {
          page[j] = pages[j];
          if (i + 1 < count) pages[j] = rows.page_of(key_of(i + 1, j));
        }
        const i32 key_begin = tile.block(tile.first_block + i) * Shape::kBlock;
        // Behind a row's last key there may be anything, which boxes would bring.
        const bool boxes = box_tokens > 0 && key_begin + Shape::kBlock <= rows.kv_len;
        if constexpr (!kValues) {
#pragma unroll
          for (i32 j = 0; j < kLaneRows; ++j) {
            memory.positions[step % Hopper::kSteps][first + j * kWarpSize + lane_id()] =
                rows.position_of(key_of(i, j), page[j]);
          }
          if (first + lane_id() == 0) {
            memory.block[step % Hopper::kSteps] =
                (tile.is_full(tile.first_block + i) ? HopperMemory::kFull : 0) |
                (boxes ? 0 : HopperMemory::kGathered);
          }
        }
        if (boxes) {
          place.wait_empty(step / Hopper::kStages);
          copy_boxes<kValues>(tile, stage, first, key_begin + first, page, box_tokens, place);
        } else {
          gather<kValues>(rows, stage, step / Hopper::kStages, first, page,
                          [&](i32 j) { return key_of(i, j); }, place);
        }
      }
    });
  }

 private:
  static constexpr i32 kLaneRows = Hopper::kPartRows / kWarpSize;

  // All arrivals of the warp, behind what its lanes did before; `bytes` are on their way.
  TW_DEVICE void arrive(Handover& place, u32 bytes) {
    sync_warp();
    if (lane_id() != 0) return;
    mbarrier_arrive_expect(&place.full, bytes);
    mbarrier_arrive(&place.full, Hopper::kFills - 1);
  }

  // The part's rows by boxes, of which a lane copies one.
  template <bool kValues>
  TW_DEVICE void copy_boxes(const Tile& tile, u32 stage, i32 first, i32 key,
                            const i32 (&page)[kLaneRows], i32 box_tokens, Handover& place) {
    constexpr i32 kColumns = kValues ? Hopper::kValueColumns : Hopper::kHeadColumns;
    const i32 shift = lowest_bit(static_cast<u32>(Hopper::kPartRows / box_tokens));
    const i32 column = lane_id() >> shift;
    const i32 row = (lane_id() & ((1 << shift) - 1)) * box_tokens;
    i32 from = shuffle(page[0], row % kWarpSize);
#pragma unroll
    for (i32 j = 1; j < kLaneRows; ++j) {
      const i32 other = shuffle(page[j], row % kWarpSize);
      if (row >= j * kWarpSize) from = other;
    }
    arrive(place, kColumns * Hopper::kPartRows * Hopper::kRowBytes);
    sync_warp();
    if (column >= kColumns) return;
    char* const to = kValues ? memory.stages.v[stage][column] : memory.stages.k[stage][column];
    const i32 level = tile.segments[0].level;
    copy_box(to + (first + row) * Hopper::kRowBytes, kValues ? p.v_boxes[level] : p.k_boxes[level],
             column * 64, (key + row) & ((1 << tile.segments[0].page_shift) - 1), tile.kv_head,
             from, &place.full);
  }

  // The same row by row.
  template <bool kValues, typename KeyOf>
  TW_DEVICE void gather(const TileRows<kValues>& rows, u32 stage, u32 turn, i32 first,
                        const i32 (&page)[kLaneRows], const KeyOf& key_of, Handover& place) {
    using Copy =
        MatrixCopy<kValues ? Shape::kValueTiles : Shape::kHeadUnits, Hopper::kPartRows>;
    const char** const table = (kValues ? memory.v_rows : memory.k_rows) + first;
    sync_warp();  // the last rows have been copied
#pragma unroll
    for (i32 j = 0; j < kLaneRows; ++j) {
      table[Copy::table_index(j * kWarpSize + lane_id())] = rows.address_of(key_of(j), page[j]);
    }
    place.wait_empty(turn);
    sync_warp();
    if constexpr (kValues) {
      Copy::copy(memory.stages.v[stage][0], sizeof(memory.stages.v[0][0]), first, table);
    } else {
      Copy::copy(memory.stages.k[stage][0], sizeof(memory.stages.k[0][0]), first, table);
    }
    mbarrier_arrive_behind_copies(&place.full);
    // For what was written otherwise.
    sync_warp();
    if (lane_id() == 0) mbarrier_arrive(&place.full);
  }

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

  const HopperParams& p;
  HopperMemory& memory;
};

}  // namespace tw
