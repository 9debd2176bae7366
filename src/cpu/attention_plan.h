// SPDX-License-Identifier: Apache-2.0
// One attention's plan for one batch, as the CPU kernels read it. All memory is the plan's
// workspace or the caller's.
#pragma once

#include <tilewright/plan.h>

#include <array>
#include <cstdint>

#include "cpu/tile_bf16.h"
#include "plan/schedule.h"
#include "variant/bindings.h"

namespace tilewright::cpu {

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
  // The largest page id in use, and whose it is, for the check against a run's cache.
  std::int64_t max_page = -1;
  std::int64_t max_page_row = 0;

  // A row's page ids; null when they are first_page(row), first_page(row) + 1, ...
  const std::int32_t* entries(std::int64_t row) const {
    if (indices == nullptr) return nullptr;
    if (indptr != nullptr) return indices + indptr[row];
    return indices + (row_ids != nullptr ? row_ids[row] : row) * row_stride;
  }
  std::int64_t first_page(std::int64_t row) const { return indptr != nullptr ? indptr[row] : row; }
};

// A BlockStructure, checked.
struct BlockLists {
  std::int64_t q_block = 1;
  std::int64_t kv_block = 1;
  std::int32_t heads = 1;  // lists of a block row
  const std::int32_t* request_rows = nullptr;
  const std::int32_t* indptr = nullptr;  // null: there is no structure
  const std::int32_t* indices = nullptr;
  const std::uint8_t* full = nullptr;  // null: no block is known to be

  bool defined() const { return indptr != nullptr; }
};

struct AttentionPlan {
  plan::Schedule schedule;
  plan::Request* requests = nullptr;
  plan::Segment* segments = nullptr;
  std::int32_t num_segments = 0;
  // Where rows are not simply the requests, by query token: bit l is set when a row of level l
  // covers it. Else null.
  std::uint8_t* token_levels = nullptr;
  std::int32_t* token_keys = nullptr;  // by query token: keys of all its rows
  bool joins_levels = false;           // some token is not covered by exactly one row
  std::array<LevelPages, kMaxLevels> levels;
  int num_levels = 1;
  KvInterleave interleave;
  const std::int32_t* q_pos = nullptr;  // by query token, or null: consecutive from Request::q_pos
  std::int64_t q_pos_stride = 1;
  // A row's bits must not depend on the other rows of its tile, nor on how many there are.
  const Bf16Kernels* bf16 = nullptr;  // what computes bf16; null: the portable kernels
  bool batch_invariant = false;
  BlockLists blocks;
  Bindings bindings;  // parameters bound at plan

  // Query token `i` of a row.
  std::int64_t token_of(const plan::Row& row, std::int64_t i) const {
    const std::int32_t* list = levels[row.level].q_rows;
    return list != nullptr ? list[row.q_begin + i] : row.q_begin + i;
  }
  std::int64_t position_of_query(const plan::Request& request, std::int64_t token) const {
    return q_pos != nullptr ? q_pos[token * q_pos_stride]
                            : request.q_pos + (token - request.q_begin);
  }
  std::int64_t position_of_key(const plan::Row& row, std::int64_t index) const {
    if (interleave.world == 1) return row.kv_pos + index;
    return (index / interleave.size * interleave.world + interleave.rank) * interleave.size +
           index % interleave.size;
  }
  // The request of a query token.
  std::int32_t request_of(std::int64_t token) const;
  // The same, for a token of a row.
  std::int32_t request_of(const plan::Row& row, std::int64_t token) const {
    return token_levels == nullptr ? row.index : request_of(token);
  }
  // How many keys of a row stand before `position`.
  std::int64_t keys_before(const plan::Row& row, std::int64_t position) const;
};

}  // namespace tilewright::cpu
