// SPDX-License-Identifier: Apache-2.0
// Attention against the float64 reference over layouts, table forms, dtypes, page sizes, head
// ratios, head dims, lengths, positions, strides, scales and variants: each pair of choices occurs
// in some case, as far as there are cases.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <array>
#include <set>
#include <tuple>
#include <vector>

#include "support/attention_case.h"

namespace tilewright::test {
namespace {

constexpr std::array<std::pair<int, int>, 10> kHeads = {
    {{1, 1}, {2, 2}, {2, 3}, {1, 4}, {1, 5}, {2, 7}, {2, 8}, {1, 12}, {4, 1}, {3, 2}}};
constexpr std::array<std::pair<int, int>, 10> kDimPairs = {{{8, 8},
                                                            {24, 24},
                                                            {64, 64},
                                                            {72, 72},
                                                            {80, 80},
                                                            {128, 128},
                                                            {192, 128},
                                                            {256, 256},
                                                            {576, 512},
                                                            {64, 96}}};
constexpr std::array<std::int64_t, 7> kPageSizes = {1, 2, 3, 5, 16, 64, 1024};
constexpr std::array<std::pair<DType, DType>, 6> kDTypes = {{{DType::f32, DType::f32},
                                                             {DType::f16, DType::f16},
                                                             {DType::bf16, DType::bf16},
                                                             {DType::bf16, DType::f8e4m3},
                                                             {DType::f16, DType::f8e5m2},
                                                             {DType::f32, DType::bf16}}};
constexpr std::array<int, 4> kWorkers = {0, 1, 3, 16};

constexpr int kFactors = 12;
using Choices = std::array<int, kFactors>;
constexpr Choices kCounts = {
    static_cast<int>(CacheForm::count),    static_cast<int>(TableForm::count),
    static_cast<int>(kDTypes.size()),      static_cast<int>(kPageSizes.size()),
    static_cast<int>(kHeads.size()),       static_cast<int>(kDimPairs.size()),
    static_cast<int>(LengthKind::count),   static_cast<int>(VariantKind::count),
    static_cast<int>(PositionKind::count), static_cast<int>(StrideKind::count),
    static_cast<int>(ScaleKind::count),    static_cast<int>(kWorkers.size())};

Case to_case(const Choices& choice, std::uint64_t seed) {
  Case c;
  c.seed = seed;
  c.cache = static_cast<CacheForm>(choice[0]);
  c.table = static_cast<TableForm>(choice[1]);
  std::tie(c.q_dtype, c.kv_dtype) = kDTypes[choice[2]];
  c.page_size = kPageSizes[choice[3]];
  std::tie(c.kv_heads, c.group) = kHeads[choice[4]];
  std::tie(c.head_dim, c.value_dim) = kDimPairs[choice[5]];
  c.lengths = static_cast<LengthKind>(choice[6]);
  c.variant = static_cast<VariantKind>(choice[7]);
  c.positions = static_cast<PositionKind>(choice[8]);
  c.strides = static_cast<StrideKind>(choice[9]);
  c.scales = static_cast<ScaleKind>(choice[10]);
  c.workers = kWorkers[choice[11]];
  c.sinks = seed % 4 == 0;
  c.make_legal();
  return c;
}

// Greedy: of a few random rows, the one with the most pairs that no row before it has.
std::vector<Case> pairwise_cases(int rows, std::uint64_t seed) {
  Random random(seed);
  std::set<std::tuple<int, int, int, int>> covered;
  std::vector<Case> cases;
  for (int row = 0; row < rows; ++row) {
    Choices best{};
    int best_gain = -1;
    for (int attempt = 0; attempt < 30; ++attempt) {
      Choices choice{};
      for (int f = 0; f < kFactors; ++f) {
        choice[f] = static_cast<int>(random.range(0, kCounts[f] - 1));
      }
      int gain = 0;
      for (int f = 0; f < kFactors; ++f) {
        for (int g = f + 1; g < kFactors; ++g) {
          gain += covered.count({f, choice[f], g, choice[g]}) == 0;
        }
      }
      if (gain > best_gain) {
        best_gain = gain;
        best = choice;
      }
    }
    for (int f = 0; f < kFactors; ++f) {
      for (int g = f + 1; g < kFactors; ++g) covered.insert({f, best[f], g, best[g]});
    }
    cases.push_back(to_case(best, seed * 1000 + static_cast<std::uint64_t>(row)));
  }
  return cases;
}

void run_case(const Case& c) {
  SCOPED_TRACE(c.name());
  CaseRun run(c);
  if (const Support support = supports(Device{}, run.spec()); !support) {
    try {
      Attention{run.spec()};
      ADD_FAILURE() << "supports() says no (" << support.reason << "), the constructor yes";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::not_supported);
      EXPECT_NE(std::string(error.what()).find(support.reason), std::string::npos) << error.what();
    }
    return;
  }
  run.run();
}

// Cases with one choice fixed and the others drawn: each value of each factor gets a test that is
// named by it.
template <int kFactor>
void run_with(int value, int cases) {
  Random random(static_cast<std::uint64_t>(kFactor * 100 + value + 1));
  for (int i = 0; i < cases; ++i) {
    Choices choice{};
    for (int f = 0; f < kFactors; ++f) {
      choice[f] = static_cast<int>(random.range(0, kCounts[f] - 1));
    }
    choice[kFactor] = value;
    run_case(
        to_case(choice, static_cast<std::uint64_t>(100'000 * (kFactor + 1) + 100 * value + i)));
  }
}

class CrossProduct : public testing::TestWithParam<int> {};
constexpr int kRowsPerTest = 10;

TEST_P(CrossProduct, Pairwise) {
  static const std::vector<Case> cases = pairwise_cases(240, 1);
  for (int i = 0; i < kRowsPerTest; ++i) run_case(cases[GetParam() * kRowsPerTest + i]);
}
INSTANTIATE_TEST_SUITE_P(Rows, CrossProduct, testing::Range(0, 24));

class EachVariant : public testing::TestWithParam<int> {};
TEST_P(EachVariant, MatchesReference) {
  run_with<7>(GetParam(), 5);
}
INSTANTIATE_TEST_SUITE_P(All, EachVariant, testing::Range(0, kCounts[7]),
                         [](const testing::TestParamInfo<int>& value) {
                           return std::string(variant_name(static_cast<VariantKind>(value.param)));
                         });

class EachCacheForm : public testing::TestWithParam<int> {};
TEST_P(EachCacheForm, MatchesReference) {
  run_with<0>(GetParam(), 3);
}
INSTANTIATE_TEST_SUITE_P(All, EachCacheForm, testing::Range(0, kCounts[0]),
                         [](const testing::TestParamInfo<int>& value) {
                           return std::string(cache_form_name(static_cast<CacheForm>(value.param)));
                         });

class EachTableForm : public testing::TestWithParam<int> {};
TEST_P(EachTableForm, MatchesReference) {
  run_with<1>(GetParam(), 3);
}
INSTANTIATE_TEST_SUITE_P(All, EachTableForm, testing::Range(0, kCounts[1]),
                         [](const testing::TestParamInfo<int>& value) {
                           return std::string(table_form_name(static_cast<TableForm>(value.param)));
                         });

// Each dtype in each place: queries, keys, values, outputs.
TEST(DTypes, EveryCombination) {
  const std::vector<DType> all = {DType::f32, DType::f16, DType::bf16, DType::f8e4m3,
                                  DType::f8e5m2};
  std::uint64_t seed = 0;
  for (const DType q : all) {
    for (const DType k : all) {
      for (const DType v : all) {
        for (const DType out : all) {
          Case c;
          c.seed = ++seed;
          c.q_dtype = q;
          c.kv_dtype = k;
          c.v_dtype = v;
          c.out_dtype = out;
          c.head_dim = 40;
          c.value_dim = 24;
          c.lengths = LengthKind::tiny;
          c.scales = ScaleKind::by_both;
          SCOPED_TRACE(dtype_name(v));
          SCOPED_TRACE(dtype_name(out));
          run_case(c);
        }
      }
    }
  }
}

// DeepSeek's latent cache: 128 query heads share keys of 576, whose first 512 are the values.
TEST(Mla, LatentCacheWithAliasedValues) {
  for (const LengthKind lengths : {LengthKind::one_long, LengthKind::decode}) {
    Case c;
    c.seed = 5;
    c.cache = CacheForm::aliased;
    c.q_dtype = c.kv_dtype = DType::bf16;
    c.kv_heads = 1;
    c.group = lengths == LengthKind::decode ? 128 : 16;
    c.head_dim = 576;
    c.value_dim = 512;
    c.page_size = 64;
    c.lengths = lengths;
    run_case(c);
  }
}

// Every head_dim that the API allows, with values of the same width.
TEST(HeadDims, EveryMultipleOfEight) {
  for (int dim = 8; dim <= 576; dim += 8) {
    Case c;
    c.seed = static_cast<std::uint64_t>(dim);
    c.head_dim = dim;
    c.value_dim = dim;
    c.q_dtype = c.kv_dtype = DType::bf16;
    c.kv_heads = 1;
    c.lengths = LengthKind::cross;
    c.variant = VariantKind::full;
    run_case(c);
  }
}

TEST(GroupSizes, AllUpToSeventeen) {
  for (int group = 1; group <= 17; ++group) {
    for (const LengthKind lengths : {LengthKind::decode, LengthKind::append}) {
      Case c;
      c.seed = static_cast<std::uint64_t>(group);
      c.group = group;
      c.head_dim = c.value_dim = 16;
      c.lengths = lengths;
      run_case(c);
    }
  }
}

TEST(PageSizes, EveryOneUpToTwenty) {
  for (std::int64_t page = 1; page <= 20; ++page) {
    Case c;
    c.seed = static_cast<std::uint64_t>(page);
    c.page_size = page;
    c.head_dim = c.value_dim = 16;
    c.lengths = page % 2 ? LengthKind::mixed : LengthKind::decode;
    c.variant = VariantKind::causal_window;
    run_case(c);
  }
}

}  // namespace
}  // namespace tilewright::test
