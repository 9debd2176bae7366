// SPDX-License-Identifier: Apache-2.0
#include "cpu/tile_ranges.h"

#include <algorithm>

namespace tilewright::cpu {
namespace {

// A tile's keys under a band: one interval of each kind, in 32 bits, since this is all that most
// plans compute of a decoding request.
struct BandKeys {
  std::uint32_t begin = 0;  // needed
  std::uint32_t end = 0;
  std::uint32_t full_begin = 0;
  std::uint32_t full_end = 0;
};

// False: the tile's keys are no band, or its rows are not simply a request's.
bool find_band_keys(const AttentionPlan& plan, const MaskAnalysis& mask, const plan::Row& row,
                    std::int32_t tile, BandKeys& keys) {
  if (!mask.is_band() || plan.token_levels != nullptr || plan.q_pos != nullptr ||
      plan.interleave.world != 1 || plan.blocks.defined()) {
    return false;
  }
  const plan::Config& config = plan.schedule.config;
  std::int64_t first = plan.requests[row.index].q_pos;
  std::int64_t last = first + row.q_len - 1;
  if (row.tiles != 1) {
    const std::int64_t packed = static_cast<std::int64_t>(tile) * config.tile_rows;
    last = first + (packed + plan::rows_of_tile(config, row, tile) - 1) / config.group_size;
    first += packed / config.group_size;
  }
  const plan::MaskInterval band = mask.band(first, last);
  const auto key_at = [&](std::int64_t position) {
    const std::int64_t key = position - row.kv_pos;
    return static_cast<std::uint32_t>(key < 0 ? 0 : key > row.kv_len ? row.kv_len : key);
  };
  keys = {key_at(band.needed.begin), key_at(band.needed.end), key_at(band.full.begin),
          key_at(band.full.end)};
  return true;
}

TileCounts count_band(const BandKeys& keys, const plan::Config& config, const plan::Row& row) {
  const auto width = static_cast<std::uint32_t>(config.block_tokens);
  const auto length = static_cast<std::uint32_t>(row.kv_len);
  const std::uint32_t all = (length + width - 1) / width;
  TileCounts counts;
  counts.skipped_blocks = all;
  if (keys.begin >= keys.end) return counts;
  const std::uint32_t begin = keys.begin / width;
  const std::uint32_t end = keys.end == length ? all : (keys.end + width - 1) / width;
  counts.blocks = end - begin;
  counts.skipped_blocks = all - (end - begin);
  counts.keys = std::min(end * width, length) - begin * width;
  const std::uint32_t full_begin = (keys.full_begin + width - 1) / width;
  // The last block of a row may be short.
  const std::uint32_t full_end = keys.full_end == length ? all : keys.full_end / width;
  counts.full_blocks = full_end > full_begin ? full_end - full_begin : 0;
  return counts;
}

}  // namespace

TileRanges tile_ranges(const AttentionPlan& plan, const MaskAnalysis& mask, const plan::Row& row,
                       std::int32_t head, std::int32_t tile) {
  if (BandKeys keys; find_band_keys(plan, mask, row, tile, keys)) {
    TileRanges ranges;
    if (keys.begin >= keys.end) return ranges;
    const auto width = static_cast<std::uint32_t>(plan.schedule.config.block_tokens);
    ranges.num_spans = 1;
    ranges.spans[0] = {static_cast<std::int32_t>(keys.begin / width),
                       static_cast<std::int32_t>((keys.end + width - 1) / width)};
    ranges.blocks = ranges.spans[0].end - ranges.spans[0].begin;
    ranges.full = IntervalSet::of(keys.full_begin, keys.full_end);
    return ranges;
  }
  return plan::tile_ranges(plan, BoundMask{mask, plan.bindings}, row, head, tile);
}

TileCounts count_tile(const AttentionPlan& plan, const MaskAnalysis& mask, const plan::Row& row,
                      std::int32_t head, std::int32_t tile) {
  const plan::Config& config = plan.schedule.config;
  if (BandKeys keys; find_band_keys(plan, mask, row, tile, keys)) {
    return count_band(keys, config, row);
  }
  const TileRanges ranges = tile_ranges(plan, mask, row, head, tile);
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
