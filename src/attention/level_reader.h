// SPDX-License-Identifier: Apache-2.0
// One level of an attention's KV on its way into a plan: its rows, with their query tokens, lengths
// and positions.
#pragma once

#include <tilewright/plan.h>

#include "cpu/attention_plan.h"

namespace tilewright {

class LevelReader {
 public:
  LevelReader(const Batch& batch, const Limits& limits, Device device, cpu::AttentionPlan& plan,
              const KvLevel& level, int index);

  // Appends the level's rows and segments to the plan.
  void read();

 private:
  bool rows_are_requests() const { return !level_.qo_indptr.defined(); }
  std::int64_t count_rows() const;
  void read_q_rows();
  plan::Row read_row(std::int64_t index) const;
  // The position of a row's first key.
  std::int32_t first_position(const plan::Row& row) const;
  // Error unless the row's keys are at positions of 32 bits.
  void require_positions(const plan::Row& row) const;
  // Notes that the row's query tokens have its keys.
  void cover_tokens(const plan::Row& row);

  const Batch& batch_;
  const Limits& limits_;
  Device device_;
  cpu::AttentionPlan& plan_;
  const KvLevel& level_;
  int index_;
};

}  // namespace tilewright
