// SPDX-License-Identifier: Apache-2.0
// Which KV blocks a tile needs and which of them need no masking: the mask's intervals of positions
// as blocks of keys.
#pragma once

#include "cpu/attention_plan.h"
#include "variant/mask.h"

namespace tilewright::cpu {

struct TileRanges {
  static constexpr int kMaxSpans = IntervalSet::kMax;
  struct Span {
    std::int32_t begin = 0;  // blocks [begin, end)
    std::int32_t end = 0;
  };

  int num_spans = 0;
  std::array<Span, kMaxSpans> spans;  // disjoint, ascending
  std::int32_t blocks = 0;            // in all spans
  IntervalSet full;                   // of key indices: attended to by every row of the tile

  // The index of the n-th needed block, 0 <= n < blocks.
  std::int32_t nth(std::int32_t n) const;
  bool is_full(std::int64_t key_begin, std::int64_t key_end) const;
};

// What one tile adds to PlanStats.
struct TileCounts {
  std::int64_t blocks = 0;
  std::int64_t full_blocks = 0;
  std::int64_t skipped_blocks = 0;
  std::int64_t keys = 0;  // read
};

TileCounts count_tile(const TileRanges& ranges, const plan::Config& config, const plan::Row& row);

TileRanges tile_ranges(const AttentionPlan& plan, const MaskAnalysis& mask, const plan::Row& row,
                       std::int32_t head, std::int32_t tile);

}  // namespace tilewright::cpu
