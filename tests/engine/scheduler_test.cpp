// SPDX-License-Identifier: Apache-2.0
// The scheduler without a model: by example, and over random lives of sequences against a memory
// that remembers what was written.
#include "engine/scheduler.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "engine/expect_error.h"

namespace tilewright::engine {
namespace {

using Tokens = std::vector<std::int32_t>;
using test::expect_error;

Tokens count_up(std::int32_t first, std::size_t count) {
  Tokens tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

SchedulerOptions small_options() {
  SchedulerOptions options;
  options.max_batch = 4;
  options.token_budget = 16;
  options.kv_pages = 32;
  options.page_size = 4;
  return options;
}

// Computes a step: every sampled sequence goes on with `token`.
void commit(Scheduler& scheduler, const Step& step, std::int32_t token = 0) {
  scheduler.commit(Tokens(step.sampled.size(), token));
}

TEST(Scheduler, LongPromptsComeInChunksBesideDecoding) {
  Scheduler scheduler(small_options());
  EXPECT_TRUE(scheduler.schedule().empty());
  const SequenceId fast = scheduler.submit(count_up(0, 3), 8);
  const SequenceId slow = scheduler.submit(count_up(100, 30), 40);
  const Step& step = scheduler.schedule();
  EXPECT_EQ(step.sequences, (std::vector<SequenceId>{fast, slow}));
  EXPECT_EQ(step.sampled, std::vector<SequenceId>{fast});
  EXPECT_EQ(step.admitted.size(), 2U);
  EXPECT_EQ(step.batch.qo_indptr, (Tokens{0, 3, 16}));
  EXPECT_EQ(step.batch.kv_lens, (Tokens{3, 13}));
  EXPECT_EQ(step.batch.logit_rows, std::vector<std::int64_t>{2});
  ASSERT_EQ(step.batch.levels.size(), 1U);
  EXPECT_EQ(step.batch.levels[0].page_indptr, (Tokens{0, 1, 5}));
  commit(scheduler, step, 7);
  scheduler.schedule();
  EXPECT_EQ(step.batch.qo_indptr, (Tokens{0, 1, 16}));
  EXPECT_EQ(step.batch.tokens[0], 7);
  EXPECT_EQ(step.batch.positions[0], 3);
  EXPECT_EQ(step.batch.positions[1], 13);
  EXPECT_TRUE(step.admitted.empty());
  commit(scheduler, step, 8);
  scheduler.finish(fast);
  scheduler.schedule();
  EXPECT_EQ(step.sequences, std::vector<SequenceId>{slow});
  EXPECT_EQ(step.batch.kv_lens, Tokens{30});
  commit(scheduler, step);
  scheduler.finish(slow);
  EXPECT_EQ(scheduler.running(), 0U);
  EXPECT_TRUE(scheduler.schedule().empty());
  EXPECT_EQ(scheduler.stats().steps, 3);
  EXPECT_EQ(scheduler.stats().kv_pages_used, scheduler.stats().kv_pages_cached);
}

// Four samples of a prompt of two and a half pages.
TEST(Scheduler, SamplesOfAPromptCopyItsLastPage) {
  Scheduler scheduler(small_options());
  for (int i = 0; i < 4; ++i) scheduler.submit(count_up(0, 10), 20);
  const Step& first = scheduler.schedule();
  EXPECT_EQ(first.sequences.size(), 1U);  // the others wait for what it computes
  commit(scheduler, first, 50);
  const Step& step = scheduler.schedule();
  EXPECT_EQ(step.sequences.size(), 4U);
  EXPECT_EQ(step.batch.qo_indptr, (Tokens{0, 1, 2, 3, 4}));
  ASSERT_EQ(step.copies.size(), 3U);
  std::set<std::int32_t> pages;
  for (const PageCopy& copy : step.copies) {
    EXPECT_EQ(copy.from, step.copies[0].from);
    EXPECT_TRUE(pages.insert(copy.to).second);
  }
  for (const Step::Admission& admission : step.admitted) EXPECT_EQ(admission.shared_tokens, 9);
  EXPECT_EQ(scheduler.stats().kv_pages_peak, 2 + 4);
  // One level for the two pages that all have, one for the rest of each.
  ASSERT_EQ(step.batch.levels.size(), 2U);
  EXPECT_EQ(step.batch.levels[0].qo_indptr, (Tokens{0, 4}));
  EXPECT_EQ(step.batch.levels[0].kv_lens, Tokens{8});
  EXPECT_EQ(step.batch.levels[1].kv_pos, (Tokens{8, 8, 8, 8}));
  const StepBatch flat = step.batch.without_levels();
  EXPECT_EQ(flat.levels[0].page_indptr, (Tokens{0, 3, 6, 9, 12}));
  EXPECT_EQ(flat.kv_lens, step.batch.kv_lens);
  commit(scheduler, step, 51);
  EXPECT_EQ(scheduler.stats().page_copies, 3);
}

TEST(Scheduler, SequencesThatShareStandTogether) {
  SchedulerOptions options = small_options();
  options.max_batch = 6;
  options.token_budget = 64;
  for (const bool share_attention : {true, false}) {
    options.share_attention = share_attention;
    Scheduler scheduler(options);
    const auto with_prefix = [](const Tokens& prefix, std::int32_t own) {
      Tokens tokens = prefix;
      for (std::int32_t i = 0; i < 3; ++i) tokens.push_back(own + i);
      return tokens;
    };
    const Tokens outer = count_up(0, 8);
    Tokens inner = outer;
    for (std::int32_t i = 0; i < 4; ++i) inner.push_back(20 + i);
    scheduler.submit(with_prefix(outer, 100), 30);  // 1
    scheduler.submit(with_prefix({}, 200), 30);     // 2
    scheduler.submit(with_prefix(inner, 300), 30);  // 3
    scheduler.submit(with_prefix(outer, 400), 30);  // 4
    scheduler.submit(with_prefix(inner, 500), 30);  // 5
    const Step& step = scheduler.schedule();
    while (step.sequences.size() < 5) {
      commit(scheduler, step);
      scheduler.schedule();
    }
    commit(scheduler, step);
    scheduler.schedule();
    if (!share_attention) {
      EXPECT_EQ(step.sequences, (std::vector<SequenceId>{1, 2, 3, 4, 5}));
      EXPECT_EQ(step.batch.levels.size(), 1U);
      continue;
    }
    EXPECT_EQ(step.sequences, (std::vector<SequenceId>{5, 3, 1, 4, 2}));
    const auto& levels = step.batch.levels;
    ASSERT_EQ(levels.size(), 3U);
    EXPECT_EQ(levels[0].qo_indptr, (Tokens{0, 4}));
    EXPECT_EQ(levels[0].kv_lens, Tokens{8});
    EXPECT_EQ(levels[1].qo_indptr, (Tokens{0, 2}));
    EXPECT_EQ(levels[1].kv_lens, Tokens{4});
    EXPECT_EQ(levels[1].kv_pos, Tokens{8});
    EXPECT_EQ(levels[2].kv_pos, (Tokens{12, 12, 8, 8, 0}));
  }
}

TEST(Scheduler, RefusesWhatItCannotServe) {
  Scheduler scheduler(small_options());
  expect_error([&] { scheduler.submit({}, 5); }, {"tokens is empty"});
  expect_error([&] { scheduler.submit(Tokens(3), 129); }, {"33 KV pages", "there are 32"});
  expect_error([&] { scheduler.submit(Tokens(129), 1); }, {"33 KV pages"});
  scheduler.submit(Tokens(3), 128);
  scheduler.schedule();
  expect_error([&] { scheduler.commit({}); }, {"next has 0 tokens", "samples 1"});
}

TEST(Scheduler, TokensMayBecomeKnownAStepLater) {
  Scheduler scheduler(small_options());
  const SequenceId first = scheduler.submit(count_up(0, 7), 9);
  const SequenceId second = scheduler.submit(count_up(100, 3), 40);
  const Step& step = scheduler.schedule();
  EXPECT_EQ(step.sampled, (std::vector<SequenceId>{first, second}));
  commit(scheduler, step, kUnknownToken);
  scheduler.schedule();
  EXPECT_EQ(step.sequences, (std::vector<SequenceId>{second, first}));
  EXPECT_EQ(step.batch.tokens, (Tokens{-2, -1}));
  commit(scheduler, step, kUnknownToken);
  // The first one's second page is whole, but nobody knows yet what is in it.
  EXPECT_EQ(scheduler.stats().kv_pages_cached, 1);
  scheduler.reveal(first, 50);
  scheduler.reveal(second, 60);
  EXPECT_EQ(scheduler.stats().kv_pages_cached, 3);
  scheduler.schedule();
  EXPECT_EQ(step.sequences, (std::vector<SequenceId>{first, second}));
  EXPECT_EQ(step.batch.tokens, (Tokens{-2, -1}));
  commit(scheduler, step, kUnknownToken);
  scheduler.reveal(first, 51);
  scheduler.reveal(second, 61);
  // All that may be computed of the first one is.
  scheduler.schedule();
  EXPECT_EQ(step.sequences, std::vector<SequenceId>{second});
  EXPECT_EQ(step.batch.tokens, Tokens{-2});
  commit(scheduler, step, 63);
  scheduler.finish(first);
  scheduler.finish(second);
  EXPECT_TRUE(scheduler.schedule().empty());
  EXPECT_EQ(scheduler.stats().kv_pages_used, scheduler.stats().kv_pages_cached);
}

// What an attention cache would hold: of every token, a number that tells all tokens up to it.
class Memory {
 public:
  explicit Memory(const SchedulerOptions& options)
      : page_size_(static_cast<std::size_t>(options.page_size)),
        slots_(static_cast<std::size_t>(options.kv_pages) * page_size_, 0) {}

  void copy(const PageCopy& copy) {
    for (std::size_t i = 0; i < page_size_; ++i) {
      slots_[static_cast<std::size_t>(copy.to) * page_size_ + i] =
          slots_[static_cast<std::size_t>(copy.from) * page_size_ + i];
    }
  }
  std::uint64_t& at(std::span<const std::int32_t> pages, std::size_t position) {
    return slots_[static_cast<std::size_t>(pages[position / page_size_]) * page_size_ +
                  position % page_size_];
  }
  std::uint64_t& slot(std::int32_t index) { return slots_[static_cast<std::size_t>(index)]; }

 private:
  std::size_t page_size_;
  std::vector<std::uint64_t> slots_;
};

std::uint64_t extended(std::uint64_t prefix, std::int32_t token) {
  return (prefix ^ static_cast<std::uint64_t>(token + 1)) * 0x9E3779B97F4A7C15U + 1;
}

// A scheduler, its memory, and what the sequences should be. `late`: the scheduler is told a step's
// tokens when the next one is under way.
class World {
 public:
  World(const SchedulerOptions& options, unsigned seed, bool late)
      : options_(options), random_(seed), scheduler_(options), memory_(options), late_(late) {}

  std::int64_t most_tokens() const { return options_.kv_pages * options_.page_size; }

  // One or several samples of a prompt that often begins like others.
  void submit() {
    Tokens prompt(1 + random_() % static_cast<std::size_t>(most_tokens() / 2));
    for (std::int32_t& token : prompt) token = random_() % 8 == 0;
    for (std::size_t n = random_() % 4 == 0 ? 2 + random_() % 3 : 1; n > 0; --n) {
      live_[scheduler_.submit(prompt, most_tokens())] = prompt;
    }
  }

  void finish(std::size_t index) {
    const auto victim = std::next(live_.begin(), static_cast<std::ptrdiff_t>(index));
    scheduler_.finish(victim->first);
    live_.erase(victim);
  }

  void step() {
    const Step& step = scheduler_.schedule();
    if (step.empty() && !unknown_.empty()) return reveal();
    ASSERT_EQ(step.empty(), live_.empty());
    if (step.empty()) return;
    const StepBatch& batch = step.batch;
    ASSERT_LE(std::ssize(batch.tokens), options_.token_budget);
    ASSERT_LE(std::ssize(step.sequences), options_.max_batch);
    const StepBatch flat = batch.without_levels();
    require_unshared_writes(batch, flat);
    if (testing::Test::HasFatalFailure()) return;
    for (const PageCopy& copy : step.copies) memory_.copy(copy);
    for (std::size_t r = 0; r < step.sequences.size(); ++r) {
      compute_row(batch, flat, r, live_.at(step.sequences[r]));
      if (testing::Test::HasFatalFailure()) return;
    }
    Tokens next(step.sampled.size());
    for (std::size_t i = 0; i < next.size(); ++i) {
      next[i] = random_() % 3 == 0;
      live_.at(step.sampled[i]).push_back(next[i]);
    }
    const std::vector<SequenceId> sampled = step.sampled;
    scheduler_.commit(late_ ? Tokens(next.size(), kUnknownToken) : next);
    if (late_) {
      reveal();
      unknown_ = sampled;
      sampled_ = next;
    } else {
      finish_full(sampled);
    }
  }

  // With nothing left to do, every page can be had.
  void drain() {
    while (!live_.empty()) finish(0);
    const SchedulerStats stats = scheduler_.stats();
    ASSERT_EQ(stats.kv_pages_used, stats.kv_pages_cached);
    const SequenceId all =
        scheduler_.submit(count_up(1000, static_cast<std::size_t>(most_tokens())), most_tokens());
    live_[all] = count_up(1000, static_cast<std::size_t>(most_tokens()));
    while (!live_.empty()) {
      step();
      if (testing::Test::HasFatalFailure()) return;
    }
    ASSERT_EQ(scheduler_.stats().kv_pages_used, scheduler_.stats().kv_pages_cached);
  }

  std::mt19937& random() { return random_; }
  std::size_t live() const { return live_.size(); }
  SchedulerStats stats() const { return scheduler_.stats(); }
  std::int64_t shared_rows() const { return shared_rows_; }

 private:
  // Tells the tokens of the step before.
  void reveal() {
    for (std::size_t i = 0; i < unknown_.size(); ++i) {
      if (live_.contains(unknown_[i])) scheduler_.reveal(unknown_[i], sampled_[i]);
    }
    finish_full(unknown_);
    unknown_.clear();
  }
  void finish_full(const std::vector<SequenceId>& sampled) {
    for (const SequenceId id : sampled) {
      if (!live_.contains(id) || std::ssize(live_[id]) <= most_tokens()) continue;
      scheduler_.finish(id);
      live_.erase(id);
    }
  }

  // No page that is written is read or written by another sequence of the step.
  void require_unshared_writes(const StepBatch& batch, const StepBatch& flat) {
    std::map<std::int32_t, int> uses;
    for (const std::int32_t page : flat.levels[0].pages) ++uses[page];
    std::set<std::int32_t> written;
    for (const std::int32_t slot : batch.slots) {
      ASSERT_TRUE(written.insert(slot).second) << "slot " << slot << " is written twice";
      const auto page = static_cast<std::int32_t>(slot / options_.page_size);
      ASSERT_EQ(uses[page], 1) << "page " << page << " is written while it is shared";
    }
    for (std::size_t level = 0; level + 1 < batch.levels.size(); ++level) {
      shared_rows_ += std::ranges::count_if(batch.levels[level].kv_lens, std::identity());
    }
  }

  // The row's older tokens are in its pages, the new ones go there.
  void compute_row(const StepBatch& batch, const StepBatch& flat, std::size_t r,
                   const Tokens& tokens) {
    const auto pages = std::span(flat.levels[0].pages)
                           .subspan(static_cast<std::size_t>(flat.levels[0].page_indptr[r]));
    const auto begin = static_cast<std::size_t>(batch.qo_indptr[r]);
    const auto end = static_cast<std::size_t>(batch.qo_indptr[r + 1]);
    const auto length = static_cast<std::size_t>(batch.kv_lens[r]);
    ASSERT_LE(length, tokens.size());
    const std::size_t computed = length - (end - begin);
    std::uint64_t prefix = 0;
    for (std::size_t i = 0; i < length; ++i) {
      prefix = extended(prefix, tokens[i]);
      if (i < computed) {
        ASSERT_EQ(memory_.at(pages, i), prefix) << "token " << i << " of " << length;
        continue;
      }
      const std::size_t t = begin + i - computed;
      const std::int32_t token = batch.tokens[t];
      ASSERT_EQ(token >= 0 ? token : sampled_.at(static_cast<std::size_t>(-1 - token)), tokens[i]);
      ASSERT_TRUE(token >= 0 || late_);
      ASSERT_EQ(batch.positions[t], static_cast<std::int32_t>(i));
      memory_.slot(batch.slots[t]) = prefix;
      ASSERT_EQ(memory_.at(pages, i), prefix);
    }
  }

  SchedulerOptions options_;
  std::mt19937 random_;
  Scheduler scheduler_;
  Memory memory_;
  bool late_;
  std::map<SequenceId, Tokens> live_;
  std::vector<SequenceId> unknown_;  // of whose last token the scheduler knows nothing yet
  Tokens sampled_;                   // of the step before
  std::int64_t shared_rows_ = 0;
};

// TILEWRIGHT_FUZZ_CASES: how many operations; the default takes a few seconds.
TEST(Scheduler, PagesAreNeitherLostNorFreedTwiceNorWrittenWhileShared) {
  const char* cases = std::getenv("TILEWRIGHT_FUZZ_CASES");
  const std::int64_t most = cases != nullptr ? std::atoll(cases) : 1000000;
  std::int64_t operations = 0, preemptions = 0, copies = 0, shared_rows = 0;
  for (unsigned seed = 0; operations < most; ++seed) {
    std::mt19937 random(seed);
    SchedulerOptions options;
    options.max_batch = 1 + static_cast<int>(random() % 6);
    options.token_budget = options.max_batch + static_cast<std::int64_t>(random() % 12);
    options.page_size = 1 + random() % 5;
    options.kv_pages = 2 + static_cast<std::int64_t>(random() % 16);
    options.share_prefixes = random() % 8 != 0;
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    World world(options, seed, seed % 2 == 1);
    for (int i = 0; i < 400; ++i, ++operations) {
      const auto what = world.random()() % 16;
      if (what < 4 && world.live() < 8) {
        world.submit();
      } else if (what < 6 && world.live() > 0) {
        world.finish(world.random()() % world.live());
      } else {
        world.step();
        if (HasFatalFailure()) return;
      }
    }
    world.drain();
    if (HasFatalFailure()) return;
    preemptions += world.stats().preemptions;
    copies += world.stats().page_copies;
    shared_rows += world.shared_rows();
  }
  EXPECT_GT(preemptions, most / 40);
  EXPECT_GT(copies, most / 100);
  EXPECT_GT(shared_rows, most / 20);
}

}  // namespace
}  // namespace tilewright::engine
