// SPDX-License-Identifier: Apache-2.0
// Continuous batching: requests of any lengths share each step's forward pass, a paged KV cache and
// their common beginnings.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/model.h"
#include "engine/page_pool.h"
#include "engine/prefix_cache.h"
#include "engine/stopwatch.h"
#include "engine/tokenizer.h"

namespace tilewright::engine {

struct Request {
  std::string id;
  std::vector<std::int32_t> prompt;
  std::int64_t max_new_tokens = 128;
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
  std::vector<std::int32_t> tokens;  // generated; a token that ended the generation is the last one
  std::string text;
  FinishReason finish_reason = FinishReason::length;
  double ttft_ms = 0;          // from submit() to the first token
  std::vector<double> itl_ms;  // between tokens
  std::int64_t prompt_tokens = 0;
  std::int64_t shared_tokens = 0;  // of the prompt, found in the prefix cache
};

struct EngineOptions {
  int max_batch = 8;                // sequences a step
  std::int64_t token_budget = 512;  // new tokens a step: longer prompts are prefilled in chunks
  std::int64_t kv_pages = 1024;
  std::int64_t page_size = 16;
  bool share_prefixes = true;
};

struct EngineStats {
  double seconds = 0;  // in step()
  std::int64_t steps = 0;
  std::int64_t preemptions = 0;
  std::int64_t kv_pages_peak = 0;    // of running sequences at once, shared ones counted once
  std::int64_t kv_pages_used = 0;    // now, those kept for later requests included
  std::int64_t kv_pages_cached = 0;  // now, known to the prefix cache
  std::int64_t kv_bytes_read = 0;    // by attention, all layers
  StepTimes times;
};

class Engine {
 public:
  struct Events {
    std::function<void(const std::string& id)> admitted;
    // `text` is what became certain, perhaps nothing.
    std::function<void(const std::string& id, std::int64_t generated, const std::string& text)>
        token;
    std::function<void(const Result&)> finished;
  };

  Engine(Model& model, const Tokenizer& tokenizer, const EngineOptions& options, Events events);
  ~Engine();

  // Error when the request cannot be served: an empty prompt, one that fills the context, ids
  // outside the vocabulary, more pages than there are, sampling parameters out of range.
  void submit(Request request);
  // Computes one step; false when nothing is left to do.
  bool step();

  EngineStats stats() const;

 private:
  struct Sequence;
  struct Chunk {
    Sequence* sequence;
    std::int64_t tokens;
  };

  std::vector<Chunk> schedule();
  void extend_running(bool decoding, std::vector<Chunk>& chunks, std::int64_t& budget);
  void admit(std::vector<Chunk>& chunks, std::int64_t& budget);
  bool waits_for_prefix(const Sequence& sequence, std::int64_t matched) const;
  bool reserve_pages(Sequence& sequence, std::int64_t tokens);
  void preempt(std::vector<Chunk>& chunks, std::int64_t& budget);
  StepBatch build_batch(const std::vector<Chunk>& chunks) const;
  std::vector<std::int32_t> sample_tokens(const std::vector<Sequence*>& sequences);
  std::int64_t pages_in_use() const;
  void append_token(Sequence& sequence, std::int32_t token);
  void emit_text(Sequence& sequence);

  Model& model_;
  const Tokenizer& tokenizer_;
  EngineOptions options_;
  Events events_;
  PagePool pool_;
  std::optional<PrefixCache> prefixes_;
  KvStorage kv_;
  Plan plan_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
  std::vector<float> logits_;
  EngineStats stats_;
};

}  // namespace tilewright::engine
