// SPDX-License-Identifier: Apache-2.0
// The warp group that finds pieces of work, sets up their tiles and copies queries, keys and values
// into shared memory, ahead of the warp groups that compute.
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

class HopperLoader {
 public:
  TW_DEVICE HopperLoader(const AttentionParams& params, HopperMemory& the_memory)
      : p(params),
        memory(the_memory),
        finder(params, the_memory.share) {}

  // All pieces of this block, one after the other. Tile number `turn` is found and set up while the
  // first keys of the one before it are on their way.
  TW_DEVICE void run() {
    if (is_finder()) finder.begin();
    for (u32 turn = 0;; ++turn) {
      const i32 count = turn > 0 ? begin_load(turn - 1) : 0;
      const Tile& tile = memory.tiles[(turn - 1) % 2].tile;
      bool is_set_up = false;
#pragma unroll 1
      for (i32 part = 0; part < 2; ++part) {
        load(tile, part == 0 ? 0 : kFirstBlocks, part == 0 ? kFirstBlocks : count, count);
        if (is_set_up || !find(part == 1)) continue;
        set_up(turn);
        is_set_up = true;
      }
      if (memory.next.kind == Piece::none) break;
    }
    copy_async_wait<0>();
  }

 private:
  static constexpr i32 kFirstBlocks = 2;  // before the next tile is looked for
  static constexpr i32 kWarpKeys = Shape::kBlock / Hopper::kLoaderWarps;

  using KeyCopy = MatrixCopy<Shape::kHeadUnits, kWarpKeys>;
  using ValueCopy = MatrixCopy<Shape::kValueTiles, kWarpKeys>;

  TW_DEVICE static i32 thread() { return thread_id() - Shape::kThreads; }
  TW_DEVICE bool is_finder() const { return thread() == Hopper::kLoaders - 1; }
  TW_DEVICE i32 warp() const { return uniform(thread() / kWarpSize); }
  TW_DEVICE void sync() const { named_barrier<kLoadersBarrier>(Hopper::kLoaders); }

  // Hands over the tile of number `turn`: what the finder left in `next`.
  TW_DEVICE void set_up(u32 turn) {
    TilePiece& part = memory.tiles[turn % 2];
    memory.tile[turn % 2].wait_empty(turn / 2);
    const Piece& next = memory.next;
    if (thread() == 0) part.piece = next;
    if (next.kind != Piece::none) {
      set_up_tile<Hopper::kLoaders>(p, next.item, next.begin, next.end, part.tile, thread(),
                                    [&] { sync(); });
      if (next.slot >= 0 && warp() == 0) find_split(p, part);
    }
    arrive_as_warp(memory.tile[turn % 2].full);
  }

  // Leaves the next piece in `next`; false: there may be one when the block is about to be free.
  TW_DEVICE bool find(bool about_to_be_free) {
    sync();  // all have seen the last one
    if (is_finder()) {
      memory.next = finder.next_early();
      if (about_to_be_free && memory.next.kind == Piece::none) memory.next = finder.take_a_item();
    }
    sync();
    return about_to_be_free || memory.next.kind != Piece::none;
  }

  // Of tile number `turn`: loads the queries, looks up the first block; how many blocks there are to
  // load.
  TW_DEVICE i32 begin_load(u32 turn) {
    const Tile& tile = memory.tiles[turn % 2].tile;
    const i32 count = is_decode(p, tile) ? 0 : tile.part_end - tile.first_block;
    if (is_decode(p, tile)) {  // whose keys are loaded by those who compute
      behind_decode = true;
    } else if (behind_decode) {
      // They have used the memory of the stages in another way.
      memory.tile[(turn - 1) % 2].wait_empty((turn - 1) / 2 + 1);
      behind_decode = false;
    }
    if (count > 0) {
      page = page_at(tile, 0);
      load_queries(tile);
    }
    return count;
  }

  // Keys of blocks [begin, end) of `count`; the page of each was asked for when the one before it
  // was loaded. Values follow one block later, as they are needed later and their places become free
  // later: keys must not wait for those.
  TW_DEVICE void load(const Tile& tile, i32 begin, i32 end, i32 count) {
#pragma unroll 1
    for (i32 i = begin; i < end && i < count; ++i) {
      const KeyAddress at = address_of_key(p, tile, key_at(tile, i), page);
      if (i + 1 < count) page = page_at(tile, i + 1);
      load_keys(at, tile.is_full(block_begin(tile, i)));
      if (i > 0) load_values();
    }
    if (begin < count && count <= end) load_values();
  }

  // A lane looks up one of its warp's keys of block i: first its page, which it waits for later.
  TW_DEVICE i32 key_at(const Tile& tile, i32 i) const {
    return block_begin(tile, i) + warp() * kWarpKeys + lane_id() % kWarpKeys;
  }
  TW_DEVICE static i32 block_begin(const Tile& tile, i32 i) {
    return tile.block(tile.first_block + i) * Shape::kBlock;
  }
  TW_DEVICE i32 page_at(const Tile& tile, i32 i) const {
    return page_of_key(tile, key_at(tile, i));
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
  TW_DEVICE void load_keys(const KeyAddress& at, bool full) {
    const i32 first = warp() * kWarpKeys;
    const i32 lane = lane_id();
    HopperAddresses& table = memory.addresses[warp()];
    sync_warp();
    if (first + lane == 0) memory.full[key_blocks % Hopper::kPositionStages] = full;
    if (lane < kWarpKeys) {
      table.keys[KeyCopy::table_index(lane)] = at.key;
      table.values[key_blocks % 2][ValueCopy::table_index(lane)] = at.value;
      memory.positions[key_blocks % Hopper::kPositionStages][first + lane] = at.position;
    }
    const u32 stage = key_blocks % Hopper::kKeyStages;
    Handover& place = memory.k[stage];
    place.wait_empty(key_blocks / Hopper::kKeyStages);
    sync_warp();
    KeyCopy::copy(memory.stages.k[stage][0], sizeof(memory.stages.k[0][0]), first, table.keys);
    mbarrier_arrive_behind_copies(&place.full);
    arrive_as_warp(place.full);
    ++key_blocks;
  }
  TW_DEVICE void load_values() {
    const u32 stage = value_blocks % Hopper::kValueStages;
    Handover& place = memory.v[stage];
    place.wait_empty(value_blocks / Hopper::kValueStages);
    ValueCopy::copy(memory.stages.v[stage][0], sizeof(memory.stages.v[0][0]), warp() * kWarpKeys,
                    memory.addresses[warp()].values[value_blocks % 2]);
    mbarrier_arrive_behind_copies(&place.full);
    ++value_blocks;
  }

  const AttentionParams& p;
  HopperMemory& memory;
  PieceFinder finder;
  i32 page = 0;  // of this lane's key in the next block
  bool behind_decode = false;
  u32 queries = 0;  // tiles of them that were loaded
  u32 key_blocks = 0;
  u32 value_blocks = 0;
};

}  // namespace tw
