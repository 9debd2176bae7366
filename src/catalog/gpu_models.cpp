// SPDX-License-Identifier: Apache-2.0
// GPUs by the figures of their data sheets, in the form with NVLink (SXM): dense products of 16-bit
// elements with f32 sums. L2 as the driver tells it.
#include <fmt/ranges.h>
#include <tilewright/kernel_choice.h>

#include <algorithm>

#include "base/checks.h"

namespace tilewright {

std::vector<GpuModel> gpu_models() {
  constexpr std::int64_t kMib = std::int64_t{1} << 20;
  return {
      {"a100", "sm_80", 108, 40 * kMib, 2039e9, 312e12},  // 80 GB
      {"h100", "sm_90a", 132, 50 * kMib, 3350e9, 989e12},
      {"h200", "sm_90a", 132, 60 * kMib, 4800e9, 989e12},
  };
}

GpuModel gpu_model(const std::string& name) {
  const std::vector<GpuModel> models = gpu_models();
  const auto found = std::ranges::find(models, name, &GpuModel::name);
  if (found != models.end()) return *found;
  std::vector<std::string> names;
  names.reserve(models.size());
  for (const GpuModel& model : models) names.push_back(model.name);
  raise(ErrorCode::invalid_argument, "gpu is {}: it must be one of {}", name,
        fmt::join(names, ", "));
}

}  // namespace tilewright
