// SPDX-License-Identifier: Apache-2.0
#include "cpu/tile_ranges.h"

#include <algorithm>

namespace tilewright::cpu {

TileRanges tile_ranges(const AttentionPlan& plan, const MaskAnalysis& mask, const plan::Row& row,
                       std::int32_t head, std::int32_t tile) {
  return plan::tile_ranges(plan, BoundMask{mask, plan.bindings}, row, head, tile);
}

TileCounts count_tile(const TileRanges& ranges, const plan::Config& config, const plan::Row& row) {
  const std::int64_t width = config.block_tokens;
  TileCounts counts;
  counts.blocks = ranges.blocks;
  counts.skipped_blocks = plan::ceil_div(row.kv_len, width) - ranges.blocks;
  if (ranges.num_lists > 0) {
    for (std::int32_t block = ranges.next(0); block >= 0; block = ranges.next(block + 1)) {
      const std::int64_t begin = block * width;
      const std::int64_t end = std::min<std::int64_t>(begin + width, row.kv_len);
      counts.keys += end - begin;
      counts.full_blocks += ranges.is_full(begin, end) ? 1 : 0;
    }
    return counts;
  }
  for (int i = 0; i < ranges.num_spans; ++i) {
    const std::int64_t end = std::min<std::int64_t>(ranges.spans[i].end * width, row.kv_len);
    counts.keys += end - ranges.spans[i].begin * width;
  }
  for (int i = 0; i < ranges.full.count; ++i) {
    const Interval& full = ranges.full.intervals[i];
    // The last block of a row may be short.
    const std::int64_t end =
        full.end == row.kv_len ? plan::ceil_div(full.end, width) : full.end / width;
    counts.full_blocks += std::max<std::int64_t>(end - plan::ceil_div(full.begin, width), 0);
  }
  return counts;
}

}  // namespace tilewright::cpu
