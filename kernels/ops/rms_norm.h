// SPDX-License-Identifier: Apache-2.0
// RMSNorm (arXiv 1910.07467), alone and fused with the residual's addition.
#pragma once

#include "ops/norm_row.h"

namespace tw {

struct NoResidual {};

// What is normed: the residual with x added, rounded as it is stored; or x.
template <typename X, typename Residual>
struct NormedOf {
  using Type = Residual;
};
template <typename X>
struct NormedOf<X, NoResidual> {
  using Type = X;
};

// The rows of a block's or a warp's threads, by their types.
template <typename X, typename Residual, typename Weight, typename Out>
struct RmsNorm {
  static constexpr bool kFused = !kIsSame<Residual, NoResidual>;
  using Normed = typename NormedOf<X, Residual>::Type;

  // Whether a thread has the registers for weights beside its row.
  static constexpr bool kWeightAhead = sizeof(Weight) <= 2;

  const RmsNormParams& p;

  template <i32 count>
  TW_DEVICE Run<Weight, count> read_weight(i32 i) const {
    return read_run<count>(static_cast<const Weight*>(p.weight) + i);
  }

  // The run of what is normed, from those that were read; with the fused form it is stored.
  template <i32 count>
  TW_DEVICE Run<Normed, count> normed_run(const Run<X, count>& x, const Run<Normed, count>& before,
                                          Normed* residual) const {
    if constexpr (kFused) {
      float value[count];
      float sum[count];
      unpack_run(x, value);
      unpack_run(before, sum);
#pragma unroll
      for (i32 j = 0; j < count; ++j) sum[j] = add_exact(sum[j], value[j]);
      const Run<Normed, count> run = pack_run<Normed>(sum);
      write_run(run, residual);
      return run;
    } else {
      return x;
    }
  }

  template <i32 count>
  TW_DEVICE static float add_squares(const Run<Normed, count>& run, float squares) {
    float value[count];
    unpack_run(run, value);
#pragma unroll
    for (i32 j = 0; j < count; ++j) squares = multiply_add_exact(value[j], value[j], squares);
    return squares;
  }

  // Of a row by its sum of squares.
  TW_DEVICE float factor_of(float squares) const {
    const float mean = divide_exact(sum_of_row(squares, p.row_threads), static_cast<float>(p.dim));
    return divide_exact(1.0F, sqrt_exact(add_exact(mean, p.eps)));
  }

  template <i32 count>
  TW_DEVICE void store_scaled(const Run<Normed, count>& run, float factor,
                              const Run<Weight, count>& weights, i32 i,
                              const NormOutput<Out>& out) const {
    float value[count];
    float weight[count];
    unpack_run(run, value);
    unpack_run(weights, weight);
#pragma unroll
    for (i32 j = 0; j < count; ++j) {
      value[j] =
          multiply_exact(multiply_exact(value[j], factor), add_exact(weight[j], p.weight_offset));
    }
    out.store(value, i);
  }

  struct Rows {
    const X* x;
    Normed* residual;  // the fused form's
    NormOutput<Out> out;
  };
  TW_DEVICE Rows rows_of(const RowPart& part) const {
    return {static_cast<const X*>(p.x.data) + row_offset(p.x, part),
            static_cast<Normed*>(p.residual.data) + row_offset(p.residual, part),
            NormOutput<Out>(p.out, p.out_scale, part)};
  }

  // Rows of few runs a thread: all of them are read before the first is needed, and kept.
  TW_DEVICE void run_held() const {
    const RowPart part = row_part<kRun>(p);
    const Rows row = rows_of(part);
    Run<X, kRun> x[kRmsNormRuns];
    Run<Normed, kRun> normed[kRmsNormRuns];
    Run<Weight, kRun> weight[kRmsNormRuns];
#pragma unroll
    for (i32 k = 0; k < kRmsNormRuns; ++k) {
      const i32 i = part.first + k * part.step;
      if (i >= part.dim) continue;
      x[k] = read_run<kRun>(row.x + i);
      if constexpr (kFused) normed[k] = read_run<kRun>(row.residual + i);
    }
#pragma unroll
    for (i32 k = 0; k < kRmsNormRuns; ++k) {
      const i32 i = part.first + k * part.step;
      if (kWeightAhead && i < part.dim) weight[k] = read_weight<kRun>(i);
    }
    float squares = 0;
#pragma unroll
    for (i32 k = 0; k < kRmsNormRuns; ++k) {
      const i32 i = part.first + k * part.step;
      if (i >= part.dim) continue;
      normed[k] = normed_run<kRun>(x[k], normed[k], row.residual + i);
      squares = add_squares(normed[k], squares);
    }
    const float factor = factor_of(squares);
#pragma unroll
    for (i32 k = 0; k < kRmsNormRuns; ++k) {
      const i32 i = part.first + k * part.step;
      if (i >= part.dim) continue;
      if (!kWeightAhead) weight[k] = read_weight<kRun>(i);
      store_scaled(normed[k], factor, weight[k], i, row.out);
    }
  }

  // Any rows: a thread reads again what it read, or wrote, itself.
  template <i32 count>
  TW_DEVICE void run_twice() const {
    const RowPart part = row_part<count>(p);
    const Rows row = rows_of(part);
    float squares = 0;
    for (i32 i = part.first; i < part.dim; i += part.step) {
      Run<Normed, count> before{};
      if constexpr (kFused) before = read_run<count>(row.residual + i);
      squares = add_squares(normed_run<count>(read_run<count>(row.x + i), before, row.residual + i),
                            squares);
    }
    const float factor = factor_of(squares);
    const Normed* normed = nullptr;
    if constexpr (kFused) {
      normed = row.residual;
    } else {
      normed = row.x;
    }
    for (i32 i = part.first; i < part.dim; i += part.step) {
      store_scaled(read_run<count>(normed + i), factor, read_weight<count>(i), i, row.out);
    }
  }

  TW_DEVICE void run() const {
    if (p.aligned == 0) {
      run_twice<1>();
    } else if (p.held <= kRmsNormRuns) {
      run_held();
    } else {
      run_twice<kRun>();
    }
  }
};

// Residual: the residual's type, or NoResidual.
template <typename X, typename Residual, typename Weight, typename Out>
TW_DEVICE void rms_norm(const RmsNormParams& p) {
  RmsNorm<X, Residual, Weight, Out>{p}.run();
}

}  // namespace tw
