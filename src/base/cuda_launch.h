// SPDX-License-Identifier: Apache-2.0
// Launches of the operators' and the sampler's CUDA kernels as values: made from checked arguments,
// and run on a GPU, or by the emulator of the tests.
#pragma once

#include <tilewright/tensor_view.h>

#include <algorithm>
#include <cstdint>
#include <limits>

#include "base/checks.h"

namespace tilewright {

template <typename Params>
struct CudaLaunch {
  std::int32_t grid = 0;  // blocks; 0: there is nothing to do
  std::int32_t block = 32;
  std::int32_t shared_bytes = 0;
  std::int32_t cluster = 1;
  Params params{};
};

// Kernels load and store runs of this many elements (tw::kRun).
inline constexpr std::int64_t kCudaRun = 8;

// Whether runs that begin at multiples of kCudaRun elements of a row are aligned to the words that
// they are loaded by, 16 bytes or the whole run.
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

// The type of device code that a floating-point dtype is.
inline const char* device_type_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float";
    case DType::f16:
      return "f16";
    case DType::bf16:
      return "bf16";
    case DType::f8e4m3:
      return "f8e4m3";
    case DType::f8e5m2:
      return "f8e5m2";
    default:
      raise(ErrorCode::internal, "{} has no type in device code", dtype_name(dtype));
  }
}

}  // namespace tilewright
