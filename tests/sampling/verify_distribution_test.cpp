// SPDX-License-Identifier: Apache-2.0
// Speculative verification on the CPU: its tokens have the target's distribution.
#include <gtest/gtest.h>
#include <tilewright/speculative.h>

#include <map>

#include "sampling/verify_support.h"

namespace tilewright::test {
namespace {

// Deviations of the chi-square statistic from its mean.
double chi_square_sigmas(const std::vector<int>& counts, const std::vector<double>& p) {
  double draws = 0;
  for (const int count : counts) draws += count;
  double statistic = 0;
  int cells = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * draws;
    if (expected < 1e-9) {
      if (counts[i] > 0) return 1e9;
      continue;
    }
    statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++cells;
  }
  return (statistic - (cells - 1)) / std::sqrt(2.0 * (cells - 1));
}

std::int64_t draw_from(Random& random, const std::vector<double>& p) {
  double rest = random.uniform();
  for (std::size_t i = 0; i < p.size(); ++i) {
    rest -= p[i];
    if (rest < 0) return static_cast<std::int64_t>(i);
  }
  return static_cast<std::int64_t>(p.size()) - 1;
}

constexpr std::int64_t kVocabulary = 5;
constexpr std::int64_t kRequests = 40000;

// Distributions of chains of two draft tokens, over pairs of the first two tokens.
class ChainDistribution : public testing::Test {
 protected:
  ChainDistribution() {
    Random random(2);
    for (int i = 0; i < 3; ++i) target_rows_.push_back(normal_row(random, kVocabulary, 1.2));
    for (int i = 0; i < 2; ++i) draft_rows_.push_back(normal_row(random, kVocabulary, 1.2));
  }

  // Target rows do not depend on the tokens before them, so that pairs are independent: but where a
  // token is rejected the next one is not drawn; then it is drawn here.
  std::vector<int> histogram(VerifyArgs args, bool with_draft, double temperature) {
    Random random(3);
    const Tensor target = repeated(target_rows_, kRequests);
    const Tensor draft = repeated(draft_rows_, kRequests);
    std::vector<std::vector<double>> q;
    std::vector<std::vector<double>> p;
    for (const Row& row : draft_rows_) q.push_back(softmax(row, temperature));
    for (const Row& row : target_rows_) p.push_back(softmax(row, temperature));
    Tensor drafts(DType::i32, {kRequests, 2});
    Tensor seeds(DType::i64, {kRequests});
    for (std::int64_t r = 0; r < kRequests; ++r) {
      seeds.set({r}, static_cast<double>(r * 7 + 1));
      for (std::size_t i = 0; i < 2; ++i) {
        drafts.set({r, static_cast<std::int64_t>(i)}, static_cast<double>(draw_from(random, q[i])));
      }
    }
    args.sampling.temperature = static_cast<float>(temperature);
    args.sampling.seeds = seeds.view();
    if (with_draft) args.draft = draft.view();
    VerifyResults results(kRequests, 3);
    verify_chain(target.view(), drafts.view(), {}, args, results.tokens.view(),
                 results.emitted.view());
    std::vector<int> counts(kVocabulary * kVocabulary);
    for (std::int64_t r = 0; r < kRequests; ++r) {
      const std::vector<std::int64_t> tokens = results.tokens_of(r);
      const std::int64_t second = tokens[1] >= 0 ? tokens[1] : draw_from(random, p[1]);
      ++counts[static_cast<std::size_t>(tokens[0] * kVocabulary + second)];
    }
    return counts;
  }

  std::vector<double> expected(double temperature) const {
    const std::vector<double> first = softmax(target_rows_[0], temperature);
    const std::vector<double> second = softmax(target_rows_[1], temperature);
    std::vector<double> p;
    for (const double a : first) {
      for (const double b : second) p.push_back(a * b);
    }
    return p;
  }

  std::vector<Row> target_rows_;
  std::vector<Row> draft_rows_;
};

TEST_F(ChainDistribution, IsTheTargets) {
  for (const bool with_draft : {true, false}) {
    for (const double temperature : {1.0, 0.7}) {
      const std::vector<int> counts = histogram({}, with_draft, temperature);
      EXPECT_LT(chi_square_sigmas(counts, expected(temperature)), 4) << with_draft;
      // That many draws would tell a temperature that is a little off.
      EXPECT_GT(chi_square_sigmas(counts, expected(temperature * 1.05)), 8);
    }
  }
}

// The first token by the definition in float64, with a mistake in what a rejection draws from: the
// test above has draws enough to see it.
TEST_F(ChainDistribution, AWrongResidualWouldShow) {
  enum class Mistake { none, not_normalised, target_itself, other_way_round };
  const std::vector<double> p = softmax(target_rows_[0], 1);
  const std::vector<double> q = softmax(draft_rows_[0], 1);
  const auto first_tokens = [&](Mistake mistake) {
    Random random(9);
    std::vector<double> residual(p.size());
    double mass = 0;
    for (std::size_t i = 0; i < p.size(); ++i) {
      residual[i] = mistake == Mistake::target_itself     ? p[i]
                    : mistake == Mistake::other_way_round ? std::max(0.0, q[i] - p[i])
                                                          : std::max(0.0, p[i] - q[i]);
      mass += residual[i];
    }
    if (mistake == Mistake::not_normalised) mass = 1;
    for (double& weight : residual) weight /= mass;
    std::vector<int> counts(kVocabulary);
    for (std::int64_t r = 0; r < kRequests; ++r) {
      const auto x = static_cast<std::size_t>(draw_from(random, q));
      const bool accepted = random.uniform() * q[x] < p[x];
      ++counts[accepted ? x : static_cast<std::size_t>(draw_from(random, residual))];
    }
    return counts;
  };
  EXPECT_LT(chi_square_sigmas(first_tokens(Mistake::none), p), 4);
  for (const Mistake mistake :
       {Mistake::not_normalised, Mistake::target_itself, Mistake::other_way_round}) {
    EXPECT_GT(chi_square_sigmas(first_tokens(mistake), p), 8);
  }
}

TEST_F(ChainDistribution, ThresholdsChangeIt) {
  VerifyArgs args;
  args.threshold_acc = 0.7F;
  EXPECT_GT(chi_square_sigmas(histogram(args, true, 1), expected(1)), 8);
  args = {};
  args.threshold_single = 0.05F;
  EXPECT_GT(chi_square_sigmas(histogram(args, true, 1), expected(1)), 8);
}

// With filters: top-k of both.
TEST_F(ChainDistribution, IsThatOfFilteredRows) {
  VerifyArgs args;
  args.sampling.top_k = 3;
  std::vector<int> first(kVocabulary);
  const std::vector<int> counts = histogram(args, true, 1);
  for (std::size_t i = 0; i < counts.size(); ++i) first[i / kVocabulary] += counts[i];
  std::vector<double> p = softmax(target_rows_[0], 1);
  const std::vector<std::int32_t> order = ranked(target_rows_[0]);
  double kept = 0;
  for (std::size_t i = 0; i < 3; ++i) kept += p[static_cast<std::size_t>(order[i])];
  for (std::size_t i = 3; i < order.size(); ++i) p[static_cast<std::size_t>(order[i])] = 0;
  for (double& x : p) x /= kept;
  // Draft tokens come from unfiltered rows here: one that the filter dropped has q = 0 and p is
  // what decides, so only the support is exact.
  for (std::size_t i = 0; i < p.size(); ++i) EXPECT_EQ(first[i] > 0, p[i] > 0);
}

// The first token behind a root with three children, drawn from one distribution or given.
TEST(TreeDistribution, IsTheTargets) {
  Random random(4);
  const Row target_row = normal_row(random, kVocabulary, 1.2);
  const Row draft_row = normal_row(random, kVocabulary, 1.2);
  const std::vector<double> q = softmax(draft_row, 1);
  const Tensor target = repeated({target_row, target_row, target_row, target_row}, kRequests);
  const Tensor draft = repeated({draft_row, draft_row, draft_row, draft_row}, kRequests);
  for (const bool with_draft : {true, false}) {
    TreeTensors trees({kRequests, 4}, DType::i32);
    Tensor seeds(DType::i64, {kRequests});
    for (std::int64_t r = 0; r < kRequests; ++r) {
      seeds.set({r}, static_cast<double>(r));
      for (std::int64_t node = 0; node < 4; ++node) {
        trees.parents.set({r, node}, node == 0 ? -1 : 0);
        trees.tokens.set({r, node}, static_cast<double>(draw_from(random, q)));
      }
    }
    trees.link();
    VerifyArgs args;
    args.sampling.seeds = seeds.view();
    if (with_draft) args.draft = draft.view();
    VerifyResults results(kRequests, 4);
    verify_tree(target.view(), trees.view(), args, results.tokens.view(), results.nodes.view(),
                results.emitted.view());
    std::vector<int> counts(kVocabulary);
    std::map<int, int> nodes;
    for (std::int64_t r = 0; r < kRequests; ++r) {
      ++counts[static_cast<std::size_t>(results.tokens.get({r, 0}))];
      ++nodes[static_cast<int>(results.nodes.get({r, 1}))];
    }
    EXPECT_LT(chi_square_sigmas(counts, softmax(target_row, 1)), 4) << with_draft;
    EXPECT_GT(chi_square_sigmas(counts, softmax(target_row, 1.05)), 8) << with_draft;
    EXPECT_EQ(nodes.size(), 4U);  // each child and none
  }
}

}  // namespace
}  // namespace tilewright::test
