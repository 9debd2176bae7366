// SPDX-License-Identifier: Apache-2.0
// The tile that a block of threads works on: which queries its rows are, which blocks of keys it
// needs, and where those keys lie.
#pragma once

#include "arch/integer.h"
#include "arch/memory.h"
#include "arch/thread.h"
#include "attention/listed_blocks.h"
#include "attention/params.h"
#include "attention/shape.h"
#include "attention/variant.h"
#include "plan/tile_ranges.h"

namespace tw {

// One link of a row's chain of keys: a row of one level's page table.
struct KeySegment {
  i32 key_begin;  // among the row's keys
  i32 key_end;
  i32 level;
  i32 page_size;
  i32 page_shift;      // where page_size is a power of two, else -1
  i32 first_page;      // without entries: pages follow each other
  const i32* entries;  // page ids, or null

  TW_DEVICE i32 column_of(i32 index) const {
    // Without a sign, which takes fewer instructions.
    return page_shift >= 0
               ? index >> page_shift
               : static_cast<i32>(static_cast<u32>(index) / static_cast<u32>(page_size));
  }
};

struct DeviceMask {
  const ParamSlot* params;

  TW_DEVICE static constexpr bool has_mask() { return Variant::kHasMask; }
  TW_DEVICE static constexpr bool one_interval() { return Variant::kOneInterval; }
  TW_DEVICE plan::MaskRanges ranges(const plan::QueryRange& queries) const {
    return Variant::ranges(queries, params);
  }
  TW_DEVICE plan::MaskInterval interval(const plan::QueryRange& queries) const {
    return Variant::interval(queries, params);
  }
};

// Which blocks of keys a tile needs.
inline constexpr BlockForm kBlockForm = Spec::kListsBlocks ? BlockForm::listed
                                        : !Variant::kHasMask || Variant::kOneInterval
                                            ? BlockForm::span
                                            : BlockForm::spans;
template <BlockForm form>
struct TileBlocksOf {
  using Type = plan::TileRanges;
};
template <>
struct TileBlocksOf<BlockForm::span> {
  using Type = plan::TileSpan;
};
template <>
struct TileBlocksOf<BlockForm::listed> {
  using Type = ListedBlocks;
};
using TileBlocks = TileBlocksOf<kBlockForm>::Type;

// By one thread.
TW_DEVICE i32 find_blocks(const AttentionParams& p, const plan::Row& row, i32 head, i32 tile,
                          plan::TileSpan& blocks) {
  blocks = plan::tile_span(p.plan, DeviceMask{p.params}, row, head, tile);
  return blocks.blocks();
}
TW_DEVICE i32 find_blocks(const AttentionParams& p, const plan::Row& row, i32 head, i32 tile,
                          plan::TileRanges& blocks) {
  blocks = plan::tile_ranges(p.plan, DeviceMask{p.params}, row, head, tile);
  return blocks.blocks;
}
// How many there are follows when all threads have looked: list_blocks. They need the row where it
// stays.
TW_DEVICE i32 find_blocks(const AttentionParams& p, const plan::Row& row, i32 head, i32 tile,
                          ListedBlocks& blocks) {
  blocks.all = plan::uncounted_ranges(p.plan, DeviceMask{p.params}, row, head, tile);
  return 0;
}

// By all threads, behind find_blocks and a barrier: `part_end` follows.
template <typename Blocks>
TW_DEVICE void list_blocks(const AttentionParams&, const plan::Row&, i32, Blocks&, i32&) {}
TW_DEVICE void list_blocks(const AttentionParams& p, const plan::Row& row, i32 end,
                           ListedBlocks& blocks, i32& part_end) {
  const i32 count = blocks.list(p, row.kv_len);
  if (thread_id() == 0) part_end = end < 0 || end > count ? count : end;
  sync_block();
}

// Whether every row attends to all keys of the n-th block that is needed.
template <typename Blocks>
TW_DEVICE bool is_full_block(const Blocks& blocks, i32 n, i32 kv_len) {
  const i32 key_begin = blocks.nth(n) * Shape::kBlock;
  const i32 key_end = key_begin + Shape::kBlock;
  return key_end <= kv_len && blocks.is_full(key_begin, key_end);
}
TW_DEVICE bool is_full_block(const ListedBlocks& blocks, i32 n, i32) {
  return blocks.is_full(n);
}

// A part of an item, or all of it: what a block of threads works on at a time. In shared memory.
struct Piece {
  plan::Item item;
  i32 head;         // of the item's: the block's own
  i32 num_rows;     // packed rows of its tile
  i32 begin;        // blocks, of those that the tile needs
  i32 end;          // -1: all the rest
  i32 slot;         // where the result of a part goes, see slot_of; -1: it is the whole item
  i32 split_index;  // of a part: in Schedule::splits
  bool has_q_pos;
  i32 q_pos;  // of the row's request, where that is known
  enum Kind : i32 { none, many_rows, few_rows } kind;
  plan::Split split;  // of a part
  plan::Row row;
};

struct TileRow {
  i32 q_pos;
  i32 q_index;
  i32 batch;
  // What is not needed before the piece's end: see ask_outcome.
  bool failed;     // the update of the plan found something wrong with the request
  bool is_joined;  // several levels have keys of it: their results are joined when all are there
};

// The packed rows of a KV head's queries that a tile has.
struct TileQueries {
  i32 first_row;
  i32 num_rows;
  i32 kv_head;
};
// Where its keys lie.
struct TileKeys {
  i32 kv_len;
  i32 kv_pos;
  i32 level;
  i32 first_block;  // of those it needs: where the part begins that is computed here
  i32 part_end;     // and where that ends
  TileBlocks ranges;
  bool plain;  // one segment of pages whose size is a power of two, of one shard
  i32 num_segments;
  KeySegment segments[plan::kMaxLevels];

  // The n-th block that is needed.
  TW_DEVICE i32 block(i32 n) const { return ranges.nth(n); }
  // Whether every row attends to all its keys.
  TW_DEVICE bool is_full(i32 n) const { return is_full_block(ranges, n, kv_len); }
};
// In shared memory. All but its rows, which keys do not need.
struct Tile : TileQueries, TileKeys {};

template <i32 most_rows>
struct TileOf : Tile {
  static constexpr i32 kMostRows = most_rows;

  TileRow rows[most_rows];
  float row_scale[most_rows];  // of the logits; only where scales_logits
};

// A row as variants see it.
template <i32 most_rows>
TW_DEVICE QueryRow query_row(const AttentionParams& p, const TileOf<most_rows>& tile, i32 r) {
  const TileRow& row = tile.rows[r];
  // Read from memory only where the variant asks for it.
  const plan::Request& request = p.plan.requests[row.batch];
  QueryRow q;
  q.q_pos = row.q_pos;
  q.q_head = tile.kv_head * Spec::kGroupSize + (tile.first_row + r) % Spec::kGroupSize;
  q.kv_head = tile.kv_head;
  q.batch = row.batch;
  q.q_len = request.q_len;
  q.kv_len = request.kv_len;
  q.q_index = row.q_index;
  q.q_begin = request.q_begin;
  return q;
}

// The query of a row that there is.
TW_DEVICE const char* query_at(const AttentionParams& p, const QueryRow& row) {
  return p.q + row.q_index * p.q_token + row.q_head * p.q_head;
}

// Whether rows are simply the requests. Others may cover many of them: they have a kernel for any
// batch.
TW_DEVICE bool rows_are_requests(const AttentionParams& p) {
  return Spec::kDecodeOnly || p.plan.token_levels == nullptr;
}

TW_DEVICE bool is_joined(const AttentionParams& p, i64 token) {
  if (rows_are_requests(p)) return false;
  const u32 levels = p.plan.token_levels[token];
  return (levels & (levels - 1)) != 0;
}
// Whether the update of the plan found something wrong with a request: its outputs are zeros then.
TW_DEVICE bool has_failed(const AttentionParams& p, i32 request) {
  return p.status[p.plan.schedule.header->status_turn * p.status_stride + request] != 0;
}

TW_DEVICE float scale_of(const ScaleView& scale, i32 request, i32 head) {
  if (scale.data == nullptr) return scale.value;
  return scale.data[static_cast<i64>(request) * scale.request_stride + head * scale.head_stride];
}

// The parts of setting up a tile need nothing of each other: they are for different threads.

TW_DEVICE void set_up_segment(const AttentionParams& p, const plan::Segment& segment, i32 key_end,
                              KeySegment& to, TileKeys& tile) {
  const plan::LevelPages& pages = p.plan.levels[segment.level];
  to.key_end = key_end;
  to.key_begin = key_end - segment.kv_len;
  to.level = segment.level;
  to.page_size = static_cast<i32>(pages.page_size);
  const u32 size = static_cast<u32>(to.page_size);
  to.page_shift = (size & (size - 1)) == 0 ? lowest_bit(size) : -1;
  to.entries = pages.entries(segment.index);
  tile.plain = tile.plain && to.page_shift >= 0 && to.entries != nullptr;
  to.first_page = to.entries != nullptr ? 0 : static_cast<i32>(pages.first_page(segment.index));
}

TW_DEVICE void set_up_queries(const Piece& piece, TileQueries& tile) {
  tile.first_row = piece.item.tile * Shape::kRows;
  tile.num_rows = piece.num_rows;
  tile.kv_head = piece.head;
}

// Where the keys lie, but which blocks of them. One thread.
TW_DEVICE void set_up_keys(const AttentionParams& p, const Piece& piece, TileKeys& tile) {
  const plan::Row& row = piece.row;
  tile.kv_len = row.kv_len;
  tile.kv_pos = row.kv_pos;
  tile.level = row.level;
  tile.first_block = piece.begin;
  // The only one, or the last of the chain.
  plan::Segment segment = {0, row.index, row.kv_len, -1};
  i32 depth = 1;
  if (!rows_are_requests(p)) {
    segment = p.plan.segments[row.segment];
    for (i32 s = segment.parent; s >= 0; s = p.plan.segments[s].parent) ++depth;
  }
  tile.num_segments = depth;
  tile.plain = p.plan.interleave.world == 1 && depth == 1;
  i32 key_end = row.kv_len;
#pragma unroll 1
  for (;;) {
    set_up_segment(p, segment, key_end, tile.segments[--depth], tile);
    if (depth == 0) break;
    key_end -= segment.kv_len;
    segment = p.plan.segments[segment.parent];
  }
}

TW_DEVICE void set_up_queries_and_keys(const AttentionParams& p, const Piece& piece, Tile& tile) {
  set_up_queries(piece, tile);
  set_up_keys(p, piece, tile);
}

// What any lane of the warp needs, in all of them.
TW_DEVICE void include_lanes(plan::TileSpan& span) {
#pragma unroll
  for (i32 step = kWarpSize / 2; step > 0; step /= 2) {
    span.include({shuffle_xor(span.begin, step), shuffle_xor(span.end, step),
                  shuffle_xor(span.full_begin, step), shuffle_xor(span.full_end, step)});
  }
}
// plan::tile_span of a tile whose rows may be those of many requests, by all lanes of a warp: each
// asks for other ones.
TW_DEVICE plan::TileSpan span_by_warp(const AttentionParams& p, const Piece& piece) {
  const DeviceMask mask{p.params};
  const plan::Row& row = piece.row;
  plan::TileSpan span;
  if (row.kv_len == 0 || !mask.has_mask()) {
    return plan::tile_span(p.plan, mask, row, piece.head, piece.item.tile);
  }
  span.full_end = row.kv_len;
  const i32 first = piece.item.tile * Shape::kRows;  // of the packed rows
  const i32 end = (first + piece.num_rows - 1) / Spec::kGroupSize + 1;
  const i32 begin = first / Spec::kGroupSize;
  const bool listed = p.plan.levels[row.level].q_rows != nullptr;
#pragma unroll 1
  for (i32 entry = begin + lane_id(); entry < end; entry += kWarpSize) {
    const std::int64_t token = p.plan.token_of(row, entry);
    const i32 r = p.plan.request_of(token);
    const plan::Request request = p.plan.requests[r];
    // Those of one request that follow each other are asked for together, as update does.
    const bool goes_on = entry > begin && request.q_begin != token &&
                         (!listed || p.plan.token_of(row, entry - 1) == token - 1);
    if (goes_on) continue;
    const std::int64_t past = std::int64_t{request.q_begin} + request.q_len;
    std::int64_t token_end = plan::min64(past, token + end - entry);
    if (listed) {
      token_end = token + 1;
#pragma unroll 1
      while (entry + token_end - token < end && token_end < past &&
             p.plan.token_of(row, entry + token_end - token) == token_end) {
        ++token_end;
      }
    }
    span.include(plan::span_of_queries(p.plan, mask, row,
                                       plan::query_range(p.plan, r, piece.head, token, token_end)));
  }
  include_lanes(span);
  if (span.full_begin >= span.full_end) span.full_begin = span.full_end = 0;
  return span;
}

// Whether what a worker begins with tells the needed blocks, as far as its share goes.
TW_DEVICE bool knows_blocks(const plan::Start& start, plan::TileSpan& blocks) {
  blocks = {start.first_block, start.first_block + start.end, start.full_begin, start.full_end};
  return true;
}
template <typename Blocks>
TW_DEVICE bool knows_blocks(const plan::Start&, const Blocks&) {
  return false;
}

// What the kernel was made for, and the scheduler's text cannot know: divisions by these numbers
// become shifts, or multiplications.
TW_DEVICE void know_sizes(const AttentionParams& p) {
  const plan::Config& config = p.plan.schedule.config;
  take_for_granted(config.group_size == Spec::kGroupSize);
  take_for_granted(config.tile_rows == Shape::kRows);
  take_for_granted(config.block_tokens == Shape::kBlock);
}

// Which blocks of them are needed. One thread.
TW_DEVICE void set_up_blocks(const AttentionParams& p, const Piece& piece, TileKeys& tile) {
  know_sizes(p);
  const i32 blocks = find_blocks(p, piece.row, piece.head, piece.item.tile, tile.ranges);
  tile.part_end = piece.end < 0 ? blocks : piece.end;
}

// The query token of the tile's row. Rows behind the last one repeat it: what they compute is well
// defined, and nobody stores it.
TW_DEVICE i64 token_of_row(const AttentionParams& p, const Piece& piece, i32 r) {
  const i32 packed = piece.item.tile * Shape::kRows + (r < piece.num_rows ? r : piece.num_rows - 1);
  return p.plan.token_of(piece.row, packed / Spec::kGroupSize);
}

// Of a tile's row.
TW_DEVICE i32 q_head_of_row(const Piece& piece, i32 r) {
  const i32 packed = piece.item.tile * Shape::kRows + r;
  return piece.head * Spec::kGroupSize + packed % Spec::kGroupSize;
}

// The row's query; null where there is none.
TW_DEVICE const char* query_of_row(const AttentionParams& p, const Piece& piece, i32 r) {
  const i64 token = token_of_row(p, piece, r);
  if (r >= piece.num_rows || token >= p.out_tokens) return nullptr;
  return p.q + token * p.q_token + q_head_of_row(piece, r) * p.q_head;
}

// What becomes of a row's outputs, which waits for memory twice.
TW_DEVICE void ask_outcome(const AttentionParams& p, TileRow& row) {
  row.is_joined = is_joined(p, row.q_index);
  row.failed = has_failed(p, row.batch);
}

// A row of queries; with `asks_outcome` all of it. A thread a row.
template <bool asks_outcome, i32 most_rows>
TW_DEVICE void set_up_query_row(const AttentionParams& p, const Piece& piece, i32 r,
                                TileOf<most_rows>& tile) {
  const i64 token = token_of_row(p, piece, r);
  const i32 batch = rows_are_requests(p) ? piece.row.index : p.plan.request_of(token);
  TileRow outcome;
  outcome.q_index = static_cast<i32>(token);
  outcome.batch = batch;
  if constexpr (asks_outcome) ask_outcome(p, outcome);
  plan::Request request;
  request.q_begin = piece.row.q_begin;
  request.q_pos = piece.q_pos;
  if (!piece.has_q_pos) request = p.plan.requests[batch];
  TileRow& row = tile.rows[r];
  row.q_pos = static_cast<i32>(p.plan.position_of_query(request, token));
  row.q_index = static_cast<i32>(token);
  row.batch = batch;
  if constexpr (asks_outcome) {
    row.failed = outcome.failed;
    row.is_joined = outcome.is_joined;
  }
  if (p.scales_logits != 0) {
    const i32 head = piece.head;
    tile.row_scale[r] =
        p.sm_scale * scale_of(p.q_scale, batch, head) * scale_of(p.k_scale, batch, head);
  }
}

}  // namespace tw
