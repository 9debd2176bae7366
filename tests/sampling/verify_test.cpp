// SPDX-License-Identifier: Apache-2.0
// Speculative verification on the CPU: decisions against long arithmetic, corners, errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/speculative.h>

#include "sampling/philox.h"
#include "sampling/residual.h"
#include "sampling/verify_support.h"
#include "support/expect_error.h"

namespace tilewright::test {
namespace {

using testing::ElementsAre;

__extension__ using Uint128 = unsigned __int128;

// a * b < c * d, all of up to 128 bits, by digits of 32 bits.
bool product_less(Uint128 a, Uint128 b, Uint128 c, Uint128 d) {
  const auto product = [](Uint128 x, Uint128 y) {
    std::array<std::uint64_t, 9> digits{};
    for (std::size_t i = 0; i < 4; ++i) {
      std::uint64_t carry = 0;
      for (std::size_t j = 0; j < 4; ++j) {
        const auto xi = static_cast<std::uint32_t>(x >> (32 * i));
        const auto yj = static_cast<std::uint32_t>(y >> (32 * j));
        const std::uint64_t sum = digits[i + j] + std::uint64_t{xi} * yj + carry;
        digits[i + j] = sum & 0xFFFFFFFFU;
        carry = sum >> 32;
      }
      digits[i + 4] += carry;
    }
    std::reverse(digits.begin(), digits.end());
    return digits;
  };
  return product(a, b) < product(c, d);
}

TEST(Residual, CoinsDecideExactly) {
  Random random(1);
  for (int i = 0; i < 20000; ++i) {
    TokenPair pair;
    pair.target_mass = (random.bits() >> (random.bits() % 40)) | 1;
    pair.draft_mass = (random.bits() >> (1 + random.bits() % 40)) | 1;
    pair.target = random.chance(0.1) ? 0 : random.below(pair.target_mass) + 1;
    pair.draft = random.chance(0.1) ? 0 : random.below(pair.draft_mass) + 1;
    const std::uint64_t coin = random.pick({std::uint64_t{0}, ~std::uint64_t{0}, random.bits()});
    // coin / 2^64 * draft / draft_mass < target / target_mass.
    const bool expected = product_less(Uint128{coin}, Uint128{pair.draft} * pair.target_mass,
                                       Uint128{1} << 64, Uint128{pair.target} * pair.draft_mass);
    ASSERT_EQ(accepts(pair, coin, 1), expected);
    if (pair.target == 0) {
      ASSERT_FALSE(accepts(pair, coin, 0.5F));
    }
  }
  // A coin just at the limit is not below it.
  EXPECT_FALSE(accepts({1, 2, 1, 1}, std::uint64_t{1} << 63, 1));
  EXPECT_TRUE(accepts({1, 2, 1, 1}, (std::uint64_t{1} << 63) - 1, 1));
}

TEST(Residual, FitsSixtyFourBits) {
  EXPECT_EQ(residual_shift(~std::uint64_t{0}, ~std::uint64_t{0}), 64);
  EXPECT_EQ(residual_shift(1, 1), 0);
  EXPECT_EQ(residual_shift(std::uint64_t{1} << 40, std::uint64_t{1} << 40), 18);
  const std::uint64_t all = ~std::uint64_t{0};
  EXPECT_EQ(residual_weight({all, all, 0, all}), all - 1);
  EXPECT_EQ(residual_weight({5, 10, 1, 2}), 0U);  // the same share
  EXPECT_EQ(residual_weight({6, 10, 1, 2}), 2U);
}

TEST(Residual, CoinsOfCallers) {
  EXPECT_EQ(coin_bits(0.5F), std::uint64_t{1} << 63);
  EXPECT_EQ(coin_bits(0), 0U);
  EXPECT_EQ(coin_bits(-1), 0U);
  EXPECT_EQ(coin_bits(NAN), 0U);
  EXPECT_EQ(coin_bits(1), ~std::uint64_t{0});
  EXPECT_EQ(probability_weight(1), kWeightOne);
  EXPECT_EQ(probability_weight(2), kWeightOne);
  EXPECT_EQ(probability_weight(0.25F), kWeightOne / 4);
  EXPECT_EQ(probability_weight(NAN), 0U);
  EXPECT_EQ(probability_weight(-0.1F), 0U);
}

// Streams of a request do not meet: the same numbers for ever.
TEST(Philox, StreamsOfVerification) {
  EXPECT_EQ(sampling_bits(7, 3), sampling_bits(7, 3, RandomStream::sampling, 0));
  EXPECT_EQ(sampling_bits(7, 3, RandomStream::acceptance), 8737455922157495799U);
  EXPECT_EQ(sampling_bits(7, 3, RandomStream::acceptance, 2), 18296895344584023752U);
  EXPECT_EQ(sampling_bits(-1, std::int64_t{1} << 40, RandomStream::correction),
            10198783819520398668U);
}

// What is computed, by the definition, from probabilities that are whole numbers of 2^-40.
struct NaiveChain {
  std::vector<std::vector<std::uint64_t>> target;
  std::vector<std::vector<std::uint64_t>> draft;
  std::vector<std::int64_t> drafts;

  static std::uint64_t mass(const std::vector<std::uint64_t>& weights) {
    std::uint64_t sum = 0;
    for (const std::uint64_t weight : weights) sum += weight;
    return sum;
  }

  std::vector<std::int64_t> tokens(const std::vector<std::uint64_t>& coins,
                                   std::uint64_t final_coin) const {
    std::vector<std::int64_t> tokens;
    std::vector<std::uint64_t> left = target[drafts.size()];
    for (std::size_t i = 0; i < drafts.size(); ++i) {
      const auto x = static_cast<std::size_t>(drafts[i]);
      const Uint128 p_mass = mass(target[i]);
      const Uint128 q_mass = mass(draft[i]);
      if (product_less(coins[i], draft[i][x] * p_mass, Uint128{1} << 64, target[i][x] * q_mass)) {
        tokens.push_back(drafts[i]);
        continue;
      }
      left.clear();
      const int shift =
          residual_shift(static_cast<std::uint64_t>(p_mass), static_cast<std::uint64_t>(q_mass));
      for (std::size_t id = 0; id < target[i].size(); ++id) {
        const Uint128 p = target[i][id] * q_mass;
        const Uint128 q = draft[i][id] * p_mass;
        left.push_back(p > q ? static_cast<std::uint64_t>((p - q) >> shift) : 0);
      }
      if (mass(left) == 0) left = target[i];
      break;
    }
    auto rest = static_cast<std::uint64_t>((Uint128{final_coin} * mass(left)) >> 64);
    std::int64_t id = 0;
    while (rest >= left[static_cast<std::size_t>(id)]) rest -= left[static_cast<std::size_t>(id++)];
    tokens.push_back(id);
    tokens.resize(target.size(), -1);
    return tokens;
  }
};

TEST(VerifyChain, ProbabilitiesAndCoinsOfTheCaller) {
  Random random(5);
  constexpr std::int64_t kDrafts = 4;
  for (int round = 0; round < 300; ++round) {
    const std::int64_t vocabulary = random.pick<std::int64_t>({1, 2, 7, 300});
    NaiveChain naive;
    Tensor target(DType::f32, {1, kDrafts + 1, vocabulary});
    Tensor draft(DType::f32, {1, kDrafts, vocabulary});
    Tensor drafts(DType::i64, {1, kDrafts});
    Tensor coins(DType::i64, {1, kDrafts});
    Tensor final_coins(DType::i64, {1});
    const auto fill = [&](Tensor& rows, std::int64_t node) {
      std::vector<std::uint64_t> weights;
      for (std::int64_t i = 0; i < vocabulary; ++i) {
        const float p =
            random.chance(0.2) ? 0 : static_cast<float>(random.uniform() / std::sqrt(vocabulary));
        rows.set({0, node, i}, i == 0 && p == 0 ? 1e-3F : p);
        weights.push_back(static_cast<std::uint64_t>(std::ldexp(rows.get({0, node, i}), 40)));
      }
      return weights;
    };
    std::vector<std::uint64_t> bits;
    const std::int64_t count = random.range(0, kDrafts);
    for (std::int64_t i = 0; i <= kDrafts; ++i) {
      naive.target.push_back(fill(target, i));
      if (i == kDrafts) break;
      naive.draft.push_back(fill(draft, i));
      const std::int64_t token = random.range(0, vocabulary - 1);
      drafts.set({0, i}, static_cast<double>(token));
      if (i < count) naive.drafts.push_back(token);
      bits.push_back(random.bits());
      reinterpret_cast<std::uint64_t*>(coins.data())[i] = bits.back();
    }
    const std::uint64_t final_bits = random.bits();
    reinterpret_cast<std::uint64_t*>(final_coins.data())[0] = final_bits;
    const Tensor counts = int_tensor({count});
    VerifyArgs args;
    args.input = VerifyInput::probabilities;
    args.draft = draft.view();
    args.coins = coins.view();
    args.final_coins = final_coins.view();
    VerifyResults results(1, kDrafts + 1, DType::i64);
    verify_chain(target.view(), drafts.view(), counts.view(), args, results.tokens.view(),
                 results.emitted.view());
    ASSERT_EQ(results.tokens_of(0), naive.tokens(bits, final_bits)) << "round " << round;
    ASSERT_TRUE(results.tokens.guards_intact());
  }
}

// One request of hand-made logits.
struct OneChain {
  Tensor target;
  Tensor draft;
  Tensor drafts;
  VerifyArgs args;
  VerifyResults results;

  explicit OneChain(const std::vector<Row>& rows, std::initializer_list<std::int64_t> tokens)
      : target(repeated(rows, 1)),
        drafts(int_tensor(tokens)),
        results(1, static_cast<std::int64_t>(rows.size())) {
    args.status = results.status.view();
  }

  std::vector<std::int64_t> run(const TensorView& counts = {}) {
    if (draft.defined()) args.draft = draft.view();
    verify_chain(target.view(), drafts.view().unsqueeze(0), counts, args, results.tokens.view(),
                 results.emitted.view(), results.accepted.view());
    return results.tokens_of(0);
  }
};

TEST(VerifyChain, Greedy) {
  OneChain chain({{0, 3, 1}, {5, 3, 1}, {0, 0, 1}}, {1, 2});
  chain.args.sampling.temperature = 0;
  EXPECT_THAT(chain.run(), ElementsAre(1, 0, -1));
  EXPECT_EQ(chain.results.emitted.get({0}), 1);
  chain.drafts.set({1}, 0);
  EXPECT_THAT(chain.run(), ElementsAre(1, 0, 2));
  EXPECT_EQ(chain.results.emitted.get({0}), 2);
  chain.drafts.set({0}, 0);
  EXPECT_THAT(chain.run(), ElementsAre(1, -1, -1));
  EXPECT_EQ(chain.results.emitted.get({0}), 0);
  EXPECT_EQ(chain.results.accepted.get({0}), 1);  // the second one by itself
  // Draft rows do not change it.
  chain.draft = repeated({{4, 0, 0}, {4, 0, 0}}, 1);
  EXPECT_THAT(chain.run(), ElementsAre(1, -1, -1));
}

TEST(VerifyChain, NoDraftTokens) {
  OneChain chain({{0, 3, 1}, {5, 3, 1}}, {0});
  const Tensor none = int_tensor({0});
  chain.args.sampling.temperature = 0;
  EXPECT_THAT(chain.run(none.view()), ElementsAre(1, -1));
  // No room for any.
  const Tensor target = repeated({{0, 3, 1}}, 1);
  const Tensor drafts(DType::i32, {1, 0});
  VerifyResults results(1, 1);
  verify_chain(target.view(), drafts.view(), {}, chain.args, results.tokens.view(),
               results.emitted.view());
  EXPECT_EQ(results.tokens.get({0, 0}), 1);
  EXPECT_EQ(results.emitted.get({0}), 0);
}

TEST(VerifyChain, TokensThatCannotBe) {
  // p(x) = 0: rejected whatever the coin; the other one is drawn.
  OneChain chain({{-INFINITY, 1}, {0, 0}}, {0});
  for (std::int64_t seed = 0; seed < 20; ++seed) {
    chain.args.sampling.seeds = seed;
    EXPECT_THAT(chain.run(), ElementsAre(1, -1));
  }
  // q(x) = 0 < p(x): accepted whatever the coin.
  chain.target = repeated({{1, 1}, {-INFINITY, 0}}, 1);
  chain.draft = repeated({{-INFINITY, 0}}, 1);
  for (std::int64_t seed = 0; seed < 20; ++seed) {
    chain.args.sampling.seeds = seed;
    EXPECT_THAT(chain.run(), ElementsAre(0, 1));
  }
  // p = q and p(x) = q(x) = 0: drawn from p.
  chain.target = repeated({{-INFINITY, 0}, {0, 0}}, 1);
  EXPECT_THAT(chain.run(), ElementsAre(1, -1));
}

TEST(VerifyChain, EqualDistributionsAcceptAll) {
  Random random(6);
  const Row a = normal_row(random, 50);
  const Row b = normal_row(random, 50);
  OneChain chain({a, b, a}, {3, 49});
  chain.draft = repeated({a, b}, 1);
  for (std::int64_t seed = 0; seed < 50; ++seed) {
    chain.args.sampling.seeds = seed;
    chain.run();
    EXPECT_EQ(chain.results.emitted.get({0}), 2);
    EXPECT_EQ(chain.results.accepted.get({0}), 2);
  }
}

TEST(VerifyChain, FiltersDropADraftToken) {
  OneChain chain({{1, 0, 0.9F}, {0, 0, 0}}, {1});
  chain.args.sampling.top_k = 2;
  for (std::int64_t seed = 0; seed < 20; ++seed) {
    chain.args.sampling.seeds = seed;
    const std::vector<std::int64_t> tokens = chain.run();
    EXPECT_EQ(tokens[1], -1);
    EXPECT_NE(tokens[0], 1);
  }
}

TEST(VerifyChain, MasksOfPositions) {
  OneChain chain({{9, 0, 0}, {9, 0, 0}}, {1});
  Tensor allowed(DType::i32, {1, 2, 1});
  allowed.set({0, 0, 0}, 2);
  allowed.set({0, 1, 0}, 4);
  chain.args.allowed = allowed.view();
  EXPECT_THAT(chain.run(), ElementsAre(1, 2));
  EXPECT_EQ(chain.results.status.get({0}), 0);
}

TEST(VerifyChain, Status) {
  OneChain chain({{NAN, 0}, {INFINITY, 0}}, {1});
  EXPECT_THAT(chain.run(), ElementsAre(1, 0));
  EXPECT_EQ(chain.results.status.get({0}), 3);
  chain.target = repeated({{-INFINITY, -INFINITY}, {INFINITY, 0}}, 1);
  EXPECT_THAT(chain.run(), ElementsAre(0, -1));
  EXPECT_EQ(chain.results.status.get({0}), 4);
}

TEST(VerifyChain, Thresholds) {
  // p = (1/2, 1/4, 1/4) but for rounding.
  const float half = std::log(2.0F);
  OneChain chain({{half, 0, 0}, {half, 0, 0}}, {1});
  Tensor coins(DType::f32, {1, 1});
  chain.args.coins = coins.view();
  const auto accepted = [&](float coin) {
    coins.set({0, 0}, coin);
    chain.run();
    return chain.results.emitted.get({0}) == 1;
  };
  EXPECT_TRUE(accepted(0.249F));
  EXPECT_FALSE(accepted(0.251F));
  chain.args.threshold_acc = 0.5F;  // p / 0.5
  EXPECT_TRUE(accepted(0.499F));
  EXPECT_FALSE(accepted(0.501F));
  chain.args.threshold_acc = 1;
  chain.args.threshold_single = 0.2F;
  EXPECT_TRUE(accepted(0.999F));
  chain.args.threshold_single = 0.3F;
  EXPECT_FALSE(accepted(0.999F));
  // 0 accepts what has any probability.
  chain.args.threshold_single = 1;
  chain.args.threshold_acc = 0;
  EXPECT_TRUE(accepted(0.999F));
  chain.target = repeated({{half, -INFINITY, 0}, {half, 0, 0}}, 1);
  EXPECT_FALSE(accepted(0.0F));
}

// Without draft rows one coin is compared with the sum of the children's probabilities.
TEST(VerifyTree, OneCoinForAllChildren) {
  const Tensor target = repeated({{0, 0, 0, 0}, {0, 0, 0, 9}, {9, 0, 0, 0}, {0, 9, 0, 0}}, 1);
  TreeTensors tree({1, 4}, DType::i64);
  for (std::int64_t node = 0; node < 4; ++node) {
    tree.parents.set({0, node}, node == 0 ? -1 : 0);
    tree.tokens.set({0, node}, static_cast<double>(node - 1));
  }
  tree.link();
  Tensor coins(DType::f32, {1, 4});
  Tensor final_coins(DType::f32, {1});
  final_coins.set({0}, 0.5);
  VerifyArgs args;
  args.coins = coins.view();
  args.final_coins = final_coins.view();
  VerifyResults results(1, 2, DType::i64);
  const auto run = [&](float coin) {
    coins.set({0, 0}, coin);
    verify_tree(target.view(), tree.view(), args, results.tokens.view(), results.nodes.view(),
                results.emitted.view());
    return results.tokens_of(0);
  };
  EXPECT_THAT(run(0.1F), ElementsAre(0, 3));
  EXPECT_EQ(results.nodes.get({0, 1}), 1);
  EXPECT_THAT(run(0.3F), ElementsAre(1, 0));
  EXPECT_EQ(results.nodes.get({0, 1}), 2);
  EXPECT_THAT(run(0.6F), ElementsAre(2, 1));
  EXPECT_THAT(run(0.8F), ElementsAre(3, -1));  // what is left
  EXPECT_EQ(results.nodes.get({0, 1}), -1);
  EXPECT_EQ(results.emitted.get({0}), 0);
  // A token that was rejected once has nothing left.
  tree.tokens.set({0, 2}, 0);
  EXPECT_THAT(run(0.3F), ElementsAre(2, 1));
}

TEST(VerifyTree, Greedy) {
  // 0 -> {1, 2}, 2 -> {3}, 3 -> {4}
  TreeTensors tree({1, 5}, DType::i32);
  const double parents[] = {-1, 0, 0, 2, 3};
  const double tokens[] = {0, 1, 2, 0, 1};
  for (std::int64_t node = 0; node < 5; ++node) {
    tree.parents.set({0, node}, parents[node]);
    tree.tokens.set({0, node}, tokens[node]);
  }
  tree.link();
  EXPECT_EQ(tree.next_token.get({0, 0}), 1);
  EXPECT_EQ(tree.next_sibling.get({0, 1}), 2);
  EXPECT_EQ(tree.next_sibling.get({0, 2}), -1);
  const Tensor target = repeated({{0, 0, 5}, {0, 0, 5}, {5, 0, 0}, {0, 5, 0}, {0, 0, 5}}, 1);
  VerifyArgs args;
  args.sampling.temperature = 0;
  VerifyResults results(1, 5);
  verify_tree(target.view(), tree.view(), args, results.tokens.view(), results.nodes.view(),
              results.emitted.view());
  EXPECT_THAT(results.tokens_of(0), ElementsAre(2, 0, 1, 2, -1));
  EXPECT_EQ(results.nodes.get({0, 3}), 4);
  EXPECT_EQ(results.emitted.get({0}), 3);
  // No more than fit.
  VerifyResults two(1, 2);
  verify_tree(target.view(), tree.view(), args, two.tokens.view(), two.nodes.view(),
              two.emitted.view());
  EXPECT_THAT(two.tokens_of(0), ElementsAre(2, 0));
}

TEST(VerifyTree, AChainIsATree) {
  Random random(7);
  constexpr std::int64_t kNodes = 5;
  Tensor target = random_rows(random, RowKind::normal, {6, kNodes, 40}, DType::f32, false);
  Tensor draft = random_rows(random, RowKind::normal, {6, kNodes, 40}, DType::f32, false);
  pull_towards(target, draft, 0.5);
  TreeTensors trees({6, kNodes}, DType::i32);
  for (std::int64_t r = 0; r < 6; ++r) {
    for (std::int64_t node = 0; node < kNodes; ++node) {
      trees.parents.set({r, node}, static_cast<double>(node - 1));
      trees.tokens.set({r, node}, static_cast<double>(random.range(0, 39)));
    }
  }
  trees.link();
  for (const bool with_draft : {true, false}) {
    for (std::int64_t step = 0; step < 20; ++step) {
      VerifyArgs args;
      args.sampling.steps = step;
      VerifyResults of_tree(6, kNodes);
      VerifyResults of_chain(6, kNodes);
      if (with_draft) args.draft = draft.view();
      verify_tree(target.view(), trees.view(), args, of_tree.tokens.view(), of_tree.nodes.view(),
                  of_tree.emitted.view());
      if (with_draft) args.draft = draft.view().slice(1, 0, kNodes - 1);
      verify_chain(target.view(), trees.tokens.view().slice(1, 1, kNodes), {}, args,
                   of_chain.tokens.view(), of_chain.emitted.view());
      EXPECT_EQ(of_tree.tokens.snapshot(), of_chain.tokens.snapshot());
      EXPECT_EQ(of_tree.emitted.snapshot(), of_chain.emitted.snapshot());
    }
  }
}

// A request's tokens depend on nothing else.
TEST(VerifyChain, NeighboursAndThreadsDoNotMatter) {
  Random random(8);
  Tensor target = random_rows(random, RowKind::normal, {9, 4, 700}, DType::f32, false);
  const Tensor drafts = [&] {
    Tensor tokens(DType::i32, {9, 3});
    for (std::int64_t i = 0; i < 27; ++i) {
      tokens.set({i / 3, i % 3}, static_cast<double>(random.range(0, 699)));
    }
    return tokens;
  }();
  VerifyArgs args;
  args.sampling.top_p = 0.9F;
  args.threshold_acc = 0.01F;
  VerifyResults all(9, 4);
  verify_chain(target.view(), drafts.view(), {}, args, all.tokens.view(), all.emitted.view());
  for (std::int64_t r = 0; r < 9; ++r) {
    VerifyResults one(1, 4);
    verify_chain(target.view().slice(0, r, r + 1), drafts.view().slice(0, r, r + 1), {}, args,
                 one.tokens.view(), one.emitted.view());
    EXPECT_EQ(one.tokens_of(0), all.tokens_of(r));
  }
}

TEST(VerifyErrors, NameTheArgument) {
  OneChain chain({{0, 1}, {0, 1}}, {1});
  const auto expect_error = [&](const std::vector<std::string>& parts,
                                const TensorView& counts = {}) {
    expect_error_of(ErrorCode::invalid_argument, parts, [&] { chain.run(counts); });
  };
  const Tensor two = int_tensor({2});
  expect_error({"counts of request 0 is 2", "[0, 1]"}, two.view());
  chain.drafts.set({0}, 2);
  expect_error({"draft token 0 of request 0 is 2", "[0, 2)"});
  chain.drafts.set({0}, 1);
  chain.args.threshold_acc = 1.5F;
  expect_error({"threshold_acc is 1.5", "[0, 1]"});
  chain.args.threshold_acc = NAN;
  expect_error({"threshold_acc is nan"});
  chain.args.threshold_acc = 1;
  chain.args.sampling.temperature = -1.0F;
  expect_error({"temperature", "-1"});
  chain.args.sampling.temperature = 1;
  chain.args.sampling.status = chain.results.status.view();
  expect_error({"sampling.status"});
  chain.args.sampling.status = {};
  chain.draft = Tensor(DType::f32, {1, 2, 2});
  expect_error({"draft is"});
}

TEST(VerifyErrors, Trees) {
  const Tensor target = repeated({{0, 1}, {0, 1}, {0, 1}}, 1);
  TreeTensors tree({1, 3}, DType::i32);
  for (std::int64_t node = 0; node < 3; ++node) {
    tree.parents.set({0, node}, static_cast<double>(node - 1));
    tree.tokens.set({0, node}, 0);
  }
  tree.link();
  VerifyResults results(1, 3);
  const auto expect_error = [&](const std::vector<std::string>& parts) {
    expect_error_of(ErrorCode::invalid_argument, parts, [&] {
      verify_tree(target.view(), tree.view(), {}, results.tokens.view(), results.nodes.view(),
                  results.emitted.view());
    });
  };
  tree.next_token.set({0, 1}, 1);
  expect_error({"next_token of node 1 of request 0 is 1"});
  tree.next_token.set({0, 1}, 3);
  expect_error({"next_token of node 1 of request 0 is 3"});
  tree.next_token.set({0, 1}, 2);
  tree.next_sibling.set({0, 0}, 2);
  expect_error({"next_token of node 1", "another link leads there"});
  tree.next_sibling.set({0, 0}, -1);
  tree.tokens.set({0, 2}, -7);
  expect_error({"draft token 2 of request 0 is -7"});
  tree.parents.set({0, 1}, 1);
  expect_error_of(ErrorCode::invalid_argument, {"parents of node 1 of request 0 is 1"},
                  [&] { tree.link(); });
  EXPECT_TRUE(results.tokens.untouched({0, 0}));
}

}  // namespace
}  // namespace tilewright::test
