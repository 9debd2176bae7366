// SPDX-License-Identifier: Apache-2.0
// What top-k, top-p and min-p keep, against sorting in float64.
#include <gtest/gtest.h>

#include <set>

#include "base/simd_targets.h"
#include "sampling/sampling_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

std::vector<std::int32_t> sorted(std::vector<std::int32_t> ids) {
  std::sort(ids.begin(), ids.end());
  return ids;
}

// The kept tokens must be a prefix of the ranking; its length may differ from float64's only where
// the sums are within `slack` of each other.
void expect_filters(const Row& row, const RowParams& params, RowSampler& sampler) {
  const std::vector<std::int32_t> kept = sampler.kept_tokens(logits_of(row), params);
  const std::vector<std::int32_t> order = ranked(row);
  ASSERT_FALSE(kept.empty());
  ASSERT_EQ(kept,
            sorted({order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept.size())}));

  constexpr double kSlack = 1e-6;
  const std::vector<double> p = softmax(row, params.temperature);
  const auto p_of = [&](std::size_t rank) { return p[static_cast<std::size_t>(order[rank])]; };
  const bool has_k = params.top_k > 0 && params.top_k < static_cast<std::int64_t>(row.size());
  const std::size_t k = has_k ? static_cast<std::size_t>(params.top_k) : row.size();
  double k_mass = 0;
  for (std::size_t i = 0; i < k; ++i) k_mass += p_of(i);
  double before_last = 0;
  for (std::size_t i = 0; i + 1 < kept.size(); ++i) before_last += p_of(i);
  before_last /= k_mass;

  ASSERT_LE(kept.size(), k);
  if (params.top_p < 1 && kept.size() > 1) {
    ASSERT_LT(before_last, params.top_p + kSlack) << kept.size() << " is too many";
  }
  const double last = p_of(kept.size() - 1);
  if (params.min_p > 0) {
    ASSERT_GE(last, params.min_p * p_of(0) * (1 - kSlack));
  }
  if (kept.size() == k) return;
  // Something must have cut here: top-p, or min-p.
  const double next = p_of(kept.size());
  const bool by_p = params.top_p < 1 && before_last + last / k_mass >= params.top_p - kSlack;
  const bool by_min = params.min_p > 0 && next <= params.min_p * p_of(0) * (1 + kSlack);
  ASSERT_TRUE(by_p || by_min) << kept.size() << " are too few of " << k;
}

void check_random_filters(std::uint64_t seed, int rounds,
                          std::initializer_list<std::int64_t> sizes) {
  Random random(seed);
  RowSampler sampler;
  for (int round = 0; round < rounds; ++round) {
    const std::int64_t size = random.pick(sizes);
    for (int kind = 0; kind < static_cast<int>(RowKind::count); ++kind) {
      const Row row = make_row(random, static_cast<RowKind>(kind), size);
      if (*std::max_element(row.begin(), row.end(), [](float a, float b) {
            return clean_logit(a) < clean_logit(b);
          }) == -kInf) {
        continue;
      }
      RowParams params;
      params.temperature = random.pick({0.1F, 0.7F, 1.0F, 3.0F});
      if (random.chance(0.6)) {
        params.top_k = random.pick<std::int64_t>({1, 2, 50, 300, size / 3, size - 1, size + 5});
      }
      if (random.chance(0.6)) {
        params.top_p = random.pick({1e-30F, 0.1F, 0.5F, 0.9F, 0.999F, 0.9999999F});
      }
      if (random.chance(0.3)) params.min_p = random.pick({1e-5F, 0.05F, 0.5F, 1.0F});
      SCOPED_TRACE("size " + std::to_string(size) + " kind " + std::to_string(kind) + " k " +
                   std::to_string(params.top_k) + " p " + std::to_string(params.top_p) + " min " +
                   std::to_string(params.min_p) + " T " + std::to_string(params.temperature));
      expect_filters(row, params, sampler);
      if (testing::Test::HasFatalFailure()) return;
    }
  }
}

TEST(Filters, MatchSortingOnShortRows) {
  for_each_simd_target([] { check_random_filters(1, 40, {1, 2, 31, 257, 1000}); });
}

TEST(Filters, MatchSortingOnLongRows) {
  for_each_simd_target([] { check_random_filters(2, 2, {20000, 50001}); });
}

TEST(Filters, EveryTopK) {
  Random random(5);
  RowSampler sampler;
  for (const auto kind : {RowKind::normal, RowKind::quantised, RowKind::misleading}) {
    const Row row = make_row(random, kind, 700);
    for (std::int64_t k = 1; k < 700; ++k) {
      RowParams params;
      params.top_k = k;
      ASSERT_EQ(sampler.kept_tokens(logits_of(row), params).size(), static_cast<std::size_t>(k));
      expect_filters(row, params, sampler);
    }
  }
}

// Long rows whose mass is held by a few blocks, or nearly so, or not at all.
TEST(Filters, EveryShareOfTopP) {
  Random random(6);
  RowSampler sampler;
  for (const float temperature : {0.1F, 0.3F, 1.0F}) {
    const Row row = normal_row(random, 20000);
    for (int i = 1; i < 100; i += 3) {
      RowParams params;
      params.temperature = temperature;
      params.top_p = static_cast<float>(i) / 100;
      expect_filters(row, params, sampler);
    }
  }
}

// With equal weights the mass of m of n tokens is exactly m / n.
TEST(Filters, TopPRoundsTheMassUpExactly) {
  RowSampler sampler;
  for (const std::int64_t size : {4, 1024, 32768}) {
    const Row row(static_cast<std::size_t>(size), 0.5F);
    for (const float p : {0.25F, 0.5F, 0.75F}) {
      RowParams params;
      const auto exact = static_cast<std::size_t>(p * static_cast<float>(size));
      params.top_p = p;
      EXPECT_EQ(sampler.kept_tokens(logits_of(row), params).size(), exact);
      params.top_p = std::nextafter(p, 1.0F);
      EXPECT_EQ(sampler.kept_tokens(logits_of(row), params).size(), exact + 1);
      params.top_p = std::nextafter(p, 0.0F);
      EXPECT_EQ(sampler.kept_tokens(logits_of(row), params).size(), exact);
    }
  }
}

// Entries above a pivot that are exactly what is asked for: the threshold is above that pivot.
TEST(Filters, TopKThatIsExactlyWhatIsAboveAPivot) {
  RowSampler sampler;
  // 1024 entries, every fourth of them sampled: values 255 .. 0. For k = 512 the estimate is the
  // sample's entry 127, and the upper pivot 16 before it, 144; above that are 111 sampled entries
  // and as many others as are put there.
  for (const std::int64_t others : {400, 401, 402}) {
    Row row(1024);
    std::int64_t high = 0;
    for (std::int64_t i = 0; i < 1024; ++i) {
      float& x = row[static_cast<std::size_t>(i)];
      if (i % 4 == 0) {
        x = static_cast<float>(255 - i / 4);
      } else {
        x = static_cast<float>(high++ < others ? 1000 + i : -1 - i);
      }
    }
    RowParams params;
    params.top_k = 512;
    EXPECT_EQ(sampler.kept_tokens(logits_of(row), params).size(), 512U) << others;
    expect_filters(row, params, sampler);
  }
}

// With this temperature a logit of -n has the weight 2^-n exactly. The sample sees no zeros, so its
// pivots are at -1, and the zeros are all of the mass that is asked for, or one less, or one more.
TEST(Filters, TopPThatIsExactlyWhatIsAboveAPivot) {
  RowSampler sampler;
  Row row(1536, -1.0F);
  std::int64_t zeros = 0;
  for (std::size_t i = 0; zeros < 512; ++i) {
    if (i % 6 == 0) continue;
    row[i] = 0;
    ++zeros;
  }
  RowParams params;
  params.temperature = 0x1.715476p+0F;
  params.top_p = 0.5F;
  EXPECT_EQ(sampler.kept_tokens(logits_of(row), params).size(), 512U);
  params.top_p = std::nextafter(0.5F, 0.0F);
  EXPECT_EQ(sampler.kept_tokens(logits_of(row), params).size(), 512U);
  params.top_p = std::nextafter(0.5F, 1.0F);
  EXPECT_EQ(sampler.kept_tokens(logits_of(row), params).size(), 513U);
  params.top_p = 0.25F;
  EXPECT_EQ(sampler.kept_tokens(logits_of(row), params).size(), 256U);
  params.top_p = 0.75F;
  EXPECT_EQ(sampler.kept_tokens(logits_of(row), params).size(), 1024U);
}

// The entries that a sample sees are all larger, or all smaller, than the others.
TEST(Filters, SamplesThatMislead) {
  Random random(10);
  RowSampler sampler;
  for (const float offset : {2.0F, -2.0F}) {
    Row row = normal_row(random, 20000, 0.2);
    for (std::size_t i = 0; i < 256; ++i) row[i * row.size() / 256] += offset;
    for (const float p : {0.01F, 0.3F, 0.9F, 0.999F}) {
      for (const float min_p : {0.0F, 0.001F, 0.5F}) {
        RowParams params;
        params.top_p = p;
        params.min_p = min_p;
        expect_filters(row, params, sampler);
      }
      RowParams params;
      params.top_k = static_cast<std::int64_t>(p * 20000);
      expect_filters(row, params, sampler);
    }
  }
}

// The token is found from masses that top-p's search left behind: the same as from all kept tokens
// one after the other.
TEST(Filters, DrawsFollowTheKeptTokens) {
  Random random(9);
  for (const bool parallel : {false, true}) {
    RowSampler sampler(parallel);
    for (const std::int64_t size : {3000, 20000}) {
      for (int kind = 0; kind < static_cast<int>(RowKind::count); ++kind) {
        const Row row = make_row(random, static_cast<RowKind>(kind), size);
        float largest = -kInf;
        for (const float x : row) largest = std::fmax(largest, x);
        if (largest == -kInf) continue;
        RowParams params;
        params.temperature = random.pick({0.3F, 1.0F, 0x1.715476p+0F});
        params.top_p = random.pick({0.2F, 0.6F, 0.95F});
        if (random.chance(0.5)) params.min_p = random.pick({1e-6F, 0.02F, 0.3F});
        if (random.chance(0.3)) params.top_k = 2000;
        const auto kept = sampler.kept_tokens(logits_of(row), params);
        const WeightScale scale{largest, WeightScale::of_temperature(params.temperature)};
        const auto weight_of = [&](std::int32_t id) {
          return token_weight(clean_logit(row[static_cast<std::size_t>(id)]), scale);
        };
        std::uint64_t total = 0;
        for (const std::int32_t id : kept) total += weight_of(id);
        for (int draw = 0; draw < 8; ++draw) {
          params.random = draw == 0 ? 0 : (draw == 1 ? ~std::uint64_t{0} : random.bits());
          __extension__ using Uint128 = unsigned __int128;
          auto rest = static_cast<std::uint64_t>((Uint128{params.random} * total) >> 64);
          std::size_t i = 0;
          while (rest >= weight_of(kept[i])) rest -= weight_of(kept[i++]);
          ASSERT_EQ(sampler.sample(logits_of(row), params), kept[i])
              << "kind " << kind << " p " << params.top_p << " min " << params.min_p;
        }
      }
    }
  }
}

TEST(Filters, DrawInvertsTheCumulativeMassExactly) {
  RowSampler sampler;
  const Row row(4, 0.0F);
  for (std::uint64_t quarter = 0; quarter < 4; ++quarter) {
    RowParams params;
    params.random = quarter << 62;
    EXPECT_EQ(sampler.sample(logits_of(row), params), static_cast<std::int32_t>(quarter));
    params.random += (std::uint64_t{1} << 62) - 1;
    EXPECT_EQ(sampler.sample(logits_of(row), params), static_cast<std::int32_t>(quarter));
  }
}

TEST(Filters, TiesGoToTheLowestIds) {
  RowSampler sampler;
  const Row flat(5000, 1.5F);
  RowParams params;
  params.top_k = 17;
  std::vector<std::int32_t> first(17);
  std::iota(first.begin(), first.end(), 0);
  EXPECT_EQ(sampler.kept_tokens(logits_of(flat), params), first);
  params.top_k = 0;
  params.top_p = 0.1F;  // just above 0.1, so one token more than 500
  EXPECT_EQ(sampler.kept_tokens(logits_of(flat), params).size(), 501U);
  params.top_p = 0.25F;  // exactly
  EXPECT_EQ(sampler.kept_tokens(logits_of(flat), params).size(), 1250U);
  Row zeros = {-1.0F, -0.0F, 0.0F, -0.0F};
  params.top_p = 1;
  params.top_k = 2;
  EXPECT_EQ(sampler.kept_tokens(logits_of(zeros), params), (std::vector<std::int32_t>{1, 2}));
}

TEST(Filters, TopPActsOnWhatTopKKept) {
  RowSampler sampler;
  // Probabilities 0.4, 0.3, 0.2, 0.1; of the first three, renormalised: 0.444, 0.333, 0.222.
  const Row row = {std::log(0.4F), std::log(0.3F), std::log(0.2F), std::log(0.1F)};
  RowParams params;
  params.top_p = 0.75F;
  EXPECT_EQ(sampler.kept_tokens(logits_of(row), params).size(), 3U);
  params.top_k = 3;
  EXPECT_EQ(sampler.kept_tokens(logits_of(row), params).size(), 2U);
}

TEST(Filters, TopPZeroKeepsTheTopOne) {
  RowSampler sampler;
  Random random(3);
  const Row row = normal_row(random, 3000);
  for (const float p : {0.0F, -1.0F, 1e-45F}) {
    RowParams params;
    params.top_p = p;
    EXPECT_EQ(sampler.kept_tokens(logits_of(row), params),
              (std::vector<std::int32_t>{ranked(row)[0]}));
  }
}

TEST(Filters, InfiniteLogitsTakeAllTheMass) {
  RowSampler sampler;
  Row row(2000, 1.0F);
  row[7] = row[1500] = row[1999] = kInf;
  RowParams params;
  params.min_p = 0.5F;
  EXPECT_EQ(sampler.kept_tokens(logits_of(row), params),
            (std::vector<std::int32_t>{7, 1500, 1999}));
  params.top_k = 2;
  EXPECT_EQ(sampler.kept_tokens(logits_of(row), params), (std::vector<std::int32_t>{7, 1500}));
  params.top_k = 0;
  params.top_p = 0.3F;
  EXPECT_EQ(sampler.kept_tokens(logits_of(row), params), (std::vector<std::int32_t>{7}));
}

TEST(Filters, ParallelRowsKeepTheSame) {
  Random random(4);
  RowSampler serial;
  RowSampler parallel(true);
  for (const auto kind : {RowKind::normal, RowKind::quantised, RowKind::peaks}) {
    const Row row = make_row(random, kind, 70000);
    for (const float p : {1.0F, 0.3F, 0.95F}) {
      for (const std::int64_t k : {0, 40, 5000, 60000}) {
        RowParams params;
        params.top_p = p;
        params.top_k = k;
        params.min_p = 0.001F;
        ASSERT_EQ(serial.kept_tokens(logits_of(row), params),
                  parallel.kept_tokens(logits_of(row), params));
      }
    }
  }
}

}  // namespace
}  // namespace tilewright
