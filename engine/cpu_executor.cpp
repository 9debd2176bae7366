// SPDX-License-Identifier: Apache-2.0
#include "engine/cpu_executor.h"

#include "engine/stopwatch.h"

namespace tilewright::engine {
namespace {

Limits without_levels(Limits limits) {
  limits.levels = 1;
  return limits;
}

}  // namespace

CpuExecutor::CpuExecutor(Model& model, const Limits& limits, std::int64_t kv_pages,
                         std::int64_t page_size)
    : model_(model),
      kv_(model.kv_shape(kv_pages, page_size)),
      plan_({model.attention()}, limits),
      unshared_plan_({model.attention()}, without_levels(limits)) {
  plan_.prepare();
}

void CpuExecutor::launch(const Step& step, std::span<const RowSampling> sampling) {
  StepTimes& times = stats_.times;
  Stopwatch watch;
  for (const PageCopy& copy : step.copies) kv_.copy_page(copy.from, copy.to);
  watch.lap(times.other);
  model_.update_plan(plan_, step.batch, kv_.page_size());
  watch.lap(times.plan);
  count_bytes(step.batch);
  watch.lap(times.other);
  logits_.resize(step.sampled.size() * static_cast<std::size_t>(config().vocabulary));
  model_.forward(step.batch, plan_, kv_, logits_, times);
  watch = {};
  sample_tokens(sampling);
  watch.lap(times.sampling);
}

void CpuExecutor::count_bytes(const StepBatch& batch) {
  const auto bytes = [&](const Plan& plan) {
    return plan.stats(model_.attention()).kv_bytes * config().layers;
  };
  stats_.kv_bytes_read += bytes(plan_);
  if (batch.levels.size() > 1) {
    model_.update_plan(unshared_plan_, batch.without_levels(), kv_.page_size());
  }
  stats_.kv_bytes_unshared += bytes(batch.levels.size() > 1 ? unshared_plan_ : plan_);
}

void CpuExecutor::sample_tokens(std::span<const RowSampling> sampling) {
  tokens_.resize(sampling.size());
  if (sampling.empty()) return;
  const auto rows = static_cast<std::int64_t>(sampling.size());
  sample(TensorView(logits_.data(), DType::f32, {rows, config().vocabulary}),
         sampling_args(sampling.data(), rows, {}), TensorView(tokens_.data(), DType::i32, {rows}));
}

}  // namespace tilewright::engine
