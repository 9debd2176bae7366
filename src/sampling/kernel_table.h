// SPDX-License-Identifier: Apache-2.0
// A family of sampling kernels on GPUs: of each kind one for each dtype of logits.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <memory>
#include <vector>

#include "base/cuda_launch.h"
#include "jit/kernel_handle.h"

namespace tilewright {

inline constexpr DType kLogitDTypes[] = {DType::f32, DType::f16, DType::bf16};

class KernelTable {
 public:
  // source(kind, dtype) of kinds 0 to kinds - 1.
  template <typename Source>
  KernelTable(int kinds, const Source& source) {
    for (int kind = 0; kind < kinds; ++kind) {
      for (const DType dtype : kLogitDTypes) {
        handles_.push_back(std::make_unique<jit::KernelHandle>(source(kind, dtype)));
      }
    }
  }

  const jit::KernelHandle& of(int kind, DType dtype) const {
    const auto column = std::ranges::find(kLogitDTypes, dtype) - std::begin(kLogitDTypes);
    return *handles_[static_cast<std::size_t>(kind * std::ssize(kLogitDTypes) + column)];
  }

 private:
  std::vector<std::unique_ptr<jit::KernelHandle>> handles_;
};

// What a launch asks of the driver; `in_clusters`: the kernel is made for clusters.
template <typename Params>
cuda::LaunchShape launch_shape(const CudaLaunch<Params>& launch, bool in_clusters) {
  return {.grid = static_cast<unsigned>(launch.grid),
          .block = static_cast<unsigned>(launch.block),
          .shared_bytes = static_cast<unsigned>(launch.shared_bytes),
          .cluster = in_clusters ? static_cast<unsigned>(launch.cluster) : 0};
}

}  // namespace tilewright
