// SPDX-License-Identifier: Apache-2.0
// What computes the steps of a model, on whatever device: the forward pass and the tokens sampled
// from it. The engine decides what is in a step and what becomes of its tokens.
#pragma once

#include <cstdint>
#include <span>

#include "engine/model_file.h"
#include "engine/row_sampling.h"
#include "engine/scheduler.h"
#include "engine/step_times.h"

namespace tilewright::engine {

struct ExecutorStats {
  std::int64_t kv_bytes_read = 0;      // by attention, all layers
  std::int64_t kv_bytes_unshared = 0;  // had each sequence read all its pages itself
  StepTimes times;
  // Of a GPU, in seconds: at work on steps, and waiting between two of them.
  double device_busy = 0;
  double device_idle = 0;
};

class Executor {
 public:
  virtual ~Executor() = default;

  virtual const ModelConfig& config() const = 0;
  // How many steps may be launched and not collected.
  virtual int depth() const = 0;
  // Begins a step; `sampling` is of each of step.sampled. Tokens that are not known yet are those
  // of the step launched before.
  virtual void launch(const Step& step, std::span<const RowSampling> sampling) = 0;
  // Ends the oldest step that was launched. Both views are valid until the next launch.
  virtual std::span<const std::int32_t> collect() = 0;  // of each of its step.sampled
  virtual std::span<const float> logits() const = 0;    // of what was collected
  virtual ExecutorStats stats() const = 0;
};

}  // namespace tilewright::engine
