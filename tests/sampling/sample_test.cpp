// SPDX-License-Identifier: Apache-2.0
// sample(): the distribution of its tokens, what they depend on, corners and errors.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/error.h>
#include <tilewright/sampling.h>
#include <tilewright/threads.h>

#include <fstream>
#include <sstream>

#include "base/simd_targets.h"
#include "sampling/sampling_support.h"
#include "support/tensor.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

std::int32_t sample_one(const Row& row, const SamplingArgs& args) {
  std::int32_t token = -1;
  sample(TensorView(row.data(), DType::f32, {1, static_cast<std::int64_t>(row.size())}), args,
         TensorView(&token, DType::i32, {1}));
  return token;
}

// Counts of `draws` tokens, one for each step.
std::vector<int> histogram(const Row& row, SamplingArgs args, int draws) {
  const auto vocabulary = static_cast<std::int64_t>(row.size());
  std::vector<std::int64_t> steps(static_cast<std::size_t>(draws));
  std::iota(steps.begin(), steps.end(), 0);
  std::vector<std::int32_t> tokens(steps.size());
  args.steps = TensorView(steps.data(), DType::i64, {draws});
  sample(TensorView(row.data(), DType::f32, {draws, vocabulary}, {0, 1}), args,
         TensorView(tokens.data(), DType::i32, {draws}));
  std::vector<int> counts(row.size());
  for (const std::int32_t token : tokens) ++counts[static_cast<std::size_t>(token)];
  return counts;
}

// Pearson's statistic, and its value in standard deviations above the mean.
double chi_square_sigmas(const std::vector<int>& counts, const std::vector<double>& p, int draws) {
  double statistic = 0;
  int cells = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * draws;
    if (p[i] == 0) {
      EXPECT_EQ(counts[i], 0) << "token " << i << " has no probability";
      continue;
    }
    statistic += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++cells;
  }
  const double freedom = cells - 1;
  return (statistic - freedom) / std::sqrt(2 * freedom);
}

std::vector<double> filtered(const Row& row, double temperature, std::size_t kept) {
  std::vector<double> p = softmax(row, temperature);
  const std::vector<std::int32_t> order = ranked(row);
  double sum = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    double& x = p[static_cast<std::size_t>(order[i])];
    if (i >= kept) x = 0;
    sum += x;
  }
  for (double& x : p) x /= sum;
  return p;
}

TEST(Sample, FollowsTheDistribution) {
  Random random(1);
  const Row row = normal_row(random, 40);
  constexpr int kDraws = 200000;
  for (const float temperature : {0.5F, 1.0F, 2.0F}) {
    SamplingArgs args;
    args.temperature = temperature;
    args.seeds = std::int64_t{1234};
    const auto counts = histogram(row, args, kDraws);
    EXPECT_LT(chi_square_sigmas(counts, softmax(row, temperature), kDraws), 4) << temperature;
    // The test can tell a temperature that is 4% off.
    EXPECT_GT(chi_square_sigmas(counts, softmax(row, temperature * 1.04), kDraws), 8);
  }
}

TEST(Sample, FollowsTheFilteredDistribution) {
  Random random(2);
  const Row row = normal_row(random, 60);
  constexpr int kDraws = 100000;
  SamplingArgs args;
  args.seeds = std::int64_t{77};
  args.top_k = 20;
  EXPECT_LT(chi_square_sigmas(histogram(row, args, kDraws), filtered(row, 1, 20), kDraws), 4);
  args.top_p = 0.6F;
  RowSampler sampler;
  RowParams params;
  params.top_k = 20;
  params.top_p = 0.6F;
  const std::size_t kept = sampler.kept_tokens(logits_of(row), params).size();
  ASSERT_LT(kept, 20U);
  EXPECT_LT(chi_square_sigmas(histogram(row, args, kDraws), filtered(row, 1, kept), kDraws), 4);
}

TEST(Sample, SeedsAreIndependent) {
  Random random(3);
  const Row row = normal_row(random, 30);
  constexpr int kDraws = 100000;
  std::vector<std::int64_t> seeds(kDraws);
  std::iota(seeds.begin(), seeds.end(), 0);
  std::vector<std::int64_t> tokens(kDraws);
  SamplingArgs args;
  args.seeds = TensorView(seeds.data(), DType::i64, {kDraws});
  sample(TensorView(row.data(), DType::f32, {kDraws, 30}, {0, 1}), args,
         TensorView(tokens.data(), DType::i64, {kDraws}));
  std::vector<int> counts(30);
  for (const std::int64_t token : tokens) ++counts[static_cast<std::size_t>(token)];
  EXPECT_LT(chi_square_sigmas(counts, softmax(row, 1), kDraws), 4);
}

TEST(Sample, LongRowsFollowTheDistribution) {
  // Mass by block of a row that is long enough for blocks and chunks.
  Random random(4);
  const Row row = normal_row(random, 40000);
  constexpr int kDraws = 4000;
  const auto counts = histogram(row, {}, kDraws);
  const auto p = softmax(row, 1);
  std::vector<int> block_counts(40);
  std::vector<double> block_p(40);
  for (std::size_t i = 0; i < row.size(); ++i) {
    block_counts[i / 1000] += counts[i];
    block_p[i / 1000] += p[i];
  }
  EXPECT_LT(chi_square_sigmas(block_counts, block_p, kDraws), 4);
}

TEST(Sample, GreedyTakesTheLowestOfTheLargest) {
  SamplingArgs args;
  args.temperature = 0.0F;
  Row row(1000, -2.0F);
  row[300] = row[700] = 5.0F;
  for_each_simd_target([&] { EXPECT_EQ(sample_one(row, args), 300); });
  row[100] = NAN;
  EXPECT_EQ(sample_one(row, args), 300);
  row[999] = kInf;
  EXPECT_EQ(sample_one(row, args), 999);
  EXPECT_EQ(sample_one({-0.0F, 0.0F}, args), 0);
  EXPECT_EQ(sample_one({-kInf, NAN, -kInf}, args), 0);
  EXPECT_EQ(sample_one({NAN, -3e38F}, args), 1);
}

TEST(Sample, Corners) {
  SamplingArgs args;
  EXPECT_EQ(sample_one(Row(500, -kInf), args), 0);
  EXPECT_EQ(sample_one(Row(500, NAN), args), 0);
  EXPECT_EQ(sample_one({4.0F}, args), 0);
  Row row = {-kInf, NAN, 1.0F, -kInf};
  EXPECT_EQ(sample_one(row, args), 2);
  args.temperature = kInf;  // uniform over the tokens that are not masked
  EXPECT_EQ(sample_one(row, args), 2);
  args.temperature = 1e-45F;
  EXPECT_EQ(sample_one({1.0F, 1.0001F, 0.0F}, args), 1);
  args.temperature = 1e38F;
  const auto counts = histogram({0.0F, 5.0F, -kInf, -5.0F}, args, 30000);
  EXPECT_EQ(counts[2], 0);
  for (const int i : {0, 1, 3}) EXPECT_NEAR(counts[static_cast<std::size_t>(i)], 10000, 400);
  args.temperature = 1.0F;
  const auto shared = histogram({kInf, 3.0F, kInf, NAN}, args, 10000);
  EXPECT_EQ(shared[1] + shared[3], 0);
  EXPECT_NEAR(shared[0], 5000, 250);
}

// A batch of rows with parameters of their own.
struct Batch {
  static constexpr std::int64_t kRows = 24;
  Tensor logits;
  Tensor temperature{DType::f32, {kRows}, {2}};
  Tensor top_k{DType::i32, {kRows}, {2}};
  Tensor top_p{DType::f32, {kRows}, {1}};
  Tensor min_p{DType::f32, {kRows}, {3}};
  Tensor seeds{DType::i64, {kRows}, {1}};
  Tensor steps{DType::i64, {kRows}, {2}};

  Batch(DType dtype, std::int64_t vocabulary)
      : logits(dtype, {kRows, vocabulary}, {vocabulary + 7, 1}) {
    Random random(9);
    for (std::int64_t r = 0; r < kRows; ++r) {
      const auto kind = static_cast<RowKind>(r % static_cast<std::int64_t>(RowKind::count));
      const Row row = make_row(random, kind, vocabulary);
      for (std::int64_t i = 0; i < vocabulary; ++i) {
        logits.set({r, i}, row[static_cast<std::size_t>(i)]);
      }
      temperature.set({r}, random.pick({0.0, 0.5, 1.0, 1.7}));
      top_k.set({r}, static_cast<double>(random.pick<std::int64_t>({-1, 0, 1, 40, 900, 1 << 20})));
      top_p.set({r}, random.pick({0.0, 0.4, 0.95, 1.0, 2.0}));
      min_p.set({r}, random.pick({0.0, 0.0, 0.02, 1.0}));
      seeds.set({r}, static_cast<double>(random.range(-1000000, 1000000)));
      steps.set({r}, static_cast<double>(random.range(0, 5000)));
    }
  }

  std::vector<std::int64_t> tokens(std::int64_t begin, std::int64_t end) const {
    const auto part = [&](const Tensor& tensor) { return tensor.view().slice(0, begin, end); };
    SamplingArgs args;
    args.temperature = part(temperature);
    args.top_k = part(top_k);
    args.top_p = part(top_p);
    args.min_p = part(min_p);
    args.seeds = part(seeds);
    args.steps = part(steps);
    std::vector<std::int64_t> out(static_cast<std::size_t>(end - begin));
    sample(part(logits), args, TensorView(out.data(), DType::i64, {end - begin}));
    return out;
  }
};

TEST(Sample, SameTokenWhateverBatchThreadsAndTarget) {
  const int before = num_threads();
  for (const std::int64_t vocabulary : {300, 40000}) {
    const Batch batch(DType::f32, vocabulary);
    const auto expected = batch.tokens(0, Batch::kRows);
    for (const int threads : {1, 2, 5}) {
      set_num_threads(threads);
      EXPECT_EQ(batch.tokens(0, Batch::kRows), expected) << threads;
      for (std::int64_t r = 0; r < Batch::kRows; ++r) {
        EXPECT_EQ(batch.tokens(r, r + 1)[0], expected[static_cast<std::size_t>(r)]);
      }
    }
    set_num_threads(before);
    for_each_simd_target([&] { EXPECT_EQ(batch.tokens(0, Batch::kRows), expected); });
  }
}

TEST(Sample, HalfPrecisionLogitsAreTheirF32Values) {
  for (const DType dtype : {DType::f16, DType::bf16}) {
    const Batch narrow(dtype, 3000);
    Batch wide(DType::f32, 3000);
    for (std::int64_t r = 0; r < Batch::kRows; ++r) {
      for (std::int64_t i = 0; i < 3000; ++i) wide.logits.set({r, i}, narrow.logits.get({r, i}));
    }
    EXPECT_EQ(narrow.tokens(0, Batch::kRows), wide.tokens(0, Batch::kRows));
  }
}

// Tokens of fixed inputs: other platforms, compilers and backends must draw the same.
TEST(Sample, GoldenTokens) {
  std::ifstream file(TILEWRIGHT_TEST_DATA "/sampling_golden.txt");
  ASSERT_TRUE(file) << "tests/data/sampling_golden.txt is missing";
  std::string line;
  int lines = 0;
  while (std::getline(file, line)) {
    if (line.empty() || line[0] == '#') continue;
    std::istringstream stream(line);
    std::int64_t vocabulary = 0;
    stream >> vocabulary;
    std::vector<std::int64_t> expected;
    for (std::int64_t token = 0; stream >> token;) expected.push_back(token);
    EXPECT_EQ(Batch(DType::f32, vocabulary).tokens(0, Batch::kRows), expected) << vocabulary;
    ++lines;
  }
  EXPECT_EQ(lines, 3);
}

// Rows that read entries of slots draw what rows with these parameters draw.
TEST(Sample, SlotsSayWhichEntryARowReads) {
  const Batch batch(DType::f32, 500);
  Random random(8);
  Tensor slots(DType::i32, {40}, {3});
  for (std::int64_t r = 0; r < 40; ++r) {
    slots.set({r}, static_cast<double>(random.range(0, Batch::kRows - 1)));
  }
  SamplingArgs args;
  args.temperature = batch.temperature.view();
  args.top_k = batch.top_k.view();
  args.top_p = batch.top_p.view();
  args.min_p = batch.min_p.view();
  args.seeds = batch.seeds.view();
  args.steps = batch.steps.view();
  args.slots = slots.view();
  Tensor logits(DType::f32, {40, 500});
  std::vector<std::int64_t> expected;
  for (std::int64_t r = 0; r < 40; ++r) {
    const auto slot = static_cast<std::int64_t>(slots.get({r}));
    for (std::int64_t i = 0; i < 500; ++i) logits.set({r, i}, batch.logits.get({slot, i}));
    expected.push_back(batch.tokens(slot, slot + 1)[0]);
  }
  std::vector<std::int64_t> tokens(40);
  sample(logits.view(), args, TensorView(tokens.data(), DType::i64, {40}));
  EXPECT_EQ(tokens, expected);
  // Where no parameter is a tensor slots do not matter.
  SamplingArgs numbers;
  sample(logits.view(), numbers, TensorView(expected.data(), DType::i64, {40}));
  numbers.slots = slots.view();
  sample(logits.view(), numbers, TensorView(tokens.data(), DType::i64, {40}));
  EXPECT_EQ(tokens, expected);
}

TEST(Sample, StatusSaysWhatARowIs) {
  const std::vector<std::pair<Row, SamplingStatus>> rows = {
      {{1, 2, 3}, SamplingStatus::well},
      {{1, NAN, 3}, SamplingStatus::nan},
      {{1, kInf, 3}, SamplingStatus::infinity},
      {{-kInf, -kInf, -kInf}, SamplingStatus::no_candidate},
      {{-kInf, 2, -kInf}, SamplingStatus::well},
      {{1e-45F, -1e-45F, 1e-40F}, SamplingStatus::well},
  };
  for_each_simd_target([&] {
    for (const auto& [row, expected] : rows) {
      for (const float temperature : {0.0F, 1.0F}) {
        std::int32_t status = -1;
        SamplingArgs args;
        args.temperature = temperature;
        args.status = TensorView(&status, DType::i32, {1});
        sample_one(row, args);
        EXPECT_EQ(status, static_cast<std::int32_t>(expected));
      }
    }
  });
  // Bits add up, and the last of many entries counts, in every dtype, with any number of threads.
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    Tensor logits(dtype, {3, 40001});
    for (std::int64_t i = 0; i < 3 * 40001; ++i) logits.set({i / 40001, i % 40001}, 0);
    for (const std::int64_t r : {1, 2}) logits.set({r, 40000}, NAN);
    logits.set({2, 17}, kInf);
    Tensor status(DType::i32, {3}, {2});
    Tensor tokens(DType::i32, {3});
    SamplingArgs args;
    args.status = status.view();
    const int before = num_threads();
    for (const int threads : {1, 4}) {
      set_num_threads(threads);
      sample(logits.view(), args, tokens.view());
      EXPECT_EQ(status.get({0}), 0);
      EXPECT_EQ(status.get({1}), 1);
      EXPECT_EQ(status.get({2}), 3);
      EXPECT_EQ(tokens.get({2}), 17);
    }
    set_num_threads(before);
    EXPECT_TRUE(status.guards_intact());
  }
}

TEST(Sample, Errors) {
  const Row row(20, 0.0F);
  std::int32_t tokens[2] = {-5, -5};
  const TensorView logits(row.data(), DType::f32, {2, 10});
  const TensorView out(tokens, DType::i32, {2});
  const auto expect_error = [&](const TensorView& x, const SamplingArgs& args, const TensorView& y,
                                const std::string& text) {
    try {
      sample(x, args, y);
      ADD_FAILURE() << "no error, expected: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      EXPECT_THAT(error.what(), testing::HasSubstr(text));
    }
  };
  const auto with = [](auto change) {
    SamplingArgs args;
    change(args);
    return args;
  };
  expect_error(logits.select(0, 0), {}, out, "logits is float32[10]: its rank must be 2");
  expect_error(logits.transpose(0, 1), {}, out, "last dimension must be contiguous");
  expect_error(TensorView(row.data(), DType::i32, {2, 10}), {}, out, "logits is int32[2, 10]");
  expect_error(TensorView(row.data(), DType::f32, {2, 0}), {}, out, "its vocabulary must be in");
  expect_error(TensorView(row.data(), DType::f32, {2, (1 << 23) + 1}), {}, out,
               "its vocabulary must be in [1, 8388608]");
  expect_error(TensorView(row.data(), DType::f32, {2, 10}, Device{DeviceType::cuda, 0}), {}, out,
               "tokens is int32[2]: it must be on cuda:0");
  expect_error(logits, {}, TensorView(tokens, DType::i32, {1}), "tokens is int32[1]");
  expect_error(logits, {}, TensorView(tokens, DType::f32, {2}), "tokens is float32[2]");
  expect_error(logits, {}, TensorView(tokens, DType::i32, {2}, {0}), "must not overlap");
  expect_error(logits, with([](auto& a) { a.temperature = -0.5F; }), out, "temperature of row 0");
  expect_error(logits, with([](auto& a) { a.temperature = NAN; }), out, "temperature of row 0");
  expect_error(logits, with([](auto& a) { a.min_p = 1.5F; }), out, "min_p of row 0 is 1.5");
  expect_error(logits, with([](auto& a) { a.min_p = NAN; }), out, "min_p of row 0");
  expect_error(logits, with([](auto& a) { a.top_p = NAN; }), out, "top_p of row 0");
  expect_error(logits, with([](auto& a) { a.typical_p = NAN; }), out, "typical_p of row 0");
  expect_error(logits, with([](auto& a) { a.order = static_cast<FilterOrder>(4); }), out,
               "order is 4: it must be a FilterOrder");
  const float bad[2] = {1.0F, -1.0F};
  expect_error(logits, with([&](auto& a) { a.temperature = TensorView(bad, DType::f32, {2}); }),
               out, "temperature of row 1 is -1");
  expect_error(logits, with([&](auto& a) { a.top_p = TensorView(bad, DType::f32, {1}); }), out,
               "top_p is float32[1]: its shape must be [2]");
  expect_error(logits, with([&](auto& a) { a.top_k = TensorView(bad, DType::f32, {2}); }), out,
               "top_k is float32[2]: its dtype must be int32");
  expect_error(logits, with([&](auto& a) { a.seeds = TensorView(tokens, DType::i32, {2}); }), out,
               "seeds is int32[2]: its dtype must be int64");
  const std::int32_t slots[2] = {0, 3};
  const float three[3] = {1, 1, 1};
  const auto with_slots = [&](const TensorView& view) {
    SamplingArgs args;
    args.slots = view;
    args.temperature = TensorView(three, DType::f32, {3});
    return args;
  };
  expect_error(logits, with_slots(TensorView(slots, DType::i32, {2})), out,
               "slots of row 1 is 3: it must be in [0, 3)");
  const std::int32_t negative[2] = {-1, 0};
  expect_error(logits, with_slots(TensorView(negative, DType::i32, {2})), out,
               "slots of row 0 is -1: it must be in [0, 3)");
  expect_error(logits, with_slots(TensorView(slots, DType::i32, {1})), out,
               "slots is int32[1]: its shape must be [2]");
  expect_error(logits, with_slots(TensorView(three, DType::f32, {2})), out,
               "slots is float32[2]: its dtype must be int32");
  SamplingArgs unlike = with_slots(TensorView(slots, DType::i32, {2}));
  unlike.min_p = TensorView(three, DType::f32, {2});
  expect_error(logits, unlike, out, "min_p is float32[2]: its shape must be [3]");
  std::int32_t status[2] = {-5, -5};
  const auto with_status = [](const TensorView& view) {
    SamplingArgs args;
    args.status = view;
    return args;
  };
  expect_error(logits, with_status(TensorView(status, DType::i32, {1})), out,
               "status is int32[1]: its shape must be [2]");
  expect_error(logits, with_status(TensorView(status, DType::f32, {2})), out,
               "status is float32[2]: its dtype must be int32");
  expect_error(logits, with_status(TensorView(status, DType::i32, {2}, {0})), out,
               "must not overlap");
  EXPECT_EQ(status[0], -5);
  EXPECT_EQ(tokens[0], -5);  // nothing was written
  sample(TensorView(nullptr, DType::f32, {0, 10}), {}, TensorView(nullptr, DType::i32, {0}));
}

}  // namespace
}  // namespace tilewright
