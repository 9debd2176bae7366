// SPDX-License-Identifier: Apache-2.0
#include "engine/scheduler.h"

#include <algorithm>
#include <limits>

#include "engine/checks.h"

namespace tilewright::engine {

struct Scheduler::Sequence {
  std::int64_t length() const { return static_cast<std::int64_t>(tokens.size()); }

  SequenceId id = 0;
  std::vector<std::int32_t> tokens;
  std::int64_t known = 0;        // tokens: those behind them are kUnknownToken
  std::int32_t sampled_row = 0;  // of the last token, in the step that sampled it
  std::int64_t most_tokens = 0;
  std::int64_t computed = 0;  // tokens whose K and V are in the cache, or under way there
  std::vector<std::int32_t> pages;
  std::int64_t offered = 0;  // pages, to the prefix cache
  PrefixCache::Place place;
  bool was_admitted = false;
};

namespace {

std::int64_t pages_for(std::int64_t tokens, std::int64_t page_size) {
  return (tokens + page_size - 1) / page_size;
}

const SchedulerOptions& checked(const SchedulerOptions& options) {
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

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(checked(options)), pool_(static_cast<std::int32_t>(options.kv_pages)) {
  if (options.share_prefixes) prefixes_.emplace(pool_, options.page_size);
}

Scheduler::~Scheduler() = default;

SequenceId Scheduler::submit(std::vector<std::int32_t> tokens, std::int64_t most_tokens) {
  require(!tokens.empty(), "tokens is empty: a sequence must have at least one token");
  most_tokens = std::max(most_tokens, static_cast<std::int64_t>(tokens.size()));
  const std::int64_t pages = pages_for(most_tokens, options_.page_size);
  require(pages <= pool_.size(), "prompt and answer may need {} KV pages: there are {}", pages,
          pool_.size());
  auto sequence = std::make_unique<Sequence>();
  sequence->id = ++last_id_;
  sequence->known = std::ssize(tokens);
  sequence->most_tokens = most_tokens;
  sequence->tokens = std::move(tokens);
  waiting_.push_back(std::move(sequence));
  return last_id_;
}

// Free, or taken from the prefix cache.
std::optional<std::int32_t> Scheduler::new_page() {
  std::optional<std::int32_t> page = pool_.allocate();
  if (!page && prefixes_ && prefixes_->evict()) page = pool_.allocate();
  return page;
}

// Pages for the first `tokens` tokens, those from `computed` on its own.
bool Scheduler::reserve_pages(Sequence& sequence, std::int64_t tokens) {
  const auto next = static_cast<std::size_t>(sequence.computed / options_.page_size);
  if (next < sequence.pages.size() && pool_.references(sequence.pages[next]) > 1) {
    const std::optional<std::int32_t> page = new_page();
    if (!page) return false;
    step_.copies.push_back({sequence.pages[next], *page});
    pool_.release(sequence.pages[next]);
    sequence.pages[next] = *page;
  }
  const auto needed = static_cast<std::size_t>(pages_for(tokens, options_.page_size));
  while (sequence.pages.size() < needed) {
    const std::optional<std::int32_t> page = new_page();
    if (!page) return false;
    sequence.pages.push_back(*page);
  }
  return true;
}

void Scheduler::take_pages(Sequence& sequence, std::vector<std::int32_t> pages,
                           std::int64_t tokens) {
  sequence.pages = std::move(pages);
  sequence.computed = tokens;
  sequence.offered = tokens / options_.page_size;
}

// Pages that became whole, and whose tokens are known, to later sequences.
void Scheduler::offer_pages(Sequence& sequence) {
  const std::int64_t tokens = std::min(sequence.computed, sequence.known);
  if (!prefixes_ || tokens / options_.page_size <= sequence.offered) return;
  prefixes_->insert(std::span(sequence.tokens).first(static_cast<std::size_t>(tokens)),
                    sequence.pages, sequence.place);
  sequence.offered = tokens / options_.page_size;
}

void Scheduler::give_up_pages(Sequence& sequence) {
  for (const std::int32_t page : sequence.pages) pool_.release(page);
  take_pages(sequence, {}, 0);
  sequence.place = {};
}

// Gives up the sequence that was admitted last; it starts over when there is room.
void Scheduler::preempt(std::int64_t& budget) {
  std::unique_ptr<Sequence> victim = std::move(running_.back());
  running_.pop_back();
  std::erase_if(chunks_, [&](const Chunk& chunk) {
    if (chunk.sequence != victim.get()) return false;
    budget += chunk.tokens;
    return true;
  });
  give_up_pages(*victim);
  waiting_.push_front(std::move(victim));
  ++stats_.preemptions;
}

// Adds the running sequences that decode (one new token), or those that are still being prefilled.
void Scheduler::extend_running(bool decoding, std::int64_t& budget) {
  for (std::size_t i = 0; i < running_.size() && budget > 0; ++i) {
    Sequence& sequence = *running_[i];
    const std::int64_t missing = sequence.length() - sequence.computed;
    if ((missing == 1) != decoding || sequence.computed >= sequence.most_tokens) continue;
    const std::int64_t tokens = std::min(missing, budget);
    bool preempted = false;
    while (!preempted && !reserve_pages(sequence, sequence.computed + tokens)) {
      preempted = running_.back().get() == &sequence;
      preempt(budget);
    }
    if (preempted) break;
    chunks_.push_back({&sequence, tokens});
    budget -= tokens;
  }
}

// Gives a waiting sequence what others computed of its beginning, but for the last token, whose
// logits are wanted: whole pages, and of a running sequence that begins with all of it (another
// sample of one prompt) the last, partly filled page too. False when a running sequence is just
// computing more of it: then it is worth waiting for.
bool Scheduler::take_prefix(Sequence& sequence) {
  const auto beginning = std::span(sequence.tokens).first(sequence.tokens.size() - 1);
  std::vector<std::int32_t> pages = prefixes_->match(beginning);
  const std::int64_t known = static_cast<std::int64_t>(pages.size()) * options_.page_size;
  take_pages(sequence, std::move(pages), known);
  for (const auto& other : running_) {
    const auto differ = std::ranges::mismatch(beginning, other->tokens);
    std::int64_t common = differ.in1 - beginning.begin();
    if (differ.in1 != beginning.end()) common -= common % options_.page_size;
    if (common <= sequence.computed) continue;
    if (other->computed < common) return false;
    give_up_pages(sequence);
    const auto shared = other->pages.begin() + pages_for(common, options_.page_size);
    take_pages(sequence, {other->pages.begin(), shared}, common);
    for (const std::int32_t page : sequence.pages) pool_.add_reference(page);
  }
  return true;
}

void Scheduler::admit(std::int64_t& budget) {
  while (!waiting_.empty() && budget > 0 &&
         static_cast<int>(running_.size()) < options_.max_batch) {
    Sequence& sequence = *waiting_.front();
    if (sequence.length() > sequence.most_tokens) return;  // preempted; about to be finished
    const std::size_t copies = step_.copies.size();
    if ((prefixes_ && !take_prefix(sequence)) || !reserve_pages(sequence, sequence.length())) {
      give_up_pages(sequence);
      step_.copies.resize(copies);
      return;
    }
    if (!sequence.was_admitted) step_.admitted.push_back({sequence.id, sequence.computed});
    sequence.was_admitted = true;
    const std::int64_t tokens = std::min(sequence.length() - sequence.computed, budget);
    chunks_.push_back({&sequence, tokens});
    budget -= tokens;
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

const Step& Scheduler::schedule() {
  chunks_.clear();
  step_.copies.clear();
  step_.admitted.clear();
  std::int64_t budget = options_.token_budget;
  const std::int64_t preemptions_before = stats_.preemptions;
  extend_running(true, budget);
  extend_running(false, budget);
  // What was just given up would come back at once, to be given up again; unless it was the only
  // one, which has all pages to itself now.
  if (stats_.preemptions == preemptions_before || running_.empty()) admit(budget);
  build_batch();
  stats_.kv_pages_peak = std::max(stats_.kv_pages_peak, pool_.held());
  return step_;
}

// Pages that were whole before this step: no query comes before the end of them.
std::span<const std::int32_t> Scheduler::whole_pages(const Sequence& sequence) const {
  const auto count = static_cast<std::size_t>(sequence.computed / options_.page_size);
  return std::span(sequence.pages).first(count);
}

void Scheduler::build_batch() {
  step_.batch = {};
  step_.sequences.clear();
  step_.sampled.clear();
  std::vector<std::span<const std::int32_t>> pages;
  for (const Chunk& chunk : chunks_) pages.push_back(whole_pages(*chunk.sequence));
  const SharedPages shared =
      find_shared_pages(pages, static_cast<std::size_t>(options_.most_levels() - 1));
  step_.batch.levels.assign(shared.levels.size() + 1, {{0}, {}, {}, {0}, {}});
  std::vector<Chunk> ordered;
  for (std::size_t i = 0; i < chunks_.size(); ++i) {
    ordered.push_back(chunks_[shared.order[i]]);
    append_chunk(ordered.back(), shared.own_page[i]);
  }
  chunks_ = std::move(ordered);
  for (std::size_t level = 0; level < shared.levels.size(); ++level) append_shared(shared, level);
}

// The query tokens of a row of several sequences end with the last of these.
void Scheduler::append_row(StepLevel& level, std::size_t end, const Sequence& sequence,
                           std::size_t first_page, std::int64_t kv_len) {
  const std::int64_t begin = static_cast<std::int64_t>(first_page) * options_.page_size;
  const auto from = sequence.pages.begin() + static_cast<std::ptrdiff_t>(first_page);
  level.qo_indptr.push_back(step_.batch.qo_indptr[end]);
  level.kv_lens.push_back(static_cast<std::int32_t>(kv_len));
  level.kv_pos.push_back(static_cast<std::int32_t>(begin));
  level.pages.insert(level.pages.end(), from, from + pages_for(kv_len, options_.page_size));
  level.page_indptr.push_back(static_cast<std::int32_t>(level.pages.size()));
}

void Scheduler::append_chunk(const Chunk& chunk, std::size_t own_page) {
  StepBatch& batch = step_.batch;
  const Sequence& sequence = *chunk.sequence;
  const std::int64_t end = sequence.computed + chunk.tokens;
  for (std::int64_t i = sequence.computed; i < end; ++i) {
    const std::int32_t page = sequence.pages[static_cast<std::size_t>(i / options_.page_size)];
    batch.tokens.push_back(i < sequence.known ? sequence.tokens[static_cast<std::size_t>(i)]
                                              : -1 - sequence.sampled_row);
    batch.positions.push_back(static_cast<std::int32_t>(i));
    batch.slots.push_back(
        static_cast<std::int32_t>(page * options_.page_size + i % options_.page_size));
  }
  batch.qo_indptr.push_back(static_cast<std::int32_t>(batch.tokens.size()));
  batch.kv_lens.push_back(static_cast<std::int32_t>(end));
  append_row(batch.levels.back(), batch.kv_lens.size(), sequence, own_page,
             end - static_cast<std::int64_t>(own_page) * options_.page_size);
  step_.sequences.push_back(sequence.id);
  if (end == sequence.length()) {
    batch.logit_rows.push_back(static_cast<std::int64_t>(batch.tokens.size()) - 1);
    step_.sampled.push_back(sequence.id);
  }
}

// The rows of a level stand next to each other: sequences between them get one without keys, which
// says where their own keys begin.
void Scheduler::append_shared(const SharedPages& shared, std::size_t level) {
  StepLevel& rows = step_.batch.levels[level];
  std::size_t next = 0;
  for (const SharedRow& row : shared.levels[level]) {
    for (; next < row.begin; ++next) {
      append_row(rows, next + 1, *chunks_[next].sequence, shared.own_page[next], 0);
    }
    const auto kv_len = static_cast<std::int64_t>(row.last_page - row.first_page);
    append_row(rows, row.end, *chunks_[row.begin].sequence, row.first_page,
               kv_len * options_.page_size);
    next = row.end;
  }
}

void Scheduler::commit(std::span<const std::int32_t> next) {
  require(next.size() == step_.sampled.size(), "next has {} tokens: the step samples {}",
          next.size(), step_.sampled.size());
  std::size_t sampled = 0;
  for (const Chunk& chunk : chunks_) {
    Sequence& sequence = *chunk.sequence;
    sequence.computed += chunk.tokens;
    offer_pages(sequence);
    if (sequence.computed != sequence.length()) continue;
    if (next[sampled] != kUnknownToken) ++sequence.known;
    sequence.sampled_row = static_cast<std::int32_t>(sampled);
    sequence.tokens.push_back(next[sampled++]);
  }
  stats_.page_copies += std::ssize(step_.copies);
  ++stats_.steps;
  chunks_.clear();
}

void Scheduler::reveal(SequenceId id, std::int32_t token) {
  const auto reveal_in = [&](auto& sequences) {
    for (const auto& sequence : sequences) {
      if (sequence->id != id || sequence->known == sequence->length()) continue;
      sequence->tokens[static_cast<std::size_t>(sequence->known++)] = token;
      offer_pages(*sequence);
    }
  };
  reveal_in(running_);
  reveal_in(waiting_);
}

void Scheduler::finish(SequenceId id) {
  const auto wanted = [id](const auto& sequence) { return sequence->id == id; };
  if (const auto found = std::ranges::find_if(running_, wanted); found != running_.end()) {
    give_up_pages(**found);
    running_.erase(found);
  } else {
    std::erase_if(waiting_, wanted);
  }
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.kv_pages_used = pool_.used();
  stats.kv_pages_cached = prefixes_ ? prefixes_->pages() : 0;
  return stats;
}

}  // namespace tilewright::engine
