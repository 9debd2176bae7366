// SPDX-License-Identifier: Apache-2.0
// Which KV blocks a tile needs and which of them need no masking: the mask's intervals of positions
// as blocks of keys, and within them the lists of a BlockStructure. The same bits on host and
// device.
//
// `mask` below has
//   bool has_mask() const;       // false: nothing else is called
//   bool one_interval() const;   // interval() tells all that ranges() does
//   MaskRanges ranges(const QueryRange&) const;
//   MaskInterval interval(const QueryRange&) const;  // only where one_interval()
#pragma once

#include "plan/mask_ranges.h"
#include "plan/view.h"

namespace tilewright::plan {

// What a query range that begins with a token has but for positions.
TILEWRIGHT_HD inline QueryRange range_without_positions(const View& view, const Request& request,
                                                        std::int32_t r, std::int32_t head,
                                                        std::int64_t token) {
  QueryRange range;
  range.batch = r;
  range.kv_head = head;
  range.q_head_begin = static_cast<std::int64_t>(head) * view.schedule.config.group_size;
  range.q_head_end = range.q_head_begin + view.schedule.config.group_size;
  range.q_len = request.q_len;
  range.kv_len = request.kv_len;
  range.q_index = token;
  range.q_begin = request.q_begin;
  return range;
}

// The query range of the tokens [begin, end) of request `r`, for one KV head.
TILEWRIGHT_HD inline QueryRange query_range(const View& view, std::int32_t r, std::int32_t head,
                                            std::int64_t begin, std::int64_t end) {
  const Request& request = view.requests[r];
  QueryRange range = range_without_positions(view, request, r, head, begin);
  range.q_pos_min = view.position_of_query(request, begin);
  range.q_pos_max = view.position_of_query(request, end - 1);
  if (view.q_pos != nullptr) {
    range.q_pos = view.q_pos + begin * view.q_pos_stride;
    range.q_pos_stride = view.q_pos_stride;
    range.q_count = end - begin;
    TILEWRIGHT_HD_LOOP
    for (std::int64_t token = begin; token < end; ++token) {
      const std::int64_t position = view.position_of_query(request, token);
      range.q_pos_min = min64(range.q_pos_min, position);
      range.q_pos_max = max64(range.q_pos_max, position);
    }
  }
  return range;
}

// The same for one token of a request, which is in registers; where positions are not given.
TILEWRIGHT_HD inline QueryRange token_range(const View& view, const Request& request,
                                            std::int32_t r, std::int32_t head, std::int32_t token) {
  QueryRange range = range_without_positions(view, request, r, head, token);
  range.q_pos_min = request.q_pos + (static_cast<std::int64_t>(token) - request.q_begin);
  range.q_pos_max = range.q_pos_min;
  return range;
}

// Calls visit(request, begin, end) for the query tokens [begin, end) of a tile that belong to one
// request and follow each other.
template <typename Visit>
TILEWRIGHT_HD void over_queries(const View& view, const Row& row, std::int32_t tile,
                                const Visit& visit) {
  const Config& config = view.schedule.config;
  const std::int64_t packed = static_cast<std::int64_t>(tile) * config.tile_rows;
  std::int64_t entry = packed / config.group_size;
  const std::int64_t last = (packed + rows_of_tile(config, row, tile) - 1) / config.group_size;
  TILEWRIGHT_HD_LOOP
  while (entry <= last) {
    const std::int64_t begin = view.token_of(row, entry);
    const std::int32_t r = view.request_of(row, begin);
    const Request& request = view.requests[r];
    const std::int64_t end_of_request = static_cast<std::int64_t>(request.q_begin) + request.q_len;
    std::int64_t end = min64(end_of_request, begin + last - entry + 1);
    if (view.levels[row.level].q_rows != nullptr) {
      end = begin + 1;
      TILEWRIGHT_HD_LOOP
      while (entry + end - begin <= last && end < end_of_request &&
             view.token_of(row, entry + end - begin) == end) {
        ++end;
      }
    }
    entry += end - begin;
    visit(r, begin, end);
  }
}

// What a tile needs when one interval tells it: without a loop, and in registers. Block lists are
// not looked at.
struct TileSpan {
  std::int32_t begin = 0;  // needed: blocks [begin, end)
  std::int32_t end = 0;
  std::int32_t full_begin = 0;  // keys that every row of the tile attends to
  std::int32_t full_end = 0;

  TILEWRIGHT_HD std::int32_t blocks() const { return end - begin; }
  TILEWRIGHT_HD std::int32_t nth(std::int32_t n) const { return begin + n; }
  // What is needed by some, and full for all.
  TILEWRIGHT_HD void include(const TileSpan& other) {
    if (other.begin < other.end) {
      const bool none = begin == end;
      begin = none || other.begin < begin ? other.begin : begin;
      end = none || other.end > end ? other.end : end;
    }
    full_begin = other.full_begin > full_begin ? other.full_begin : full_begin;
    full_end = other.full_end < full_end ? other.full_end : full_end;
  }
  TILEWRIGHT_HD bool is_full(std::int32_t key_begin, std::int32_t key_end) const {
    return full_begin <= key_begin && key_end <= full_end;
  }
};

// What queries need of a row whose keys lie in blocks of `width`; `keys_before` tells how many of
// them stand before a position. Where mask.one_interval().
template <typename Mask, typename KeysBefore>
TILEWRIGHT_HD TileSpan span_of_queries(const Mask& mask, const QueryRange& queries,
                                       std::int32_t width, const KeysBefore& keys_before) {
  const MaskInterval positions = mask.interval(queries);
  const auto key_at = [&](std::int64_t position) {
    return static_cast<std::int32_t>(keys_before(position));
  };
  TileSpan span;
  const std::int32_t first = key_at(positions.needed.begin);
  const std::int32_t past = key_at(positions.needed.end);
  if (first < past) {
    span.begin = div32(first, width);
    span.end = ceil_div32(past, width);
  }
  span.full_begin = key_at(positions.full.begin);
  span.full_end = key_at(positions.full.end);
  return span;
}
template <typename Mask>
TILEWRIGHT_HD TileSpan span_of_queries(const View& view, const Mask& mask, const Row& row,
                                       const QueryRange& queries) {
  return span_of_queries(mask, queries, view.schedule.config.block_tokens,
                         [&](std::int64_t position) { return view.keys_before(row, position); });
}

// Of a tile whose queries need `needed`.
TILEWRIGHT_HD inline TileSpan span_of_row(const Row& row, const TileSpan& needed) {
  TileSpan span;
  if (row.kv_len == 0) return span;
  span.full_end = row.kv_len;
  span.include(needed);
  if (span.full_begin >= span.full_end) span.full_begin = span.full_end = 0;
  return span;
}

// Where !has_mask() or one_interval().
template <typename Mask>
TILEWRIGHT_HD TileSpan tile_span(const View& view, const Mask& mask, const Row& row,
                                 std::int32_t head, std::int32_t tile) {
  TileSpan span;
  if (row.kv_len == 0) return span;
  span.full_end = row.kv_len;
  if (!mask.has_mask()) {
    span.end = ceil_div32(row.kv_len, view.schedule.config.block_tokens);
    return span;
  }
  over_queries(view, row, tile, [&](std::int32_t r, std::int64_t begin, std::int64_t end) {
    span.include(span_of_queries(view, mask, row, query_range(view, r, head, begin, end)));
  });
  if (span.full_begin >= span.full_end) span.full_begin = span.full_end = 0;
  return span;
}

struct TileRanges {
  static constexpr int kMaxSpans = IntervalSet::kMax;
  static constexpr int kMaxLists = 128;  // of a tile; with more of them they are not used
  struct Span {
    std::int32_t begin = 0;  // blocks [begin, end)
    std::int32_t end = 0;
  };

  int num_spans = 0;
  Span spans[kMaxSpans];    // disjoint, ascending
  std::int32_t blocks = 0;  // needed: in all spans and, with lists, in one of these
  IntervalSet full;         // of key indices: attended to by every row of the tile

  // The lists of the tile's queries, in view->blocks. 0: blocks in spans are all needed.
  int num_lists = 0;
  std::int32_t lists[kMaxLists];
  const View* view = nullptr;  // with lists
  const Row* row = nullptr;

  // The index of the n-th needed block, 0 <= n < blocks. With lists it walks on from the last
  // calls: cheap for n that grow, and for those that are not far behind. One thread at a time.
  TILEWRIGHT_HD std::int32_t nth(std::int32_t n) const;
  // The first needed block from `block` on, or -1.
  TILEWRIGHT_HD std::int32_t next(std::int32_t block) const;
  // Whether a block of some span is needed. Any number of threads at a time.
  TILEWRIGHT_HD bool is_listed(std::int32_t block) const {
    return num_lists == 0 || next_listed(block) == block;
  }
  TILEWRIGHT_HD bool is_full(std::int64_t key_begin, std::int64_t key_end) const;

  // Adds blocks [begin, end), joining spans that touch; when there is no room, neighbours are
  // joined across the gap.
  TILEWRIGHT_HD void add_span(std::int32_t begin, std::int32_t end);
  // Adds the lists of the query tokens [begin, end) of request `r`. False: there is no room.
  TILEWRIGHT_HD bool add_lists(std::int32_t r, std::int32_t head, std::int64_t begin,
                               std::int64_t end);

 private:
  TILEWRIGHT_HD std::int32_t next_listed(std::int32_t block) const;
  TILEWRIGHT_HD bool is_listed_full(std::int64_t key_begin, std::int64_t key_end) const;

  static constexpr int kKnown = 32;  // the latest blocks that nth() met: number n is at n % kKnown
  mutable std::int32_t known_[kKnown];
  mutable std::int32_t num_known_ = 0;
};

TILEWRIGHT_HD_CALL inline std::int32_t TileRanges::nth(std::int32_t n) const {
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

TILEWRIGHT_HD_CALL inline std::int32_t TileRanges::next(std::int32_t block) const {
  for (int i = 0; i < num_spans; ++i) {
    if (spans[i].end <= block) continue;
    if (block < spans[i].begin) block = spans[i].begin;
    if (num_lists > 0) block = next_listed(block);
    if (block < 0 || block < spans[i].end) return block;
  }
  return -1;
}

// The index of the first entry of [begin, end) that is at least `value`.
TILEWRIGHT_HD inline std::int64_t lower_bound(const std::int32_t* entries, std::int64_t begin,
                                              std::int64_t end, std::int64_t value) {
  while (begin < end) {
    const std::int64_t middle = begin + (end - begin) / 2;
    if (entries[middle] < value) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

// The first of a row's keys from `key` on that a list names, or its kv_len. Where the keys of a
// shard lie apart, it may have none of a listed block's positions.
TILEWRIGHT_HD_CALL inline std::int64_t next_key_of_list(const View& view, const Row& row,
                                                        std::int32_t list, std::int64_t key) {
  const BlockLists& structure = view.blocks;
  const std::int64_t end = structure.end_of(list);
  std::int64_t at = structure.begin_of(list);
  TILEWRIGHT_HD_LOOP
  while (key < row.kv_len) {
    const std::int64_t position = view.position_of_key(row, key);
    at = lower_bound(structure.indices, at, end, position / structure.kv_block);
    if (at >= end) break;
    const std::int64_t begin = structure.indices[at] * structure.kv_block;
    if (begin <= position) return key;
    key = view.keys_before(row, begin);
  }
  return row.kv_len;
}

// The first block from `block` on that some list names, or -1.
TILEWRIGHT_HD_CALL inline std::int32_t TileRanges::next_listed(std::int32_t block) const {
  const std::int64_t width = view->schedule.config.block_tokens;
  std::int64_t first = row->kv_len;
  for (int i = 0; i < num_lists; ++i) {
    first = min64(first, next_key_of_list(*view, *row, lists[i], block * width));
  }
  return first < row->kv_len ? static_cast<std::int32_t>(first / width) : -1;
}

TILEWRIGHT_HD_CALL inline bool TileRanges::is_listed_full(std::int64_t key_begin,
                                                          std::int64_t key_end) const {
  const BlockLists& structure = view->blocks;
  if (structure.full == nullptr) return false;
  const std::int64_t first = view->position_of_key(*row, key_begin) / structure.kv_block;
  const std::int64_t last = view->position_of_key(*row, key_end - 1) / structure.kv_block;
  for (int i = 0; i < num_lists; ++i) {
    const std::int64_t end = structure.end_of(lists[i]);
    std::int64_t at = lower_bound(structure.indices, structure.begin_of(lists[i]), end, first);
    for (std::int64_t block = first; block <= last; ++block, ++at) {
      if (at >= end || structure.indices[at] != block || structure.full[at] == 0) return false;
    }
  }
  return true;
}

TILEWRIGHT_HD inline bool TileRanges::is_full(std::int64_t key_begin, std::int64_t key_end) const {
  if (num_lists > 0 && is_listed_full(key_begin, key_end)) return true;
  for (int i = 0; i < full.count; ++i) {
    if (full.intervals[i].begin <= key_begin && key_end <= full.intervals[i].end) return true;
  }
  return false;
}

TILEWRIGHT_HD_CALL inline void TileRanges::add_span(std::int32_t begin, std::int32_t end) {
  Span joined[kMaxSpans + 1];
  int count = 0;
  bool placed = false;
  for (int i = 0; i < num_spans; ++i) {
    const Span& span = spans[i];
    if (span.end < begin) {
      joined[count++] = span;
    } else if (span.begin > end) {
      if (!placed) joined[count++] = {begin, end};
      placed = true;
      joined[count++] = span;
    } else {
      if (span.begin < begin) begin = span.begin;
      if (span.end > end) end = span.end;
    }
  }
  if (!placed) joined[count++] = {begin, end};
  if (count > kMaxSpans) {
    joined[count - 2].end = joined[count - 1].end;
    --count;
  }
  for (int i = 0; i < count; ++i) spans[i] = joined[i];
  num_spans = count;
}

TILEWRIGHT_HD_CALL inline bool TileRanges::add_lists(std::int32_t r, std::int32_t head,
                                                     std::int64_t begin, std::int64_t end) {
  const BlockLists& structure = view->blocks;
  const std::int64_t q_begin = view->requests[r].q_begin;
  const std::int64_t last = (end - 1 - q_begin) / structure.q_block;
  for (std::int64_t block = (begin - q_begin) / structure.q_block; block <= last; ++block) {
    const std::int64_t list =
        (structure.request_rows[r] + block) * structure.heads + (structure.heads > 1 ? head : 0);
    // Only on the device, of a request whose status word says so.
    if (list < 0 || list >= structure.num_lists) continue;
    if (num_lists > 0 && lists[num_lists - 1] == list) continue;
    if (num_lists == kMaxLists) return false;
    lists[num_lists++] = static_cast<std::int32_t>(list);
  }
  return true;
}

// What both sets of key indices hold. What does not fit is masked element by element: slower, never
// wrong.
TILEWRIGHT_HD_CALL inline IntervalSet common_keys(const IntervalSet& a, const IntervalSet& b) {
  IntervalSet both;
  for (int i = 0; i < a.count; ++i) {
    for (int j = 0; j < b.count; ++j) {
      const Interval common = intersection(a.intervals[i], b.intervals[j]);
      if (!common.empty() && both.count < IntervalSet::kMax) both.intervals[both.count++] = common;
    }
  }
  return both;
}

// Positions to key indices of a row, without those it does not have.
TILEWRIGHT_HD_CALL inline IntervalSet keys_at(const View& view, const Row& row,
                                              const IntervalSet& positions) {
  IntervalSet keys;
  for (int i = 0; i < positions.count; ++i) {
    const Interval interval{view.keys_before(row, positions.intervals[i].begin),
                            view.keys_before(row, positions.intervals[i].end)};
    if (!interval.empty()) keys.intervals[keys.count++] = interval;
  }
  return keys;
}

// The mask's part of tile_ranges: spans and full keys.
template <typename Mask>
TILEWRIGHT_HD void find_spans(TileRanges& ranges, const View& view, const Mask& mask,
                              const Row& row, std::int32_t head, std::int32_t tile) {
  if (!mask.has_mask() || mask.one_interval()) {
    const TileSpan span = tile_span(view, mask, row, head, tile);
    if (span.begin < span.end) {
      ranges.num_spans = 1;
      ranges.spans[0] = {span.begin, span.end};
    }
    ranges.full = IntervalSet::of(span.full_begin, span.full_end);
    return;
  }
  const std::int32_t width = view.schedule.config.block_tokens;
  bool any = false;
  over_queries(view, row, tile, [&](std::int32_t r, std::int64_t begin, std::int64_t end) {
    const MaskRanges positions = mask.ranges(query_range(view, r, head, begin, end));
    const IntervalSet needed = keys_at(view, row, positions.needed);
    for (int i = 0; i < needed.count; ++i) {
      ranges.add_span(static_cast<std::int32_t>(needed.intervals[i].begin) / width,
                      ceil_div32(static_cast<std::int32_t>(needed.intervals[i].end), width));
    }
    const IntervalSet full = keys_at(view, row, positions.full);
    ranges.full = any ? common_keys(ranges.full, full) : full;
    any = true;
  });
}

// Without TileRanges::blocks. Allocates nothing. With block lists the result refers to `view` and
// `row`.
template <typename Mask>
TILEWRIGHT_HD TileRanges uncounted_ranges(const View& view, const Mask& mask, const Row& row,
                                          std::int32_t head, std::int32_t tile) {
  TileRanges ranges;
  if (row.kv_len == 0) return ranges;
  find_spans(ranges, view, mask, row, head, tile);
  if (!mask.has_mask() || !view.blocks.defined()) return ranges;
  ranges.view = &view;
  ranges.row = &row;
  bool fits = true;
  over_queries(view, row, tile, [&](std::int32_t r, std::int64_t begin, std::int64_t end) {
    fits = fits && ranges.add_lists(r, head, begin, end);
  });
  if (!fits) ranges.num_lists = 0;
  return ranges;
}

template <typename Mask>
TILEWRIGHT_HD TileRanges tile_ranges(const View& view, const Mask& mask, const Row& row,
                                     std::int32_t head, std::int32_t tile) {
  TileRanges ranges = uncounted_ranges(view, mask, row, head, tile);
  if (ranges.num_lists > 0) {
    for (std::int32_t block = ranges.next(0); block >= 0; block = ranges.next(block + 1)) {
      ++ranges.blocks;
    }
    return ranges;
  }
  for (int i = 0; i < ranges.num_spans; ++i) {
    ranges.blocks += ranges.spans[i].end - ranges.spans[i].begin;
  }
  return ranges;
}

}  // namespace tilewright::plan
