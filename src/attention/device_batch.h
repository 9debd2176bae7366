// SPDX-License-Identifier: Apache-2.0
// A batch and page tables that are on the device, checked as far as shapes, dtypes and places tell,
// and written down for the kernel that makes plans. No element of a tensor is read.
#pragma once

#include <tilewright/plan.h>

#include "plan/update_params.h"

namespace tilewright {

class DeviceBatch {
 public:
  // Errors: see Plan::update.
  DeviceBatch(const Batch& batch, const Limits& limits, Device device);

  // -1: only the device knows.
  std::int64_t num_requests() const { return num_requests_; }
  // That there may be.
  std::int64_t most_requests() const;
  plan::BatchInput input() const;
  // One attention's KV: what of `part` comes from the caller's tensors.
  void read(const PlanInput& input, plan::PartInput& part) const;

 private:
  void read_level(const KvLevel& level, int index, bool only_level, plan::PartInput& part) const;
  std::int64_t count_rows(const KvLevel& level, int index, plan::LevelInput& input) const;
  void read_table(const PageTable& table, int index, std::int64_t rows, plan::LevelPages& pages,
                  plan::LevelInput& input) const;

  const Batch& batch_;
  const Limits& limits_;
  Device device_;
  std::int64_t num_requests_ = -1;
};

}  // namespace tilewright
