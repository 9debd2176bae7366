// SPDX-License-Identifier: Apache-2.0
#include "engine/scorer.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "engine/checks.h"
#include "engine/device_model.h"
#include "engine/parallel.h"

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
  if (count == 0) return {};
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

std::int64_t pages_of(std::int64_t tokens) {
  return (tokens + kPageSize - 1) / kPageSize;
}

// Tokens [begin, end) of a sequence that has its pages in order. Logits of all are wanted.
Step chunk_step(std::span<const std::int32_t> tokens, std::int64_t begin, std::int64_t end) {
  Step step;
  StepBatch& batch = step.batch;
  for (std::int64_t i = begin; i < end; ++i) {
    batch.tokens.push_back(tokens[static_cast<std::size_t>(i)]);
    batch.positions.push_back(static_cast<std::int32_t>(i));
    batch.slots.push_back(static_cast<std::int32_t>(i));
  }
  batch.qo_indptr.push_back(static_cast<std::int32_t>(end - begin));
  batch.kv_lens.push_back(static_cast<std::int32_t>(end));
  std::vector<std::int32_t> pages(static_cast<std::size_t>(pages_of(end)));
  std::iota(pages.begin(), pages.end(), 0);
  const auto count = static_cast<std::int32_t>(pages.size());
  batch.levels.push_back({batch.qo_indptr, batch.kv_lens, {0}, {0, count}, std::move(pages)});
  return step;
}

// Of chunks of a text of so many tokens.
Limits chunk_limits(std::int64_t tokens) {
  Limits limits;
  limits.requests = 1;
  limits.q_tokens = limits.q_len = std::min(tokens, kChunk);
  limits.kv_len = tokens;
  return limits;
}

// Logits of one chunk of a text after the other, [tokens of the chunk, vocabulary].
class CpuChunks {
 public:
  CpuChunks(Model& model, std::int64_t tokens)
      : model_(model),
        kv_(model.kv_shape(pages_of(tokens), kPageSize)),
        plan_({model.attention()}, chunk_limits(tokens)) {}

  std::span<const float> logits(Step step) {
    StepBatch& batch = step.batch;
    batch.logit_rows.resize(batch.tokens.size());
    std::iota(batch.logit_rows.begin(), batch.logit_rows.end(), 0);
    logits_.resize(batch.tokens.size() * static_cast<std::size_t>(model_.config().vocabulary));
    model_.update_plan(plan_, batch, kPageSize);
    StepTimes times;
    model_.forward(batch, plan_, kv_, logits_, times);
    return logits_;
  }

 private:
  Model& model_;
  KvStorage kv_;
  Plan plan_;
  std::vector<float> logits_;
};

// The same on a GPU.
class DeviceChunks {
 public:
  DeviceChunks(DeviceModel& model, std::int64_t tokens)
      : model_(model),
        device_(model.device()),
        limits_(chunk_limits(tokens)),
        stream_(device_),
        kv_shape_(kv_shape(model.config(), model.dtype(), pages_of(tokens), kPageSize)),
        kv_memory_(device_, static_cast<std::size_t>(kv_shape_.bytes())),
        kv_(kv_shape_.all_layers(kv_memory_.data(), model.attention().device())),
        plan_({model.attention()}, limits_),
        arrays_(limits_, kPageSize),
        host_inputs_(arrays_.bytes()),
        inputs_(device_, arrays_.bytes()),
        activations_(device_, model.config(), model.dtype(), limits_.q_tokens, limits_.q_tokens) {}

  std::span<const float> logits(const Step& step) {
    const cuda::ContextScope scope(device_);
    const Stream stream = stream_.get();
    const StepShape shape{.tokens = std::ssize(step.batch.tokens), .requests = 1};
    auto* const inputs = static_cast<std::byte*>(inputs_.data());
    for (const StepArrays::Part& part : arrays_.write(host_inputs_.data(), step, {}, shape)) {
      cuda::copy_to_device(inputs + part.offset, host_inputs_.data() + part.offset, part.bytes,
                           stream);
    }
    DeviceStep on_device = arrays_.views(inputs, shape, model_.attention().device());
    on_device.logit_rows = {};
    plan_.update(on_device.batch, {PlanInput(model_.attention(), on_device.levels)}, stream);
    model_.forward(on_device, plan_, kv_, activations_, stream, nullptr);
    logits_.resize(step.batch.tokens.size() * static_cast<std::size_t>(model_.config().vocabulary));
    cuda::copy_to_host(logits_.data(), activations_.logits.data(), logits_.size() * sizeof(float),
                       stream);
    cuda::synchronize(stream);
    return logits_;
  }

 private:
  DeviceModel& model_;
  const cuda::Device& device_;
  Limits limits_;
  cuda::OwnedStream stream_;
  KvShape kv_shape_;
  cuda::DeviceBuffer kv_memory_;
  std::vector<KvCache> kv_;
  Plan plan_;
  StepArrays arrays_;
  std::vector<std::byte> host_inputs_;
  cuda::DeviceBuffer inputs_;
  DeviceActivations activations_;
  std::vector<float> logits_;
};

template <typename Chunks, typename AnyModel>
Score score_by(AnyModel& model, std::span<const std::int32_t> tokens, int top) {
  const ModelConfig& config = model.config();
  const std::int64_t n = std::ssize(tokens);
  require(n >= 1, "tokens is empty: it must have at least one");
  require(n <= config.context, "tokens has {} entries: the context of the model is {}", n,
          config.context);
  require_tokens(config, tokens);
  Chunks chunks(model, n);
  Score result;
  result.nll.resize(tokens.size() - 1);
  result.top.resize(tokens.size());
  const auto vocabulary = static_cast<std::size_t>(config.vocabulary);
  for (std::int64_t begin = 0; begin < n; begin += kChunk) {
    const std::int64_t end = std::min(n, begin + kChunk);
    const std::span<const float> logits = chunks.logits(chunk_step(tokens, begin, end));
    parallel_shares(end - begin, [&](std::int64_t first, std::int64_t last) {
      for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
        const std::span<const float> row = logits.subspan(i * vocabulary, vocabulary);
        const std::size_t token = static_cast<std::size_t>(begin) + i;
        result.top[token] = likeliest(row, top);
        if (token + 1 < tokens.size()) {
          result.nll[token] = negative_log_likelihood(row, tokens[token + 1]);
        }
      }
    });
  }
  if (!result.nll.empty()) {
    const double sum = std::accumulate(result.nll.begin(), result.nll.end(), 0.0);
    result.perplexity = std::exp(sum / static_cast<double>(result.nll.size()));
  }
  return result;
}

}  // namespace

Score score(Model& model, std::span<const std::int32_t> tokens, int top) {
  return score_by<CpuChunks>(model, tokens, top);
}

Score score(DeviceModel& model, std::span<const std::int32_t> tokens, int top) {
  return score_by<DeviceChunks>(model, tokens, top);
}

}  // namespace tilewright::engine
