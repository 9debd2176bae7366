// SPDX-License-Identifier: Apache-2.0
// Memory of the block that makes an attention's plan.
#pragma once

#include "plan/view.h"

namespace tilewright::plan {

inline constexpr int kMaxUpdateWarps = 32;
// On the device: what lies before items of the tail, one a worker, is in shared memory.
inline constexpr int kMaxDeviceWorkers = 1024;
// What a block of threads has on every GPU since Ampere.
inline constexpr std::int64_t kMostUpdateShared = std::int64_t{99} << 10;

// What scans of the block add up.
struct alignas(16) Sums {
  std::int64_t cost = 0;
  std::int32_t items = 0;
  std::int32_t count = 0;
};

// The first thing in shared memory; the arrays are behind it.
struct alignas(16) UpdateMemory {
  View view;                  // the plan's, with the header and the requests that are worked on
  alignas(16) Header header;  // written to the plan at the end
  Sums warp_sums[2][kMaxUpdateWarps];
  std::int64_t long_cost;  // of all long rows
  std::int32_t turn;       // of the status words
  std::int32_t end_of_queries;
  std::int32_t level_end[kMaxLevels + 1];  // of the rows of levels before each
};

// An array in shared memory, where it fits, or in the workspace.
template <typename T>
struct Placed {
  std::uint64_t place = 0;  // bytes from the start of shared memory, or an address
  bool is_shared = false;

  // Without a branch: many are asked for at once.
  TILEWRIGHT_HD T* in(char* memory) const {
    const auto base = is_shared ? reinterpret_cast<std::uint64_t>(memory) : 0;
    return reinterpret_cast<T*>(base + place);  // NOLINT(performance-no-int-to-ptr)
  }
};

// A row whose tiles are measured side by side.
struct LongRow {
  std::int32_t row = 0;         // its number; of rows of several requests -1 less it
  std::int32_t first_tile = 0;  // in UpdateArrays::tile_costs
};

// What cuts in a row of one tile follow from, beside its cost_before. Its packed rows are those of
// a tile at most, for all heads of an item those of a joint one.
struct alignas(16) ShortRow {
  std::int32_t items_before = 0;
  std::uint16_t q_len = 0;
  std::uint16_t heads = 1;
  std::int32_t blocks = 0;
  std::int32_t request = 0;  // where rows are requests
};

// Of a row of section A, where there are long ones: what its place follows from.
struct alignas(16) LongestItem {
  std::int64_t cost = 0;
  std::int32_t tiles = 0;  // of the row, a KV head
};

// What a worker that begins with such a row is told of it, see Start.
struct alignas(16) ShortSpan {
  std::int32_t first_block = 0;
  std::int32_t full_begin = 0;
  std::int32_t full_end = 0;
  std::int32_t kv_pos = 0;
};

// What a plan is made in.
struct UpdateArrays {
  Placed<std::int64_t> tail_costs;  // [workers]: before each item of the tail
  // [rows]: Row::cost_before, where cuts are searched for. Until it is known: the list of long
  // rows.
  Placed<std::int64_t> cost_before;
  Placed<ShortRow> short_rows;      // [rows]: where there are no others. Else LongestItems.
  Placed<Request> requests;         // [requests]
  Placed<ShortSpan> short_spans;    // [rows]
  Placed<std::int32_t> first_tile;  // [rows]: of long rows, by their segments
  Placed<std::int32_t> fold;        // [4][rows]: see Folding; with several levels
  // [q_tokens]: View's, until no row is folded any more. Elsewhere they are the plan's own.
  Placed<std::int32_t> token_keys;
  Placed<std::uint8_t> token_levels;
  Placed<Row> level_rows;           // [rows]: of levels, before some are folded
  Placed<std::int64_t> tile_costs;  // [tiles]: before each tile of a long row; heads one by one
  Row* a_rows = nullptr;            // [rows]: section A's, unsorted
};

}  // namespace tilewright::plan
