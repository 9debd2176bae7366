// SPDX-License-Identifier: Apache-2.0
#include "cpu/tile_ranges.h"

#include <algorithm>

namespace tilewright::cpu {

std::int32_t AttentionPlan::request_of(std::int64_t token) const {
  const plan::Request* above = std::upper_bound(
      requests, requests + schedule.header->num_requests, token,
      [](std::int64_t t, const plan::Request& request) { return t < request.q_begin; });
  return static_cast<std::int32_t>(above - requests) - 1;
}

std::int64_t AttentionPlan::keys_before(const plan::Row& row, std::int64_t position) const {
  std::int64_t count = position - row.kv_pos;
  if (interleave.world > 1) {
    const std::int64_t turn = interleave.size * interleave.world;
    const std::int64_t turns = position <= 0 ? 0 : position / turn;
    const std::int64_t in_turn = position <= 0 ? 0 : position % turn;
    count =
        turns * interleave.size +
        std::clamp<std::int64_t>(in_turn - interleave.rank * interleave.size, 0, interleave.size);
  }
  return std::clamp<std::int64_t>(count, 0, row.kv_len);
}

std::int32_t TileRanges::nth(std::int32_t n) const {
  if (num_lists > 0) {
    if (n < num_known_ - kKnown) num_known_ = 0;
    for (; num_known_ <= n; ++num_known_) {
      const std::int32_t before = num_known_ == 0 ? -1 : known_[(num_known_ - 1) % kKnown];
      known_[num_known_ % kKnown] = next(before + 1);
    }
    return known_[n % kKnown];
  }
  int span = 0;
  while (n >= spans[span].end - spans[span].begin) {
    n -= spans[span].end - spans[span].begin;
    ++span;
  }
  return spans[span].begin + n;
}

std::int32_t TileRanges::next(std::int32_t block) const {
  for (int i = 0; i < num_spans; ++i) {
    if (spans[i].end <= block) continue;
    block = std::max(block, spans[i].begin);
    if (num_lists > 0) block = next_listed(block);
    if (block < 0 || block < spans[i].end) return block;
  }
  return -1;
}

// The first block from `block` on that some list names, or -1. Where the keys of a shard lie apart,
// it may have none of a listed block's positions: then it is needed for nothing.
std::int32_t TileRanges::next_listed(std::int32_t block) const {
  const BlockLists& structure = plan->blocks;
  const std::int64_t width = plan->schedule.config.block_tokens;
  const std::int64_t key = block * width;
  if (key >= row->kv_len) return -1;
  const std::int64_t position = plan->position_of_key(*row, key);
  std::int64_t first = row->kv_len;
  for (int i = 0; i < num_lists; ++i) {
    const std::int32_t* const end = structure.indices + structure.indptr[lists[i] + 1];
    const std::int32_t* const found = std::lower_bound(
        structure.indices + structure.indptr[lists[i]], end, position / structure.kv_block);
    if (found == end) continue;
    const std::int64_t begin = *found * structure.kv_block;
    first = std::min(first, begin <= position ? key : plan->keys_before(*row, begin));
  }
  return first < row->kv_len ? static_cast<std::int32_t>(first / width) : -1;
}

bool TileRanges::is_listed_full(std::int64_t key_begin, std::int64_t key_end) const {
  const BlockLists& structure = plan->blocks;
  if (structure.full == nullptr) return false;
  const std::int64_t first = plan->position_of_key(*row, key_begin) / structure.kv_block;
  const std::int64_t last = plan->position_of_key(*row, key_end - 1) / structure.kv_block;
  for (int i = 0; i < num_lists; ++i) {
    const std::int64_t end = structure.indptr[lists[i] + 1];
    std::int64_t at = std::lower_bound(structure.indices + structure.indptr[lists[i]],
                                       structure.indices + end, first) -
                      structure.indices;
    for (std::int64_t block = first; block <= last; ++block, ++at) {
      if (at >= end || structure.indices[at] != block || structure.full[at] == 0) return false;
    }
  }
  return true;
}

bool TileRanges::is_full(std::int64_t key_begin, std::int64_t key_end) const {
  if (num_lists > 0 && is_listed_full(key_begin, key_end)) return true;
  for (int i = 0; i < full.count; ++i) {
    if (full.intervals[i].begin <= key_begin && key_end <= full.intervals[i].end) return true;
  }
  return false;
}

namespace {

// Adds blocks [begin, end), joining spans that touch; when there is no room, neighbours are joined
// across the gap.
void add_span(TileRanges& ranges, std::int32_t begin, std::int32_t end) {
  std::array<TileRanges::Span, TileRanges::kMaxSpans + 1> spans;
  int count = 0;
  bool placed = false;
  for (int i = 0; i < ranges.num_spans; ++i) {
    const TileRanges::Span& span = ranges.spans[i];
    if (span.end < begin) {
      spans[count++] = span;
    } else if (span.begin > end) {
      if (!placed) spans[count++] = {begin, end};
      placed = true;
      spans[count++] = span;
    } else {
      begin = std::min(begin, span.begin);
      end = std::max(end, span.end);
    }
  }
  if (!placed) spans[count++] = {begin, end};
  if (count > TileRanges::kMaxSpans) {
    spans[count - 2].end = spans[count - 1].end;
    --count;
  }
  std::copy(spans.begin(), spans.begin() + count, ranges.spans.begin());
  ranges.num_spans = count;
}

IntervalSet intersect(const IntervalSet& a, const IntervalSet& b) {
  IntervalSet both;
  for (int i = 0; i < a.count; ++i) {
    for (int j = 0; j < b.count; ++j) {
      const Interval common{std::max(a.intervals[i].begin, b.intervals[j].begin),
                            std::min(a.intervals[i].end, b.intervals[j].end)};
      // What does not fit is masked element by element: slower, never wrong.
      if (!common.empty() && both.count < IntervalSet::kMax) both.intervals[both.count++] = common;
    }
  }
  return both;
}

// Positions to key indices of a row, without those it does not have.
IntervalSet to_keys(const AttentionPlan& plan, const plan::Row& row, const IntervalSet& positions) {
  IntervalSet keys;
  for (int i = 0; i < positions.count; ++i) {
    const Interval interval{plan.keys_before(row, positions.intervals[i].begin),
                            plan.keys_before(row, positions.intervals[i].end)};
    if (!interval.empty()) keys.intervals[keys.count++] = interval;
  }
  return keys;
}

// Adds the lists of the query tokens [begin, end) of one request. False: there is no room.
bool add_lists(TileRanges& ranges, const plan::Request& request, std::int32_t index,
               std::int32_t head, std::int64_t begin, std::int64_t end) {
  const BlockLists& structure = ranges.plan->blocks;
  const std::int64_t last = (end - 1 - request.q_begin) / structure.q_block;
  for (std::int64_t block = (begin - request.q_begin) / structure.q_block; block <= last; ++block) {
    const auto list =
        static_cast<std::int32_t>((structure.request_rows[index] + block) * structure.heads +
                                  (structure.heads > 1 ? head : 0));
    if (ranges.num_lists > 0 && ranges.lists[ranges.num_lists - 1] == list) continue;
    if (ranges.num_lists == TileRanges::kMaxLists) return false;
    ranges.lists[ranges.num_lists++] = list;
  }
  return true;
}

// The query range of the tokens [begin, end) of one request.
QueryRange query_range(const AttentionPlan& plan, const plan::Request& request, std::int64_t begin,
                       std::int64_t end) {
  QueryRange range;
  range.q_len = request.q_len;
  range.kv_len = request.kv_len;
  range.q_index = begin;
  range.q_begin = request.q_begin;
  range.q_pos_min = plan.position_of_query(request, begin);
  range.q_pos_max = plan.position_of_query(request, end - 1);
  if (plan.q_pos != nullptr) {
    range.q_pos = plan.q_pos + begin * plan.q_pos_stride;
    range.q_pos_stride = plan.q_pos_stride;
    range.q_count = end - begin;
    for (std::int64_t token = begin; token < end; ++token) {
      const std::int64_t position = plan.position_of_query(request, token);
      range.q_pos_min = std::min(range.q_pos_min, position);
      range.q_pos_max = std::max(range.q_pos_max, position);
    }
  }
  return range;
}

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
  const MaskAnalysis::Band band = mask.band(first, last);
  const auto key_at = [&](std::int64_t position) {
    const std::int64_t key = position - row.kv_pos;
    return static_cast<std::uint32_t>(key < 0 ? 0 : key > row.kv_len ? row.kv_len : key);
  };
  keys = {key_at(band.any.begin), key_at(band.any.end), key_at(band.every.begin),
          key_at(band.every.end)};
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
  const plan::Config& config = plan.schedule.config;
  TileRanges ranges;
  if (row.kv_len == 0) return ranges;
  if (mask.mask_class() == MaskClass::none) {
    ranges.blocks = static_cast<std::int32_t>(plan::ceil_div(row.kv_len, config.block_tokens));
    ranges.num_spans = 1;
    ranges.spans[0] = {0, ranges.blocks};
    ranges.full = IntervalSet::of(0, row.kv_len);
    return ranges;
  }
  if (BandKeys keys; find_band_keys(plan, mask, row, tile, keys)) {
    if (keys.begin >= keys.end) return ranges;
    const auto width = static_cast<std::uint32_t>(config.block_tokens);
    ranges.num_spans = 1;
    ranges.spans[0] = {static_cast<std::int32_t>(keys.begin / width),
                       static_cast<std::int32_t>((keys.end + width - 1) / width)};
    ranges.blocks = ranges.spans[0].end - ranges.spans[0].begin;
    ranges.full = IntervalSet::of(keys.full_begin, keys.full_end);
    return ranges;
  }
  const std::int64_t packed = static_cast<std::int64_t>(tile) * config.tile_rows;
  std::int64_t entry = packed / config.group_size;
  const std::int64_t last =
      (packed + plan::rows_of_tile(config, row, tile) - 1) / config.group_size;
  bool any_request = false;
  bool listed = plan.blocks.defined();
  ranges.plan = &plan;
  ranges.row = &row;
  while (entry <= last) {
    // The next query tokens that belong to one request and follow each other.
    const std::int64_t begin = plan.token_of(row, entry);
    const std::int32_t r = plan.request_of(row, begin);
    const plan::Request& request = plan.requests[r];
    const std::int64_t end_of_request = request.q_begin + request.q_len;
    std::int64_t end = std::min(end_of_request, begin + last - entry + 1);
    if (plan.levels[row.level].q_rows != nullptr) {
      end = begin + 1;
      while (entry + end - begin <= last && end < end_of_request &&
             plan.token_of(row, entry + end - begin) == end) {
        ++end;
      }
    }
    entry += end - begin;
    QueryRange queries = query_range(plan, request, begin, end);
    queries.batch = r;
    queries.kv_head = head;
    queries.q_head_begin = static_cast<std::int64_t>(head) * config.group_size;
    queries.q_head_end = queries.q_head_begin + config.group_size;
    const MaskRanges positions = mask.ranges(queries, plan.bindings);
    const IntervalSet needed = to_keys(plan, row, positions.needed);
    for (int i = 0; i < needed.count; ++i) {
      add_span(
          ranges, static_cast<std::int32_t>(needed.intervals[i].begin / config.block_tokens),
          static_cast<std::int32_t>(plan::ceil_div(needed.intervals[i].end, config.block_tokens)));
    }
    const IntervalSet full = to_keys(plan, row, positions.full);
    ranges.full = any_request ? intersect(ranges.full, full) : full;
    any_request = true;
    listed = listed && add_lists(ranges, request, r, head, begin, end);
  }
  if (listed) {
    for (std::int32_t block = ranges.next(0); block >= 0; block = ranges.next(block + 1)) {
      ++ranges.blocks;
    }
    return ranges;
  }
  ranges.num_lists = 0;
  for (int i = 0; i < ranges.num_spans; ++i) {
    ranges.blocks += ranges.spans[i].end - ranges.spans[i].begin;
  }
  return ranges;
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
