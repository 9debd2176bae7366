// SPDX-License-Identifier: Apache-2.0
// The distribution of sample()'s tokens over millions of draws: close enough to tell that one
// token's probability is 1% off.
#include <gtest/gtest.h>
#include <tilewright/sampling.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "sampling/sampling_support.h"

namespace tilewright::test {
namespace {

constexpr std::int64_t kVocabulary = 200;
constexpr int kDraws = 1'000'000;

using Distribution = std::vector<double>;

// Of `row` at each step of [0, draws), with one seed.
std::vector<std::int32_t> draw(const Row& row, SamplingArgs args, int draws = kDraws) {
  std::vector<std::int64_t> steps(static_cast<std::size_t>(draws));
  std::iota(steps.begin(), steps.end(), 0);
  std::vector<std::int32_t> tokens(steps.size());
  args.steps = TensorView(steps.data(), DType::i64, {draws});
  sample(TensorView(row.data(), DType::f32, {draws, kVocabulary}, {0, 1}), args,
         TensorView(tokens.data(), DType::i32, {draws}));
  return tokens;
}

std::vector<std::int64_t> counts_of(const std::vector<std::int32_t>& tokens) {
  std::vector<std::int64_t> counts(kVocabulary);
  for (const std::int32_t token : tokens) ++counts[static_cast<std::size_t>(token)];
  return counts;
}

struct Deviation {
  double all = 0;      // of Pearson's statistic from its mean, in standard deviations
  double largest = 0;  // of the count of any one cell, in standard deviations
};

// Cells without a probability must have no counts: both are infinite otherwise.
Deviation deviation(const std::vector<std::int64_t>& counts, const Distribution& p) {
  const auto draws = static_cast<double>(std::accumulate(counts.begin(), counts.end(), 0L));
  double statistic = 0;
  double freedom = -1;
  Deviation result;
  for (std::size_t i = 0; i < p.size(); ++i) {
    if (p[i] == 0) {
      if (counts[i] > 0) return {kInf, kInf};
      continue;
    }
    const double difference = static_cast<double>(counts[i]) - p[i] * draws;
    statistic += difference * difference / (p[i] * draws);
    ++freedom;
    result.largest =
        std::max(result.largest, std::abs(difference) / std::sqrt(p[i] * (1 - p[i]) * draws));
  }
  result.all = (statistic - freedom) / std::sqrt(2 * freedom);
  return result;
}

// By chance beyond these: one of 30000 (of all), and one of 8000 (of the largest of 200).
constexpr double kMostOfAll = 4;
constexpr double kMostOfOne = 5;
bool follows(const Deviation& found) {
  return found.all < kMostOfAll && found.largest < kMostOfOne;
}

struct Filters {
  const char* name;
  double temperature;
  std::int32_t top_k;
  double top_p;
  double min_p;
  int draws = kDraws;
};

// By sorting in float64: top-k, then top-p of what is left, then min-p.
Distribution expected(const Row& row, const Filters& filters) {
  Distribution p = softmax(row, filters.temperature);
  const std::vector<std::int32_t> order = ranked(row);
  const auto at = [&](std::size_t rank) -> double& {
    return p[static_cast<std::size_t>(order[rank])];
  };
  std::size_t kept = filters.top_k > 0 ? static_cast<std::size_t>(filters.top_k) : p.size();
  double total = 0;
  for (std::size_t rank = 0; rank < kept; ++rank) total += at(rank);
  double sum = 0;
  std::size_t count = 0;
  while (count < kept && sum < filters.top_p * total) sum += at(count++);
  kept = count;
  while (at(kept - 1) < filters.min_p * at(0)) sum -= at(--kept);
  for (std::size_t rank = 0; rank < p.size(); ++rank) at(rank) *= rank < kept ? 1 / sum : 0;
  return p;
}

SamplingArgs args_of(const Filters& filters) {
  SamplingArgs args;
  args.seeds = std::int64_t{20261127};
  args.temperature = static_cast<float>(filters.temperature);
  args.top_k = filters.top_k;
  args.top_p = static_cast<float>(filters.top_p);
  args.min_p = static_cast<float>(filters.min_p);
  return args;
}

// One token has about half of the mass: its count is known best.
Row test_row() {
  Random random(11);
  Row row = normal_row(random, kVocabulary);
  double rest = 0;
  for (std::size_t i = 1; i < row.size(); ++i) rest += std::exp(row[i]);
  row[0] = static_cast<float>(std::log(rest));
  return row;
}

class Distributions : public testing::TestWithParam<Filters> {};

TEST_P(Distributions, AreTheRowsAndAMistakeShows) {
  const Filters& filters = GetParam();
  const Row row = test_row();
  const Distribution p = expected(row, filters);
  const std::vector<std::int64_t> counts = counts_of(draw(row, args_of(filters), filters.draws));
  const Deviation found = deviation(counts, p);
  EXPECT_TRUE(follows(found)) << found.all << " and " << found.largest << " standard deviations";

  // The same counts, had the sampler been meant to follow something else.
  const auto top = static_cast<std::size_t>(ranked(row)[0]);
  for (const double factor : {0.99, 1.01}) {
    Distribution wrong = p;
    const double rest = (1 - p[top] * factor) / (1 - p[top]);
    for (double& x : wrong) x *= rest;
    wrong[top] = p[top] * factor;
    EXPECT_FALSE(follows(deviation(counts, wrong))) << "one token's probability times " << factor;
  }
  Filters other = filters;
  other.temperature *= 1.01;
  EXPECT_FALSE(follows(deviation(counts, expected(row, other)))) << "temperature 1% off";

  Distribution fewer = p;
  *std::min_element(fewer.begin(), fewer.end(),
                    [](double a, double b) { return (a > 0 ? a : 2) < (b > 0 ? b : 2); }) = 0;
  EXPECT_FALSE(follows(deviation(counts, fewer))) << "the least likely token should be dropped";
}

INSTANTIATE_TEST_SUITE_P(Filters, Distributions,
                         testing::Values(Filters{"None", 1, 0, 1, 0},
                                         Filters{"Temperature", 0.7, 0, 1, 0},
                                         Filters{"MinP", 1, 0, 1, 0.003},
                                         Filters{"All", 1.1, 100, 0.95, 0.003, kDraws / 2}),
                         [](const testing::TestParamInfo<Filters>& value) {
                           return std::string(value.param.name);
                         });

// Pairs of neighbouring steps, and of the same step of neighbouring seeds, over ten parts of the
// vocabulary.
TEST(Distributions, OfPairsAreProducts) {
  constexpr std::int64_t kParts = 10;
  const Row row = test_row();
  SamplingArgs args;
  args.seeds = std::int64_t{5};
  const std::vector<std::int32_t> first = draw(row, args);
  args.seeds = std::int64_t{6};
  const std::vector<std::int32_t> second = draw(row, args);
  const Distribution p = softmax(row, 1);
  Distribution product(kParts * kParts);
  const auto cell = [](std::int64_t a, std::int64_t b) {
    return static_cast<std::size_t>(a % kParts * kParts + b % kParts);
  };
  for (std::int64_t a = 0; a < kVocabulary; ++a) {
    for (std::int64_t b = 0; b < kVocabulary; ++b) {
      product[cell(a, b)] += p[static_cast<std::size_t>(a)] * p[static_cast<std::size_t>(b)];
    }
  }
  std::vector<std::int64_t> steps(product.size());
  std::vector<std::int64_t> seeds(product.size());
  for (std::size_t i = 0; i < first.size(); ++i) {
    ++seeds[cell(first[i], second[i])];
    if (i % 2 == 1) ++steps[cell(first[i - 1], first[i])];
  }
  EXPECT_TRUE(follows(deviation(steps, product)));
  EXPECT_TRUE(follows(deviation(seeds, product)));
  // A generator that gives a step's number twice would not pass.
  std::vector<std::int64_t> same(product.size());
  for (const std::int32_t token : first) ++same[cell(token, token)];
  EXPECT_FALSE(follows(deviation(same, product)));
}

}  // namespace
}  // namespace tilewright::test
