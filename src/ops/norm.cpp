// SPDX-License-Identifier: Apache-2.0
// RMSNorm, alone and fused with the residual's addition.
#include <tilewright/ops.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/element.h"
#include "ops/cuda_run.h"
#include "ops/norm_common.h"
#include "ops/op_common.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/norm.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "base/simd_io-inl.h"

#ifndef TILEWRIGHT_OPS_NORM_CALL
#define TILEWRIGHT_OPS_NORM_CALL
namespace tilewright {
namespace {

struct NormCall {
  Rows x;
  Rows residual;  // the fused form; else unused
  Rows out;
  const float* weight;  // [dim], with its offset
  float eps;
  float out_scale;
};

}  // namespace
}  // namespace tilewright
#endif

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;
using F32 = hn::ScalableTag<float>;

// Of a row whose elements are `value(i, part)`, each asked for once, as for_lanes() does. A part of
// the row has a sum of its own, so that rounding does not grow with the row, nor as lanes get
// fewer.
template <typename Value>
float inverse_rms(const NormCall& call, const Value& value) {
  constexpr std::size_t kPart = 512;
  const F32 d;
  auto squares = hn::Zero(d);
  for (std::size_t begin = 0; begin < call.out.dim; begin += kPart) {
    auto sum = hn::Zero(d);
    for_lanes(d, std::min(kPart, call.out.dim - begin), [&](std::size_t i, auto part) HWY_ATTR {
      const auto x = value(begin + i, part);
      sum = hn::MulAdd(x, x, sum);
    });
    squares = hn::Add(squares, sum);
  }
  const float sum = hn::GetLane(hn::SumOfLanes(d, squares));
  return 1.0F / std::sqrt(sum / static_cast<float>(call.out.dim) + call.eps);
}

template <typename X, typename Out>
void scale_row(const X* x, const NormCall& call, float factor, Out* out) {
  const F32 d;
  const auto factors = hn::Set(d, factor);
  const auto scale = hn::Set(d, call.out_scale);
  for_lanes(d, call.out.dim, [&](std::size_t i, auto part) HWY_ATTR {
    const auto scaled = hn::Mul(load(d, x + i, part), factors);
    auto value = hn::Mul(scaled, load(d, call.weight + i, part));
    if constexpr (std::is_same_v<Out, F8E4M3>) value = hn::Div(value, scale);
    store(d, value, out + i, part);
  });
}

template <typename X, typename Out>
void norm_rows(const NormCall& call, std::int64_t begin, std::int64_t end) {
  const F32 d;
  for (std::int64_t r = begin; r < end; ++r) {
    const X* x = call.x.row<X>(r);
    const float inverse =
        inverse_rms(call, [&](std::size_t i, auto part) HWY_ATTR { return load(d, x + i, part); });
    scale_row(x, call, inverse, call.out.row<Out>(r));
  }
}

// The norm is of the residual as it is stored, so that the result is that of the two steps.
template <typename X, typename Residual>
void add_norm_rows(const NormCall& call, std::int64_t begin, std::int64_t end) {
  const F32 d;
  for (std::int64_t r = begin; r < end; ++r) {
    const X* x = call.x.row<X>(r);
    Residual* residual = call.residual.row<Residual>(r);
    const float inverse = inverse_rms(call, [&](std::size_t i, auto part) HWY_ATTR {
      const auto sum = hn::Add(load(d, residual + i, part), load(d, x + i, part));
      store(d, sum, residual + i, part);
      return load(d, residual + i, part);
    });
    visit_norm_output(call.out.dtype, [&](auto out) {
      scale_row(residual, call, inverse, call.out.row<decltype(out)>(r));
    });
  }
}

void norm_chunk(const NormCall& call, std::int64_t begin, std::int64_t end) {
  visit_wide_float(call.x.dtype, [&](auto x) {
    visit_norm_output(call.out.dtype,
                      [&](auto out) { norm_rows<decltype(x), decltype(out)>(call, begin, end); });
  });
}

void add_norm_chunk(const NormCall& call, std::int64_t begin, std::int64_t end) {
  visit_wide_floats(call.x.dtype, call.residual.dtype, [&](auto x, auto residual) {
    add_norm_rows<decltype(x), decltype(residual)>(call, begin, end);
  });
}

template <typename T>
void convert_weight(const T* from, std::size_t count, float offset, float* to) {
  const F32 d;
  for_lanes(d, count, [&](std::size_t i, auto part) HWY_ATTR {
    store(d, hn::Add(load(d, from + i, part), hn::Set(d, offset)), to + i, part);
  });
}

void load_weight(const TensorView& weight, float offset, float* to) {
  visit_wide_float(weight.dtype, [&](auto t) {
    convert_weight(static_cast<const decltype(t)*>(weight.data),
                   static_cast<std::size_t>(weight.shape[0]), offset, to);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {
namespace {

HWY_EXPORT(norm_chunk);
HWY_EXPORT(add_norm_chunk);
HWY_EXPORT(load_weight);

std::vector<float> offset_weight(const TensorView& weight, float offset) {
  std::vector<float> values(static_cast<std::size_t>(weight.shape[0]));
  HWY_DYNAMIC_DISPATCH(load_weight)(weight, offset, values.data());
  return values;
}

}  // namespace

void rms_norm(const TensorView& x, const TensorView& weight, const TensorView& out, float eps,
              float weight_offset, const Scale& out_scale, Stream stream) {
  check_norm(x, weight, out, eps, out_scale);
  if (on_cuda(x.device)) {
    run_on_cuda(rms_norm_launch(x, {}, weight, out, eps, weight_offset, out_scale), x.device,
                stream);
    return;
  }
  const std::vector<float> weights = offset_weight(weight, weight_offset);
  const NormCall call{Rows(x), Rows(x), Rows(out), weights.data(), eps, scale_value(out_scale)};
  parallel_items(call.x.count, weight.shape[0], [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(norm_chunk)(call, begin, end);
  });
}

void fused_add_rms_norm(const TensorView& x, const TensorView& residual, const TensorView& weight,
                        const TensorView& out, float eps, float weight_offset,
                        const Scale& out_scale, Stream stream) {
  check_norm(x, weight, out, eps, out_scale);
  require_operand("residual", residual, {x.rank}, x.device);
  require_same_shape("residual", residual, "x", x);
  require_writable("residual", residual);
  require_apart("residual", residual, "x", x);
  require_apart("out", out, "residual", residual);
  if (on_cuda(x.device)) {
    run_on_cuda(rms_norm_launch(x, residual, weight, out, eps, weight_offset, out_scale), x.device,
                stream);
    return;
  }
  const std::vector<float> weights = offset_weight(weight, weight_offset);
  const NormCall call{Rows(x), Rows(residual),        Rows(out), weights.data(),
                      eps,     scale_value(out_scale)};
  parallel_items(call.x.count, weight.shape[0], [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(add_norm_chunk)(call, begin, end);
  });
}

}  // namespace tilewright
#endif  // HWY_ONCE
