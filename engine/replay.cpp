// SPDX-License-Identifier: Apache-2.0
#include "engine/replay.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "engine/checks.h"
#include "engine/numeric.h"
#include "engine/stopwatch.h"

namespace tilewright::engine {
namespace {

// A request whose answer the trace calls empty gets one token: its prompt's last logits are wanted.
std::int64_t answer_tokens(const TraceRequest& request) {
  return std::max<std::int64_t>(request.output_tokens, 1);
}

// The last token of an answer is never an input.
std::int64_t computed_tokens(const TraceRequest& request) {
  return request.input_tokens + answer_tokens(request) - 1;
}

std::int64_t longest(const std::vector<TraceRequest>& trace) {
  std::int64_t tokens = 0;
  for (const TraceRequest& request : trace) tokens = std::max(tokens, computed_tokens(request));
  return tokens;
}

ReplayOptions checked(ReplayOptions options, const std::vector<TraceRequest>& trace) {
  require(!trace.empty(), "trace is empty: it must have at least one request");
  require(options.speed > 0, "speed is {}: it must be greater than 0", options.speed);
  require(options.step_seconds >= 0 && std::isfinite(options.step_seconds),
          "step_seconds is {}: it must not be negative", options.step_seconds);
  require(options.verify >= 0, "verify is {}: it must not be negative", options.verify);
  require(options.shape.dtype == DType::f32 || options.shape.dtype == DType::bf16,
          "dtype must be f32 or bf16");
  SchedulerOptions& scheduler = options.scheduler;
  if (scheduler.kv_pages == 0 && scheduler.page_size > 0) {
    constexpr std::int64_t kDefaultTokens = 131072;
    scheduler.kv_pages =
        (std::max(kDefaultTokens, longest(trace)) + scheduler.page_size - 1) / scheduler.page_size;
  }
  return options;
}

Limits limits_of(const std::vector<TraceRequest>& trace, const ReplayOptions& options, int levels) {
  Limits limits;
  limits.requests = options.scheduler.max_batch;
  limits.q_tokens = limits.q_len = options.scheduler.token_budget;
  limits.kv_len = longest(trace);
  limits.levels = levels;
  limits.workers = options.workers;
  return limits;
}

}  // namespace

Replay::Replay(std::vector<TraceRequest> trace, const ReplayOptions& options)
    : trace_(std::move(trace)),
      options_(checked(options, trace_)),
      tokens_(trace_),
      scheduler_(options_.scheduler),
      attention_(options_.shape.attention_spec()),
      plan_({attention_}, limits_of(trace_, options_, options_.scheduler.most_levels())),
      unshared_plan_({attention_}, limits_of(trace_, options_, 1)),
      generated_(trace_.size(), 0),
      page_uses_(static_cast<std::size_t>(options_.scheduler.kv_pages), 0),
      samples_(options_.verify, options_.seed),
      random_(options_.seed + 1) {
  const SchedulerOptions& scheduler = options_.scheduler;
  const ReplayShape& shape = options_.shape;
  const std::int64_t pages = (longest(trace_) + scheduler.page_size - 1) / scheduler.page_size;
  require(pages <= scheduler.kv_pages,
          "the longest request of the trace, {} tokens, needs {} KV pages: there are {}",
          longest(trace_), pages, scheduler.kv_pages);
  plan_.prepare();
  if (!options_.attend) return;
  kv_.emplace(KvShape{1, scheduler.kv_pages, scheduler.page_size, shape.num_kv_heads,
                      shape.head_dim, shape.dtype});
  const auto rows = static_cast<std::size_t>(scheduler.token_budget * shape.head_dim);
  keys_.resize(rows * static_cast<std::size_t>(shape.num_kv_heads));
  values_.resize(keys_.size());
  floats_.resize(static_cast<std::size_t>(shape.head_dim));
  queries_.resize(rows * static_cast<std::size_t>(shape.num_qo_heads * dtype_bytes(shape.dtype)));
  outputs_.resize(queries_.size());
}

void Replay::submit_arrivals() {
  for (; next_ < trace_.size() && trace_[next_].arrival / options_.speed <= totals_.clock;
       ++next_) {
    requests_[scheduler_.submit(tokens_.input(next_), computed_tokens(trace_[next_]))] = next_;
  }
}

std::vector<std::size_t> Replay::batch_requests() const {
  std::vector<std::size_t> requests;
  for (const SequenceId id : step_->sequences) requests.push_back(requests_.at(id));
  return requests;
}

bool Replay::step() {
  ReplayStep record;
  Stopwatch watch;
  for (;;) {
    submit_arrivals();
    watch = {};
    step_ = &scheduler_.schedule();
    if (!step_->empty()) break;
    if (scheduler_.waiting() > 0) {
      raise(ErrorCode::internal, "{} requests wait, and none runs", scheduler_.waiting());
    }
    if (next_ == trace_.size()) return false;
    totals_.clock = trace_[next_].arrival / options_.speed;
  }
  watch.lap(record.schedule_seconds);
  const StepBatch& batch = step_->batch;
  record.requests = std::ssize(batch.kv_lens);
  record.tokens = std::ssize(batch.tokens);
  if (options_.attend) make_vectors();
  watch = {};
  plan_.update(batch.plan_batch(), {batch.plan_input(attention_, options_.scheduler.page_size)});
  watch.lap(record.plan_seconds);
  const PlanStats stats = plan_.stats(attention_);
  record.balance = stats.balance;
  record.kv_bytes = record.kv_bytes_unshared = stats.kv_bytes;
  count_pages(record);
  if (options_.attend) {
    attend(record);
    keep_samples();
  }
  totals_.clock += options_.step_seconds > 0 ? options_.step_seconds : record.seconds();
  steps_.push_back(record);
  finish_step();
  return true;
}

void Replay::count_pages(ReplayStep& record) {
  const StepBatch& batch = step_->batch;
  const StepBatch flat = batch.without_levels();
  for (const std::int32_t page : flat.levels[0].pages) {
    const std::int32_t uses = ++page_uses_[static_cast<std::size_t>(page)];
    if (uses == 1) ++record.pages;
    if (uses == 2) ++record.shared_pages;
  }
  for (const std::int32_t page : flat.levels[0].pages) {
    page_uses_[static_cast<std::size_t>(page)] = 0;
  }
  if (batch.levels.size() == 1) return;
  unshared_plan_.update(flat.plan_batch(),
                        {flat.plan_input(attention_, options_.scheduler.page_size)});
  record.kv_bytes_unshared = unshared_plan_.stats(attention_).kv_bytes;
}

// Queries, keys and values of the step's new tokens.
void Replay::make_vectors() {
  const ReplayShape& shape = options_.shape;
  const StepBatch& batch = step_->batch;
  const auto dim = static_cast<std::size_t>(shape.head_dim);
  const std::vector<std::size_t> requests = batch_requests();
  std::size_t row = 0;
  for (std::size_t token = 0; token < batch.tokens.size(); ++token) {
    while (batch.qo_indptr[row + 1] <= static_cast<std::int32_t>(token)) ++row;
    const auto id = static_cast<std::uint64_t>(batch.tokens[token]);
    for (int head = 0; head < shape.num_kv_heads; ++head) {
      const std::size_t at =
          (token * static_cast<std::size_t>(shape.num_kv_heads) + static_cast<std::size_t>(head)) *
          dim;
      fill_token_vector(options_.seed, TokenVector::key, id, head, {&keys_[at], dim});
      fill_token_vector(options_.seed, TokenVector::value, id, head, {&values_[at], dim});
    }
    const std::uint64_t query = query_token(requests[row], batch.positions[token]);
    for (int head = 0; head < shape.num_qo_heads; ++head) {
      const std::size_t at =
          (token * static_cast<std::size_t>(shape.num_qo_heads) + static_cast<std::size_t>(head)) *
          dim;
      if (shape.dtype == DType::f32) {
        fill_token_vector(options_.seed, TokenVector::query, query, head,
                          {reinterpret_cast<float*>(queries_.data()) + at, dim});
        continue;
      }
      fill_token_vector(options_.seed, TokenVector::query, query, head, floats_);
      std::ranges::transform(floats_, reinterpret_cast<std::uint16_t*>(queries_.data()) + at,
                             f32_to_bf16);
    }
  }
}

void Replay::attend(ReplayStep& record) {
  const ReplayShape& shape = options_.shape;
  const StepBatch& batch = step_->batch;
  const std::int64_t tokens = std::ssize(batch.tokens);
  Stopwatch watch;
  for (const PageCopy& copy : step_->copies) kv_->copy_page(copy.from, copy.to);
  write_kv_cache(
      TensorView(keys_.data(), DType::f32, {tokens, shape.num_kv_heads, shape.head_dim}),
      TensorView(values_.data(), DType::f32, {tokens, shape.num_kv_heads, shape.head_dim}),
      kv_->layer(0), TensorView(batch.slots.data(), DType::i32, {tokens}));
  watch.lap(record.write_seconds);
  RunArgs args;
  args.out = TensorView(outputs_.data(), shape.dtype, {tokens, shape.num_qo_heads, shape.head_dim});
  attention_.run(
      plan_, TensorView(queries_.data(), shape.dtype, {tokens, shape.num_qo_heads, shape.head_dim}),
      std::vector<KvCache>(batch.levels.size(), kv_->layer(0)), args);
  watch.lap(record.attention_seconds);
  if (options_.after_run) options_.after_run(args.out);
}

void Replay::keep_samples() {
  if (options_.verify == 0) return;
  const ReplayShape& shape = options_.shape;
  const StepBatch& batch = step_->batch;
  const std::vector<std::size_t> requests = batch_requests();
  for (std::size_t row = 0; row < requests.size(); ++row) {
    for (int head = 0; head < shape.num_qo_heads; ++head) {
      ReplaySample* const sample = samples_.offer();
      if (sample == nullptr) continue;
      const std::int32_t begin = batch.qo_indptr[row];
      const std::int32_t count = batch.qo_indptr[row + 1] - begin;
      const auto token =
          static_cast<std::size_t>(begin) + static_cast<std::size_t>(random_.uniform() * count);
      sample->step = std::ssize(steps_);
      sample->request = requests[row];
      sample->position = batch.positions[token];
      sample->head = head;
      sample->out.resize(static_cast<std::size_t>(shape.head_dim));
      const std::size_t at =
          (token * static_cast<std::size_t>(shape.num_qo_heads) + static_cast<std::size_t>(head)) *
          static_cast<std::size_t>(shape.head_dim);
      if (shape.dtype == DType::f32) {
        std::copy_n(reinterpret_cast<const float*>(outputs_.data()) + at, shape.head_dim,
                    sample->out.begin());
      } else {
        std::transform(
            reinterpret_cast<const std::uint16_t*>(outputs_.data()) + at,
            reinterpret_cast<const std::uint16_t*>(outputs_.data()) + at + shape.head_dim,
            sample->out.begin(), bf16_to_f32);
      }
    }
  }
}

// Gives the scheduler the tokens that follow, and ends the requests that have their answer.
void Replay::finish_step() {
  for (const Step::Admission& admission : step_->admitted) {
    totals_.shared_tokens += admission.shared_tokens;
    totals_.input_tokens += trace_[requests_.at(admission.sequence)].input_tokens;
  }
  std::vector<std::int32_t> next;
  std::vector<SequenceId> done;
  for (const SequenceId id : step_->sampled) {
    const std::size_t request = requests_.at(id);
    if (generated_[request] == 0) {
      totals_.first_token_seconds.push_back(totals_.clock -
                                            trace_[request].arrival / options_.speed);
    }
    next.push_back(tokens_.output(request, generated_[request]));
    ++totals_.output_tokens;
    if (++generated_[request] == answer_tokens(trace_[request])) done.push_back(id);
  }
  scheduler_.commit(next);
  for (const SequenceId id : done) scheduler_.finish(id);
  totals_.requests += std::ssize(done);
}

ReplayVerdict Replay::verify() const {
  return check_samples(samples_.samples(), options_.shape, tokens_, options_.seed);
}

}  // namespace tilewright::engine
