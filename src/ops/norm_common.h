// SPDX-License-Identifier: Apache-2.0
// What the norms share: checks, the scale of fp8 outputs, and weights as f32.
#pragma once

#include <tilewright/ops.h>

#include <cmath>

#include "base/element.h"
#include "ops/op_common.h"

namespace tilewright {

// visitor(T{}) with the element type of a norm's output: wide, or f8e4m3.
template <typename Visitor>
auto visit_norm_output(DType dtype, const Visitor& visitor) {
  if (dtype == DType::f8e4m3) return visitor(F8E4M3{});
  return visit_wide_float(dtype, visitor);
}

inline void check_out_scale(const Scale& scale, const TensorView& out) {
  const TensorView& tensor = scale.tensor;
  require(scale.value > 0 && std::isfinite(scale.value),
          "out_scale is {}: it must be positive and finite", scale.value);
  require(out.dtype == DType::f8e4m3 || (!tensor.defined() && scale.value == 1.0F),
          "out_scale is given, but out is {}: only float8_e4m3fn outputs have a scale", out);
  if (!tensor.defined()) return;
  require_rank("out_scale", tensor, {1});
  require_dtype("out_scale", tensor, {DType::f32});
  require_shape("out_scale", tensor, {1});
  require_device("out_scale", tensor, out.device);
  if (on_cuda(out.device)) return;  // what is in memory there is not read here
  const float value = *static_cast<const float*>(tensor.data);
  require(value > 0 && std::isfinite(value), "out_scale[0] is {}: it must be positive and finite",
          value);
}

// The number that values are divided by, of a scale in host memory.
inline float scale_value(const Scale& scale) {
  return scale.tensor.defined() ? *static_cast<const float*>(scale.tensor.data) : scale.value;
}

// Of x [..., dim] and an output of its shape.
inline void check_norm(const TensorView& x, const TensorView& weight, const TensorView& out,
                       float eps, const Scale& out_scale) {
  require_operand("x", x, {1, 2, 3}, x.device);
  const std::int64_t dim = x.shape[x.rank - 1];
  require(dim >= 1, "x is {}: its last dimension must not be empty", x);
  require_operand("weight", weight, {1}, x.device);
  require_shape("weight", weight, {dim});
  require_rank("out", out, {x.rank});
  require_dtype("out", out, {DType::f32, DType::f16, DType::bf16, DType::f8e4m3});
  require_last_dim_contiguous("out", out);
  require_device("out", out, x.device);
  require_same_shape("out", out, "x", x);
  require_writable("out", out);
  require_in_place_or_apart("out", out, "x", x);
  require(eps >= 0, "eps is {}: it must not be negative", eps);
  check_out_scale(out_scale, out);
}

}  // namespace tilewright
