// SPDX-License-Identifier: Apache-2.0
// The schedule of a plan on a device, copied to the host: for statistics and pictures.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include "attention/device_plan.h"
#include "cpu/attention_plan.h"

namespace tilewright {

class DeviceRecords {
 public:
  // How bytes come to the host: `copy` may be under way until `wait` returns.
  struct Copier {
    std::function<void(void* to, const void* from, std::size_t bytes)> copy;
    std::function<void()> wait;
  };

  // Of the part's last update, which has run when wait() returns.
  DeviceRecords(const DevicePlan::Part& part, Copier copier);

  const cpu::AttentionPlan& plan() const { return plan_; }

 private:
  // Copies an array, and lets the pointer point to the copy.
  template <typename T>
  void fetch(T*& array, std::int64_t count);
  // The same for the elements of a tensor of any strides.
  const void* fetch_tensor(const void* data, std::int64_t element_bytes, int rank,
                           const std::int64_t* shape, const std::int64_t* strides);
  std::byte* memory(std::size_t bytes);

  Copier copier_;
  cpu::AttentionPlan plan_;
  std::vector<std::unique_ptr<std::byte[]>> memory_;
};

}  // namespace tilewright
