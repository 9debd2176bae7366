// SPDX-License-Identifier: Apache-2.0
// LayerNorm.
#include <tilewright/ops.h>

#include <cmath>
#include <vector>

#include "base/element.h"
#include "base/numeric.h"
#include "ops/cuda_run.h"
#include "ops/norm_common.h"
#include "ops/op_common.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/layer_norm.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "base/simd_io-inl.h"

#ifndef TILEWRIGHT_OPS_LAYER_NORM_CALL
#define TILEWRIGHT_OPS_LAYER_NORM_CALL
namespace tilewright {
namespace {

struct LayerNormCall {
  Rows x;
  Rows out;
  const float* weight;  // [dim]
  const float* bias;    // [dim]
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

hn::Mask<F32> lanes_of(F32 d, Whole /*part*/) {
  return hn::FirstN(d, hn::Lanes(d));
}
hn::Mask<F32> lanes_of(F32 d, First part) {
  return hn::FirstN(d, part.count);
}

float mean_of(hn::Vec<F32> sums, const LayerNormCall& call) {
  return hn::GetLane(hn::SumOfLanes(F32(), sums)) / static_cast<float>(call.out.dim);
}

template <typename X, typename Out>
void layer_norm_rows(const LayerNormCall& call, std::int64_t begin, std::int64_t end) {
  const F32 d;
  const std::size_t dim = call.out.dim;
  for (std::int64_t r = begin; r < end; ++r) {
    const X* x = call.x.row<X>(r);
    Out* out = call.out.row<Out>(r);
    auto sums = hn::Zero(d);
    for_lanes(d, dim, [&](std::size_t i, auto part) HWY_ATTR {
      sums = hn::Add(sums, load(d, x + i, part));
    });
    const auto mean = hn::Set(d, mean_of(sums, call));
    auto squares = hn::Zero(d);
    for_lanes(d, dim, [&](std::size_t i, auto part) HWY_ATTR {
      const auto difference = hn::Sub(load(d, x + i, part), mean);
      // Lanes behind the row's end hold 0, which differs from the mean.
      const auto counted = hn::IfThenElseZero(lanes_of(d, part), difference);
      squares = hn::MulAdd(counted, counted, squares);
    });
    const auto factor = hn::Set(d, 1.0F / std::sqrt(mean_of(squares, call) + call.eps));
    const auto scale = hn::Set(d, call.out_scale);
    for_lanes(d, dim, [&](std::size_t i, auto part) HWY_ATTR {
      const auto normed = hn::Mul(hn::Sub(load(d, x + i, part), mean), factor);
      auto value = hn::MulAdd(normed, load(d, call.weight + i, part), load(d, call.bias + i, part));
      if constexpr (std::is_same_v<Out, F8E4M3>) value = hn::Div(value, scale);
      store(d, value, out + i, part);
    });
  }
}

void layer_norm_chunk(const LayerNormCall& call, std::int64_t begin, std::int64_t end) {
  visit_wide_float(call.x.dtype, [&](auto x) {
    visit_norm_output(call.out.dtype, [&](auto out) {
      layer_norm_rows<decltype(x), decltype(out)>(call, begin, end);
    });
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {
namespace {

HWY_EXPORT(layer_norm_chunk);

// Of [dim], as f32; zeros where there is none.
std::vector<float> as_f32(const TensorView& vector, std::int64_t dim) {
  std::vector<float> values(static_cast<std::size_t>(dim), 0.0F);
  for (std::int64_t i = 0; vector.defined() && i < dim; ++i) {
    values[static_cast<std::size_t>(i)] = load_element(vector.data, vector.dtype, i);
  }
  return values;
}

}  // namespace

void layer_norm(const TensorView& x, const TensorView& weight, const TensorView& bias,
                const TensorView& out, float eps, const Scale& out_scale, Stream stream) {
  check_norm(x, weight, out, eps, out_scale);
  if (bias.defined()) {
    require_operand("bias", bias, {1}, x.device);
    require_shape("bias", bias, {weight.shape[0]});
  }
  if (on_cuda(x.device)) {
    run_on_cuda(layer_norm_launch(x, weight, bias, out, eps, out_scale), x.device, stream);
    return;
  }
  const std::vector<float> weights = as_f32(weight, weight.shape[0]);
  const std::vector<float> biases = as_f32(bias, weight.shape[0]);
  const LayerNormCall call{Rows(x),       Rows(out), weights.data(),
                           biases.data(), eps,       scale_value(out_scale)};
  parallel_items(call.x.count, weight.shape[0], [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(layer_norm_chunk)(call, begin, end);
  });
}

}  // namespace tilewright
#endif  // HWY_ONCE
