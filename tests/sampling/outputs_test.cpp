// SPDX-License-Identifier: Apache-2.0
// What sample() gives beside its tokens, and top_k(): against float64 and sorting.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/error.h>
#include <tilewright/sampling.h>

#include <functional>

#include "sampling/outputs_support.h"
#include "sampling/process_support.h"
#include "support/tensor.h"

namespace tilewright::test {
namespace {

TEST(Log2, IsThatOfFloat64) {
  Random random(1);
  for (int i = 0; i < 100000; ++i) {
    const auto x = std::bit_cast<float>(static_cast<std::uint32_t>(random.bits()) & 0x7FFFFFFFU);
    if (!std::isfinite(x) || x == 0) continue;
    const double expected = std::log2(static_cast<double>(x));
    ASSERT_NEAR(log2_exact(x), expected, 1e-7 + 1e-7 * std::fabs(expected)) << x;
  }
  for (int i = 0; i < 10000; ++i) {
    const float x = 1 + (static_cast<float>(random.uniform()) - 0.5F) * 1e-3F;
    const double expected = std::log2(static_cast<double>(x));
    ASSERT_NEAR(log2_exact(x), expected, 1e-6 * std::fabs(expected)) << x;
  }
  EXPECT_EQ(log2_exact(1), 0);
  EXPECT_EQ(log2_exact(0x1.0p-149F), -149);
  EXPECT_EQ(log2_exact(0), -kInf);
}

// Of a row and the tokens kept, in float64.
void expect_outputs(const OutputTensors& got, std::int64_t r, const Row& processed,
                    const std::vector<bool>& kept, double temperature, std::int32_t token) {
  double largest = -INFINITY;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    if (kept[i]) largest = std::fmax(largest, static_cast<double>(processed[i]));
  }
  double sum = 0;
  const auto exponential = [&](std::size_t i) {
    return std::exp((static_cast<double>(processed[i]) - largest) / temperature);
  };
  for (std::size_t i = 0; i < kept.size(); ++i) sum += kept[i] ? exponential(i) : 0;
  for (std::size_t i = 0; i < kept.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    const auto word = static_cast<std::int32_t>(got.kept.get({r, at / 32}));
    ASSERT_EQ((static_cast<std::uint32_t>(word) >> (at % 32) & 1) != 0, kept[i]) << at;
    ASSERT_NEAR(got.probabilities.get({r, at}), kept[i] ? exponential(i) / sum : 0, 1e-6);
    const double masked = got.masked.get({r, at});
    ASSERT_EQ(masked, kept[i] ? static_cast<double>(processed[i]) : -INFINITY) << at;
  }
  const double log_prob =
      (static_cast<double>(processed[static_cast<std::size_t>(token)]) - largest) / temperature -
      std::log(sum);
  ASSERT_NEAR(got.processed.chosen.get({r}), log_prob, 2e-5 + 1e-6 * std::fabs(log_prob));
}

TEST(Outputs, AreThoseOfFloat64) {
  Random random(2);
  for (int round = 0; round < 120; ++round) {
    const std::int64_t vocabulary = random.pick<std::int64_t>({1, 31, 33, 300, 5000});
    const auto kind =
        static_cast<RowKind>(random.range(0, static_cast<std::int64_t>(RowKind::count) - 1));
    if (kind == RowKind::geometric) continue;  // beyond float64's reach
    const Row row = make_row(random, kind, vocabulary);
    Row clean = row;
    for (float& x : clean) x = clean_logit(x);
    if (*std::max_element(clean.begin(), clean.end()) == -kInf) continue;
    RowParams params;
    params.temperature = random.pick({0.7F, 1.0F, 2.0F});
    params.top_k = random.pick({0, 1, 7, 2000});
    params.top_p = random.pick({1.0F, 0.9F, 0.3F});
    params.min_p = random.pick({0.0F, 0.02F});
    RowSampler sampler;
    std::vector<bool> kept(row.size());
    for (const std::int32_t id : sampler.kept_tokens(logits_of(row), params)) {
      kept[static_cast<std::size_t>(id)] = clean[static_cast<std::size_t>(id)] > -kInf;
    }
    OutputTensors got(1, vocabulary, 5, DType::f32);
    SamplingArgs args;
    args.temperature = params.temperature;
    args.top_k = static_cast<std::int32_t>(params.top_k);
    args.top_p = params.top_p;
    args.min_p = params.min_p;
    args.seeds = static_cast<std::int64_t>(random.bits());
    got.give(args);
    Tensor token(DType::i32, {1});
    sample(TensorView(row.data(), DType::f32, {1, vocabulary}), args, token.view());
    const auto id = static_cast<std::int32_t>(token.get({0}));
    SCOPED_TRACE(testing::Message() << "round " << round << " kind " << static_cast<int>(kind));
    expect_outputs(got, 0, clean, kept, static_cast<double>(params.temperature), id);
    // Raw ones, and the order.
    const std::vector<double> p = softmax(clean, 1);
    const auto log_of = [&](std::int32_t i) { return std::log(p[static_cast<std::size_t>(i)]); };
    ASSERT_NEAR(got.raw.chosen.get({0}), log_of(id), 2e-5 + 1e-6 * std::fabs(log_of(id)));
    const float value = clean[static_cast<std::size_t>(id)];
    const auto larger =
        std::count_if(clean.begin(), clean.end(), [&](float x) { return x > value; });
    ASSERT_EQ(got.raw.ranks.get({0}), 1 + static_cast<double>(larger));
    const std::vector<std::int32_t> order = ranked(clean);
    for (std::int64_t i = 0, next = 0; i < 5; ++i) {
      while (next < vocabulary &&
             !kept[static_cast<std::size_t>(order[static_cast<std::size_t>(next)])])
        ++next;
      const std::int32_t best = next < vocabulary ? order[static_cast<std::size_t>(next)] : -1;
      ASSERT_EQ(got.processed.best_ids.get({0, i}), best);
      ++next;
      const bool there =
          i < vocabulary &&
          clean[static_cast<std::size_t>(order[static_cast<std::size_t>(i)])] > -kInf;
      const std::int32_t raw = there ? order[static_cast<std::size_t>(i)] : -1;
      ASSERT_EQ(got.raw.best_ids.get({0, i}), raw);
      const double expected = there ? log_of(raw) : -INFINITY;
      if (there) {
        ASSERT_NEAR(got.raw.best.get({0, i}), expected, 2e-5 + 1e-6 * std::fabs(expected));
      } else {
        ASSERT_EQ(got.raw.best.get({0, i}), -INFINITY);
      }
    }
    ASSERT_TRUE(got.guards_intact());
  }
}

TEST(Outputs, RowsWithoutADraw) {
  // Greedy, no candidate, infinite logits.
  Tensor logits(DType::f32, {3, 40});
  for (std::int64_t i = 0; i < 40; ++i) {
    logits.set({0, i}, i == 7 || i == 9 ? 2 : 1);
    logits.set({1, i}, i % 2 == 0 ? -INFINITY : NAN);
    logits.set({2, i}, i == 5 || i == 38 ? INFINITY : 3);
  }
  const Tensor temperature = float_tensor({0, 1, 1});
  OutputTensors got(3, 40, 3, DType::f32);
  SamplingArgs args;
  args.temperature = temperature.view();
  got.give(args);
  sample(logits.view(), args, {});
  EXPECT_EQ(got.kept.get({0, 0}), 1 << 7);
  EXPECT_EQ(got.kept.get({0, 1}), 0);
  EXPECT_EQ(got.probabilities.get({0, 7}), 1);
  EXPECT_EQ(got.probabilities.get({0, 9}), 0);
  EXPECT_EQ(got.masked.get({0, 7}), 2);
  EXPECT_EQ(got.masked.get({0, 9}), -INFINITY);
  EXPECT_EQ(got.processed.chosen.get({0}), 0);
  EXPECT_EQ(got.processed.ranks.get({0}), 1);
  EXPECT_EQ(got.processed.best_ids.get({0, 0}), 7);
  EXPECT_EQ(got.processed.best_ids.get({0, 1}), -1);
  EXPECT_EQ(got.raw.best_ids.get({0, 1}), 9);
  EXPECT_EQ(got.kept.get({1, 0}), 1);
  EXPECT_EQ(got.probabilities.get({1, 0}), 1);
  EXPECT_EQ(got.masked.get({1, 0}), -INFINITY);
  EXPECT_EQ(got.raw.chosen.get({1}), -INFINITY);
  EXPECT_EQ(got.raw.best_ids.get({1, 0}), -1);
  EXPECT_EQ(got.kept.get({2, 0}), 1 << 5);
  EXPECT_EQ(got.kept.get({2, 1}), 1 << 6);
  EXPECT_EQ(got.probabilities.get({2, 38}), 0.5);
  EXPECT_EQ(got.masked.get({2, 38}), INFINITY);
  EXPECT_NEAR(got.raw.chosen.get({2}), std::log(0.5), 1e-7);
  EXPECT_EQ(got.raw.best_ids.get({2, 1}), 38);
  EXPECT_EQ(got.raw.best_ids.get({2, 2}), -1);
}

TEST(Outputs, MaskedLogitsAreProcessed) {
  Random random(3);
  Tensor logits(DType::f16, {2, 100});
  for (std::int64_t i = 0; i < 200; ++i) logits.set({i / 100, i % 100}, random.normal());
  const Tensor ids = int_tensor({3, 50});
  const Tensor values = float_tensor({2.5, -1});
  OutputTensors got(2, 100, 1, DType::f16);
  SamplingArgs args;
  args.bias_ids = TensorView(ids.view().data, DType::i32, {2, 2}, {0, 1});
  args.bias_values = TensorView(values.view().data, DType::f32, {2, 2}, {0, 1});
  got.give(args);
  sample(logits.view(), args, {});
  for (std::int64_t i = 0; i < 100; ++i) {
    Tensor expected(DType::f16, {1});
    expected.set({0}, logits.get({1, i}) + (i == 3 ? 2.5 : (i == 50 ? -1 : 0)));
    EXPECT_EQ(got.masked.get({1, i}), expected.get({0})) << i;
  }
}

TEST(Probabilities, AreSampledAsTheyAre) {
  // Powers of two and a scale that is none: weights are exact.
  Tensor p(DType::f32, {1, 6});
  const double entries[] = {3, 0, 1.5, NAN, -1, 0.75};
  for (std::int64_t i = 0; i < 6; ++i) p.set({0, i}, entries[i]);
  OutputTensors got(1, 6, 3, DType::f32);
  SamplingArgs args;
  args.input = SamplingInput::probabilities;
  got.give(args);
  args.outputs.masked_logits = {};
  Tensor status(DType::i32, {1});
  args.status = status.view();
  sample(p.view(), args, {});
  EXPECT_EQ(status.get({0}), 1 + 32);
  EXPECT_EQ(got.kept.get({0, 0}), 1 + 4 + 32);
  EXPECT_NEAR(got.probabilities.get({0, 0}), 3 / 5.25, 1e-7);
  EXPECT_NEAR(got.probabilities.get({0, 5}), 0.75 / 5.25, 1e-7);
  EXPECT_NEAR(got.raw.best.get({0, 1}), std::log(1.5 / 5.25), 1e-6);
  EXPECT_EQ(got.raw.best_ids.get({0, 2}), 5);
  args.top_p = 0.5F;
  sample(p.view(), args, {});
  EXPECT_EQ(got.kept.get({0, 0}), 1);
  args.top_p = 1;
  args.top_k = 2;
  sample(p.view(), args, {});
  EXPECT_EQ(got.kept.get({0, 0}), 1 + 4);
  EXPECT_NEAR(got.probabilities.get({0, 2}), 1.0 / 3, 1e-7);
}

TEST(Probabilities, DrawTheTokensOfTheirLogarithms) {
  // The same distribution, so nearly always the same token.
  Random random(4);
  const Row row = normal_row(random, 3000);
  Row p = row;
  for (float& x : p) x = std::exp(x);
  int same = 0;
  for (std::int64_t step = 0; step < 400; ++step) {
    SamplingArgs args;
    args.top_k = random.pick({0, 50, 1000});
    args.top_p = random.pick({1.0F, 0.8F});
    args.min_p = random.pick({0.0F, 0.01F});
    args.typical_p = random.pick({1.0F, 0.9F});
    args.order = random.pick({FilterOrder::hf, FilterOrder::joint, FilterOrder::vllm});
    args.steps = step;
    Tensor expected(DType::i32, {1});
    Tensor got(DType::i32, {1});
    sample(TensorView(row.data(), DType::f32, {1, 3000}), args, expected.view());
    args.input = SamplingInput::probabilities;
    sample(TensorView(p.data(), DType::f32, {1, 3000}), args, got.view());
    if (got.get({0}) == expected.get({0})) ++same;
  }
  EXPECT_GE(same, 395);
}

TEST(Probabilities, Corners) {
  Tensor p(DType::f32, {3, 33});
  for (std::int64_t i = 0; i < 33; ++i) {
    p.set({0, i}, 0);
    p.set({1, i}, i == 32 ? INFINITY : 1);
    p.set({2, i}, i == 4 ? 1e-45 : 0);
  }
  Tensor tokens(DType::i32, {3});
  Tensor status(DType::i32, {3});
  SamplingArgs args;
  args.input = SamplingInput::probabilities;
  args.status = status.view();
  sample(p.view(), args, tokens.view());
  EXPECT_EQ(tokens.snapshot(), int_tensor({0, 32, 4}).snapshot());
  EXPECT_EQ(status.snapshot(), int_tensor({4, 2, 0}).snapshot());
  args.temperature = 0;
  sample(p.view(), args, tokens.view());
  EXPECT_EQ(tokens.snapshot(), int_tensor({0, 32, 4}).snapshot());
}

TEST(TopK, IsTheBeginningOfTheSortedRow) {
  Random random(5);
  for (int kind = 0; kind < static_cast<int>(RowKind::count); ++kind) {
    for (const std::int64_t vocabulary : {1, 40, 3000, 40000}) {
      Row row = make_row(random, static_cast<RowKind>(kind), vocabulary);
      if (random.chance(0.3)) row[row.size() / 2] = kInf;
      for (const std::int64_t k : {1, 7, 300, 2048}) {
        SCOPED_TRACE(testing::Message() << kind << " " << vocabulary << " " << k);
        Tensor values(DType::f32, {1, k});
        Tensor indices(DType::i64, {1, k});
        top_k(TensorView(row.data(), DType::f32, {1, vocabulary}), values.view(), indices.view());
        const std::vector<std::int32_t> order = ranked(row);
        for (std::int64_t i = 0; i < k; ++i) {
          const std::int32_t id = i < vocabulary ? order[static_cast<std::size_t>(i)] : -1;
          ASSERT_EQ(indices.get({0, i}), id) << i;
          const float value = id < 0 ? -kInf : clean_logit(row[static_cast<std::size_t>(id)]);
          ASSERT_EQ(values.get({0, i}), value) << i;
        }
        ASSERT_TRUE(values.guards_intact() && indices.guards_intact());
      }
    }
  }
}

void expect_error(const std::function<void()>& call, const std::string& message) {
  try {
    call();
    FAIL() << "no error: " << message;
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
    EXPECT_THAT(error.what(), testing::HasSubstr(message));
  }
}

TEST(Outputs, Errors) {
  const Tensor logits(DType::f32, {2, 40});
  const Tensor tokens(DType::i32, {2});
  const auto fails = [&](const std::function<void(SamplingArgs&)>& change,
                         const std::string& message) {
    SamplingArgs args;
    change(args);
    expect_error([&] { sample(logits.view(), args, tokens.view()); }, message);
  };
  const Tensor floats(DType::f32, {2, 40});
  const Tensor words(DType::i32, {2, 2});
  fails([&](SamplingArgs& a) { a.outputs.kept = floats.view(); }, "outputs.kept");
  fails([&](SamplingArgs& a) { a.outputs.probabilities = words.view(); }, "outputs.probabilities");
  fails([&](SamplingArgs& a) { a.outputs.raw.best = floats.view(); }, "given together");
  fails(
      [&](SamplingArgs& a) {
        a.input = SamplingInput::probabilities;
        a.outputs.masked_logits = floats.view();
      },
      "outputs.masked_logits");
  fails(
      [](SamplingArgs& a) {
        a.input = SamplingInput::probabilities;
        a.temperature = 0.5F;
      },
      "it must be 1 or 0 where the input is probabilities");
  fails(
      [&](SamplingArgs& a) {
        a.input = SamplingInput::probabilities;
        a.allowed = words.view();
      },
      "allowed");
  fails(
      [](SamplingArgs& a) {
        a.input = SamplingInput::probabilities;
        a.order = FilterOrder::llamacpp;
      },
      "order is llamacpp");
  expect_error([&] { sample(logits.view(), {}, {}); }, "tokens");
  const Tensor many(DType::f32, {2, 2049});
  expect_error([&] { top_k(logits.view(), many.view(), many.view()); }, "k must be in [1, 2048]");
  expect_error([&] { top_k(logits.view(), floats.view(), floats.view()); }, "indices");
}

}  // namespace
}  // namespace tilewright::test
