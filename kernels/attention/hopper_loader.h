// SPDX-License-Identifier: Apache-2.0
// The warps that copy queries, keys and values into shared memory, ahead of those that compute.
#pragma once

#include "attention/hopper_copies.h"
#include "attention/keys.h"
#include "attention/scores.h"

namespace tw {

// The keys of a tile, or its values, for who looks up many of them: where its pages are in one
// table (the plain case) all that takes is in registers.
template <bool kValues>
class TileRows {
 public:
  const Tile& tile;
  const i32 kv_len;
  const bool plain;  // pages of one table

  TW_DEVICE TileRows(const AttentionParams& params, const Tile& the_tile)
      : tile(the_tile),
        kv_len(the_tile.kv_len),
        plain(the_tile.plain),
        p(params),
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
  // Whether the cache has the page.
  TW_DEVICE bool follows(i32 page) const {
    return static_cast<u32>(page) < static_cast<u32>(pages);
  }

 private:
  TW_DEVICE i32 last(i32 key) const { return key < kv_len ? key : kv_len - 1; }

  const AttentionParams& p;
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

  // Queries, as soon as a piece is found, and what their rows are where no other warp sets them up.
  TW_DEVICE void load_queries() {
    bool behind_few = false;
    for (u32 turn = 0;; ++turn) {
      wait_for(memory.found[turn % Hopper::kPieces], turn / Hopper::kPieces);
      HopperPiece& piece = memory.pieces[turn % Hopper::kPieces];
      if (piece.kind == Piece::none) break;
      const bool few = piece.kind == Piece::few_rows;
      note_queries(piece);
      // Where their places are free queries are under way while rows are set up. Else the places
      // will be when rows are. Results of few rows lie where all rows of many do.
      const bool waits_for_results = behind_few && !few;
      const bool are_free =
          any_of_warp(memory.q[Hopper::kGroups - 1].is_empty(turn)) && !waits_for_results;
      if (are_free) {
        for (i32 group = 0; group < Hopper::kGroups; ++group) copy_queries(few, group, turn);
      }
      if constexpr (!Hopper::kManyLoaders) set_up_rows(piece);
      if (waits_for_results) {
        const u32 before = turn - 1;
        memory.piece[before % Hopper::kPieces].wait_empty(before / Hopper::kPieces + 1);
      }
#pragma unroll 1
      for (i32 group = 0; group < Hopper::kGroups; ++group) {
        if (!are_free) copy_queries(few, group, turn);
        land_copies();
        if constexpr (Hopper::kManyLoaders) {
          wait_for(memory.rows[turn % Hopper::kPieces], turn / Hopper::kPieces);
        }
        arrive_as_warp(memory.q[group].full);
      }
      behind_few = few;
      release(turn);
    }
  }

  // What the rows of queries are, in a warp of its own.
  TW_DEVICE void set_up_rows() {
    for (u32 turn = 0;; ++turn) {
      wait_for(memory.found[turn % Hopper::kPieces], turn / Hopper::kPieces);
      HopperPiece& piece = memory.pieces[turn % Hopper::kPieces];
      if (piece.kind == Piece::none) break;
      set_up_rows(piece);
      arrive_as_warp(memory.rows[turn % Hopper::kPieces]);
      release(turn);
    }
  }

  // Keys, or values: of all blocks the part-th kLoaderRows.
  template <bool kValues>
  TW_DEVICE void load_blocks(i32 part) {
    u32 index = 0;  // of the next block
    for_each_tile([&](const HopperPiece& piece) {
      const Tile& tile = piece.tile;
      const TileRows<kValues> rows(p, tile);
      // Blocks follow each other.
      PartBlocks blocks{part, tile.block(tile.first_block) * Shape::kBlock,
                        tile.block(tile.part_end) * Shape::kBlock, index};
      load_boxes(BoxCopy<kValues>(p, piece), rows, blocks);
      load_rows(rows, blocks);
      index = blocks.index;
    });
  }

 private:
  // A part of each block, from the one that begins with key `block` to the one that ends with
  // `end`.
  struct PartBlocks {
    i32 part;
    i32 block;
    i32 end;
    u32 index;  // of the first one

    TW_DEVICE i32 first_row() const { return part * Hopper::kLoaderRows; }
    TW_DEVICE void go_on() {
      block += Shape::kBlock;
      ++index;
    }
  };

  // As long as boxes may be taken: behind a row's last key there may be anything, which they would
  // bring. Pages are asked for a block ahead.
  template <bool kValues>
  TW_DEVICE void load_boxes(const BoxCopy<kValues>& boxes, const TileRows<kValues>& rows,
                            PartBlocks& blocks) {
    if (!boxes.exist) return;
    const i32 end = blocks.end < rows.kv_len ? blocks.end : rows.kv_len;
    const i32 last = end - blocks.first_row() - Hopper::kLoaderRows;
    typename BoxCopy<kValues>::Pages pages = {};
    if (blocks.block <= last) pages = boxes.pages(blocks.block + blocks.first_row());
#pragma unroll 1
    for (; blocks.block <= last; blocks.go_on()) {
      Handover& place = place_of<kValues>(blocks.index);
      place.wait_empty(blocks.index / kStages<kValues>);
      sync_warp();
      if (lane_id() == 0) mbarrier_arrive_expect(&place.full, BoxCopy<kValues>::kBytes);
      sync_warp();
      const i32 begin = blocks.block + blocks.first_row();
      boxes.copy(stage_of<kValues>(blocks.index) + blocks.first_row() * Hopper::kRowBytes, begin,
                 pages, place.full);
      if constexpr (!kValues) describe(rows, blocks);
      sync_warp();
      if (lane_id() == 0) mbarrier_arrive(&place.full);
      if (blocks.block + Shape::kBlock <= last) pages = boxes.pages(begin + Shape::kBlock);
    }
  }

  // The others row by row. Pages are asked for a block ahead, and where the next block's place is
  // free its rows are asked for before the last ones have landed.
  template <bool kValues>
  TW_DEVICE void load_rows(const TileRows<kValues>& rows, PartBlocks& blocks) {
    bool lands = false;  // the last block
    RowPages pages = {};
    const i32 begin = blocks.block;
    for (i32 ahead = begin;; ahead += Shape::kBlock) {
      RowPages next = {};
      if (ahead < blocks.end) next = pages_of(rows, ahead + blocks.first_row());
      if (ahead > begin) {
        Handover& place = place_of<kValues>(blocks.index);
        const u32 turn = blocks.index / kStages<kValues>;
        if (lands && !any_of_warp(place.is_empty(turn))) {
          hand_over_rows<0>(place_of<kValues>(blocks.index - 1));
          lands = false;
        }
        place.wait_empty(turn);
        sync_warp();
        gather(rows, pages, blocks);
        copy_async_commit();
        if constexpr (!kValues) describe(rows, blocks);
        if (lands) hand_over_rows<1>(place_of<kValues>(blocks.index - 1));
        lands = true;
        blocks.go_on();
      }
      if (ahead >= blocks.end) break;
      pages = next;
    }
    if (lands) hand_over_rows<0>(place_of<kValues>(blocks.index - 1));
  }

  // What those who compute must know of a part of a block of keys.
  TW_DEVICE void describe(const TileRows<false>& rows, const PartBlocks& blocks) {
    const u32 step = blocks.index % Hopper::kSteps;
    const i32 block = blocks.block;
    const bool full = block + Shape::kBlock <= rows.kv_len &&
                      rows.tile.ranges.is_full(block, block + Shape::kBlock);
    u32 bits = full ? HopperMemory::kFull : 0;
    if (!full || has_logits(p)) {
      bool regular = rows.plain;
#pragma unroll 1
      for (i32 i = lane_id(); i < Hopper::kLoaderRows; i += kWarpSize) {
        const i32 row = blocks.first_row() + i;
        const i32 page = rows.page_of(block + row);
        memory.positions[step][row] = rows.position_of(block + row, page);
        regular = regular && rows.follows(page);
      }
      if (!any_of_warp(!regular)) bits |= HopperMemory::kRegular;
    }
    if (lane_id() == 0) memory.block[step][blocks.part] = bits;
  }

  // A lane a row; those of the last tile are known.
  TW_DEVICE void set_up_few_rows(HopperPiece& piece) {
    const i32 r = lane_id();
    if (r >= Shape::kDecodeRows) return;
    if (piece.repeats && knows_rows && p.scales_logits == 0) {
      piece.tile.rows[r] = known.row;
      piece.row_begin[r] = known.begin;
      piece.row_end[r] = known.end;
      return;
    }
    set_up_row(piece, r);
    known = {piece.tile.rows[r], piece.row_begin[r], piece.row_end[r]};
    knows_rows = true;
  }

  TW_DEVICE void set_up_rows(HopperPiece& piece) {
    if (piece.kind == Piece::few_rows) {
      set_up_few_rows(piece);
    } else {
      set_up_many_rows(piece);
    }
  }
  TW_DEVICE void set_up_many_rows(HopperPiece& piece) {
    bool is_plain = piece.slot < 0;
#pragma unroll 1
    for (i32 r = lane_id(); r < Shape::kRows; r += kWarpSize) {
      set_up_row(piece, r);
      const TileRow& row = piece.tile.rows[r];
      piece.outputs[r] = r < piece.num_rows ? p.out + row.q_index * p.out_token +
                                                  q_head_of_row(piece, r) * p.out_head
                                            : nullptr;
      is_plain = is_plain && !row.failed && !row.is_joined && row.q_index < p.out_tokens;
    }
    const bool all_are_plain = !any_of_warp(!is_plain);
    if (lane_id() == 0) piece.is_plain = all_are_plain;
  }

  using QueryCopy = MatrixCopy<Shape::kHeadUnits, Shape::kDecodeRows>;

  // Where a piece's queries lie.
  TW_DEVICE void note_queries(const Piece& piece) {
    const i32 rows = piece.kind == Piece::few_rows ? Shape::kDecodeRows : Shape::kRows;
    sync_warp();  // the last ones have been copied
#pragma unroll 1
    for (i32 r = lane_id(); r < rows; r += kWarpSize) {
      // What is computed of others goes nowhere.
      const char* const query = query_of_row(p, piece, r);
      const i32 within = r % Shape::kDecodeRows;
      memory.q_rows[r - within + QueryCopy::table_index(within)] = query != nullptr ? query : p.q;
    }
    sync_warp();
  }
  // A group's; of few rows both have the same.
  TW_DEVICE void copy_queries(bool few, i32 group, u32 turn) {
    memory.q[group].wait_empty(turn);
    const i32 rows = few ? Shape::kDecodeRows : Hopper::kGroupRows;
    const char* const* const table = memory.q_rows + (few ? 0 : group * Hopper::kGroupRows);
#pragma unroll 1
    for (i32 first = 0; first < rows; first += Shape::kDecodeRows) {
      QueryCopy::copy(memory.stages.q[0], sizeof(memory.stages.q[0]),
                      group * Hopper::kGroupRows + first, table + first);
    }
  }

  template <bool kValues>
  static constexpr u32 kStages = kValues ? Hopper::kValueStages : Hopper::kStages;
  template <bool kValues>
  TW_DEVICE Handover& place_of(u32 block) {
    const u32 stage = block % kStages<kValues>;
    if constexpr (kValues) return memory.v[stage];
    return memory.k[stage];
  }
  template <bool kValues>
  TW_DEVICE char* stage_of(u32 block) {
    const u32 stage = block % kStages<kValues>;
    if constexpr (kValues) return memory.stages.v[stage][0];
    return memory.stages.k[stage][0];
  }

  // Of a lane's rows of a part of a block.
  struct RowPages {
    i32 id[Hopper::kLoaderRows / kWarpSize];
  };
  template <bool kValues>
  TW_DEVICE static RowPages pages_of(const TileRows<kValues>& rows, i32 begin) {
    RowPages pages;
#pragma unroll
    for (i32 j = 0; j < Hopper::kLoaderRows / kWarpSize; ++j) {
      pages.id[j] = rows.page_of(begin + j * kWarpSize + lane_id());
    }
    return pages;
  }
  // A part of a block row by row.
  template <bool kValues>
  TW_DEVICE void gather(const TileRows<kValues>& rows, const RowPages& pages,
                        const PartBlocks& blocks) {
    using Copy = MatrixCopy<kValues ? Shape::kValueTiles : Shape::kHeadUnits, kHopperTableRows>;
    const char** const table = kValues ? memory.v_rows[blocks.part] : memory.k_rows[blocks.part];
    constexpr i32 kColumnBytes = Shape::kBlock * Hopper::kRowBytes;
    constexpr i32 kLaneRows = kHopperTableRows / kWarpSize;
    static_assert(Hopper::kLoaderRows % kHopperTableRows == 0);
#pragma unroll
    for (i32 first = 0; first < Hopper::kLoaderRows; first += kHopperTableRows) {
      const i32 first_row = blocks.first_row() + first;
      sync_warp();  // the last rows have been copied
#pragma unroll
      for (i32 j = 0; j < kLaneRows; ++j) {
        const i32 row = j * kWarpSize + lane_id();
        table[Copy::table_index(row)] =
            rows.address_of(blocks.block + first_row + row, pages.id[first / kWarpSize + j]);
      }
      sync_warp();
      Copy::copy(stage_of<kValues>(blocks.index), kColumnBytes, first_row, table);
    }
  }
  // Rows that were copied one by one, all but those of the latest `groups` blocks.
  template <i32 groups>
  TW_DEVICE static void hand_over_rows(Handover& place) {
    copy_async_wait<groups>();
    fence_async_proxy();
    sync_warp();
    if (lane_id() == 0) mbarrier_arrive(&place.full, Hopper::kFills);
  }

  TW_DEVICE void set_up_row(HopperPiece& piece, i32 r) {
    set_up_query_row<true>(p, piece, r, piece.tile);
    if constexpr (Variant::kHasMask) {
      const QueryRow row = query_row(p, piece.tile, r);
      plan::QueryRange query;
      query.q_pos_min = query.q_pos_max = row.q_pos;
      query.q_head_begin = row.q_head;
      query.q_head_end = row.q_head + 1;
      query.kv_head = row.kv_head;
      query.batch = row.batch;
      query.q_len = row.q_len;
      query.kv_len = row.kv_len;
      query.q_index = row.q_index;
      query.q_begin = row.q_begin;
      const plan::MaskInterval keys = Variant::interval(query, p.params);
      const bool exact = keys.needed.begin == keys.full.begin && keys.needed.end == keys.full.end;
      constexpr i64 kMost = 0x7FFFFFFF;
      const auto clamp = [](i64 position) {
        return static_cast<i32>(plan::clamp64(position, -kMost, kMost));
      };
      piece.row_begin[r] = exact ? clamp(keys.full.begin) : 1;
      piece.row_end[r] = exact ? clamp(keys.full.end) : 0;
    } else {
      piece.row_begin[r] = -0x7FFFFFFF;
      piece.row_end[r] = 0x7FFFFFFF;
    }
  }

  // Calls load(piece) for all pieces that have keys, one after the other.
  template <typename Load>
  TW_DEVICE void for_each_tile(const Load& load) {
    for (u32 turn = 0;; ++turn) {
      memory.piece[turn % Hopper::kPieces].wait_full(turn / Hopper::kPieces);
      const HopperPiece& piece = memory.pieces[turn % Hopper::kPieces];
      if (piece.kind == Piece::none) break;
      if (piece.blocks() > 0) load(piece);
      release(turn);
    }
  }
  TW_DEVICE void release(u32 turn) {
    arrive_as_warp(memory.loaded[turn % Hopper::kPieces]);
    arrive_as_warp(memory.piece[turn % Hopper::kPieces].empty);
  }

  const HopperParams& p;
  HopperMemory& memory;
  // The lane's row of the last tile of few rows.
  struct {
    TileRow row;
    i32 begin;
    i32 end;
  } known;
  bool knows_rows = false;
};

}  // namespace tw
