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
  int span = 0;
  while (n >= spans[span].end - spans[span].begin) {
    n -= spans[span].end - spans[span].begin;
    ++span;
  }
  return spans[span].begin + n;
}

bool TileRanges::is_full(std::int64_t key_begin, std::int64_t key_end) const {
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
  const std::int64_t packed = static_cast<std::int64_t>(tile) * config.tile_rows;
  std::int64_t entry = packed / config.group_size;
  const std::int64_t last =
      (packed + plan::rows_of_tile(config, row, tile) - 1) / config.group_size;
  bool any_request = false;
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
  }
  for (int i = 0; i < ranges.num_spans; ++i) {
    ranges.blocks += ranges.spans[i].end - ranges.spans[i].begin;
  }
  return ranges;
}

TileCounts count_tile(const TileRanges& ranges, const plan::Config& config, const plan::Row& row) {
  const std::int64_t width = config.block_tokens;
  TileCounts counts;
  counts.blocks = ranges.blocks;
  counts.skipped_blocks = plan::ceil_div(row.kv_len, width) - ranges.blocks;
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
