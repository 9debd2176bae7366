// SPDX-License-Identifier: Apache-2.0
// Gated activations: act(first half) * second half. A thread has a run of a row.
#pragma once

#include "arch/arithmetic.h"
#include "arch/elements.h"
#include "arch/numeric.h"
#include "arch/thread.h"
#include "ops/params.h"

namespace tw {

enum class Gate { silu, gelu, gelu_tanh };

// x / (1 + exp(-s)), by the hardware's approximations: memory is to be what a call waits for. The
// error of exp(-s) grows with s, but what it does to the result is below 1e-7 of x everywhere.
TW_DEVICE float times_sigmoid(float x, float s) {
  // Beyond 87 the reciprocal would be subnormal; there the result is below 1e-35 either way.
  const float exponent = multiply_exact(min_of(-s, 87.0F), 1.4426950408889634F);
  return multiply_exact(x, reciprocal_fast(add_exact(exp2_fast(exponent), 1.0F)));
}

// Rational approximation, absolute error below 2e-7; erf rounds to 1 from 4 on.
TW_DEVICE float erf_of(float x) {
  const float z = max_of(min_of(x, 4.0F), -4.0F);
  const float y = multiply_exact(z, z);
  float p = multiply_add_exact(y, -2.72614225801306e-10F, 2.77068142495902e-08F);
  p = multiply_add_exact(y, p, -2.10102402082508e-06F);
  p = multiply_add_exact(y, p, -5.69250639462346e-05F);
  p = multiply_add_exact(y, p, -7.34990630326855e-04F);
  p = multiply_add_exact(y, p, -2.95459980854025e-03F);
  p = multiply_add_exact(y, p, -1.60960333262415e-02F);
  float q = multiply_add_exact(y, -1.45660718464996e-05F, -2.13374055278905e-04F);
  q = multiply_add_exact(y, q, -1.68282697438203e-03F);
  q = multiply_add_exact(y, q, -7.37332916720468e-03F);
  q = multiply_add_exact(y, q, -1.42647390514189e-02F);
  return divide_exact(multiply_exact(z, p), q);
}

template <Gate gate>
TW_DEVICE float activate(float x) {
  if constexpr (gate == Gate::silu) {
    return times_sigmoid(x, x);
  } else if constexpr (gate == Gate::gelu) {
    const float phi = add_exact(erf_of(multiply_exact(x, 0.70710678118654752F)), 1.0F);
    return multiply_exact(multiply_exact(x, 0.5F), phi);
  } else {
    // (1 + tanh(u)) / 2 is the sigmoid of 2 u.
    const float cubic = multiply_add_exact(multiply_exact(x, x), 0.044715F, 1.0F);
    return times_sigmoid(x, multiply_exact(multiply_exact(x, cubic), 1.5957691216057308F));
  }
}

template <Gate gate, typename X, typename Out, i32 count>
TW_DEVICE void activate_run(const ActivationParams& p) {
  const u32 runs = static_cast<u32>(p.dim / count);
  const u32 item = static_cast<u32>(block_id()) * static_cast<u32>(num_threads()) +
                   static_cast<u32>(thread_id());
  const u32 row = item / runs;
  if (row >= static_cast<u32>(p.rows)) return;
  const i64 i = static_cast<i64>(item % runs) * count;
  const X* x = static_cast<const X*>(p.x) + row * p.x_stride + i;
  const Run<X, count> gates = read_run<count>(x);
  const Run<X, count> factors = read_run<count>(x + p.dim);
  float value[count];
  float factor[count];
  unpack_run(gates, value);
  unpack_run(factors, factor);
#pragma unroll
  for (i32 j = 0; j < count; ++j) value[j] = multiply_exact(activate<gate>(value[j]), factor[j]);
  store_run(value, static_cast<Out*>(p.out) + row * p.out_stride + i);
}

template <Gate gate, typename X, typename Out>
TW_DEVICE void act_and_mul(const ActivationParams& p) {
  if (p.aligned != 0) {
    activate_run<gate, X, Out, kRun>(p);
  } else {
    activate_run<gate, X, Out, 1>(p);
  }
}

}  // namespace tw
