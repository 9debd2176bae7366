// SPDX-License-Identifier: Apache-2.0
// What a plan consists of: plain structs of integers, O(requests + workers) of them, read by every
// kernel on every device.
//
// Words: a *row* is one row of the block-sparse matrix of a level, a range of query tokens that
// attend to the same pages (in the plain case: a request). Its query tokens times the group size
// are its *packed rows*, token-major; a *tile* is tile_rows of them for one KV head. A *block* is
// block_tokens keys, at an absolute multiple of block_tokens in the row's KV. An *item* is a (row,
// KV head, tile).
#pragma once

#include "plan/host_device.h"

namespace tilewright::plan {

// Costs in an arbitrary unit, for one tile: fixed + blocks * (block + rows * block_row). Tiles of
// full_from rows or more (0: none) cost as much as those of all rows that a tile may have.
struct CostModel {
  std::int32_t fixed = 1;  // at least 1: items without blocks are work too
  std::int32_t block = 0;
  std::int32_t block_row = 0;
  std::int32_t join_row = 0;  // to keep a packed row's partial result and join it with another
  std::int32_t full_from = 0;
};

struct Config {
  std::int32_t num_kv_heads = 1;
  std::int32_t group_size = 1;
  std::int32_t tile_rows = 1;
  std::int32_t block_tokens = 1;
  std::int32_t workers = 1;  // virtual: results do not depend on how many threads or SMs run them
  std::int32_t heads_per_group =
      1;  // section A walks the KV heads in groups whose K and V stay in the cache
  // Tiles of few rows are computed for up to max_heads KV heads together, of at most joint_rows
  // rows in all: tokens of a cache [.., token, head, dim] are then read whole.
  std::int32_t joint_rows = 0;
  std::int32_t max_heads = 1;
  std::int32_t heads_differ = 0;  // the mask depends on the head: so do block counts
  // Whether section B may cut inside an item: the bits of its rows then depend on where.
  std::int32_t cuts_items = 1;
  CostModel cost;
  std::int64_t least_share = 1;  // a smaller share is not worth a worker and a merge
  // Whether fewer workers than there may be are a power of two: as most numbers of threads are, so
  // that each has as many shares as the others.
  std::int32_t rounds_workers = 0;
  // Whether a few workers may be left without work where all others then have whole items, or equal
  // parts of one: where memory is the bound they are not missed, and parts cost more.
  std::int32_t evens_shares = 0;
  // Whether workers are divided between sections A and B where both have work: what memory bounds
  // (rows of few queries) then runs beside what products bound, not before it.
  std::int32_t divides_workers = 0;
  // What a block costs at most in this batch, for all heads of its item; 0: it is not counted, and
  // may be what the rest allows.
  std::int64_t largest_block = 0;
};

// These are read and written 16 bytes at a time.

// A request, as variants see it.
struct alignas(16) Request {
  std::int32_t q_begin = 0;  // first query token
  std::int32_t q_len = 0;
  std::int32_t kv_len = 0;  // over all levels
  std::int32_t q_pos = 0;   // position of the first query token
};

// Keys of one row of a page table. A row's keys are those of a chain of segments, outermost first:
// rows of outer levels that are not worth partial results of their own are folded into those below
// them.
struct alignas(16) Segment {
  std::int32_t level = 0;
  std::int32_t index = 0;  // in its level: the row of the page table
  std::int32_t kv_len = 0;
  std::int32_t parent = -1;  // the segment before it, of an outer level; -1: none
};

struct alignas(16) Row {
  std::int32_t level = 0;  // of its last segment
  std::int32_t index = 0;
  std::int32_t segment = 0;  // the last of its chain
  std::int32_t q_begin = 0;  // query tokens, or entries of the level's list of them
  std::int32_t q_len = 0;
  std::int32_t kv_len = 0;  // of all its segments
  std::int32_t kv_pos = 0;  // position of the first key (before interleaving)
  std::int32_t heads = 1;   // KV heads of one item; more than one only for single tiles
  std::int32_t tiles = 0;   // a KV head
  std::int32_t max_tile_blocks = 0;
  // Of the tiles of `heads` KV heads, or of all KV heads' where heads differ.
  std::int64_t head_cost = 0;
  std::int64_t tiles_before = 0;  // section A: tiles a KV head; section B: items
  std::int64_t cost_before = 0;   // section B: all KV heads
};

struct Header {
  std::int32_t num_requests = 0;
  std::int32_t num_rows = 0;  // those with query tokens, section A first, longest tiles first
  std::int32_t num_a_rows = 0;
  std::int32_t workers = 0;  // that have a share of section B
  // The first so many of them share its tail alone, all others its rows; 0: there is one line.
  std::int32_t tail_workers = 0;
  std::int32_t num_splits = 0;
  std::int32_t q_tokens = 0;
  std::int32_t num_segments = 0;
  std::int32_t joins_levels = 0;  // some token is not covered by exactly one row
  std::int32_t status_turn = 0;   // on the device: which array of status words is this plan's
  std::int64_t a_items = 0;       // section A: run whole, taken by workers in turn
  std::int64_t tail_items =
      0;                     // items of A rows that section B takes over: the last, incomplete wave
  std::int64_t b_items = 0;  // section B, tail included
  std::int64_t tail_cost = 0;
  std::int64_t b_cost = 0;  // tail included
};

// A point on the line of section B's items: the blocks of `item` from `block` (counted among those
// it needs) on.
struct Cut {
  std::int64_t item = 0;
  std::int32_t block = 0;
  std::int64_t cost = 0;  // of all that lies before it on the line
};

// An item of section B that several workers compute. Worker `first` writes its part to its second
// slot, the others up to `last` to their first one; merged in this order.
struct alignas(16) Split {
  std::int64_t item = 0;
  std::int32_t first = 0;
  std::int32_t last = 0;
};

struct Item {
  std::int32_t row = 0;   // of Schedule::rows
  std::int32_t head = 0;  // the first of Row::heads KV heads
  std::int32_t tile = 0;
};

// What a worker on a GPU begins with: its share of section B and, where they are known, the numbers
// that its first keys' addresses follow from, so that one read of memory is enough to ask for them.
struct alignas(16) Start {
  Item item;                  // the first one
  std::int32_t items = 0;     // of the share, parts included
  std::int32_t begin = 0;     // of the first item: blocks from here on,
  std::int32_t end = 0;       // up to here; -1: to its end, which is not known
  std::int32_t last_end = 0;  // of the last item; 0: its end
  std::int32_t split = 0;     // in Schedule::splits: of the share's first item that is cut
  // Known of requests that are one tile, whose keys have the positions from 0 on, in plans whose
  // rows are all such tiles. Else -1.
  std::int32_t request = -1;
  std::int32_t q_begin = 0;
  std::int32_t q_len = 0;
  std::int32_t kv_len = 0;
  std::int32_t q_pos = 0;
  // As in TileSpan; where the mask is told by one interval.
  std::int32_t first_block = 0;
  std::int32_t full_begin = 0;
  std::int32_t full_end = 0;
};
static_assert(sizeof(Start) == 64);

// Slot numbers of a worker's partial results: it begins and ends inside at most one item each.
TILEWRIGHT_HD inline std::int32_t first_slot(std::int32_t worker) {
  return 2 * worker;
}
TILEWRIGHT_HD inline std::int32_t second_slot(std::int32_t worker) {
  return 2 * worker + 1;
}

TILEWRIGHT_HD inline std::int32_t parts_of(const Split& split) {
  return split.last - split.first + 1;
}
// The slot of part `i` of an item that begins with worker `first`.
TILEWRIGHT_HD inline std::int32_t slot_of_part(std::int32_t first, std::int32_t i) {
  return i == 0 ? second_slot(first) : first_slot(first + i);
}

}  // namespace tilewright::plan
