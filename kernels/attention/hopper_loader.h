// SPDX-License-Identifier: Apache-2.0
// The warp group that copies queries, keys and values into shared memory, ahead of those that compute.
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
    const SharedPlace place =
        shared_place(to + unit / 8 * column_bytes + (first + row) * Hopper::kRowBytes +
                     (unit ^ row) % 8 * 16);
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

// The keys of a tile, for whom looks up many of them: where its pages are in one table (the plain
// case) all that takes is in registers.
class TileKeys {
 public:
  TW_DEVICE TileKeys(const AttentionParams& params, const Tile& the_tile)
      : p(params),
        tile(the_tile),
        plain(the_tile.plain),
        first(the_tile.block(the_tile.first_block) * Shape::kBlock),
        kv_len(the_tile.kv_len),
        kv_pos(the_tile.kv_pos),
        full_begin(the_tile.ranges.full_begin),
        full_end(the_tile.ranges.full_end < the_tile.kv_len ? the_tile.ranges.full_end
                                                            : the_tile.kv_len),
        page_shift(the_tile.segments[0].page_shift),
        entries(the_tile.segments[0].entries) {
    const CacheView& cache = p.cache[the_tile.segments[0].level];
    k = cache.k + the_tile.kv_head * cache.k_head;
    v = cache.v + the_tile.kv_head * cache.v_head;
    k_page = cache.k_page;
    k_token = cache.k_token;
    v_page = cache.v_page;
    v_token = cache.v_token;
    pages = cache.pages;
  }

  // The block's i-th key, of those that are computed here, is the tile's key number
  // key_begin(block) + i.
  TW_DEVICE i32 key_begin(i32 block) const { return first + block * Shape::kBlock; }
  TW_DEVICE bool is_full(i32 block) const {
    return full_begin <= key_begin(block) && key_begin(block + 1) <= full_end;
  }
  TW_DEVICE i32 page_of(i32 key) const {
    if (plain) return load_once(entries + (last(key) >> page_shift));
    return page_of_key(tile, key);
  }
  TW_DEVICE KeyAddress address_of(i32 key, i32 page) const {
    if (!plain) return address_of_key(p, tile, key, page);
    const bool follows = static_cast<u32>(page) < static_cast<u32>(pages);
    const i64 at = follows ? page : 0;
    const i32 slot = last(key) & ((1 << page_shift) - 1);
    return {k + at * k_page + slot * k_token, v + at * v_page + slot * v_token,
            follows && key < kv_len ? kv_pos + key : kNoKey};
  }

 private:
  TW_DEVICE i32 last(i32 key) const { return key < kv_len ? key : kv_len - 1; }

  const AttentionParams& p;
  const Tile& tile;
  const bool plain;
  const i32 first;
  const i32 kv_len;
  const i32 kv_pos;
  const i32 full_begin;
  const i32 full_end;
  const i32 page_shift;
  const i32* const entries;
  const char* k;
  const char* v;
  i64 k_page, k_token, v_page, v_token;
  i32 pages;
};

class HopperLoader {
 public:
  TW_DEVICE HopperLoader(const AttentionParams& params, HopperMemory& the_memory)
      : p(params), memory(the_memory) {}

  // All pieces of this block, one after the other.
  TW_DEVICE void run() {
    bool behind_decode = false;
    for (u32 turn = 0;; ++turn) {
      memory.tile[turn % 2].wait_full(turn / 2);
      const TilePiece& part = memory.tiles[turn % 2];
      if (part.piece.kind == Piece::none) break;
      if (is_decode(p, part.tile)) {  // whose keys are loaded by those who compute
        behind_decode = true;
      } else {
        // They have used the memory of the stages in another way.
        if (behind_decode) memory.tile[(turn - 1) % 2].wait_empty((turn - 1) / 2 + 1);
        behind_decode = false;
        load(part.tile);
      }
      arrive_as_warp(memory.loaded[turn % 2]);
      arrive_as_warp(memory.tile[turn % 2].empty);
    }
    copy_async_wait<0>();
  }

 private:
  static constexpr i32 kWarpKeys = Shape::kBlock / Hopper::kLoaderWarps;
  using KeyCopy = MatrixCopy<Shape::kHeadUnits, kWarpKeys>;
  using ValueCopy = MatrixCopy<Shape::kValueTiles, kWarpKeys>;

  TW_DEVICE static i32 warp() { return warp_id() - Shape::kWarps; }

  TW_DEVICE void load(const Tile& tile) {
    const i32 count = tile.part_end - tile.first_block;
    if (count == 0) return;
    load_queries(tile);
    const TileKeys keys(p, tile);
    i32 page = keys.page_of(own_key(keys, 0));
#pragma unroll 1
    for (i32 i = 0; i <= count; ++i) {
      if (i < count) {
        const KeyAddress at = keys.address_of(own_key(keys, i), page);
        if (i + 1 < count) page = keys.page_of(own_key(keys, i + 1));
        note(at, keys.is_full(i));
      }
      const u32 stage = step % Hopper::kStages;
      const u32 turn = step / Hopper::kStages - 1;
      wait_for(memory.k_empty[stage], turn);
      sync_warp();
      if (i < count) copy_keys(stage);
      wait_for(memory.v_empty[stage], turn);
      if (i > 0) copy_values(stage);
      Mbarrier& landed = memory.step[step % Hopper::kSteps];
      mbarrier_arrive_behind_copies(&landed);
      arrive_as_warp(landed);  // for what was written otherwise
      ++step;
    }
  }

  // A lane looks up one of its warp's keys of a block: first its page, which it waits for later.
  TW_DEVICE i32 own_key(const TileKeys& keys, i32 block) const {
    return keys.key_begin(block) + warp() * kWarpKeys + lane_id() % kWarpKeys;
  }

  TW_DEVICE void load_queries(const Tile& tile) {
    constexpr i32 kWarpRows = Shape::kRows / Hopper::kLoaderWarps;
    using Copy = MatrixCopy<Shape::kHeadUnits, kWarpRows>;
    const i32 first = warp() * kWarpRows;
    const i32 r = first + lane_id();
    const QueryRow row = query_row(p, tile, r);
    // What is computed of others goes nowhere.
    const bool exists = r < tile.num_rows && row.q_index < p.out_tokens;
    HopperAddresses& table = memory.addresses[warp()];
    sync_warp();  // the addresses of the last keys have been read
    table.keys[Copy::table_index(lane_id())] = exists ? query_at(p, row) : p.q;
    memory.q.wait_empty(queries++);
    sync_warp();
    Copy::copy(memory.stages.q[0], sizeof(memory.stages.q[0]), first, table.keys);
    mbarrier_arrive_behind_copies(&memory.q.full);
  }
  // What is known of a block's keys. Its values are copied a step later.
  TW_DEVICE void note(const KeyAddress& at, bool full) {
    const i32 key = warp() * kWarpKeys + lane_id();
    HopperAddresses& table = memory.addresses[warp()];
    sync_warp();  // the last addresses have been read
    if (key == 0) memory.full[step % Hopper::kSteps] = full;
    if (lane_id() < kWarpKeys) {
      table.keys[KeyCopy::table_index(lane_id())] = at.key;
      table.values[step % 2][ValueCopy::table_index(lane_id())] = at.value;
      memory.positions[step % Hopper::kSteps][key] = at.position;
    }
  }
  TW_DEVICE void copy_keys(u32 stage) {
    KeyCopy::copy(memory.stages.k[stage][0], sizeof(memory.stages.k[0][0]), warp() * kWarpKeys,
                  memory.addresses[warp()].keys);
  }
  TW_DEVICE void copy_values(u32 stage) {
    ValueCopy::copy(memory.stages.v[stage][0], sizeof(memory.stages.v[0][0]), warp() * kWarpKeys,
                    memory.addresses[warp()].values[(step - 1) % 2]);
  }

  const AttentionParams& p;
  HopperMemory& memory;
  u32 queries = 0;  // tiles of them that were loaded
  u32 step = 0;     // since the kernel began
};

}  // namespace tw
