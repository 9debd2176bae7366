// SPDX-License-Identifier: Apache-2.0
// How long a GPU is busy with what, by events between the kinds of work.
#pragma once

#include <deque>
#include <vector>

#include "cuda/memory.h"
#include "engine/step_times.h"

namespace tilewright::engine {

class DeviceTimer {
 public:
  explicit DeviceTimer(const cuda::Device& device) : device_(device) {}

  // What is put on the stream from here on until the next mark is counted as `kind`; null: nothing.
  void mark(double StepTimes::*kind, Stream stream) {
    if (used_ == events_.size()) events_.emplace_back(device_, cuda::Event::Timing::on);
    events_[used_++].record(stream);
    kinds_.push_back(kind);
  }

  // Waits for the last mark, adds up, and forgets all marks.
  void add_to(StepTimes& times) {
    if (used_ == 0) return;
    events_[used_ - 1].synchronize();
    for (std::size_t i = 0; i + 1 < used_; ++i) {
      if (kinds_[i] == nullptr) continue;
      times.*kinds_[i] += 1e-3 * events_[i + 1].milliseconds_since(events_[i]);
    }
    forget();
  }
  void forget() {
    used_ = 0;
    kinds_.clear();
  }

 private:
  const cuda::Device& device_;
  std::deque<cuda::Event> events_;  // kept: they are made once
  std::size_t used_ = 0;
  std::vector<double StepTimes::*> kinds_;
};

}  // namespace tilewright::engine
