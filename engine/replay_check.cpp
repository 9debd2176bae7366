// SPDX-License-Identifier: Apache-2.0
#include "engine/replay_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/numeric.h"

namespace tilewright::engine {
namespace {

// A vector as the dtype holds it.
std::vector<double> stored_vector(std::uint64_t seed, TokenVector which, std::uint64_t token,
                                  int head, const ReplayShape& shape) {
  std::vector<float> values(static_cast<std::size_t>(shape.head_dim));
  fill_token_vector(seed, which, token, head, values);
  std::vector<double> stored;
  for (const float value : values) {
    stored.push_back(shape.dtype == DType::bf16 ? bf16_to_f32(f32_to_bf16(value)) : value);
  }
  return stored;
}

}  // namespace

AttentionSpec ReplayShape::attention_spec() const {
  AttentionSpec spec;
  spec.num_qo_heads = num_qo_heads;
  spec.num_kv_heads = num_kv_heads;
  spec.head_dim = head_dim;
  spec.q_dtype = spec.kv_dtype = dtype;
  return spec;
}

ReplaySample* SampleReservoir::offer() {
  ++offered_;
  if (std::ssize(samples_) < most_) return &samples_.emplace_back();
  const auto place = static_cast<std::int64_t>(random_.uniform() * static_cast<double>(offered_));
  return place < most_ ? &samples_[static_cast<std::size_t>(place)] : nullptr;
}

double error_of(const ReplaySample& sample, const ReplayShape& shape, const TraceTokens& tokens,
                std::uint64_t seed) {
  const auto dim = static_cast<std::size_t>(shape.head_dim);
  const int kv_head = sample.head / shape.group_size();
  const std::vector<double> query = stored_vector(
      seed, TokenVector::query, query_token(sample.request, sample.position), sample.head, shape);
  std::vector<std::int32_t> keys = tokens.input(sample.request);
  for (std::int64_t i = 0; std::ssize(keys) <= sample.position; ++i) {
    keys.push_back(tokens.output(sample.request, i));
  }
  keys.resize(static_cast<std::size_t>(sample.position) + 1);  // causal

  std::vector<double> logits;
  double largest = -std::numeric_limits<double>::infinity();
  for (const std::int32_t token : keys) {
    const std::vector<double> key =
        stored_vector(seed, TokenVector::key, static_cast<std::uint64_t>(token), kv_head, shape);
    double dot = 0;
    for (std::size_t d = 0; d < dim; ++d) dot += query[d] * key[d];
    logits.push_back(dot / std::sqrt(static_cast<double>(dim)));
    largest = std::max(largest, logits.back());
  }
  double denominator = 0;
  std::vector<double> out(dim), magnitude(dim), square(dim);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const double weight = std::exp(logits[i] - largest);
    denominator += weight;
    const std::vector<double> value = stored_vector(
        seed, TokenVector::value, static_cast<std::uint64_t>(keys[i]), kv_head, shape);
    for (std::size_t d = 0; d < dim; ++d) {
      out[d] += weight * value[d];
      magnitude[d] += weight * std::fabs(value[d]);
      square[d] += weight * value[d] * weight * value[d];
    }
  }
  const bool narrow = shape.dtype == DType::bf16;
  const double rounding = narrow ? 0x1.0p-8 : 0x1.0p-24;
  double worst = 0;
  for (std::size_t d = 0; d < dim; ++d) {
    const double expected = out[d] / denominator;
    double allowed = 2 * rounding * std::fabs(expected) + 1e-5 * magnitude[d] / denominator;
    // Kernels may round the weights too; roundings up and down cancel.
    if (narrow) allowed += 2 * rounding * std::sqrt(square[d]) / denominator;
    const double error = std::fabs(static_cast<double>(sample.out[d]) - expected) / allowed;
    worst = std::isnan(error) ? std::numeric_limits<double>::infinity() : std::max(worst, error);
  }
  return worst;
}

ReplayVerdict check_samples(std::span<const ReplaySample> samples, const ReplayShape& shape,
                            const TraceTokens& tokens, std::uint64_t seed) {
  constexpr std::size_t kMostExamples = 5;
  ReplayVerdict verdict;
  for (const ReplaySample& sample : samples) {
    const double error = error_of(sample, shape, tokens, seed);
    ++verdict.checked;
    verdict.worst = std::max(verdict.worst, error);
    if (error <= 1) continue;
    ++verdict.wrong;
    if (verdict.examples.size() < kMostExamples) {
      verdict.examples.push_back(
          fmt::format("step {}, request {}, position {}, head {}: {:.3g} times the allowed error",
                      sample.step, sample.request, sample.position, sample.head, error));
    }
  }
  return verdict;
}

}  // namespace tilewright::engine
