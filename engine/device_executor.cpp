// SPDX-License-Identifier: Apache-2.0
#include "engine/device_executor.h"

namespace tilewright::engine {
namespace {

// Of steps with one token a request.
Limits decode_limits(Limits limits) {
  limits.q_tokens = limits.requests;
  limits.q_len = 1;
  limits.levels = 1;
  return limits;
}

}  // namespace

DeviceExecutor::DeviceExecutor(DeviceModel& model, const Limits& limits, std::int64_t kv_pages,
                               std::int64_t page_size, const DeviceExecutorOptions& options)
    : model_(model),
      device_(model.device()),
      limits_(limits),
      options_(options),
      stream_(device_),
      kv_shape_(kv_shape(model.config(), model.dtype(), kv_pages, page_size)),
      kv_memory_(device_, static_cast<std::size_t>(kv_shape_.bytes())),
      kv_(kv_shape_.all_layers(kv_memory_.data(), model.attention().device())),
      plan_({model.attention()}, limits_),
      decode_plan_({model.attention()}, decode_limits(limits_)),
      arrays_(limits_, page_size),
      inputs_(device_, arrays_.bytes()),
      activations_(device_, model.config(), model.dtype(), limits_.q_tokens, limits_.requests),
      timer_(device_) {
  for (auto& flight : flights_) {
    flight = std::make_unique<Flight>(device_, arrays_.bytes(), limits_.requests);
  }
  plan_.prepare();
  decode_plan_.prepare();
  warm_up();
}

DeviceExecutor::~DeviceExecutor() {
  // Graphs and memory may be in use still.
  try {
    const cuda::ContextScope scope(device_);
    cuda::synchronize(stream_.get());
  } catch (const Error&) {  // NOLINT(bugprone-empty-catch): nothing is left to wait for
  }
}

// Operators compile and load at their first call, which may not be in a capture: a step of one
// token that leaves no trace, as one that decodes and as one that does not.
void DeviceExecutor::warm_up() {
  Step step;
  step.sequences = step.sampled = {0};
  StepBatch& batch = step.batch;
  batch.tokens = {0};
  batch.positions = {0};
  batch.slots = {-1};
  batch.qo_indptr = {0, 1};
  batch.kv_lens = {1};
  batch.levels = {{batch.qo_indptr, batch.kv_lens, {0}, {0, 1}, {0}}};
  batch.logit_rows = {0};
  const cuda::ContextScope scope(device_);
  const RowSampling greedy;
  for (const bool is_decode : {true, false}) {
    StepShape shape = shape_of(step, limits_);
    shape.is_decode = is_decode;
    auto* const host = static_cast<std::byte*>(flights_[0]->inputs.data());
    arrays_.write(host, step, {&greedy, 1}, shape);
    cuda::copy_to_device(inputs_.data(), host, arrays_.bytes(), stream_.get());
    enqueue(shape);
    cuda::synchronize(stream_.get());
  }
  timer_.forget();
  if (options_.profile) return;
  for (const StepShape& shape : step_shapes(limits_)) graph(shape);
}

void DeviceExecutor::copy_pages(const std::vector<PageCopy>& copies) {
  auto* const memory = static_cast<std::byte*>(kv_memory_.data());
  for (const PageCopy& copy : copies) {
    for (std::int64_t layer = 0; layer < kv_shape_.layers; ++layer) {
      cuda::copy_on_device(memory + kv_shape_.page_offset(layer, copy.to),
                           memory + kv_shape_.page_offset(layer, copy.from),
                           static_cast<std::size_t>(kv_shape_.page_bytes()), stream_.get());
    }
  }
}

// The plan's own count lies on the device: levels count once here, whether it folds them or not.
void DeviceExecutor::count_bytes(const StepBatch& batch) {
  const std::int64_t token_bytes = kv_shape_.page_bytes() / kv_shape_.page_size * kv_shape_.layers;
  for (const StepLevel& level : batch.levels) {
    for (const std::int32_t tokens : level.kv_lens) stats_.kv_bytes_read += tokens * token_bytes;
  }
  for (const std::int32_t tokens : batch.kv_lens) stats_.kv_bytes_unshared += tokens * token_bytes;
}

void DeviceExecutor::enqueue(const StepShape& shape) {
  const Stream stream = stream_.get();
  DeviceTimer* const timer = options_.profile ? &timer_ : nullptr;
  const auto mark = [&](double StepTimes::*kind) {
    if (timer != nullptr) timer->mark(kind, stream);
  };
  DeviceStep step =
      arrays_.views(static_cast<std::byte*>(inputs_.data()), shape, model_.attention().device());
  Plan& plan = shape.is_decode && shape.levels == 1 ? decode_plan_ : plan_;
  mark(&StepTimes::plan);
  plan.update(step.batch, {PlanInput(model_.attention(), step.levels)}, stream);
  model_.forward(step, plan, kv_, activations_, stream, timer);
  if (shape.rows > 0) {
    mark(&StepTimes::sampling);
    step.sampling.stream = stream;
    sample(TensorView(activations_.logits.data(), DType::f32, {shape.rows, config().vocabulary},
                      step.sampled.device),
           step.sampling, step.sampled);
  }
  mark(nullptr);
}

const cuda::Graph& DeviceExecutor::graph(const StepShape& shape) {
  std::unique_ptr<cuda::Graph>& graph = graphs_[shape];
  if (graph == nullptr) {
    model_.prepare(shape, limits_.determinism);
    graph = std::make_unique<cuda::Graph>(device_, stream_.get(), [&] { enqueue(shape); });
  }
  return *graph;
}

void DeviceExecutor::launch(const Step& step, std::span<const RowSampling> sampling) {
  const cuda::ContextScope scope(device_);
  const Stream stream = stream_.get();
  Flight& flight = *flights_[static_cast<std::size_t>(launched_++) % kFlights];
  flight.rows = std::ssize(sampling);
  const StepShape shape = shape_of(step, limits_);
  copy_pages(step.copies);
  auto* const host = static_cast<std::byte*>(flight.inputs.data());
  auto* const inputs = static_cast<std::byte*>(inputs_.data());
  for (const StepArrays::Part& part : arrays_.write(host, step, sampling, shape)) {
    cuda::copy_to_device(inputs + part.offset, host + part.offset, part.bytes, stream);
  }
  count_bytes(step.batch);
  const cuda::Graph* const replayed = options_.profile ? nullptr : &graph(shape);
  flight.begin.record(stream);
  if (replayed != nullptr) {
    replayed->launch(stream);
  } else {
    enqueue(shape);
  }
  flight.end.record(stream);
  cuda::copy_to_host(flight.tokens.data(), arrays_.sampled(inputs),
                     static_cast<std::size_t>(flight.rows) * sizeof(std::int32_t), stream);
  flight.arrived.record(stream);
  if (!options_.keep_logits) return;
  logits_.resize(static_cast<std::size_t>(flight.rows * config().vocabulary));
  cuda::copy_to_host(logits_.data(), activations_.logits.data(), logits_.size() * sizeof(float),
                     stream);
}

std::span<const std::int32_t> DeviceExecutor::collect() {
  const cuda::ContextScope scope(device_);
  const auto index = static_cast<std::size_t>(collected_++);
  const Flight& flight = *flights_[index % kFlights];
  flight.arrived.synchronize();
  if (options_.keep_logits) cuda::synchronize(stream_.get());
  constexpr double kMillisecond = 1e-3;
  stats_.device_busy += kMillisecond * flight.end.milliseconds_since(flight.begin);
  if (index > 0) {
    const Flight& before = *flights_[(index - 1) % kFlights];
    stats_.device_idle += kMillisecond * flight.begin.milliseconds_since(before.end);
  }
  timer_.add_to(stats_.times);
  return {static_cast<const std::int32_t*>(flight.tokens.data()),
          static_cast<std::size_t>(flight.rows)};
}

std::span<const float> DeviceExecutor::logits() const {
  return logits_;
}

}  // namespace tilewright::engine
