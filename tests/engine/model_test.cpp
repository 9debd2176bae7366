// SPDX-License-Identifier: Apache-2.0
// Model::forward and score() against a Llama written from first principles in float64.
#include "engine/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "engine/expect_error.h"
#include "engine/scorer.h"
#include "engine/tiny_model.h"

namespace tilewright::engine {
namespace {

using test::expect_error;
using test::TemporaryFile;
using test::TinyModel;
using Row = std::vector<double>;

Row multiply(const std::vector<float>& weight, const Row& x) {
  Row y(weight.size() / x.size(), 0.0);
  for (std::size_t o = 0; o < y.size(); ++o) {
    for (std::size_t i = 0; i < x.size(); ++i) {
      y[o] += static_cast<double>(weight[o * x.size() + i]) * x[i];
    }
  }
  return y;
}

Row normalise(const Row& x, const std::vector<float>& weight) {
  double sum = 0;
  for (const double value : x) sum += value * value;
  const double scale = 1 / std::sqrt(sum / static_cast<double>(x.size()) + 1e-5);
  Row y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] * scale * static_cast<double>(weight[i]);
  return y;
}

void rotate(Row& heads, std::size_t head_dim, std::size_t position) {
  for (std::size_t i = 0; i < heads.size(); i += 2) {
    const double frequency =
        std::pow(1e4, -static_cast<double>(i % head_dim) / static_cast<double>(head_dim));
    const double angle = static_cast<double>(position) * frequency;
    const double a = heads[i];
    const double b = heads[i + 1];
    heads[i] = a * std::cos(angle) - b * std::sin(angle);
    heads[i + 1] = a * std::sin(angle) + b * std::cos(angle);
  }
}

// Causal attention of one query token over all keys so far.
Row attend(const Row& q, const std::vector<Row>& keys, const std::vector<Row>& values,
           std::size_t head_dim) {
  Row out(q.size(), 0.0);
  const std::size_t group = q.size() / keys[0].size();
  for (std::size_t head = 0; head < q.size() / head_dim; ++head) {
    const std::size_t kv = head / group * head_dim;
    Row weights;
    double sum = 0;
    for (const Row& key : keys) {
      double dot = 0;
      for (std::size_t i = 0; i < head_dim; ++i) dot += q[head * head_dim + i] * key[kv + i];
      weights.push_back(std::exp(dot / std::sqrt(static_cast<double>(head_dim))));
      sum += weights.back();
    }
    for (std::size_t t = 0; t < values.size(); ++t) {
      for (std::size_t i = 0; i < head_dim; ++i) {
        out[head * head_dim + i] += weights[t] / sum * values[t][kv + i];
      }
    }
  }
  return out;
}

// Logits after each token.
std::vector<Row> reference_logits(const TinyModel& model, const std::vector<std::int32_t>& tokens) {
  const auto weight = [&](const std::string& name) -> const std::vector<float>& {
    return model.weights.at(name + ".weight");
  };
  const auto head_dim = static_cast<std::size_t>(model.head_dim);
  const auto layers = static_cast<std::size_t>(model.layers);
  std::vector<std::vector<Row>> keys(layers), values(layers);
  std::vector<Row> logits;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const auto row = static_cast<std::ptrdiff_t>(tokens[t]) * model.hidden;
    Row x(weight("token_embd").begin() + row, weight("token_embd").begin() + row + model.hidden);
    for (std::size_t l = 0; l < layers; ++l) {
      const auto part = [&](const char* name) -> const std::vector<float>& {
        return weight("blk." + std::to_string(l) + "." + name);
      };
      const Row normed = normalise(x, part("attn_norm"));
      Row q = multiply(part("attn_q"), normed);
      Row k = multiply(part("attn_k"), normed);
      rotate(q, head_dim, t);
      rotate(k, head_dim, t);
      keys[l].push_back(k);
      values[l].push_back(multiply(part("attn_v"), normed));
      const Row mixed = multiply(part("attn_output"), attend(q, keys[l], values[l], head_dim));
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += mixed[i];
      const Row ffn_normed = normalise(x, part("ffn_norm"));
      Row gate = multiply(part("ffn_gate"), ffn_normed);
      const Row up = multiply(part("ffn_up"), ffn_normed);
      for (std::size_t i = 0; i < gate.size(); ++i) gate[i] *= up[i] / (1 + std::exp(-gate[i]));
      const Row down = multiply(part("ffn_down"), gate);
      for (std::size_t i = 0; i < x.size(); ++i) x[i] += down[i];
    }
    logits.push_back(multiply(weight(model.tied ? "token_embd" : "output"),
                              normalise(x, weight("output_norm"))));
  }
  return logits;
}

std::vector<std::int32_t> some_tokens(std::size_t count, std::int64_t vocabulary) {
  std::mt19937 random(3);
  std::vector<std::int32_t> tokens(count);
  for (std::int32_t& token : tokens) {
    token = static_cast<std::int32_t>(random() % static_cast<std::uint32_t>(vocabulary));
  }
  return tokens;
}

// Longer than a chunk of the scorer, so that a later chunk reads what an earlier one wrote.
constexpr std::size_t kTokens = 280;

void expect_reference_logits(TinyModel model, DType dtype, double tolerance) {
  model.context = 512;
  const TemporaryFile path(model.write().bytes());
  const GgufFile file(path.path());
  Model loaded(file, dtype);
  const auto tokens = some_tokens(kTokens, model.vocabulary());
  const Score scored = score(loaded, tokens, static_cast<int>(model.vocabulary()));
  const std::vector<Row> expected = reference_logits(model, tokens);
  double squares = 0, largest = 0, nll = 0;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    ASSERT_EQ(scored.top[t].size(), expected[t].size());
    double sum = 0;
    for (const auto& [token, logit] : scored.top[t]) {
      const double wanted = expected[t][static_cast<std::size_t>(token)];
      const double difference = std::abs(static_cast<double>(logit) - wanted);
      squares += difference * difference;
      largest = std::max(largest, difference);
      sum += std::exp(wanted);
    }
    if (t + 1 < tokens.size()) {
      const double wanted = std::log(sum) - expected[t][static_cast<std::size_t>(tokens[t + 1])];
      EXPECT_NEAR(scored.nll[t], wanted, 20 * tolerance) << t;
      nll += wanted;
    }
  }
  const auto count = static_cast<double>(tokens.size()) * static_cast<double>(model.vocabulary());
  EXPECT_LT(std::sqrt(squares / count), tolerance);
  EXPECT_LT(largest, 20 * tolerance);
  EXPECT_NEAR(std::log(scored.perplexity), nll / static_cast<double>(tokens.size() - 1), tolerance);
}

TEST(Model, LogitsAreThoseOfAFloat64Llama) {
  expect_reference_logits({}, DType::f32, 2e-5);
}

TEST(Model, TiedEmbeddingsAndThreeQueryHeadsForAKvHead) {
  TinyModel model;
  model.tied = true;
  model.layers = 1;
  model.heads = 3;
  model.kv_heads = 1;
  model.head_dim = 32;
  model.hidden = 96;
  expect_reference_logits(model, DType::f32, 2e-5);
}

TEST(Model, Bf16MovesLogitsByItsRoundingOnly) {
  expect_reference_logits({}, DType::bf16, 0.15);
}

TEST(Model, ScoreRefusesWhatItCannotScore) {
  TinyModel model;
  const TemporaryFile path(model.write().bytes());
  const GgufFile file(path.path());
  Model loaded(file, DType::f32);
  expect_error([&] { score(loaded, {}, 0); }, {"tokens is empty"});
  const std::vector<std::int32_t> foreign{1, 267};
  expect_error([&] { score(loaded, foreign, 0); }, {"token is 267", "[0, 263)"});
  const std::vector<std::int32_t> many(257, 5);
  expect_error([&] { score(loaded, many, 0); }, {"257 entries", "256"});
  const Score one = score(loaded, std::vector<std::int32_t>{5}, 3);
  EXPECT_TRUE(one.nll.empty());
  EXPECT_EQ(one.perplexity, 1);
  EXPECT_EQ(one.top.size(), 1);
}

void expect_load_error(const test::GgufWriter& writer,
                       std::initializer_list<std::string_view> parts,
                       ErrorCode code = ErrorCode::invalid_argument) {
  const TemporaryFile path(writer.bytes());
  const GgufFile file(path.path());
  expect_error([&] { Model(file, DType::f32); }, parts, code);
}

TEST(Model, RefusesFilesItWouldComputeWronglyFrom) {
  test::GgufWriter other;
  other.set("general.architecture", std::string("qwen2"));
  expect_load_error(other, {"general.architecture", "'qwen2'", "llama"}, ErrorCode::not_supported);

  test::GgufWriter scaled = TinyModel{}.write();
  scaled.set("llama.rope.scaling.type", std::string("yarn"));
  expect_load_error(scaled, {"RoPE scaling"}, ErrorCode::not_supported);

  test::GgufWriter biased = TinyModel{}.write();
  biased.add_tensor("blk.0.attn_q.bias", {64}, std::vector<float>(64));
  expect_load_error(biased, {"blk.0.attn_q.bias", "bias"}, ErrorCode::not_supported);

  TinyModel reshaped;
  test::GgufWriter writer = reshaped.write();
  writer.set("llama.rope.dimension_count", std::uint32_t{18});
  expect_load_error(writer, {"18"});

  TinyModel uneven;
  uneven.kv_heads = 3;
  expect_load_error(uneven.write(), {"num_kv_heads"});

  test::GgufWriter bare;
  bare.set("general.architecture", std::string("llama"));
  expect_load_error(bare, {"llama.block_count", "missing"});
}

TEST(Model, NamesATensorThatIsMissingOrMisshapen) {
  TinyModel model;
  model.ffn = 96;
  std::string bytes = model.write().bytes();
  const std::size_t at = bytes.find("blk.1.ffn_up.weight");
  bytes[at] = 'x';
  const TemporaryFile renamed(bytes);
  const GgufFile file(renamed.path());
  expect_error([&] { Model(file, DType::f32); }, {"blk.1.ffn_up.weight", "missing"});
}

}  // namespace
}  // namespace tilewright::engine
