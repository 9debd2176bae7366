// SPDX-License-Identifier: Apache-2.0
// Which KV blocks a tile needs and which of them need no masking: the mask's intervals of positions
// as blocks of keys, and within them the lists of a BlockStructure.
#pragma once

#include <array>
#include <cstdint>

#include "cpu/attention_plan.h"
#include "variant/mask.h"

namespace tilewright::cpu {

struct TileRanges {
  static constexpr int kMaxSpans = IntervalSet::kMax;
  static constexpr int kMaxLists = 128;  // of a tile; with more of them they are not used
  struct Span {
    std::int32_t begin = 0;  // blocks [begin, end)
    std::int32_t end = 0;
  };

  int num_spans = 0;
  std::array<Span, kMaxSpans> spans;  // disjoint, ascending
  std::int32_t blocks = 0;            // needed: in all spans and, with lists, in one of these
  IntervalSet full;                   // of key indices: attended to by every row of the tile

  // The lists of the tile's queries, in plan->blocks. 0: blocks in spans are all needed.
  int num_lists = 0;
  std::array<std::int32_t, kMaxLists> lists;
  const AttentionPlan* plan = nullptr;  // with lists
  const plan::Row* row = nullptr;

  // The index of the n-th needed block, 0 <= n < blocks. With lists it walks on from the last
  // calls: cheap for n that grow, and for those that are not far behind. One thread at a time.
  std::int32_t nth(std::int32_t n) const;
  // The first needed block from `block` on, or -1.
  std::int32_t next(std::int32_t block) const;
  bool is_full(std::int64_t key_begin, std::int64_t key_end) const;

 private:
  std::int32_t next_listed(std::int32_t block) const;
  bool is_listed_full(std::int64_t key_begin, std::int64_t key_end) const;

  static constexpr int kKnown = 32;  // the latest blocks that nth() met: number n is at n % kKnown
  mutable std::array<std::int32_t, kKnown> known_;
  mutable std::int32_t num_known_ = 0;
};

// What one tile adds to PlanStats.
struct TileCounts {
  std::int64_t blocks = 0;
  std::int64_t full_blocks = 0;
  std::int64_t skipped_blocks = 0;
  std::int64_t keys = 0;  // read
};

// Thread-safe, and allocate nothing. Ranges refer to `plan` and `row`.
TileCounts count_tile(const AttentionPlan& plan, const MaskAnalysis& mask, const plan::Row& row,
                      std::int32_t head, std::int32_t tile);
TileRanges tile_ranges(const AttentionPlan& plan, const MaskAnalysis& mask, const plan::Row& row,
                       std::int32_t head, std::int32_t tile);

}  // namespace tilewright::cpu
