// SPDX-License-Identifier: Apache-2.0
// Which blocks a tile needs, by brute force: random masks, block lists, positions, shards and
// levels; and that many threads may ask at once.
#include "cpu/tile_ranges.h"

#include <gtest/gtest.h>
#include <tilewright/threads.h>

#include <algorithm>
#include <vector>

#include "base/parallel.h"
#include "support/random.h"

namespace tilewright::cpu {
namespace {

using test::Random;

constexpr std::int32_t kTokens = 40;

// One request, with the memory behind its plan.
struct RandomPlan {
  // The mask: q_pos - left <= kv_pos <= bounds[q_index], or <= q_pos + right of a band.
  std::int64_t left;
  std::int64_t right;
  bool band;
  Variant variant;
  MaskAnalysis mask;
  ParamBinder binder;
  plan::Header header;
  plan::Request request;
  plan::Row row;
  std::vector<std::int32_t> positions, bounds, request_rows, indptr, indices;
  std::vector<std::uint8_t> full;
  AttentionPlan plan;

  Variant make_variant() const {
    Variant made;
    made.mask = (band ? expr::kv_pos() <= expr::q_pos() + right
                      : expr::kv_pos() <= Param::integer("bound", 1)(expr::q_index())) &&
                expr::kv_pos() >= expr::q_pos() - left;
    return made;
  }

  explicit RandomPlan(Random& random)
      : left(random.range(0, 600)),
        right(random.range(-50, 100)),
        band(random.chance(0.4)),
        variant(make_variant()),
        mask(variant),
        binder(variant) {
    request.q_begin = static_cast<std::int32_t>(random.range(0, 3));
    request.q_len = static_cast<std::int32_t>(random.range(1, kTokens - 3));
    request.kv_len = 900;
    request.q_pos = static_cast<std::int32_t>(random.range(0, 800));
    header.num_requests = 1;
    header.num_rows = 1;
    header.q_tokens = request.q_begin + request.q_len;
    row.q_begin = request.q_begin;
    row.q_len = request.q_len;
    row.kv_len = static_cast<std::int32_t>(random.range(0, 700));
    for (int i = 0; i < kTokens; ++i) {
      positions.push_back(static_cast<std::int32_t>(random.range(0, 900)));
      bounds.push_back(static_cast<std::int32_t>(random.range(-10, 1400)));
    }
    plan.schedule.header = &header;
    plan.schedule.rows = &row;
    plan.schedule.config.group_size = static_cast<std::int32_t>(random.range(1, 3));
    plan.schedule.config.tile_rows = static_cast<std::int32_t>(random.range(1, 30));
    plan.schedule.config.block_tokens = random.chance(0.5) ? 64 : 16;
    plan.requests = &request;
    row.tiles = plan::tiles_of(plan.schedule.config, row.q_len);
    const bool plain = band && random.chance(0.7);
    if (!plain && random.chance(0.5)) plan.q_pos = positions.data();
    if (!plain && random.chance(0.4)) {
      // Where whole blocks follow each other a listed block may lie between the keys of two.
      const std::int64_t size = random.chance(0.5) ? 16 : random.range(1, 20);
      plan.interleave = {size, random.range(2, 3), 0};
      plan.interleave.rank = random.range(0, plan.interleave.world - 1);
    } else {
      row.kv_pos = static_cast<std::int32_t>(random.range(0, 200));
    }
    if (!band) {
      binder.bind({{"bound", TensorView(bounds.data(), DType::i32, {kTokens})}}, Bind::plan,
                  {1, 1, 1, kTokens}, {}, plan.bindings);
    }
    if (!plain && random.chance(0.7)) add_lists(random);
  }

  void add_lists(Random& random) {
    BlockLists& lists = plan.blocks;
    lists.q_block = random.range(1, 20);
    lists.kv_block = random.pick<std::int64_t>({1, 7, 16, 64, 100});
    const std::int64_t rows = plan::ceil_div(request.q_len, lists.q_block);
    request_rows = {0, static_cast<std::int32_t>(rows)};
    indptr = {0};
    const double density = random.pick({0.02, 0.3, 0.9});
    for (std::int64_t i = 0; i < rows; ++i) {
      for (std::int32_t block = 0; block < 2200 / lists.kv_block; ++block) {
        if (!random.chance(density)) continue;
        indices.push_back(block);
        full.push_back(random.chance(0.8) ? 1 : 0);
      }
      indptr.push_back(static_cast<std::int32_t>(indices.size()));
    }
    lists.num_lists = static_cast<std::int32_t>(rows);
    lists.num_entries = static_cast<std::int32_t>(indices.size());
    lists.request_rows = request_rows.data();
    lists.indptr = indptr.data();
    lists.indices = indices.data();
    if (random.chance(0.8)) lists.full = full.data();
  }

  // What the lists say of a pair: not listed, listed, full.
  int listed(std::int64_t token, std::int64_t position) const {
    if (!plan.blocks.defined()) return 1;
    const std::int64_t list = (token - request.q_begin) / plan.blocks.q_block;
    for (std::int32_t i = indptr[static_cast<std::size_t>(list)];
         i < indptr[static_cast<std::size_t>(list) + 1]; ++i) {
      if (indices[static_cast<std::size_t>(i)] == position / plan.blocks.kv_block) {
        return plan.blocks.full != nullptr && full[static_cast<std::size_t>(i)] != 0 ? 2 : 1;
      }
    }
    return 0;
  }
  bool seen(std::int64_t token, std::int64_t position) const {
    const std::int64_t query = plan.position_of_query(request, token);
    return position <= (band ? query + right : bounds[static_cast<std::size_t>(token)]) &&
           position >= query - left;
  }

  // Rows of levels do not take the shortcut that bands have.
  void check_shortcut(const TileRanges& ranges, const TileCounts& counts, std::int32_t tile) const {
    std::vector<std::uint8_t> levels(kTokens, 1);
    AttentionPlan by_levels = plan;
    by_levels.token_levels = levels.data();
    const TileRanges other = tile_ranges(by_levels, mask, row, 0, tile);
    ASSERT_EQ(ranges.blocks, other.blocks);
    ASSERT_EQ(ranges.next(0), other.next(0));
    ASSERT_EQ(ranges.full.count, other.full.count);
    if (ranges.full.count > 0) {
      ASSERT_EQ(ranges.full.intervals[0].begin, other.full.intervals[0].begin);
      ASSERT_EQ(ranges.full.intervals[0].end, other.full.intervals[0].end);
    }
    ASSERT_EQ(counts.keys, count_tile(by_levels, mask, row, 0, tile).keys);
  }

  // The form without loops tells the same, but for lists.
  void check_span(const TileRanges& ranges, std::int32_t tile) const {
    ASSERT_TRUE(mask.one_interval());
    const plan::TileSpan span = plan::tile_span(plan, BoundMask{mask, plan.bindings}, row, 0, tile);
    const IntervalSet keys = IntervalSet::of(span.full_begin, span.full_end);
    ASSERT_TRUE(plan::same_set(keys, ranges.full));
    ASSERT_EQ(ranges.num_spans, span.begin < span.end ? 1 : 0);
    if (ranges.num_spans > 0) {
      ASSERT_EQ(span.begin, ranges.spans[0].begin);
      ASSERT_EQ(span.end, ranges.spans[0].end);
    }
    ASSERT_TRUE(ranges.num_lists > 0 || span.blocks() == ranges.blocks);
  }

  void check_tile(std::int32_t tile) const {
    const plan::Config& config = plan.schedule.config;
    const TileRanges ranges = tile_ranges(plan, mask, row, 0, tile);
    std::vector<std::int32_t> walked;
    for (std::int32_t b = ranges.next(0); b >= 0; b = ranges.next(b + 1)) walked.push_back(b);
    ASSERT_EQ(ranges.num_lists > 0, plan.blocks.defined() && row.kv_len > 0);
    ASSERT_EQ(ranges.blocks, static_cast<std::int32_t>(walked.size()));
    check_span(ranges, tile);
    for (std::size_t i = 0; i < walked.size(); ++i) {
      ASSERT_EQ(ranges.nth(static_cast<std::int32_t>(i)), walked[i]);
      if (i + 3 < walked.size()) {
        ASSERT_EQ(ranges.nth(static_cast<std::int32_t>(i) + 3), walked[i + 3]);
      }
    }
    if (!walked.empty()) {
      ASSERT_EQ(ranges.nth(0), walked[0]) << "after the last one";
    }
    const std::int64_t first =
        row.q_begin + std::int64_t{tile} * config.tile_rows / config.group_size;
    const std::int64_t last = row.q_begin + (std::int64_t{tile} * config.tile_rows +
                                             plan::rows_of_tile(config, row, tile) - 1) /
                                                config.group_size;
    std::int64_t full_blocks = 0;
    for (std::int64_t begin = 0; begin < row.kv_len; begin += config.block_tokens) {
      const std::int64_t end = std::min<std::int64_t>(begin + config.block_tokens, row.kv_len);
      const auto block = static_cast<std::int32_t>(begin / config.block_tokens);
      const bool is_needed = std::binary_search(walked.begin(), walked.end(), block);
      const bool is_full = ranges.is_full(begin, end);
      full_blocks += is_needed && is_full ? 1 : 0;
      const bool in_span = std::any_of(
          ranges.spans, ranges.spans + ranges.num_spans,
          [&](const TileRanges::Span& span) { return span.begin <= block && block < span.end; });
      ASSERT_EQ(is_needed, in_span && ranges.is_listed(block)) << "block " << block;
      bool some_listed = false;
      for (std::int64_t token = first; token <= last; ++token) {
        for (std::int64_t key = begin; key < end; ++key) {
          const std::int64_t position = plan.position_of_key(row, key);
          const int list = listed(token, position);
          some_listed = some_listed || list != 0;
          ASSERT_TRUE(is_needed || list == 0 || !seen(token, position)) << "block " << block;
          ASSERT_TRUE(!is_full || list == 2 || seen(token, position)) << "block " << block;
        }
      }
      ASSERT_TRUE(!is_needed || some_listed || ranges.num_lists == 0) << "block " << block;
    }
    const TileCounts counts = count_tile(plan, mask, row, 0, tile);
    if (band) check_shortcut(ranges, counts, tile);
    EXPECT_EQ(counts.blocks, ranges.blocks);
    EXPECT_EQ(counts.blocks + counts.skipped_blocks,
              plan::ceil_div(row.kv_len, config.block_tokens));
    EXPECT_EQ(counts.full_blocks, full_blocks);
  }
};

TEST(TileRanges, NeverWrong) {
  Random random(41);
  std::int64_t skipped = 0;
  for (int i = 0; i < 600; ++i) {
    const RandomPlan plan(random);
    const std::int32_t tiles = plan::tiles_of(plan.plan.schedule.config, plan.row.q_len);
    for (std::int32_t tile = 0; tile < tiles; ++tile) {
      plan.check_tile(tile);
      if (testing::Test::HasFatalFailure()) return;
      skipped += count_tile(plan.plan, plan.mask, plan.row, 0, tile).skipped_blocks;
    }
  }
  EXPECT_GT(skipped, 1000);
}

TEST(TileRanges, ManyThreadsAtOnce) {
  Random random(42);
  const RandomPlan plan(random);
  const std::int32_t tiles = plan::tiles_of(plan.plan.schedule.config, plan.row.q_len);
  std::vector<std::int32_t> alone;
  for (std::int32_t tile = 0; tile < tiles; ++tile) {
    alone.push_back(tile_ranges(plan.plan, plan.mask, plan.row, 0, tile).blocks);
  }
  std::vector<std::int32_t> together(static_cast<std::size_t>(tiles) * 50);
  parallel_chunks(tiles * 50, 1, 4, [&](int, std::int64_t begin, std::int64_t) {
    together[static_cast<std::size_t>(begin)] =
        tile_ranges(plan.plan, plan.mask, plan.row, 0, static_cast<std::int32_t>(begin % tiles))
            .blocks;
  });
  for (std::size_t i = 0; i < together.size(); ++i) {
    EXPECT_EQ(together[i], alone[i % static_cast<std::size_t>(tiles)]);
  }
}

}  // namespace
}  // namespace tilewright::cpu
