// SPDX-License-Identifier: Apache-2.0
#include "engine/engine.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "engine/checks.h"

namespace tilewright::engine {

struct Engine::Sequence {
  Sequence(Request r, const Tokenizer& tokenizer)
      : request(std::move(r)), tokens(request.prompt), decoder(tokenizer) {}

  std::int64_t length() const { return static_cast<std::int64_t>(tokens.size()); }
  std::int64_t generated() const {
    return length() - static_cast<std::int64_t>(request.prompt.size());
  }

  Request request;
  std::vector<std::int32_t> tokens;  // prompt and what was generated
  std::int64_t computed = 0;         // tokens whose K and V are in the cache
  std::vector<std::int32_t> pages;
  StreamDecoder decoder;
  std::string held_back;  // text that may be the beginning of a stop text
  Stopwatch since_submit;
  double last_token_seconds = 0;
  bool finished = false;
  bool was_admitted = false;
  Result result;
};

namespace {

Limits plan_limits(const ModelConfig& config, const EngineOptions& options) {
  Limits limits;
  limits.requests = options.max_batch;
  limits.q_tokens = options.token_budget;
  limits.q_len = options.token_budget;
  limits.kv_len = std::min(config.context, options.kv_pages * options.page_size);
  return limits;
}

std::int64_t pages_for(std::int64_t tokens, std::int64_t page_size) {
  return (tokens + page_size - 1) / page_size;
}

const EngineOptions& checked(const EngineOptions& options) {
  require(options.max_batch >= 1 && options.max_batch <= 1024,
          "max_batch is {}: it must be in [1, 1024]", options.max_batch);
  require(options.token_budget >= options.max_batch,
          "token_budget is {}: it must be at least max_batch, {}", options.token_budget,
          options.max_batch);
  require(options.page_size >= 1 && options.page_size <= 1024,
          "page_size is {}: it must be in [1, 1024]", options.page_size);
  const std::int64_t most = std::numeric_limits<std::int32_t>::max() / options.page_size;
  require(options.kv_pages >= 1 && options.kv_pages <= most,
          "kv_pages is {}: it must be in [1, {}], so that an i32 can number all tokens",
          options.kv_pages, most);
  return options;
}

}  // namespace

Engine::Engine(Model& model, const Tokenizer& tokenizer, const EngineOptions& options,
               Events events)
    : model_(model),
      tokenizer_(tokenizer),
      options_(checked(options)),
      events_(std::move(events)),
      pool_(static_cast<std::int32_t>(options.kv_pages)),
      kv_(model.config(), model.dtype(), options.kv_pages, options.page_size),
      plan_({model.attention()}, plan_limits(model.config(), options)) {
  if (options.share_prefixes) prefixes_.emplace(pool_, options.page_size);
  plan_.prepare();
}

Engine::~Engine() = default;

void Engine::submit(Request request) {
  const ModelConfig& config = model_.config();
  const auto prompt = static_cast<std::int64_t>(request.prompt.size());
  require(prompt >= 1, "prompt is empty: it must have at least one token");
  require(prompt < config.context,
          "prompt has {} tokens: the context of the model is {}, answer included", prompt,
          config.context);
  model_.require_tokens(request.prompt);
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
  request.max_new_tokens = std::min(request.max_new_tokens, config.context - prompt);
  const std::int64_t pages = pages_for(prompt + request.max_new_tokens - 1, options_.page_size);
  require(pages <= pool_.size(), "prompt and answer may need {} KV pages: there are {}", pages,
          pool_.size());
  auto sequence = std::make_unique<Sequence>(std::move(request), tokenizer_);
  sequence->result.id = sequence->request.id;
  sequence->result.prompt_tokens = prompt;
  waiting_.push_back(std::move(sequence));
}

// Pages for the first `tokens` tokens; takes them from the prefix cache when the pool is empty.
bool Engine::reserve_pages(Sequence& sequence, std::int64_t tokens) {
  const auto needed = static_cast<std::size_t>(pages_for(tokens, options_.page_size));
  while (sequence.pages.size() < needed) {
    std::optional<std::int32_t> page = pool_.allocate();
    if (!page && prefixes_ && prefixes_->evict()) page = pool_.allocate();
    if (!page) return false;
    sequence.pages.push_back(*page);
  }
  return true;
}

// Gives up the sequence that was admitted last; it starts over when there is room.
void Engine::preempt(std::vector<Chunk>& chunks, std::int64_t& budget) {
  std::unique_ptr<Sequence> victim = std::move(running_.back());
  running_.pop_back();
  std::erase_if(chunks, [&](const Chunk& chunk) {
    if (chunk.sequence != victim.get()) return false;
    budget += chunk.tokens;
    return true;
  });
  for (const std::int32_t page : victim->pages) pool_.release(page);
  victim->pages.clear();
  victim->computed = 0;
  waiting_.push_front(std::move(victim));
  ++stats_.preemptions;
}

// Adds the running sequences that decode (one new token), or those that are still being prefilled.
void Engine::extend_running(bool decoding, std::vector<Chunk>& chunks, std::int64_t& budget) {
  for (std::size_t i = 0; i < running_.size() && budget > 0; ++i) {
    Sequence& sequence = *running_[i];
    const std::int64_t missing = sequence.length() - sequence.computed;
    if ((missing == 1) != decoding) continue;
    const std::int64_t tokens = std::min(missing, budget);
    bool preempted = false;
    while (!preempted && !reserve_pages(sequence, sequence.computed + tokens)) {
      preempted = running_.back().get() == &sequence;
      preempt(chunks, budget);
    }
    if (preempted) break;
    chunks.push_back({&sequence, tokens});
    budget -= tokens;
  }
}

// Whether a running sequence is just computing more of this one's beginning than is known yet.
bool Engine::waits_for_prefix(const Sequence& sequence, std::int64_t matched) const {
  for (const auto& other : running_) {
    const auto differ = std::mismatch(sequence.tokens.begin(), sequence.tokens.end() - 1,
                                      other->tokens.begin(), other->tokens.end());
    const std::int64_t common =
        (differ.first - sequence.tokens.begin()) / options_.page_size * options_.page_size;
    if (common > matched && other->computed < common) return true;
  }
  return false;
}

void Engine::admit(std::vector<Chunk>& chunks, std::int64_t& budget) {
  while (!waiting_.empty() && budget > 0 &&
         static_cast<int>(running_.size()) < options_.max_batch) {
    Sequence& sequence = *waiting_.front();
    if (prefixes_) {
      // The last token is always computed: its logits are wanted.
      sequence.pages =
          prefixes_->match(std::span(sequence.tokens).first(sequence.tokens.size() - 1));
      sequence.computed = static_cast<std::int64_t>(sequence.pages.size()) * options_.page_size;
    }
    const std::int64_t tokens = std::min(sequence.length() - sequence.computed, budget);
    if ((prefixes_ && waits_for_prefix(sequence, sequence.computed)) ||
        !reserve_pages(sequence, sequence.length())) {
      for (const std::int32_t page : sequence.pages) pool_.release(page);
      sequence.pages.clear();
      sequence.computed = 0;
      return;
    }
    if (!sequence.was_admitted) {
      sequence.was_admitted = true;
      sequence.result.shared_tokens = sequence.computed;
      if (events_.admitted) events_.admitted(sequence.request.id);
    }
    chunks.push_back({&sequence, tokens});
    budget -= tokens;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

std::vector<Engine::Chunk> Engine::schedule() {
  std::vector<Chunk> chunks;
  std::int64_t budget = options_.token_budget;
  const std::int64_t preemptions_before = stats_.preemptions;
  extend_running(true, chunks, budget);
  extend_running(false, chunks, budget);
  // What was just given up would come back at once, to be given up again; unless it was the only
  // one, which has all pages to itself now.
  if (stats_.preemptions == preemptions_before || running_.empty()) admit(chunks, budget);
  return chunks;
}

StepBatch Engine::build_batch(const std::vector<Chunk>& chunks) const {
  StepBatch batch;
  for (const Chunk& chunk : chunks) {
    batch.columns =
        std::max(batch.columns, static_cast<std::int64_t>(chunk.sequence->pages.size()));
  }
  for (const Chunk& chunk : chunks) {
    const Sequence& sequence = *chunk.sequence;
    const std::int64_t end = sequence.computed + chunk.tokens;
    for (std::int64_t i = sequence.computed; i < end; ++i) {
      const std::int32_t page = sequence.pages[static_cast<std::size_t>(i / options_.page_size)];
      batch.tokens.push_back(sequence.tokens[static_cast<std::size_t>(i)]);
      batch.positions.push_back(static_cast<std::int32_t>(i));
      batch.slots.push_back(
          static_cast<std::int32_t>(page * options_.page_size + i % options_.page_size));
    }
    batch.qo_indptr.push_back(static_cast<std::int32_t>(batch.tokens.size()));
    batch.kv_lens.push_back(static_cast<std::int32_t>(end));
    batch.block_table.insert(batch.block_table.end(), sequence.pages.begin(), sequence.pages.end());
    batch.block_table.resize(batch.kv_lens.size() * static_cast<std::size_t>(batch.columns), 0);
    if (end == sequence.length()) {
      batch.logit_rows.push_back(static_cast<std::int64_t>(batch.tokens.size()) - 1);
    }
  }
  return batch;
}

std::vector<std::int32_t> Engine::sample_tokens(const std::vector<Sequence*>& sequences) {
  std::vector<float> temperature, top_p, min_p;
  std::vector<std::int32_t> top_k, tokens(sequences.size());
  std::vector<std::int64_t> seeds, steps;
  for (const Sequence* sequence : sequences) {
    const Request& request = sequence->request;
    temperature.push_back(request.temperature);
    top_k.push_back(request.top_k);
    top_p.push_back(request.top_p);
    min_p.push_back(request.min_p);
    seeds.push_back(request.seed);
    steps.push_back(sequence->generated());
  }
  const auto rows = static_cast<std::int64_t>(sequences.size());
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

std::int64_t Engine::pages_in_use() const {
  std::vector<std::int32_t> pages;
  for (const auto& sequence : running_) {
    pages.insert(pages.end(), sequence->pages.begin(), sequence->pages.end());
  }
  std::ranges::sort(pages);
  return std::unique(pages.begin(), pages.end()) - pages.begin();
}

void Engine::append_token(Sequence& sequence, std::int32_t token) {
  Result& result = sequence.result;
  const Request& request = sequence.request;
  const double now = sequence.since_submit.seconds();
  if (result.tokens.empty()) {
    result.ttft_ms = now * 1e3;
  } else {
    result.itl_ms.push_back((now - sequence.last_token_seconds) * 1e3);
  }
  sequence.last_token_seconds = now;
  sequence.tokens.push_back(token);
  result.tokens.push_back(token);
  const bool ended = !request.ignore_eos && tokenizer_.ends_generation(token);
  const bool full = sequence.generated() >= request.max_new_tokens;
  sequence.held_back += sequence.decoder.push(token);
  if (ended || full) sequence.held_back += sequence.decoder.finish();
  sequence.finished = ended || full;
  if (ended) result.finish_reason = FinishReason::stop;
  emit_text(sequence);
}

// Hands out the text that became certain: up to a stop text, or to what may be the start of one.
void Engine::emit_text(Sequence& sequence) {
  Result& result = sequence.result;
  const Request& request = sequence.request;
  std::string& text = sequence.held_back;
  std::size_t certain = text.size();
  for (const std::string& stop : request.stop) certain = std::min(certain, text.find(stop));
  if (certain < text.size()) {
    sequence.finished = true;
    result.finish_reason = FinishReason::stop;
  } else if (!sequence.finished) {
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
  if (events_.token) events_.token(request.id, sequence.generated(), emitted);
}

bool Engine::step() {
  const Stopwatch whole;
  Stopwatch watch;
  const std::vector<Chunk> chunks = schedule();
  if (chunks.empty()) return false;
  stats_.kv_pages_peak = std::max(stats_.kv_pages_peak, pages_in_use());
  const StepBatch batch = build_batch(chunks);
  watch.lap(stats_.times.other);
  model_.update_plan(plan_, batch, kv_);
  watch.lap(stats_.times.plan);
  stats_.kv_bytes_read += plan_.stats(model_.attention()).kv_bytes * model_.config().layers;

  logits_.resize(batch.logit_rows.size() * static_cast<std::size_t>(model_.config().vocabulary));
  model_.forward(batch, plan_, kv_, logits_, stats_.times);

  watch = {};
  std::vector<Sequence*> sampled;
  for (const Chunk& chunk : chunks) {
    Sequence& sequence = *chunk.sequence;
    const std::int64_t whole_pages = sequence.computed / options_.page_size;
    sequence.computed += chunk.tokens;
    if (sequence.computed == sequence.length()) sampled.push_back(&sequence);
    // Pages that became whole are offered to later requests.
    if (prefixes_ && sequence.computed / options_.page_size > whole_pages) {
      prefixes_->insert(
          std::span(sequence.tokens).first(static_cast<std::size_t>(sequence.computed)),
          sequence.pages);
    }
  }
  watch.lap(stats_.times.other);
  std::vector<std::int32_t> tokens;
  if (!sampled.empty()) tokens = sample_tokens(sampled);
  watch.lap(stats_.times.sampling);
  for (std::size_t i = 0; i < sampled.size(); ++i) append_token(*sampled[i], tokens[i]);
  for (const auto& sequence : running_) {
    if (!sequence->finished) continue;
    for (const std::int32_t page : sequence->pages) pool_.release(page);
    if (events_.finished) events_.finished(sequence->result);
  }
  std::erase_if(running_, [](const auto& sequence) { return sequence->finished; });
  watch.lap(stats_.times.other);
  ++stats_.steps;
  stats_.seconds += whole.seconds();
  return true;
}

EngineStats Engine::stats() const {
  EngineStats stats = stats_;
  stats.kv_pages_used = pool_.used();
  stats.kv_pages_cached = prefixes_ ? prefixes_->pages() : 0;
  return stats;
}

}  // namespace tilewright::engine
