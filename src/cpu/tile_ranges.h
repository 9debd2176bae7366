// SPDX-License-Identifier: Apache-2.0
// Which KV blocks a tile needs, by a mask's analysis on the host.
#pragma once

#include "cpu/attention_plan.h"
#include "plan/tile_ranges.h"
#include "variant/mask.h"

namespace tilewright::cpu {

using plan::TileRanges;

// A mask with its parameters, as plan::tile_ranges asks it.
struct BoundMask {
  const MaskAnalysis& mask;
  const Bindings& bindings;

  bool has_mask() const { return mask.mask_class() != MaskClass::none; }
  bool one_interval() const { return mask.one_interval(); }
  MaskRanges ranges(const QueryRange& queries) const { return mask.ranges(queries, bindings); }
  plan::MaskInterval interval(const QueryRange& queries) const {
    const MaskRanges both = ranges(queries);
    return {both.needed.hull(), both.full.hull()};
  }
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
