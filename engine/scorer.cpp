// SPDX-License-Identifier: Apache-2.0
#include "engine/scorer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/checks.h"

namespace tilewright::engine {
namespace {

constexpr std::int64_t kPageSize = 16;
constexpr std::int64_t kChunk = 256;  // bounds the memory of logits

double negative_log_likelihood(std::span<const float> logits, std::int32_t token) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - largest);
  return std::log(sum) + largest - static_cast<double>(logits[static_cast<std::size_t>(token)]);
}

std::vector<std::pair<std::int32_t, float>> likeliest(std::span<const float> logits, int count) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](std::int32_t token) { return logits[static_cast<std::size_t>(token)]; };
  const auto end = order.begin() + std::min<std::ptrdiff_t>(count, std::ssize(order));
  std::partial_sort(order.begin(), end, order.end(), [&](std::int32_t a, std::int32_t b) {
    return logit(a) != logit(b) ? logit(a) > logit(b) : a < b;
  });
  std::vector<std::pair<std::int32_t, float>> top;
  std::for_each(order.begin(), end,
                [&](std::int32_t token) { top.emplace_back(token, logit(token)); });
  return top;
}

// Tokens [begin, end) of a sequence that has its pages in order.
StepBatch chunk_batch(std::span<const std::int32_t> tokens, std::int64_t begin, std::int64_t end) {
  StepBatch batch;
  for (std::int64_t i = begin; i < end; ++i) {
    batch.tokens.push_back(tokens[static_cast<std::size_t>(i)]);
    batch.positions.push_back(static_cast<std::int32_t>(i));
    batch.slots.push_back(static_cast<std::int32_t>(i));
    batch.logit_rows.push_back(i - begin);
  }
  batch.qo_indptr.push_back(static_cast<std::int32_t>(end - begin));
  batch.kv_lens.push_back(static_cast<std::int32_t>(end));
  std::vector<std::int32_t> pages(static_cast<std::size_t>((end + kPageSize - 1) / kPageSize));
  std::iota(pages.begin(), pages.end(), 0);
  const auto count = static_cast<std::int32_t>(pages.size());
  batch.levels.push_back({batch.qo_indptr, batch.kv_lens, {0}, {0, count}, std::move(pages)});
  return batch;
}

}  // namespace

Score score(Model& model, std::span<const std::int32_t> tokens, int top) {
  const ModelConfig& config = model.config();
  const auto n = static_cast<std::int64_t>(tokens.size());
  require(n >= 1, "tokens is empty: it must have at least one");
  require(n <= config.context, "tokens has {} entries: the context of the model is {}", n,
          config.context);
  require_tokens(config, tokens);
  const std::int64_t pages = (n + kPageSize - 1) / kPageSize;
  const KvStorage kv(model.kv_shape(pages, kPageSize));
  Limits limits;
  limits.requests = 1;
  limits.q_tokens = limits.q_len = kChunk;
  limits.kv_len = n;
  Plan plan({model.attention()}, limits);

  Score result;
  std::vector<float> logits;
  StepTimes times;
  const auto vocabulary = static_cast<std::size_t>(config.vocabulary);
  for (std::int64_t begin = 0; begin < n; begin += kChunk) {
    const std::int64_t end = std::min(n, begin + kChunk);
    const StepBatch batch = chunk_batch(tokens, begin, end);
    model.update_plan(plan, batch, kPageSize);
    logits.resize(static_cast<std::size_t>(end - begin) * vocabulary);
    model.forward(batch, plan, kv, logits, times);
    for (std::int64_t i = begin; i < end; ++i) {
      const auto row = std::span<const float>(logits).subspan(
          static_cast<std::size_t>(i - begin) * vocabulary, vocabulary);
      result.top.push_back(likeliest(row, top));
      if (i + 1 < n) {
        result.nll.push_back(negative_log_likelihood(row, tokens[static_cast<std::size_t>(i) + 1]));
      }
    }
  }
  if (!result.nll.empty()) {
    const double sum = std::accumulate(result.nll.begin(), result.nll.end(), 0.0);
    result.perplexity = std::exp(sum / static_cast<double>(result.nll.size()));
  }
  return result;
}

}  // namespace tilewright::engine
