// SPDX-License-Identifier: Apache-2.0
// What the launches of the operators and of sampling ask of tensors.
#pragma once

#include <tilewright/tensor_view.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "base/checks.h"

namespace tilewright {

// Kernels load and store runs of this many elements (tw::kRun).
inline constexpr std::int64_t kCudaRun = 8;

// Whether runs that begin at multiples of kCudaRun elements of a row are aligned to the words that they
// are loaded by, 16 bytes or the whole run.
inline bool has_aligned_runs(const TensorView& tensor) {
  const std::int64_t bytes = dtype_bytes(tensor.dtype);
  const std::int64_t alignment = std::min<std::int64_t>(16, kCudaRun * bytes);
  if (reinterpret_cast<std::uintptr_t>(tensor.data) % static_cast<std::uintptr_t>(alignment) != 0) {
    return false;
  }
  for (int dim = 0; dim + 1 < tensor.rank; ++dim) {
    if (tensor.shape[dim] > 1 && tensor.strides[dim] * bytes % alignment != 0) return false;
  }
  return tensor.last_dim_contiguous();
}

// Kernels count in 32 bits.
inline std::int32_t cuda_count(std::int64_t count, const char* what) {
  if (count > std::numeric_limits<std::int32_t>::max()) [[unlikely]] {
    raise(ErrorCode::not_supported, "a launch on CUDA has {} {}: there may be up to 2^31 - 1",
          count, what);
  }
  return static_cast<std::int32_t>(count);
}

}  // namespace tilewright
