// SPDX-License-Identifier: Apache-2.0
// How many blocks of keys a tile needs: asked of the attention's mask, once a tile. The mask's code
// is called, not inlined: there is one copy of it.
#pragma once

#include "plan/part_maker.h"
#include "plan/tile_ranges.h"

namespace tw {

// Blocks [begin, end).
struct BlockSpan {
  i32 begin = 0;
  i32 end = 0;

  BlockSpan() = default;
  TW_DEVICE explicit BlockSpan(const plan::TileSpan& span) : begin(span.begin), end(span.end) {}

  TW_DEVICE void include(const BlockSpan& other) {
    if (other.begin >= other.end) return;
    const bool none = begin == end;
    begin = none || other.begin < begin ? other.begin : begin;
    end = none || other.end > end ? other.end : end;
  }
};

// What query tokens [begin, end) of request `r` need of a row's keys, where one interval tells it.
template <typename Mask>
TW_DEVICE_CALL plan::TileSpan span_of_request(const plan::View& view, const plan::PartInput& part,
                                              i32 r, i32 head, i32 begin, i32 end, i32 kv_pos,
                                              i32 kv_len) {
  take_for_shared(&view);
  plan::Row keys;
  keys.kv_pos = kv_pos;
  keys.kv_len = kv_len;
  return plan::span_of_queries(view, Mask(part), keys,
                               plan::query_range(view, r, head, begin, end));
}

// Where a block structure lists them: by all lanes of a warp, which ask for other blocks of the
// tile.
template <typename Mask>
TW_DEVICE_CALL i32 count_listed(const plan::View& view, const plan::PartInput& part,
                                const plan::Row& row, i32 head, i32 tile) {
  const plan::TileRanges ranges = plan::uncounted_ranges(view, Mask(part), row, head, tile);
  i32 count = 0;
#pragma unroll 1
  for (i32 span = 0; span < ranges.num_spans; ++span) {
#pragma unroll 1
    for (i32 block = ranges.spans[span].begin + lane_id(); block < ranges.spans[span].end;
         block += kWarpSize) {
      count += ranges.is_listed(block) ? 1 : 0;
    }
  }
#pragma unroll
  for (i32 step = kWarpSize / 2; step > 0; step /= 2) count += shuffle_xor(count, step);
  return count;
}

// Where it takes several.
template <typename Mask>
TW_DEVICE_CALL i32 count_ranges(const plan::View& view, const plan::PartInput& part,
                                const plan::Row& row, i32 head, i32 tile) {
  return plan::tile_ranges(view, Mask(part), row, head, tile).blocks;
}

// The query tokens of a tile, as entries of its row: [begin, end).
struct TileEntries {
  i32 begin;
  i32 end;
};
TW_DEVICE_CALL TileEntries entries_of_tile(i32 tile_rows, i32 group_size, i32 q_len, i32 tile) {
  const std::int64_t begin = std::int64_t{tile} * tile_rows;
  const std::int64_t last = begin + tile_rows - 1;
  return {static_cast<i32>(begin / group_size),
          static_cast<i32>(plan::min64(last / group_size + 1, q_len))};
}
TW_DEVICE TileEntries entries_of_tile(const plan::Config& config, const plan::Row& row, i32 tile) {
  return entries_of_tile(config.tile_rows, config.group_size, row.q_len, tile);
}

// Of the mask that the attention has among those of the kernel. `kLists`: attentions may have block
// structures.
template <bool kLists, typename... Masks>
struct TileBlocks {
  const plan::View& view;
  const plan::PartInput& part;

  // Whether there is a structure: all tiles are for warps.
  TW_DEVICE bool are_listed() const { return kLists && part.view.blocks.defined(); }
  // Whether tiles of many requests are for warps: of_warp.
  TW_DEVICE bool by_warps() const {
    if (are_listed()) return true;
    bool is_one = false;
    with_mask([&](const auto& mask) { is_one = mask.has_mask() && mask.one_interval(); });
    return is_one;
  }

  // Of a tile whose query tokens are [begin, end) of request `r`; where not by_warps(), of any.
  // Where several intervals tell the mask, only the number of blocks counts.
  TW_DEVICE plan::TileSpan of_thread(const plan::Row& row, i32 head, i32 tile, i32 r, i32 begin,
                                     i32 end) const {
    plan::TileSpan span;
    with_mask([&]<typename Mask>(const Mask& mask) {
      if (!mask.has_mask()) {
        span.end = plan::ceil_div32(row.kv_len, part.view.schedule.config.block_tokens);
        span.full_end = row.kv_len;
      } else if (mask.one_interval()) {
        span = plan::span_of_row(
            row, span_of_request<Mask>(view, part, r, head, begin, end, row.kv_pos, row.kv_len));
      } else {
        // Of a copy: the row itself may stay in registers.
        const plan::Row copy = row;
        span.end = count_ranges<Mask>(view, part, copy, head, tile);
      }
    });
    return span;
  }

  // Of the one query token of a row, of request `r`: the shortest way, for decoding requests.
  // Bounds of what is needed and what is full are mostly the same: without the call for shards
  // between them each is found once.
  TW_DEVICE plan::TileSpan of_token(const plan::Row& row, i32 r, const plan::Request& request,
                                    i32 token) const {
    plan::TileSpan span;
    with_mask([&]<typename Mask>(const Mask& mask) {
      if (mask.has_mask() && mask.one_interval() && part.view.q_pos == nullptr &&
          part.view.interleave.world == 1) {
        const plan::QueryRange queries = plan::token_range(part.view, request, r, 0, token);
        const auto keys_before = [&](std::int64_t position) {
          return plan::View::whole_keys_before(row, position);
        };
        const i32 width = part.view.schedule.config.block_tokens;
        span = plan::span_of_row(row, plan::span_of_queries(mask, queries, width, keys_before));
      } else {
        span = of_thread(row, 0, 0, r, token, token + 1);
      }
    });
    return span;
  }

  // Of any tile, by all lanes: each asks for other requests.
  TW_DEVICE i32 of_warp(const plan::Row& row, i32 head, i32 tile) const {
    if constexpr (kLists) {
      if (are_listed()) {
        i32 blocks = 0;
        with_mask([&]<typename Mask>(const Mask&) {
          blocks = count_listed<Mask>(view, part, row, head, tile);
        });
        return blocks;
      }
    }
    const TileEntries entries = entries_of_tile(part.view.schedule.config, row, tile);
    BlockSpan span;
    with_mask([&]<typename Mask>(const Mask&) {
      const auto ask = [&](i32 r, i32 begin, i32 end) {
        span.include(BlockSpan(
            span_of_request<Mask>(view, part, r, head, begin, end, row.kv_pos, row.kv_len)));
      };
      if (view.levels[row.level].q_rows == nullptr) {
        over_requests(row.q_begin + entries.begin, row.q_begin + entries.end, ask);
      } else {
        over_list(view.levels[row.level].q_rows + row.q_begin, entries, ask);
      }
    });
#pragma unroll
    for (i32 step = kWarpSize / 2; step > 0; step /= 2) {
      BlockSpan other;
      other.begin = shuffle_xor(span.begin, step);
      other.end = shuffle_xor(span.end, step);
      span.include(other);
    }
    return span.end - span.begin;
  }

 private:
  // Calls visit(mask) for the attention's own.
  template <typename Visit>
  TW_DEVICE void with_mask(const Visit& visit) const {
    i32 index = 0;
    ((part.mask == index++ ? visit(Masks(part)) : void()), ...);
  }

  // Requests of query tokens [begin, end), a lane each.
  template <typename Ask>
  TW_DEVICE void over_requests(i32 begin, i32 end, const Ask& ask) const {
    const i32 requests = view.schedule.header->num_requests;
#pragma unroll 1
    for (i32 r = request_of(view, begin) + lane_id(); r < requests; r += kWarpSize) {
      const plan::Request& request = view.requests[r];
      if (request.q_begin >= end) break;
      const i32 past = request.q_begin + request.q_len;
      if (request.q_len > 0) {
        ask(r, begin > request.q_begin ? begin : request.q_begin, end < past ? end : past);
      }
    }
  }

  // Tokens of a list: those of one request that follow each other are asked for together, by the
  // lane that has the first of them.
  template <typename Ask>
  TW_DEVICE void over_list(const i32* tokens, const TileEntries& entries, const Ask& ask) const {
#pragma unroll 1
    for (i32 entry = entries.begin + lane_id(); entry < entries.end; entry += kWarpSize) {
      const i32 token = tokens[entry];
      const i32 r = request_of(view, token);
      const plan::Request& request = view.requests[r];
      const bool is_first =
          entry == entries.begin || tokens[entry - 1] != token - 1 || request.q_begin == token;
      if (!is_first) continue;
      const i32 past = request.q_begin + request.q_len;
      i32 end = token + 1;
#pragma unroll 1
      while (entry + end - token < entries.end && end < past && tokens[entry + end - token] == end)
        ++end;
      ask(r, token, end);
    }
  }
};

}  // namespace tw
