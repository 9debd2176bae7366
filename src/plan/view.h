// SPDX-License-Identifier: Apache-2.0
// One attention's plan for one batch, as kernels read it on every device. Pointers are into the
// plan's workspace or the caller's tensors; kernels take it by value.
#pragma once

#include "plan/divisor.h"
#include "plan/schedule.h"

namespace tilewright::plan {

inline constexpr int kMaxLevels = 8;

// Where the keys of a level's rows lie: key i of row r is slot i % page_size of page(r, i /
// page_size).
struct LevelPages {
  // The query tokens behind the rows' ranges; null: 0, 1, 2, ...
  const std::int32_t* q_rows = nullptr;
  const std::int32_t* indices = nullptr;  // null: pages follow each other from first_page on
  const std::int32_t* indptr =
      nullptr;  // csr: row r's entries begin at indptr[r]; ragged: its first token
  const std::int32_t* row_ids = nullptr;
  std::int64_t row_stride = 0;  // padded: entries from one row to the next
  std::int64_t page_size = 1;
  // The largest page id in use, and whose it is, for the check against a run's cache. Only where
  // the host makes the plan.
  std::int64_t max_page = -1;
  std::int64_t max_page_row = 0;

  // A row's page ids; null when they are first_page(row), first_page(row) + 1, ...
  TILEWRIGHT_HD const std::int32_t* entries(std::int64_t row) const {
    if (indices == nullptr) return nullptr;
    if (indptr != nullptr) return indices + indptr[row];
    return indices + (row_ids != nullptr ? row_ids[row] : row) * row_stride;
  }
  TILEWRIGHT_HD std::int64_t first_page(std::int64_t row) const {
    return indptr != nullptr ? indptr[row] : row;
  }
};

// A BlockStructure, checked where the host can. Sizes are those of the tensors: whatever the
// device's data says, nothing behind them is read.
struct BlockLists {
  std::int64_t q_block = 1;
  std::int64_t kv_block = 1;
  std::int32_t heads = 1;      // lists of a block row
  std::int32_t num_lists = 0;  // that indptr has room for
  std::int32_t num_entries = 0;
  const std::int32_t* request_rows = nullptr;  // of all requests that there may be
  const std::int32_t* indptr = nullptr;        // null: there is no structure
  const std::int32_t* indices = nullptr;
  const std::uint8_t* full = nullptr;  // null: no block is known to be

  TILEWRIGHT_HD bool defined() const { return indptr != nullptr; }
  // The entries [begin_of(list), end_of(list)) of a list.
  TILEWRIGHT_HD std::int64_t begin_of(std::int32_t list) const {
    return clamp64(indptr[list], 0, num_entries);
  }
  TILEWRIGHT_HD std::int64_t end_of(std::int32_t list) const { return begin_of(list + 1); }
};

// Keys of one shard of a context-parallel KV: key i is at position ((i / size) * world + rank) *
// size + i % size.
struct Interleave {
  constexpr Interleave() = default;
  constexpr Interleave(std::int64_t its_size, std::int64_t its_world, std::int64_t its_rank)
      : size(its_size),
        world(its_world),
        rank(its_rank),
        by_size(its_size),
        by_turn(its_size * its_world) {}

  std::int64_t size = 1;
  std::int64_t world = 1;
  std::int64_t rank = 0;
  Divisor by_size;  // of key indices
  Divisor by_turn;  // of positions, through all shards
};

// How many keys of a shard stand before `position`.
TILEWRIGHT_HD inline std::int64_t shard_keys_before(const Interleave& shard,
                                                    std::int64_t position) {
  constexpr std::int64_t kMost = std::int64_t{1} << 31;  // behind every position
  const auto at = static_cast<std::uint32_t>(clamp64(position, 0, kMost));
  const std::int64_t turns = shard.by_turn.quotient(at);
  const std::int64_t keys = at - turns * shard.size * shard.world - shard.rank * shard.size;
  return turns * shard.size + clamp64(keys, 0, shard.size);
}

struct View {
  Schedule schedule;
  Request* requests = nullptr;
  Segment* segments = nullptr;
  // Where rows are not simply the requests, by query token: bit l is set when a row of level l
  // covers it. Else null.
  std::uint8_t* token_levels = nullptr;
  std::int32_t* token_keys = nullptr;  // by query token: keys of all its rows
  // By query token: its request, where kernels ask for that often; null: it is searched for.
  std::int32_t* token_requests = nullptr;
  LevelPages levels[kMaxLevels];
  std::int32_t num_levels = 1;
  // A row's bits must not depend on the other rows of its tile, nor on how many there are.
  bool batch_invariant = false;
  Interleave interleave;
  const std::int32_t* q_pos = nullptr;  // by query token, or null: consecutive from Request::q_pos
  std::int64_t q_pos_stride = 1;
  BlockLists blocks;

  // Query token `i` of a row.
  TILEWRIGHT_HD std::int64_t token_of(const Row& row, std::int64_t i) const {
    const std::int32_t* list = levels[row.level].q_rows;
    return list != nullptr ? list[row.q_begin + i] : row.q_begin + i;
  }
  TILEWRIGHT_HD std::int64_t position_of_query(const Request& request, std::int64_t token) const {
    return q_pos != nullptr ? q_pos[token * q_pos_stride]
                            : request.q_pos + (token - request.q_begin);
  }
  TILEWRIGHT_HD std::int64_t position_of_key(const Row& row, std::int64_t index) const {
    if (interleave.world == 1) return row.kv_pos + index;
    return (index / interleave.size * interleave.world + interleave.rank) * interleave.size +
           index % interleave.size;
  }

  // The request of a query token: the last one that begins at or before it.
  TILEWRIGHT_HD std::int32_t request_of(std::int64_t token) const {
    if (token_requests != nullptr) return token_requests[token];
    std::int32_t begin = 0;
    std::int32_t end = schedule.header->num_requests;
    TILEWRIGHT_HD_LOOP
    while (begin < end) {
      const std::int32_t middle = begin + (end - begin) / 2;
      if (requests[middle].q_begin <= token) {
        begin = middle + 1;
      } else {
        end = middle;
      }
    }
    return begin - 1;
  }
  // The same, for a token of a row.
  TILEWRIGHT_HD std::int32_t request_of(const Row& row, std::int64_t token) const {
    return token_levels == nullptr ? row.index : request_of(token);
  }

  // How many keys of a row stand before `position`.
  TILEWRIGHT_HD std::int64_t keys_before(const Row& row, std::int64_t position) const {
    const std::int64_t count =
        interleave.world > 1 ? shard_keys_before(interleave, position) : position - row.kv_pos;
    return clamp64(count, 0, row.kv_len);
  }
  // The same of keys that are no shard.
  TILEWRIGHT_HD static std::int64_t whole_keys_before(const Row& row, std::int64_t position) {
    return clamp64(position - row.kv_pos, 0, row.kv_len);
  }
};

}  // namespace tilewright::plan
