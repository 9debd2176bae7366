// SPDX-License-Identifier: Apache-2.0
// LayerNorm (arXiv 1607.06450): the mean first, then the squares of what differs from it, so that
// rows far from zero lose nothing.
#pragma once

#include "ops/norm_row.h"

namespace tw {

struct NoBias {};

template <typename X, typename Weight, typename Bias, typename Out>
struct LayerNorm {
  static constexpr bool kBiased = !kIsSame<Bias, NoBias>;

  // Whether a thread has the registers for weights beside its row.
  static constexpr bool kWeightAhead = sizeof(Weight) <= 2 && sizeof(Bias) <= 2;

  const LayerNormParams& p;

  template <i32 count>
  TW_DEVICE static float add_elements(const Run<X, count>& run, float sum) {
    float value[count];
    unpack_run(run, value);
#pragma unroll
    for (i32 j = 0; j < count; ++j) sum = add_exact(sum, value[j]);
    return sum;
  }
  template <i32 count>
  TW_DEVICE static float add_squares(const Run<X, count>& run, float mean, float squares) {
    float value[count];
    unpack_run(run, value);
#pragma unroll
    for (i32 j = 0; j < count; ++j) {
      value[j] = subtract_exact(value[j], mean);
      squares = multiply_add_exact(value[j], value[j], squares);
    }
    return squares;
  }

  TW_DEVICE float mean_of(float sum, i32 place) const {
    return divide_exact(sum_of_row(sum, p.row_threads, place), static_cast<float>(p.dim));
  }
  TW_DEVICE float factor_of(float squares) const {
    return divide_exact(1.0F, sqrt_exact(add_exact(mean_of(squares, 1), p.eps)));
  }

  // What a run of a row is scaled by.
  template <i32 count>
  struct Affine {
    Run<Weight, count> weight;
    Run<Bias, count> bias;  // not read where there is none
  };
  template <i32 count>
  TW_DEVICE Affine<count> read_affine(i32 i) const {
    Affine<count> affine{};
    affine.weight = read_run<count>(static_cast<const Weight*>(p.weight) + i);
    if constexpr (kBiased) affine.bias = read_run<count>(static_cast<const Bias*>(p.bias) + i);
    return affine;
  }

  template <i32 count>
  TW_DEVICE void store_scaled(const Run<X, count>& run, float mean, float factor,
                              const Affine<count>& affine, i32 i,
                              const NormOutput<Out>& out) const {
    float value[count];
    float weight[count];
    float bias[count] = {};
    unpack_run(run, value);
    unpack_run(affine.weight, weight);
    if constexpr (kBiased) unpack_run(affine.bias, bias);
#pragma unroll
    for (i32 j = 0; j < count; ++j) {
      value[j] = multiply_exact(subtract_exact(value[j], mean), factor);
      value[j] = multiply_add_exact(value[j], weight[j], bias[j]);
    }
    out.store(value, i);
  }

  TW_DEVICE const X* row_of(const RowPart& part) const {
    return static_cast<const X*>(p.x.data) + row_offset(p.x, part);
  }

  // Rows of few runs a thread: all of them are read before the first is needed, and kept. Weights
  // are read a run ahead.
  TW_DEVICE void run_held() const {
    const RowPart part = row_part<kRun>(p);
    const X* x = row_of(part);
    const NormOutput<Out> out(p.out, p.out_scale, part);
    Run<X, kRun> held[kLayerNormRuns];
    const auto for_held = [&](const auto& body) {
#pragma unroll
      for (i32 k = 0; k < kLayerNormRuns; ++k) {
        const i32 i = part.first + k * part.step;
        if (i < part.dim) body(held[k], i);
      }
    };
    for_held([&](Run<X, kRun>& run, i32 i) { run = read_run<kRun>(x + i); });
    float sum = 0;
    for_held([&](const Run<X, kRun>& run, i32) { sum = add_elements(run, sum); });
    const float mean = mean_of(sum, 0);
    float squares = 0;
    for_held([&](const Run<X, kRun>& run, i32) { squares = add_squares(run, mean, squares); });
    Affine<kRun> next{};
    if (kWeightAhead && part.first < part.dim) next = read_affine<kRun>(part.first);
    const float factor = factor_of(squares);
    for_held([&](const Run<X, kRun>& run, i32 i) {
      const Affine<kRun> affine = kWeightAhead ? next : read_affine<kRun>(i);
      if (kWeightAhead && i + part.step < part.dim) next = read_affine<kRun>(i + part.step);
      store_scaled(run, mean, factor, affine, i, out);
    });
  }

  // Any rows: they are read for each sum, and to be scaled.
  template <i32 count>
  TW_DEVICE void run_thrice() const {
    const RowPart part = row_part<count>(p);
    const X* x = row_of(part);
    const NormOutput<Out> out(p.out, p.out_scale, part);
    float sum = 0;
    for (i32 i = part.first; i < part.dim; i += part.step)
      sum = add_elements(read_run<count>(x + i), sum);
    const float mean = mean_of(sum, 0);
    float squares = 0;
    for (i32 i = part.first; i < part.dim; i += part.step)
      squares = add_squares(read_run<count>(x + i), mean, squares);
    const float factor = factor_of(squares);
    for (i32 i = part.first; i < part.dim; i += part.step)
      store_scaled(read_run<count>(x + i), mean, factor, read_affine<count>(i), i, out);
  }
};

// Bias: the bias's type, or NoBias.
template <typename X, typename Weight, typename Bias, typename Out>
TW_DEVICE void layer_norm(const LayerNormParams& p) {
  const LayerNorm<X, Weight, Bias, Out> norm{p};
  if (p.aligned == 0) {
    norm.template run_thrice<1>();
  } else if (p.held <= kLayerNormRuns) {
    norm.run_held();
  } else {
    norm.template run_thrice<kRun>();
  }
}

}  // namespace tw
