// SPDX-License-Identifier: Apache-2.0
// C++ types for the elements of floating-point tensors, so that code can be a template over them.
#pragma once

#include <tilewright/tensor_view.h>

#include <cstdint>

#include "base/checks.h"

namespace tilewright {

struct F16 {
  std::uint16_t bits;
};
struct BF16 {
  std::uint16_t bits;
};
struct F8E4M3 {
  std::uint8_t bits;
};
struct F8E5M2 {
  std::uint8_t bits;
};

// Calls visitor(T{}) with the element type of `dtype`: `visit_float(x.dtype, [&](auto zero) { using
// T = decltype(zero); ... })`. Error for a dtype that is not floating-point; visit_wide_float also
// refuses fp8.
template <typename Visitor>
auto visit_wide_float(DType dtype, const Visitor& visitor) {
  switch (dtype) {
    case DType::f32:
      return visitor(float{});
    case DType::f16:
      return visitor(F16{});
    case DType::bf16:
      return visitor(BF16{});
    default:
      raise(ErrorCode::invalid_argument, "dtype is {}: it must be float32, float16 or bfloat16",
            dtype_name(dtype));
  }
}

// visitor(T{}, U{}) for two dtypes.
template <typename Visitor>
auto visit_wide_floats(DType first, DType second, const Visitor& visitor) {
  return visit_wide_float(first, [&](auto t) {
    return visit_wide_float(second, [&](auto u) { return visitor(t, u); });
  });
}

template <typename Visitor>
auto visit_float(DType dtype, const Visitor& visitor) {
  switch (dtype) {
    case DType::f8e4m3:
      return visitor(F8E4M3{});
    case DType::f8e5m2:
      return visitor(F8E5M2{});
    default:
      return visit_wide_float(dtype, visitor);
  }
}

}  // namespace tilewright
