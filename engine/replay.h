// SPDX-License-Identifier: Apache-2.0
// Serves a trace's requests with random queries, keys and values: the engine's scheduler, its pages
// and their sharing, and the attention of one layer; no model.
#pragma once

#include <tilewright/tilewright.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <unordered_map>
#include <vector>

#include "engine/kv_storage.h"
#include "engine/replay_check.h"
#include "engine/replay_tokens.h"
#include "engine/scheduler.h"
#include "engine/trace.h"

namespace tilewright::engine {

struct ReplayOptions {
  ReplayShape shape;
  // kv_pages 0: room for 131072 tokens, or for the longest request where that is more.
  SchedulerOptions scheduler{64, 1024, 0, 16, true};
  // Nothing ever waits: the clock is virtual. It advances by what steps take, and jumps to the next
  // arrival when there is nothing to do. Requests arrive `speed` times as fast as in the trace;
  // infinity: all at once.
  double speed = 1;
  // What every step takes on that clock; 0: what it took. With a number the steps are the same on
  // every machine.
  double step_seconds = 0;
  std::uint64_t seed = 0;
  std::int64_t verify = 0;  // outputs to check
  int workers = 0;          // of the plan; 0: its default
  bool attend = true;       // false: schedules and plans only
  // Called with each step's outputs [tokens, heads, dim] before any is sampled. For tests.
  std::function<void(const TensorView& out)> after_run;
};

// Of one step.
struct ReplayStep {
  std::int64_t requests = 0;
  std::int64_t tokens = 0;  // new ones
  double schedule_seconds = 0;
  double plan_seconds = 0;
  double write_seconds = 0;  // page copies, and new keys and values into the cache
  double attention_seconds = 0;
  double balance = 1;
  std::int64_t pages = 0;              // of the step's requests, shared ones once
  std::int64_t shared_pages = 0;       // of these, of several of the step's requests
  std::int64_t kv_bytes = 0;           // read by attention
  std::int64_t kv_bytes_unshared = 0;  // had every request been attended to alone

  double seconds() const {
    return schedule_seconds + plan_seconds + write_seconds + attention_seconds;
  }
};

struct ReplayTotals {
  std::int64_t requests = 0;  // answered
  std::int64_t input_tokens = 0;
  std::int64_t shared_tokens = 0;  // of the input, found in the prefix cache
  std::int64_t output_tokens = 0;
  double clock = 0;                         // seconds, on the trace's clock divided by the speed
  std::vector<double> first_token_seconds;  // since a request's arrival
};

class Replay {
 public:
  // Error for a shape the library does not support and options out of range, and when a request
  // does not fit the pages.
  Replay(std::vector<TraceRequest> trace, const ReplayOptions& options);

  // Serves one step; false when all requests are answered.
  bool step();

  const std::vector<ReplayStep>& steps() const { return steps_; }
  const ReplayTotals& totals() const { return totals_; }
  const ReplayOptions& options() const { return options_; }
  SchedulerStats scheduler_stats() const { return scheduler_.stats(); }
  // Of the last step: its batch, the plan it ran under, and whose rows they are.
  const StepBatch& batch() const { return step_->batch; }
  const Plan& plan() const { return plan_; }
  const Attention& attention() const { return attention_; }
  std::vector<std::size_t> batch_requests() const;

  // Checks the sample of outputs that was kept.
  ReplayVerdict verify() const;

 private:
  void submit_arrivals();
  void make_vectors();
  void attend(ReplayStep& record);
  void count_pages(ReplayStep& record);
  void keep_samples();
  void finish_step();

  std::vector<TraceRequest> trace_;
  ReplayOptions options_;
  TraceTokens tokens_;
  Scheduler scheduler_;
  Attention attention_;
  Plan plan_, unshared_plan_;
  std::optional<KvStorage> kv_;
  const Step* step_ = nullptr;
  std::size_t next_ = 0;  // the request that arrives next
  std::unordered_map<SequenceId, std::size_t> requests_;
  std::vector<std::int64_t> generated_;  // by request
  std::vector<float> keys_, values_, floats_;
  std::vector<std::byte> queries_, outputs_;
  std::vector<std::int32_t> page_uses_;
  SampleReservoir samples_;
  Random random_;
  std::vector<ReplayStep> steps_;
  ReplayTotals totals_;
};

}  // namespace tilewright::engine
