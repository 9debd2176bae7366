// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <algorithm>
#include <cmath>

#include "engine/checks.h"
#include "engine/stopwatch.h"

namespace tilewright::engine {

struct Engine::Active {
  Active(Request r, const Tokenizer& tokenizer) : request(std::move(r)), decoder(tokenizer) {}

  Request request;
  StreamDecoder decoder;
  std::string held_back;  // text that may be the beginning of a stop text
  Stopwatch since_submit;
  double last_token_seconds = 0;
  bool finished = false;
  Result result;
};

namespace {

constexpr std::int32_t kMostSamples = 1024;

Limits plan_limits(const ModelConfig& config, const EngineOptions& options, int levels) {
  Limits limits;
  limits.requests = options.max_batch;
  limits.q_tokens = options.token_budget;
  limits.q_len = options.token_budget;
  limits.kv_len = std::min(config.context, options.kv_pages * options.page_size);
  limits.levels = levels;
  if (options.batch_invariant) limits.determinism = Determinism::batch_invariant;
  return limits;
}

}  // namespace

Engine::Engine(Model& model, const Tokenizer& tokenizer, const EngineOptions& options,
               Events events)
    : model_(model),
      tokenizer_(tokenizer),
      events_(std::move(events)),
      scheduler_(options),
      kv_(model.kv_shape(options.kv_pages, options.page_size)),
      plan_({model.attention()}, plan_limits(model.config(), options, options.most_levels())),
      unshared_plan_({model.attention()}, plan_limits(model.config(), options, 1)) {
  plan_.prepare();
}

Engine::~Engine() = default;

void Engine::check(const Request& request) const {
  const std::int64_t context = model_.config().context;
  const auto prompt = static_cast<std::int64_t>(request.prompt.size());
  require(prompt >= 1, "prompt is empty: it must have at least one token");
  require(prompt < context, "prompt has {} tokens: the context of the model is {}, answer included",
          prompt, context);
  model_.require_tokens(request.prompt);
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
  request.max_new_tokens = std::min(request.max_new_tokens, model_.config().context - prompt);
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

std::vector<std::int32_t> Engine::sample_tokens(const std::vector<Active*>& requests) {
  std::vector<float> temperature, top_p, min_p;
  std::vector<std::int32_t> top_k, tokens(requests.size());
  std::vector<std::int64_t> seeds, steps;
  for (const Active* active : requests) {
    const Request& request = active->request;
    temperature.push_back(request.temperature);
    top_k.push_back(request.top_k);
    top_p.push_back(request.top_p);
    min_p.push_back(request.min_p);
    seeds.push_back(request.seed);
    steps.push_back(std::ssize(active->result.tokens));
  }
  const auto rows = static_cast<std::int64_t>(requests.size());
  SamplingArgs args;
  args.temperature = TensorView(temperature.data(), DType::f32, {rows});
  args.top_k = TensorView(top_k.data(), DType::i32, {rows});
  args.top_p = TensorView(top_p.data(), DType::f32, {rows});
  args.min_p = TensorView(min_p.data(), DType::f32, {rows});
  args.seeds = TensorView(seeds.data(), DType::i64, {rows});
  args.steps = TensorView(steps.data(), DType::i64, {rows});
  sample(TensorView(logits_.data(), DType::f32, {rows, model_.config().vocabulary}), args,
         TensorView(tokens.data(), DType::i32, {rows}));
  return tokens;
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

void Engine::count_bytes(const StepBatch& batch) {
  const auto bytes = [&](const Plan& plan) {
    return plan.stats(model_.attention()).kv_bytes * model_.config().layers;
  };
  kv_bytes_read_ += bytes(plan_);
  if (batch.levels.size() > 1) {
    model_.update_plan(unshared_plan_, batch.without_levels(), kv_.page_size());
  }
  kv_bytes_unshared_ += bytes(batch.levels.size() > 1 ? unshared_plan_ : plan_);
}

bool Engine::step() {
  const Stopwatch whole;
  Stopwatch watch;
  const Step& step = scheduler_.schedule();
  if (step.empty()) return false;
  for (const Step::Admission& admission : step.admitted) {
    Active& active = *active_.at(admission.sequence);
    active.result.shared_tokens = admission.shared_tokens;
    if (events_.admitted) events_.admitted(active.result);
  }
  for (const PageCopy& copy : step.copies) kv_.copy_page(copy.from, copy.to);
  watch.lap(times_.other);
  model_.update_plan(plan_, step.batch, kv_.page_size());
  watch.lap(times_.plan);
  count_bytes(step.batch);
  watch.lap(times_.other);
  logits_.resize(step.sampled.size() * static_cast<std::size_t>(model_.config().vocabulary));
  model_.forward(step.batch, plan_, kv_, logits_, times_);

  watch = {};
  std::vector<Active*> sampled;
  for (const SequenceId id : step.sampled) sampled.push_back(active_.at(id).get());
  const auto vocabulary = static_cast<std::size_t>(model_.config().vocabulary);
  for (std::size_t i = 0; events_.logits && i < sampled.size(); ++i) {
    events_.logits(sampled[i]->result, std::span(logits_).subspan(i * vocabulary, vocabulary));
  }
  std::vector<std::int32_t> tokens;
  if (!sampled.empty()) tokens = sample_tokens(sampled);
  watch.lap(times_.sampling);
  scheduler_.commit(tokens);
  for (std::size_t i = 0; i < sampled.size(); ++i) {
    append_token(*sampled[i], tokens[i]);
    if (!sampled[i]->finished) continue;
    scheduler_.finish(step.sampled[i]);
    if (events_.finished) events_.finished(sampled[i]->result);
    active_.erase(step.sampled[i]);
  }
  watch.lap(times_.other);
  seconds_ += whole.seconds();
  return true;
}

EngineStats Engine::stats() const {
  return {scheduler_.stats(), seconds_, kv_bytes_read_, kv_bytes_unshared_, times_};
}

}  // namespace tilewright::engine
