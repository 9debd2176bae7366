// SPDX-License-Identifier: Apache-2.0
// The plan that the device makes is the host's, to the bit: random batches of every form.
#include <gtest/gtest.h>

#include <deque>

#include "device_plan/emulated_plan.h"
#include "fuzz/batch_case.h"
#include "support/batch.h"
#include "support/variant_cases.h"

namespace tilewright::test {
namespace {

constexpr std::array kKinds = {VariantKind::causal,         VariantKind::full,
                               VariantKind::causal_window,  VariantKind::chunked,
                               VariantKind::sink_window,    VariantKind::window_both,
                               VariantKind::modulo,         VariantKind::not_one_key,
                               VariantKind::window_by_head, VariantKind::window_left};

plan::Config draw_config(Random& random, int workers) {
  plan::Config config;
  config.tile_rows = random.pick({4, 16, 64, 128});
  config.block_tokens = random.pick({16, 64, 128});
  config.workers = workers;
  config.heads_per_group = static_cast<std::int32_t>(random.range(1, 4));
  config.joint_rows = random.pick({0, 0, 8});
  config.max_heads = config.joint_rows > 0 ? random.pick({1, 2, 4}) : 1;
  config.cuts_items = random.pick({1, 1, 1, 0});
  config.cost = {random.pick({1, 10, 250}), random.pick({1, 8, 112}), random.pick({0, 1, 3}),
                 random.pick({0, 2, 4}), random.pick({0, 5})};
  config.least_share = random.pick({1, 100, 512});
  config.rounds_workers = random.pick({0, 1});
  config.evens_shares = random.pick({0, 1});
  config.divides_workers = random.pick({0, 1});
  return config;
}

struct Case {
  std::vector<Attention> attentions;
  std::vector<VariantCase> variants;
  std::unique_ptr<EmulatedPlan> plan;
};

Case draw_case(Random& random, const Limits& limits, int parts) {
  Case made;
  for (int i = 0; i < parts; ++i) {
    const int kv_heads = static_cast<int>(random.range(1, 4));
    const Dims dims{kv_heads * random.pick({1, 2, 4, 5}), kv_heads, 16, 16};
    made.variants.push_back(make_variant(kKinds[random.below(kKinds.size())], dims,
                                         static_cast<int>(limits.requests), random));
    made.attentions.emplace_back(make_spec(dims, DType::f32, made.variants.back().variant));
  }
  made.plan =
      std::make_unique<EmulatedPlan>(made.attentions, limits, draw_config(random, limits.workers));
  return made;
}

// What the plans of a test had among them: how many of each.
struct Seen {
  int section_a = 0;
  int tails = 0;
  int short_waves = 0;  // whose tail is not shared out
  int cut_items = 0;
  int long_b_rows = 0;
  int joint_heads = 0;
  int joined_levels = 0;
  int folded_rows = 0;
  int known_starts = 0;
  int divided = 0;     // workers between the sections
  int even = 0;        // with fewer workers, that have equal shares
  int even_parts = 0;  // of items: of as many blocks
  int listed = 0;      // with block structures

  void add(const plan::View& view) {
    const plan::Header& header = *view.schedule.header;
    section_a += header.num_a_rows > 1 ? 1 : 0;
    tails += header.tail_items > 1 ? 1 : 0;
    short_waves += header.a_items % view.schedule.config.workers != 0 ? 1 : 0;
    cut_items += header.num_splits > 0 ? 1 : 0;
    joined_levels += header.joins_levels;
    for (std::int32_t worker = 0; worker < header.workers; ++worker) {
      const plan::Start& start = view.schedule.starts[worker];
      known_starts += start.items > 0 && start.request >= 0 && start.begin > 0 ? 1 : 0;
    }
    const plan::Config& config = view.schedule.config;
    divided += header.tail_workers > 0 ? 1 : 0;
    if (header.num_a_rows == 0) {
      even += header.workers < plan::count_workers(config, header.b_cost) ? 1 : 0;
      const auto* const cuts = view.schedule.cuts;
      even_parts += header.workers > 2 && cuts[1].block > 0 && cuts[2].block == 2 * cuts[1].block &&
                            config.evens_shares != 0 && config.cost.block_row == 0
                        ? 1
                        : 0;
    }
    listed += view.blocks.defined() ? 1 : 0;
    for (std::int32_t i = 0; i < header.num_rows; ++i) {
      const plan::Row& row = view.schedule.rows[i];
      long_b_rows += i >= header.num_a_rows && row.tiles > 1 ? 1 : 0;
      joint_heads += row.heads > 1 ? 1 : 0;
      folded_rows += view.segments[row.segment].parent >= 0 ? 1 : 0;
    }
  }
};

// Lists of any blocks, whatever the masks: no plan asks whether they are right.
struct DrawnLists {
  std::vector<std::int32_t> request_rows = {0}, indptr = {0}, indices;
  std::vector<std::uint8_t> full;
  BlockStructure structure;

  DrawnLists(fuzz::Draw& draw, const fuzz::BatchCase& batch, const Limits& limits, int kv_heads) {
    structure.q_block = draw.pick({1, 7, 16, 64});
    structure.kv_block = draw.pick({1, 16, 24, 64, 300});
    structure.num_kv_heads = draw.chance(0.4) ? kv_heads : 1;
    const double density = draw.pick({0.02, 0.2, 0.8});
    const std::int64_t columns = limits.kv_len / structure.kv_block + 1;
    const std::int64_t slots = batch.qo_indptr.size() - 1;
    const std::int64_t live = batch.num_requests.given ? batch.num_requests[0] : slots;
    for (std::int64_t r = 0; r < live; ++r) {
      const std::int64_t tokens = batch.qo_indptr[r + 1] - batch.qo_indptr[r];
      const std::int64_t rows =
          (tokens + structure.q_block - 1) / structure.q_block + draw.range(0, 1);
      request_rows.push_back(request_rows.back() + static_cast<std::int32_t>(rows));
      for (std::int64_t list = 0; list < rows * structure.num_kv_heads; ++list) {
        for (std::int64_t block = 0; block < columns; ++block) {
          if (!draw.chance(density)) continue;
          indices.push_back(static_cast<std::int32_t>(block));
          full.push_back(draw.chance(0.5) ? 1 : 0);
        }
        indptr.push_back(static_cast<std::int32_t>(indices.size()));
      }
    }
    request_rows.resize(static_cast<std::size_t>(slots + 1), -7);
    const auto view = [](const auto& values, DType dtype) {
      return TensorView(values.data(), dtype, {static_cast<std::int64_t>(values.size())});
    };
    structure.request_rows = view(request_rows, DType::i32);
    structure.indptr = view(indptr, DType::i32);
    structure.indices = view(indices, DType::i32);
    structure.full = view(full, DType::u8);
  }
  DrawnLists(const DrawnLists&) = delete;
};

// Several updates into the same memory, as a captured graph is replayed.
void compare(std::uint64_t seed, Limits limits, int parts, int threads, Seen& seen) {
  SCOPED_TRACE(seed);
  fuzz::Draw draw(seed);
  limits.determinism = draw.chance(0.2) ? Determinism::batch_invariant : Determinism::repeatable;
  limits.workers = draw.pick({1, 2, 5, 30, 132});
  Case drawn = draw_case(draw, limits, parts);
  for (int update = 0; update < 2; ++update) {
    SCOPED_TRACE(update);
    const fuzz::BatchCase batch = fuzz::draw_batch(draw, limits);
    std::vector<KvLevel> levels;
    for (const fuzz::LevelCase& level : batch.levels) levels.push_back(level.view());
    std::vector<PlanInput> inputs;
    std::deque<DrawnLists> lists;
    for (std::size_t part = 0; part < drawn.attentions.size(); ++part) {
      const AttentionSpec& spec = drawn.attentions[part].spec();
      inputs.emplace_back(drawn.attentions[part], levels, drawn.variants[part].plan_params);
      if (!limits.block_structures || !spec.variant.mask.defined() || draw.chance(0.2)) continue;
      inputs.back().blocks = lists.emplace_back(draw, batch, limits, spec.num_kv_heads).structure;
    }
    drawn.plan->update(batch.view(), inputs, threads, seed);
    drawn.plan->expect_equal();
    ASSERT_TRUE(drawn.plan->intact());
    if (testing::Test::HasFailure()) {
      ADD_FAILURE() << batch.text();
      return;
    }
    seen.add(drawn.plan->view(0));
  }
}

TEST(DevicePlan, IsTheHostsForSmallBatches) {
  Seen seen;
  for (std::uint64_t seed = 0; seed < 600 && !HasFailure(); ++seed) {
    compare(seed, {6, 60, 40, 150, 3}, 1, 32 << (seed % 3), seen);
  }
  EXPECT_GT(seen.section_a, 30);
  EXPECT_GT(seen.tails, 5);
  EXPECT_GT(seen.short_waves, 30);
  EXPECT_GT(seen.cut_items, 20);
  EXPECT_GT(seen.joint_heads, 30);
  EXPECT_GT(seen.joined_levels, 30);
  EXPECT_GT(seen.folded_rows, 30);
  EXPECT_GT(seen.known_starts, 20);
}

TEST(DevicePlan, IsTheHostsForLongQueries) {
  Seen seen;
  for (std::uint64_t seed = 0; seed < 80 && !HasFailure(); ++seed) {
    compare(seed, {20, 4000, 2500, 6000, 3}, 1, 64, seen);
  }
  EXPECT_GT(seen.section_a, 10);
  EXPECT_GT(seen.tails, 10);
  EXPECT_GT(seen.divided, 5);
  EXPECT_GT(seen.long_b_rows, 10);
}

TEST(DevicePlan, IsTheHostsForManyRequests) {
  Seen seen;
  for (std::uint64_t seed = 0; seed < 40 && !HasFailure(); ++seed) {
    compare(seed, {250, 3000, 40, 9000, 2}, 1, 64, seen);
  }
  EXPECT_GT(seen.cut_items, 10);
}

TEST(DevicePlan, IsTheHostsWithBlockStructures) {
  Seen seen;
  for (std::uint64_t seed = 0; seed < 500 && !HasFailure(); ++seed) {
    compare(seed, {6, 60, 40, 150, 3, Determinism::repeatable, 0, true}, 1, 32 << (seed % 3), seen);
  }
  EXPECT_GT(seen.section_a, 10);
  EXPECT_GT(seen.cut_items, 10);
  EXPECT_GT(seen.joined_levels, 10);
  EXPECT_GT(seen.listed, 300);
  for (std::uint64_t seed = 0; seed < 20 && !HasFailure(); ++seed) {
    compare(seed, {20, 2000, 1500, 3000, 2, Determinism::repeatable, 0, true}, kMostParts, 96,
            seen);
  }
  EXPECT_GT(seen.tails, 3);
  EXPECT_GT(seen.long_b_rows, 5);
}

TEST(DevicePlan, IsTheHostsForEqualRequests) {
  Seen seen;
  for (std::uint64_t seed = 0; seed < 900 && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const auto requests = static_cast<std::int32_t>(random.range(1, random.pick({5, 70})));
    const auto kv_len = static_cast<std::int32_t>(random.range(16, 3000));
    Limits limits{70, 210, 3, 3000, 1, Determinism::repeatable, 33};
    Case drawn = draw_case(random, limits, 1);
    const auto q_len = static_cast<std::int32_t>(random.range(1, 3));
    fuzz::BatchCase batch;
    std::vector<std::int32_t> q_bounds = {0};
    std::vector<std::int32_t> pages = {0};
    for (std::int32_t r = 0; r < requests; ++r) {
      q_bounds.push_back(q_bounds.back() + q_len);
      const bool odd = random.chance(0.003);
      pages.push_back(pages.back() + (odd ? kv_len / 2 : kv_len));
    }
    batch.qo_indptr = fuzz::Ints(q_bounds);
    fuzz::LevelCase level;
    level.form = PageTable::Form::ragged;
    level.indptr = fuzz::Ints(pages);
    batch.levels = {level};
    drawn.plan->update(
        batch.view(),
        {PlanInput(drawn.attentions[0], {level.view()}, drawn.variants[0].plan_params)}, 64, seed);
    drawn.plan->expect_equal();
    ASSERT_TRUE(drawn.plan->intact());
    seen.add(drawn.plan->view(0));
  }
  EXPECT_GT(seen.even, 3);
  EXPECT_GT(seen.even_parts, 3);
}

// More rows than shared memory has room for.
TEST(DevicePlan, IsTheHostsForRowsInGlobalMemory) {
  Seen seen;
  for (std::uint64_t seed = 0; seed < 8 && !HasFailure(); ++seed) {
    compare(seed, {900, 6000, 40, 900, 2}, 1, 256, seen);
  }
}

// Levels whose rows are cut anywhere that the keys before them allow: mostly trees, but a row may
// also lie across two of the level outside of it.
fuzz::BatchCase draw_prefixes(Random& random, std::int64_t requests, int levels) {
  fuzz::BatchCase batch;
  std::vector<std::int32_t> indptr = {0};
  for (std::int64_t r = 0; r < requests; ++r) {
    indptr.push_back(indptr.back() + static_cast<std::int32_t>(random.pick({0, 1, 1, 1, 1, 4, 9})));
  }
  std::vector<std::int32_t> keys(static_cast<std::size_t>(indptr.back()), 0);
  batch.qo_indptr = fuzz::Ints(indptr);
  for (int level = 0; level < levels; ++level) {
    fuzz::LevelCase one;
    one.form = PageTable::Form::ragged;
    std::vector<std::int32_t> bounds = {0};
    const double cut = std::array{0.02, 0.2, 0.6}[static_cast<std::size_t>(std::min(level, 2))];
    for (const std::int32_t token : indptr) {
      if (token == bounds.back() || token == indptr.back()) continue;
      const auto at = static_cast<std::size_t>(token);
      if (keys[at] != keys[at - 1] || random.chance(cut)) bounds.push_back(token);
    }
    bounds.push_back(indptr.back());
    if (level == levels - 1) bounds = indptr;
    std::vector<std::int32_t> pages = {0};
    for (std::size_t row = 0; row + 1 < bounds.size(); ++row) {
      const std::int32_t length = level == levels - 1
                                      ? static_cast<std::int32_t>(random.range(9, 90))
                                      : random.pick({0, 16, 40, 40, 40, 600});
      pages.push_back(pages.back() + length);
      for (std::int32_t i = bounds[row]; i < bounds[row + 1]; ++i) {
        keys[static_cast<std::size_t>(i)] += length;
      }
    }
    one.indptr = fuzz::Ints(pages);
    if (level < levels - 1) one.qo_indptr = fuzz::Ints(bounds);
    batch.levels.push_back(one);
  }
  return batch;
}

TEST(DevicePlan, IsTheHostsForTreesOfPrefixes) {
  Seen seen;
  for (std::uint64_t seed = 0; seed < 40 && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const int levels = static_cast<int>(random.range(2, 4));
    Limits limits{1200, 2700, 9, 3000, levels, Determinism::repeatable, 20};
    if (random.chance(0.2)) limits.determinism = Determinism::batch_invariant;
    Case drawn = draw_case(random, limits, 1);
    const fuzz::BatchCase batch = draw_prefixes(random, random.pick({40, 300}), levels);
    std::vector<KvLevel> tables;
    for (const fuzz::LevelCase& level : batch.levels) tables.push_back(level.view());
    drawn.plan->update(batch.view(),
                       {PlanInput(drawn.attentions[0], tables, drawn.variants[0].plan_params)}, 128,
                       seed);
    drawn.plan->expect_equal();
    ASSERT_TRUE(drawn.plan->intact());
    seen.add(drawn.plan->view(0));
  }
  EXPECT_GT(seen.joined_levels, 10);
  EXPECT_GT(seen.folded_rows, 300);
}

TEST(DevicePlan, IsTheHostsForSeveralAttentions) {
  Seen seen;
  for (std::uint64_t seed = 0; seed < 50 && !HasFailure(); ++seed) {
    compare(seed, {12, 200, 100, 600, 2}, kMostParts, 96, seen);
  }
}

}  // namespace
}  // namespace tilewright::test
