// SPDX-License-Identifier: Apache-2.0
// Reads and checks a batch and its page tables, and writes them as a plan's requests and rows.
#pragma once

#include <tilewright/plan.h>

#include "cpu/attention_plan.h"

namespace tilewright {

class BatchReader {
 public:
  // Checks what is common to all attentions. Errors: see Plan::update.
  BatchReader(const Batch& batch, const Limits& limits, Device device);

  int num_requests() const { return num_requests_; }

  // Memory for what is known of each query token where rows are not simply the requests.
  struct TokenMemory {
    std::uint8_t* levels = nullptr;  // [limits.q_tokens]
    std::int32_t* keys = nullptr;    // [limits.q_tokens]
  };
  // One attention's KV: everything of `plan` but the schedule's sections, workers and splits.
  void read(const PlanInput& input, const TokenMemory& tokens, cpu::AttentionPlan& plan) const;

 private:
  std::int64_t q_begin(std::int64_t request) const;
  void read_requests(cpu::AttentionPlan& plan) const;
  void read_lengths(cpu::AttentionPlan& plan) const;
  void read_positions(cpu::AttentionPlan& plan) const;

  const Batch& batch_;
  const Limits& limits_;
  Device device_;
  int num_requests_ = 0;
};

}  // namespace tilewright
