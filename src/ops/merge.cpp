// SPDX-License-Identifier: Apache-2.0
// The merge of partial attention results (arXiv 2501.01005, section 2.2).
#include <tilewright/ops.h>

#include <cmath>
#include <limits>
#include <vector>

#include "base/element.h"
#include "ops/cuda_run.h"
#include "ops/op_common.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/merge.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/highway.h>

#include "base/simd_io-inl.h"

#ifndef TILEWRIGHT_OPS_MERGE_CALL
#define TILEWRIGHT_OPS_MERGE_CALL
namespace tilewright {
namespace {

struct MergeCall {
  TensorView values;
  TensorView lse;
  TensorView out;
  TensorView lse_out;
};

// The states of one row that count: their values and weights, which sum to 1.
template <typename T>
struct CountedStates {
  std::vector<const T*> values;
  std::vector<float> weights;
  float lse = 0;

  // Row (token, head).
  void collect(const MergeCall& call, std::int64_t token, std::int64_t head) {
    constexpr float kEmpty = -std::numeric_limits<float>::infinity();
    const auto lse_of = [&](std::int64_t state) {
      const auto& strides = call.lse.strides;
      return static_cast<const float*>(
          call.lse.data)[token * strides[0] + state * strides[1] + head * strides[2]];
    };
    values.clear();
    weights.clear();
    float largest = kEmpty;
    for (std::int64_t state = 0; state < call.lse.shape[1]; ++state) {
      if (lse_of(state) == kEmpty) continue;
      const auto& strides = call.values.strides;
      values.push_back(static_cast<const T*>(call.values.data) + token * strides[0] +
                       state * strides[1] + head * strides[2]);
      weights.push_back(lse_of(state));
      largest = std::fmax(largest, lse_of(state));
    }
    float sum = 0;
    for (float& weight : weights) {
      weight = weight == largest ? 1.0F : std::exp(weight - largest);
      sum += weight;
    }
    for (float& weight : weights) weight /= sum;
    lse = weights.empty() ? kEmpty : largest + std::log(sum);
  }
};

}  // namespace
}  // namespace tilewright
#endif

HWY_BEFORE_NAMESPACE();
namespace tilewright {
namespace HWY_NAMESPACE {
namespace {

namespace hn = hwy::HWY_NAMESPACE;

template <typename T, typename Out>
void merge_rows(const MergeCall& call, std::int64_t begin, std::int64_t end) {
  const hn::ScalableTag<float> d;
  const std::int64_t heads = call.out.shape[1];
  CountedStates<T> states;
  for (std::int64_t row = begin; row < end; ++row) {
    const std::int64_t token = row / heads;
    const std::int64_t head = row % heads;
    states.collect(call, token, head);
    Out* out =
        static_cast<Out*>(call.out.data) + token * call.out.strides[0] + head * call.out.strides[1];
    for_lanes(
        d, static_cast<std::size_t>(call.out.shape[2]), [&](std::size_t i, auto part) HWY_ATTR {
          auto sum = hn::Zero(d);
          for (std::size_t s = 0; s < states.values.size(); ++s) {
            sum =
                hn::MulAdd(hn::Set(d, states.weights[s]), load(d, states.values[s] + i, part), sum);
          }
          store(d, sum, out + i, part);
        });
    if (call.lse_out.defined()) {
      static_cast<float*>(
          call.lse_out.data)[token * call.lse_out.strides[0] + head * call.lse_out.strides[1]] =
          states.lse;
    }
  }
}

void merge_chunk(const MergeCall& call, std::int64_t begin, std::int64_t end) {
  visit_wide_floats(call.values.dtype, call.out.dtype, [&](auto value, auto out) {
    merge_rows<decltype(value), decltype(out)>(call, begin, end);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {
namespace {

HWY_EXPORT(merge_chunk);

}  // namespace

void merge_states(const TensorView& values, const TensorView& lse, const TensorView& out,
                  const TensorView& lse_out, Stream stream) {
  require_operand("values", values, {4}, values.device);
  require_rank("lse", lse, {3});
  require_dtype("lse", lse, {DType::f32});
  require_device("lse", lse, values.device);
  require_shape("lse", lse, {values.shape[0], values.shape[1], values.shape[2]});
  require_operand("out", out, {3}, values.device);
  require_shape("out", out, {values.shape[0], values.shape[2], values.shape[3]});
  require_writable("out", out);
  require_apart("out", out, "values", values);
  if (lse_out.defined()) {
    require_dtype("lse_out", lse_out, {DType::f32});
    require_device("lse_out", lse_out, values.device);
    require_shape("lse_out", lse_out, {values.shape[0], values.shape[2]});
    require_writable("lse_out", lse_out);
    require_apart("lse_out", lse_out, "lse", lse);
  }
  if (on_cuda(values.device)) {
    run_on_cuda(merge_launch(values, lse, out, lse_out), values.device, stream);
    return;
  }
  const MergeCall call{values, lse, out, lse_out};
  parallel_items(out.shape[0] * out.shape[1],
                 out.shape[2] * std::max<std::int64_t>(1, values.shape[1]),
                 [&](std::int64_t begin, std::int64_t end) {
                   HWY_DYNAMIC_DISPATCH(merge_chunk)(call, begin, end);
                 });
}

}  // namespace tilewright
#endif  // HWY_ONCE
