// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <algorithm>
#include <cmath>

#include "engine/checks.h"
#include "engine/cpu_executor.h"
#include "engine/device_executor.h"
#include "engine/device_model.h"
#include "engine/stopwatch.h"

namespace tilewright::engine {

struct Engine::Active {
  Active(Request r, const Tokenizer& tokenizer) : request(std::move(r)), decoder(tokenizer) {}

  Request request;
  StreamDecoder decoder;
  std::string held_back;  // text that may be the beginning of a stop text
  Stopwatch since_submit;
  double last_token_seconds = 0;
  std::int64_t drawn = 0;  // tokens, those under way included
  bool finished = false;
  Result result;
};

namespace {

constexpr std::int32_t kMostSamples = 1024;

Limits plan_limits(const ModelConfig& config, const EngineOptions& options) {
  Limits limits;
  limits.requests = options.max_batch;
  limits.q_tokens = options.token_budget;
  limits.q_len = options.token_budget;
  limits.kv_len = std::min(config.context, options.kv_pages * options.page_size);
  limits.levels = options.most_levels();
  if (options.batch_invariant) limits.determinism = Determinism::batch_invariant;
  return limits;
}

// Before an executor takes memory for them.
const EngineOptions& checked(const EngineOptions& options) {
  const Scheduler scheduler(options);
  return options;
}

}  // namespace

Engine::Engine(std::unique_ptr<Executor> executor, const Tokenizer& tokenizer,
               const EngineOptions& options, Events&& events)
    : executor_(std::move(executor)),
      tokenizer_(tokenizer),
      events_(std::move(events)),
      scheduler_(options) {}

Engine::Engine(Model& model, const Tokenizer& tokenizer, const EngineOptions& options,
               Events events)
    : Engine(std::make_unique<CpuExecutor>(model, plan_limits(model.config(), checked(options)),
                                           options.kv_pages, options.page_size),
             tokenizer, options, std::move(events)) {}

Engine::Engine(DeviceModel& model, const Tokenizer& tokenizer, const EngineOptions& options,
               Events events)
    : Engine(std::make_unique<DeviceExecutor>(
                 model, plan_limits(model.config(), checked(options)), options.kv_pages,
                 options.page_size,
                 DeviceExecutorOptions{.keep_logits = static_cast<bool>(events.logits),
                                       .profile = options.profile}),
             tokenizer, options, std::move(events)) {}

Engine::~Engine() = default;

void Engine::check(const Request& request) const {
  const std::int64_t context = executor_->config().context;
  const auto prompt = static_cast<std::int64_t>(request.prompt.size());
  require(prompt >= 1, "prompt is empty: it must have at least one token");
  require(prompt < context, "prompt has {} tokens: the context of the model is {}, answer included",
          prompt, context);
  require_tokens(executor_->config(), request.prompt);
  require(request.n >= 1 && request.n <= kMostSamples, "n is {}: it must be in [1, {}]", request.n,
          kMostSamples);
  require(request.max_new_tokens >= 1, "max_new_tokens is {}: it must be at least 1",
          request.max_new_tokens);
  require(request.temperature >= 0 && std::isfinite(request.temperature),
          "temperature is {}: it must not be negative", request.temperature);
  require(request.top_p >= 0 && request.top_p <= 1, "top_p is {}: it must be in [0, 1]",
          request.top_p);
  require(request.min_p >= 0 && request.min_p <= 1, "min_p is {}: it must be in [0, 1]",
          request.min_p);
  for (const std::string& stop : request.stop) {
    require(!stop.empty(), "stop is empty: it must have at least one character");
  }
}

void Engine::submit(Request request) {
  check(request);
  const auto prompt = static_cast<std::int64_t>(request.prompt.size());
  request.max_new_tokens = std::min(request.max_new_tokens, executor_->config().context - prompt);
  std::vector<std::int32_t> tokens = std::move(request.prompt);
  for (std::int32_t i = 0; i < request.n; ++i) {
    const SequenceId id = scheduler_.submit(tokens, prompt + request.max_new_tokens - 1);
    auto active = std::make_unique<Active>(request, tokenizer_);
    // Unsigned: it may wrap.
    active->request.seed = static_cast<std::int64_t>(static_cast<std::uint64_t>(request.seed) +
                                                     static_cast<std::uint64_t>(i));
    active->result.id = request.id;
    active->result.index = i;
    active->result.prompt_tokens = prompt;
    active_.emplace(id, std::move(active));
  }
}

void Engine::append_token(Active& active, std::int32_t token) {
  Result& result = active.result;
  const Request& request = active.request;
  const double now = active.since_submit.seconds();
  if (result.tokens.empty()) {
    result.ttft_ms = now * 1e3;
  } else {
    result.itl_ms.push_back((now - active.last_token_seconds) * 1e3);
  }
  active.last_token_seconds = now;
  result.tokens.push_back(token);
  const bool ended = !request.ignore_eos && tokenizer_.ends_generation(token);
  const bool full = std::ssize(result.tokens) >= request.max_new_tokens;
  active.held_back += active.decoder.push(token);
  if (ended || full) active.held_back += active.decoder.finish();
  active.finished = ended || full;
  if (ended) result.finish_reason = FinishReason::stop;
  emit_text(active);
}

// Hands out the text that became certain: up to a stop text, or to what may be the start of one.
void Engine::emit_text(Active& active) {
  Result& result = active.result;
  const Request& request = active.request;
  std::string& text = active.held_back;
  std::size_t certain = text.size();
  for (const std::string& stop : request.stop) certain = std::min(certain, text.find(stop));
  if (certain < text.size()) {
    active.finished = true;
    result.finish_reason = FinishReason::stop;
  } else if (!active.finished) {
    for (const std::string& stop : request.stop) {
      for (std::size_t n = std::min(stop.size() - 1, text.size()); n > 0; --n) {
        if (text.ends_with(std::string_view(stop).substr(0, n))) {
          certain = std::min(certain, text.size() - n);
          break;
        }
      }
    }
  }
  const std::string emitted = text.substr(0, certain);
  text.erase(0, certain);
  result.text += emitted;
  if (events_.token) events_.token(result, emitted);
}

void Engine::launch(const Step& step) {
  for (const Step::Admission& admission : step.admitted) {
    Active& active = *active_.at(admission.sequence);
    active.result.shared_tokens = admission.shared_tokens;
    if (events_.admitted) events_.admitted(active.result);
  }
  std::vector<RowSampling> sampling;
  for (const SequenceId id : step.sampled) {
    Active& active = *active_.at(id);
    const Request& request = active.request;
    sampling.push_back({request.temperature, request.top_k, request.top_p, request.min_p,
                        request.seed, active.drawn++});
  }
  executor_->launch(step, sampling);
  under_way_.push_back(step.sampled);
  scheduler_.commit(std::vector<std::int32_t>(step.sampled.size(), kUnknownToken));
}

void Engine::collect() {
  const std::span<const std::int32_t> tokens = executor_->collect();
  const std::vector<SequenceId> sampled = std::move(under_way_.front());
  under_way_.pop_front();
  const Stopwatch watch;
  const auto vocabulary = static_cast<std::size_t>(executor_->config().vocabulary);
  for (std::size_t i = 0; i < sampled.size(); ++i) {
    const auto found = active_.find(sampled[i]);
    if (found == active_.end()) continue;  // it ended with the token before
    Active& active = *found->second;
    if (events_.logits) {
      events_.logits(active.result, executor_->logits().subspan(i * vocabulary, vocabulary));
    }
    scheduler_.reveal(sampled[i], tokens[i]);
    append_token(active, tokens[i]);
    if (!active.finished) continue;
    scheduler_.finish(sampled[i]);
    if (events_.finished) events_.finished(active.result);
    active_.erase(found);
  }
  other_seconds_ += watch.seconds();
}

bool Engine::step() {
  const Stopwatch whole;
  const Step& step = scheduler_.schedule();
  if (step.empty() && under_way_.empty()) return false;
  other_seconds_ += whole.seconds();
  if (!step.empty()) launch(step);
  if (step.empty() || std::ssize(under_way_) >= executor_->depth()) collect();
  seconds_ += whole.seconds();
  return true;
}

EngineStats Engine::stats() const {
  EngineStats stats{scheduler_.stats(), executor_->stats(), seconds_};
  stats.times.other += other_seconds_;
  return stats;
}

}  // namespace tilewright::engine
