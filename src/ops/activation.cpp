// SPDX-License-Identifier: Apache-2.0
// Gated activations: act(first half) * second half.
#include <tilewright/ops.h>

#include "base/element.h"
#include "ops/cuda_run.h"
#include "ops/op_common.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/activation.cpp"  // NOLINT(bugprone-suspicious-include)
#include <hwy/foreach_target.h>
// After foreach_target.h.
#include <hwy/contrib/math/math-inl.h>
#include <hwy/highway.h>

#include "base/simd_io-inl.h"

#ifndef TILEWRIGHT_OPS_ACTIVATION_CALL
#define TILEWRIGHT_OPS_ACTIVATION_CALL
namespace tilewright {
namespace {

struct ActivationCall {
  Rows x;
  Rows out;
  Activation activation;
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
using Vec = hn::Vec<F32>;

// x / (1 + exp(-s)).
HWY_INLINE Vec times_sigmoid(F32 d, Vec x, Vec s) {
  // Beyond 88 the exponential would overflow; there the result is below 1e-36 either way.
  const auto exponent = hn::Min(hn::Neg(s), hn::Set(d, 88.0F));
  return hn::Div(x, hn::Add(hn::Exp(d, exponent), hn::Set(d, 1.0F)));
}

// Rational approximation, absolute error below 2e-7; erf rounds to 1 from 4 on.
HWY_INLINE Vec erf(F32 d, Vec x) {
  const auto limit = hn::Set(d, 4.0F);
  const auto z = hn::Max(hn::Min(x, limit), hn::Neg(limit));
  const auto y = hn::Mul(z, z);
  auto p = hn::MulAdd(y, hn::Set(d, -2.72614225801306e-10F), hn::Set(d, 2.77068142495902e-08F));
  p = hn::MulAdd(y, p, hn::Set(d, -2.10102402082508e-06F));
  p = hn::MulAdd(y, p, hn::Set(d, -5.69250639462346e-05F));
  p = hn::MulAdd(y, p, hn::Set(d, -7.34990630326855e-04F));
  p = hn::MulAdd(y, p, hn::Set(d, -2.95459980854025e-03F));
  p = hn::MulAdd(y, p, hn::Set(d, -1.60960333262415e-02F));
  auto q = hn::MulAdd(y, hn::Set(d, -1.45660718464996e-05F), hn::Set(d, -2.13374055278905e-04F));
  q = hn::MulAdd(y, q, hn::Set(d, -1.68282697438203e-03F));
  q = hn::MulAdd(y, q, hn::Set(d, -7.37332916720468e-03F));
  q = hn::MulAdd(y, q, hn::Set(d, -1.42647390514189e-02F));
  return hn::Div(hn::Mul(z, p), q);
}

template <Activation kActivation>
HWY_INLINE Vec activate(F32 d, Vec x) {
  if constexpr (kActivation == Activation::silu) {
    return times_sigmoid(d, x, x);
  } else if constexpr (kActivation == Activation::gelu) {
    const auto phi =
        hn::Add(erf(d, hn::Mul(x, hn::Set(d, 0.70710678118654752F))), hn::Set(d, 1.0F));
    return hn::Mul(hn::Mul(x, hn::Set(d, 0.5F)), phi);
  } else {
    // (1 + tanh(u)) / 2 is the sigmoid of 2 u.
    const auto cubic = hn::MulAdd(hn::Mul(x, x), hn::Set(d, 0.044715F), hn::Set(d, 1.0F));
    return times_sigmoid(d, x, hn::Mul(hn::Mul(x, cubic), hn::Set(d, 1.5957691216057308F)));
  }
}

template <Activation kActivation, typename X, typename Out>
void activate_rows(const ActivationCall& call, std::int64_t begin, std::int64_t end) {
  const F32 d;
  const std::size_t dim = call.out.dim;
  for (std::int64_t r = begin; r < end; ++r) {
    const X* x = call.x.row<X>(r);
    Out* out = call.out.row<Out>(r);
    for_lanes(d, dim, [&](std::size_t i, auto part) HWY_ATTR {
      const auto gate = activate<kActivation>(d, load(d, x + i, part));
      store(d, hn::Mul(gate, load(d, x + dim + i, part)), out + i, part);
    });
  }
}

template <typename X, typename Out>
void activate_any(const ActivationCall& call, std::int64_t begin, std::int64_t end) {
  switch (call.activation) {
    case Activation::silu:
      return activate_rows<Activation::silu, X, Out>(call, begin, end);
    case Activation::gelu:
      return activate_rows<Activation::gelu, X, Out>(call, begin, end);
    case Activation::gelu_tanh:
      return activate_rows<Activation::gelu_tanh, X, Out>(call, begin, end);
  }
}

void activation_chunk(const ActivationCall& call, std::int64_t begin, std::int64_t end) {
  visit_wide_floats(call.x.dtype, call.out.dtype, [&](auto x, auto out) {
    activate_any<decltype(x), decltype(out)>(call, begin, end);
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace tilewright
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace tilewright {
namespace {

HWY_EXPORT(activation_chunk);

}  // namespace

void act_and_mul(const TensorView& x, const TensorView& out, Activation activation, Stream stream) {
  require_operand("x", x, {2}, x.device);
  require(x.shape[1] % 2 == 0, "x is {}: its last dimension must be even", x);
  require_operand("out", out, {2}, x.device);
  require_shape("out", out, {x.shape[0], x.shape[1] / 2});
  require_writable("out", out);
  // In place means the first half of x.
  require_in_place_or_apart("out", out, "x", x.slice(1, 0, x.shape[1] / 2));
  require(activation == Activation::silu || activation == Activation::gelu ||
              activation == Activation::gelu_tanh,
          "activation is {}: it must be silu, gelu or gelu_tanh", static_cast<int>(activation));
  if (on_cuda(x.device)) {
    run_on_cuda(activation_launch(x, out, activation), x.device, stream);
    return;
  }
  const ActivationCall call{Rows(x), Rows(out), activation};
  parallel_items(x.shape[0], x.shape[1], [&](std::int64_t begin, std::int64_t end) {
    HWY_DYNAMIC_DISPATCH(activation_chunk)(call, begin, end);
  });
}

}  // namespace tilewright
#endif  // HWY_ONCE
