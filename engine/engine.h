// SPDX-License-Identifier: Apache-2.0
// Continuous batching: requests of any lengths share each step's forward pass, a paged KV cache and
// their common beginnings.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/executor.h"
#include "engine/model.h"
#include "engine/scheduler.h"
#include "engine/tokenizer.h"

namespace tilewright::engine {

struct Request {
  std::string id;
  std::vector<std::int32_t> prompt;
  std::int64_t max_new_tokens = 128;
  std::int32_t n = 1;  // samples: sample i is answered as if it were a request with seed + i
  float temperature = 0;
  std::int32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  std::int64_t seed = 0;
  std::vector<std::string> stop;  // generation ends before any of these texts
  bool ignore_eos = false;
};

enum class FinishReason : std::uint8_t { stop, length };

struct Result {
  std::string id;
  std::int32_t index = 0;            // of the sample
  std::vector<std::int32_t> tokens;  // generated; a token that ended the generation is the last one
  std::string text;
  FinishReason finish_reason = FinishReason::length;
  double ttft_ms = 0;          // from submit() to the first token
  std::vector<double> itl_ms;  // between tokens
  std::int64_t prompt_tokens = 0;
  std::int64_t shared_tokens = 0;  // of the prompt, found in the prefix cache
};

struct EngineOptions : SchedulerOptions {
  // A request's logits, to the last bit, and so its tokens, depend on nothing but itself: not on
  // other requests, chunks of its prompt, what was found in the prefix cache, or sharing.
  bool batch_invariant = false;
  // On a GPU: EngineStats has times by kind of work. Steps are launched kernel by kernel for it,
  // not as graphs, and take longer.
  bool profile = false;
};

struct EngineStats : SchedulerStats, ExecutorStats {
  double seconds = 0;  // in step()
};

class DeviceModel;

class Engine {
 public:
  struct Events {
    std::function<void(const Result&)> admitted;  // nothing generated yet
    // `text` is what became certain with the last token, perhaps nothing; a part of result.text.
    std::function<void(const Result& result, const std::string& text)> token;
    std::function<void(const Result&)> finished;
    // What the next token is drawn from.
    std::function<void(const Result& result, std::span<const float> logits)> logits;
  };

  Engine(Model& model, const Tokenizer& tokenizer, const EngineOptions& options, Events events);
  // On a GPU: tokens of a step are read while the next one is computed, so an answer that ends with
  // its token is computed one token further, which nobody sees.
  Engine(DeviceModel& model, const Tokenizer& tokenizer, const EngineOptions& options,
         Events events);
  ~Engine();

  // Error when the request cannot be served: an empty prompt, one that fills the context, ids
  // outside the vocabulary, more pages than there are, sampling parameters out of range.
  void submit(Request request);
  // Begins a step and hands out the tokens of the oldest one that is under way; false when nothing
  // is left to do.
  bool step();

  EngineStats stats() const;

 private:
  struct Active;

  // `events` is taken after the executor is made, which may depend on them.
  Engine(std::unique_ptr<Executor> executor, const Tokenizer& tokenizer,
         const EngineOptions& options, Events&& events);
  void check(const Request& request) const;
  void launch(const Step& step);
  void collect();
  void append_token(Active& active, std::int32_t token);
  void emit_text(Active& active);

  std::unique_ptr<Executor> executor_;
  const Tokenizer& tokenizer_;
  Events events_;
  Scheduler scheduler_;
  std::unordered_map<SequenceId, std::unique_ptr<Active>> active_;
  std::deque<std::vector<SequenceId>> under_way_;  // of each step: which sequences it samples
  double seconds_ = 0;
  double other_seconds_ = 0;  // of the engine itself
};

}  // namespace tilewright::engine
