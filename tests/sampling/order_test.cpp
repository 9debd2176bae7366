// SPDX-License-Identifier: Apache-2.0
// Each order of filters against its definition by sorting, and what tells them apart.
#include <gtest/gtest.h>

#include "base/simd_targets.h"
#include "sampling/order_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

constexpr FilterOrder kOrders[] = {FilterOrder::hf, FilterOrder::joint, FilterOrder::vllm,
                                   FilterOrder::llamacpp};

RowParams random_params(Random& random, std::int64_t size) {
  RowParams params;
  params.order = kOrders[random.range(0, 3)];
  params.temperature = random.pick({0.05F, 0.7F, 1.0F, 3.0F, kInf});
  if (random.chance(0.6)) {
    params.top_k = random.pick<std::int64_t>({1, 2, 50, 300, size / 3, size - 1, size + 5});
  }
  if (random.chance(0.6)) params.top_p = random.pick({0.0F, 0.1F, 0.5F, 0.9F, 0.999F, 0.9999999F});
  if (random.chance(0.6)) params.min_p = random.pick({1e-5F, 0.05F, 0.5F, 1.0F});
  if (random.chance(0.5)) {
    params.typical_p = random.pick({1e-6F, 0.2F, 0.5F, 0.9F, 0.999F, 0.9999999F, 0.0F});
  }
  return params;
}

void check_orders(std::uint64_t seed, int rounds, std::int64_t size, RowSampler& sampler) {
  Random random(seed);
  for (int round = 0; round < rounds; ++round) {
    for (int kind = 0; kind < static_cast<int>(RowKind::count); ++kind) {
      Row row = make_row(random, static_cast<RowKind>(kind), size);
      if (random.chance(0.1)) row[static_cast<std::size_t>(random.range(0, size - 1))] = kInf;
      NaiveRow naive(row);
      if (naive.largest == -kInf) continue;
      RowParams params = random_params(random, size);
      naive.filter(params);
      SCOPED_TRACE(testing::Message() << "order " << static_cast<int>(params.order) << " size "
                                      << size << " kind " << kind << " k " << params.top_k << " p "
                                      << params.top_p << " min " << params.min_p << " typical "
                                      << params.typical_p << " T " << params.temperature);
      std::vector<std::int32_t> kept = sampler.kept_tokens(logits_of(row), params);
      std::erase_if(kept,
                    [&](std::int32_t id) { return naive.weight(id, params.temperature) == 0; });
      ASSERT_EQ(kept, naive.candidates(params.temperature));
      for (int draw = 0; draw < 3; ++draw) {
        params.random = random.bits();
        ASSERT_EQ(sampler.sample(logits_of(row), params),
                  naive.draw(params.temperature, params.random));
      }
    }
  }
}

TEST(Order, MatchesSorting) {
  RowSampler sampler;
  for_each_simd_target([&] {
    for (const std::int64_t size : {1, 2, 31, 257, 1000}) {
      check_orders(static_cast<std::uint64_t>(size), 30, size, sampler);
      if (testing::Test::HasFatalFailure()) return;
    }
  });
}

TEST(Order, MatchesSortingOnLongRows) {
  RowSampler serial;
  RowSampler parallel(true);
  check_orders(7, 3, 20001, serial);
  check_orders(8, 2, 40000, parallel);
}

// What a distribution in float64 says: -log p against the entropy, as the paper has it.
TEST(Order, TypicalTokensAreThoseOfThePaper) {
  Random random(3);
  RowSampler sampler;
  for (int round = 0; round < 60; ++round) {
    const Row row =
        normal_row(random, random.pick<std::int64_t>({5, 300, 3000}), random.pick({0.5, 1.0, 3.0}));
    RowParams params;
    params.typical_p = random.pick({0.2F, 0.5F, 0.9F});
    const auto kept = sampler.kept_tokens(logits_of(row), params);
    const std::vector<double> p = softmax(row, 1);
    double entropy = 0;
    for (const double x : p) entropy -= x * std::log(x);
    const auto distance = [&](std::int32_t id) {
      return std::fabs(-std::log(p[static_cast<std::size_t>(id)]) - entropy);
    };
    // Nothing that was dropped is nearer than what was kept, and the last one was needed.
    double farthest = 0;
    double mass = 0;
    for (const std::int32_t id : kept) {
      farthest = std::max(farthest, distance(id));
      mass += p[static_cast<std::size_t>(id)];
    }
    constexpr double kSlack = 2e-5;
    ASSERT_GE(mass, static_cast<double>(params.typical_p) - 1e-6);
    double needed = 0;
    std::size_t next = 0;
    for (std::int32_t id = 0; id < static_cast<std::int32_t>(row.size()); ++id) {
      const bool is_kept = next < kept.size() && kept[next] == id;
      if (is_kept) ++next;
      if (!is_kept) {
        ASSERT_GE(distance(id), farthest - kSlack);
      }
      if (distance(id) < farthest - kSlack) needed += p[static_cast<std::size_t>(id)];
    }
    ASSERT_LT(needed, static_cast<double>(params.typical_p) + 1e-6);
  }
}

TEST(Order, TypicalMayDropTheMostLikely) {
  RowSampler sampler;
  Row row(101, std::log(0.007F));
  row[50] = std::log(0.3F);
  RowParams params;
  params.typical_p = 0.3F;
  std::vector<std::int32_t> first(43);
  std::iota(first.begin(), first.end(), 0);
  EXPECT_EQ(sampler.kept_tokens(logits_of(row), params), first);
  // Then min-p of llama.cpp is relative to what is left, and at a temperature near 0 that is drawn.
  params.order = FilterOrder::llamacpp;
  params.min_p = 1;
  params.temperature = 1e-3F;
  EXPECT_EQ(sampler.kept_tokens(logits_of(row), params), first);
  EXPECT_LT(sampler.sample(logits_of(row), params), 43);
}

// Probabilities 0.4, 0.3, 0.2, 0.1.
TEST(Order, WhatTellsThemApart) {
  RowSampler sampler;
  const Row row = {std::log(0.4F), std::log(0.3F), std::log(0.2F), std::log(0.1F)};
  RowParams params;
  const auto kept = [&](FilterOrder order) {
    params.order = order;
    return sampler.kept_tokens(logits_of(row), params).size();
  };
  // Of the first three 0.75 is two, of all four three.
  params.top_k = 3;
  params.top_p = 0.75F;
  EXPECT_EQ(kept(FilterOrder::hf), 2U);
  EXPECT_EQ(kept(FilterOrder::joint), 3U);
  EXPECT_EQ(kept(FilterOrder::vllm), 2U);
  // Of what min-p keeps, the first two, 0.55 is the first.
  params.top_k = 0;
  params.top_p = 0.55F;
  params.min_p = 0.6F;
  EXPECT_EQ(kept(FilterOrder::hf), 2U);
  EXPECT_EQ(kept(FilterOrder::joint), 2U);
  EXPECT_EQ(kept(FilterOrder::vllm), 1U);
  EXPECT_EQ(kept(FilterOrder::llamacpp), 2U);
  // A temperature at which all are about as likely: llama.cpp filters before it.
  params.temperature = 100;
  params.top_p = 0.65F;
  params.min_p = 0;
  EXPECT_EQ(kept(FilterOrder::hf), 3U);
  EXPECT_EQ(kept(FilterOrder::llamacpp), 2U);
}

}  // namespace
}  // namespace tilewright
