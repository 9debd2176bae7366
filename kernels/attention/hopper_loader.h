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
  const i32 kv_len;
  const bool plain;  // pages of one table

  TW_DEVICE TileRows(const AttentionParams& params, const Tile& the_tile)
      : kv_len(the_tile.kv_len),
        plain(the_tile.plain),
        p(params),
        tile(the_tile),
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
  const Tile& tile;
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
      const BoxCopy<kValues> boxes(p, piece);
      const plan::TileSpan span = tile.ranges;
      // Blocks follow each other.
      const i32 first_row = part * Hopper::kLoaderRows;
      i32 begin = tile.block(tile.first_block) * Shape::kBlock + first_row;
      const i32 end = tile.block(tile.part_end) * Shape::kBlock;
      // Behind a row's last key there may be anything, which boxes would bring.
      const auto takes_boxes = [&](i32 key) {
        return boxes.exist && key + Hopper::kLoaderRows <= rows.kv_len;
      };
      // Pages of boxes are asked for a block ahead.
      typename BoxCopy<kValues>::Pages pages = {};
      if (begin < end && takes_boxes(begin)) pages = boxes.pages(begin);
#pragma unroll 1
      for (; begin < end; begin += Shape::kBlock, ++index) {
        Handover& place = place_of<kValues>(index);
        place.wait_empty(index / kStages<kValues>);
        sync_warp();
        const bool by_boxes = takes_boxes(begin);
        if (by_boxes) {
          if (lane_id() == 0) mbarrier_arrive_expect(&place.full, BoxCopy<kValues>::kBytes);
          sync_warp();
          boxes.copy(stage_of<kValues>(index) + first_row * Hopper::kRowBytes, begin, pages,
                     place.full);
        } else {
          gather(rows, part, index, begin);
        }
        if constexpr (!kValues) describe(rows, span, part, index, begin);
        if (!by_boxes) land_copies();
        sync_warp();
        if (lane_id() == 0) mbarrier_arrive(&place.full, by_boxes ? 1 : Hopper::kFills);
        const i32 next = begin + Shape::kBlock;
        if (next < end && takes_boxes(next)) pages = boxes.pages(next);
      }
    });
  }

 private:
  // What those who compute must know of a part of a block of keys.
  TW_DEVICE void describe(const TileRows<false>& rows, const plan::TileSpan& span, i32 part,
                          u32 index, i32 begin) {
    const i32 first_row = part * Hopper::kLoaderRows;
    const i32 block = begin - first_row;
    const bool full =
        block + Shape::kBlock <= rows.kv_len && span.is_full(block, block + Shape::kBlock);
    u32 bits = full ? HopperMemory::kFull : 0;
    if (!full || has_logits(p)) {
      bool regular = rows.plain;
#pragma unroll 1
      for (i32 i = first_row + lane_id(); i < first_row + Hopper::kLoaderRows; i += kWarpSize) {
        const i32 page = rows.page_of(block + i);
        memory.positions[index % Hopper::kSteps][i] = rows.position_of(block + i, page);
        regular = regular && rows.follows(page);
      }
      if (!any_of_warp(!regular)) bits |= HopperMemory::kRegular;
    }
    if (lane_id() == 0) memory.block[index % Hopper::kSteps][part] = bits;
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

  // A part of a block row by row.
  template <bool kValues>
  TW_DEVICE void gather(const TileRows<kValues>& rows, i32 part, u32 index, i32 begin) {
    using Copy = MatrixCopy<kValues ? Shape::kValueTiles : Shape::kHeadUnits, kHopperTableRows>;
    const char** const table = kValues ? memory.v_rows[part] : memory.k_rows[part];
    const i32 first_row = part * Hopper::kLoaderRows;
    constexpr i32 kColumnBytes = Shape::kBlock * Hopper::kRowBytes;
    constexpr i32 kLaneRows = kHopperTableRows / kWarpSize;
#pragma unroll 1
    for (i32 first = 0; first < Hopper::kLoaderRows; first += kHopperTableRows) {
      const i32 key = begin + first + lane_id();
      i32 pages[kLaneRows];
#pragma unroll
      for (i32 j = 0; j < kLaneRows; ++j) pages[j] = rows.page_of(key + j * kWarpSize);
      sync_warp();  // the last rows have been copied
#pragma unroll
      for (i32 j = 0; j < kLaneRows; ++j) {
        table[Copy::table_index(j * kWarpSize + lane_id())] =
            rows.address_of(key + j * kWarpSize, pages[j]);
      }
      sync_warp();
      Copy::copy(stage_of<kValues>(index), kColumnBytes, first_row + first, table);
    }
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
