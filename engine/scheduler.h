// SPDX-License-Identifier: Apache-2.0
// Continuous batching without a model: which tokens of which sequences a step computes, and the
// pages of the KV cache they have. Long prompts are prefilled in chunks beside the decoding of
// others, common beginnings are stored once, and what finds no page is preempted.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "engine/page_pool.h"
#include "engine/prefix_cache.h"
#include "engine/shared_pages.h"
#include "engine/step_batch.h"

namespace tilewright::engine {

struct SchedulerOptions {
  int max_batch = 8;                // sequences a step
  std::int64_t token_budget = 512;  // new tokens a step: longer prompts are prefilled in chunks
  std::int64_t kv_pages = 1024;
  std::int64_t page_size = 16;
  bool share_prefixes = true;
  // Pages that several sequences of a step share are levels of its batch, at most most_levels() - 1
  // of them in each other; else every sequence has all its pages to itself.
  bool share_attention = true;

  // What Limits::levels must be.
  int most_levels() const { return share_prefixes && share_attention ? 4 : 1; }
};

using SequenceId = std::int64_t;

struct PageCopy {
  std::int32_t from = 0;
  std::int32_t to = 0;
};

struct Step {
  struct Admission {
    SequenceId sequence = 0;
    std::int64_t shared_tokens = 0;  // that others had computed
  };

  StepBatch batch;
  std::vector<SequenceId> sequences;  // one for each row of the batch
  std::vector<SequenceId> sampled;    // one for each logit row: all its tokens are computed
  std::vector<PageCopy> copies;       // to be made in this order, before anything is written
  std::vector<Admission> admitted;    // for the first time

  bool empty() const { return sequences.empty(); }
};

struct SchedulerStats {
  std::int64_t steps = 0;
  std::int64_t preemptions = 0;
  std::int64_t page_copies = 0;
  std::int64_t kv_pages_peak = 0;    // of running sequences at once, shared ones counted once
  std::int64_t kv_pages_used = 0;    // now, those kept for later sequences included
  std::int64_t kv_pages_cached = 0;  // now, known to the prefix cache
};

// A token that is sampled, but not known yet.
inline constexpr std::int32_t kUnknownToken = -1;

// schedule() and commit() take turns:
//   while (!(step = &scheduler.schedule())->empty()) { compute the step; scheduler.commit(tokens);
//   }
// Which tokens come out decides nothing about the next step but when a sequence ends. So a device
// need not be waited for: commit() takes kUnknownToken, and reveal() says later what it was. In the
// next step such a token is a number below 0 (StepBatch::tokens); it must be known before the one
// behind that is scheduled.
class Scheduler {
 public:
  // Error for options out of range.
  explicit Scheduler(const SchedulerOptions& options);
  ~Scheduler();

  // Queues a sequence. `most_tokens`: of these and those that commit() adds, how many will be
  // computed; then it only waits for finish(). Error for no tokens, and when there are not enough
  // pages even for it alone.
  SequenceId submit(std::vector<std::int32_t> tokens, std::int64_t most_tokens);
  // What to compute next; empty when nothing is left to do. Valid until the next call.
  const Step& schedule();
  // The step was computed, or is under way; `next` is the token that follows each of step.sampled.
  void commit(std::span<const std::int32_t> next);
  // The sequence's first unknown token. Not between schedule() and commit().
  void reveal(SequenceId id, std::int32_t token);
  // The sequence is not wanted any more, whether it runs or waits. Not between schedule() and
  // commit().
  void finish(SequenceId id);

  std::size_t running() const { return running_.size(); }
  std::size_t waiting() const { return waiting_.size(); }
  SchedulerStats stats() const;

 private:
  struct Sequence;
  struct Chunk {
    Sequence* sequence;
    std::int64_t tokens;
  };

  void extend_running(bool decoding, std::int64_t& budget);
  void admit(std::int64_t& budget);
  bool take_prefix(Sequence& sequence);
  void take_pages(Sequence& sequence, std::vector<std::int32_t> pages, std::int64_t tokens);
  void offer_pages(Sequence& sequence);
  void give_up_pages(Sequence& sequence);
  std::optional<std::int32_t> new_page();
  bool reserve_pages(Sequence& sequence, std::int64_t tokens);
  void preempt(std::int64_t& budget);
  void build_batch();
  std::span<const std::int32_t> whole_pages(const Sequence& sequence) const;
  void append_row(StepLevel& level, std::size_t end, const Sequence& sequence,
                  std::size_t first_page, std::int64_t kv_len);
  void append_chunk(const Chunk& chunk, std::size_t own_page);
  void append_shared(const SharedPages& shared, std::size_t level);

  SchedulerOptions options_;
  PagePool pool_;
  std::optional<PrefixCache> prefixes_;
  std::deque<std::unique_ptr<Sequence>> waiting_;
  std::vector<std::unique_ptr<Sequence>> running_;  // in order of admission
  std::vector<Chunk> chunks_;                       // of this step
  Step step_;
  SchedulerStats stats_;
  SequenceId last_id_ = 0;
};

}  // namespace tilewright::engine
