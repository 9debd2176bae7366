// SPDX-License-Identifier: Apache-2.0
// RMSNorm (arXiv 1910.07467), alone and fused with the residual's addition. A row is one warp's, or
// one block's where it is long; which of them, and the order of its sum, depends on its length and
// on how rows are aligned alone.
#pragma once

#include "arch/arithmetic.h"
#include "arch/elements.h"
#include "arch/thread.h"
#include "ops/params.h"

namespace tw {

TW_DEVICE i64 row_offset(const RowsOf& rows, i32 row, i32 inner) {
  return row / inner * rows.outer_stride + row % inner * rows.inner_stride;
}

// The sum over the threads of a row, in a fixed order; all of the block call it.
TW_DEVICE float sum_of_row(float value, i32 row_threads) {
#pragma unroll
  for (i32 mask = kWarpSize / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  if (row_threads == kWarpSize) return value;
  float* of_warps = reinterpret_cast<float*>(shared_memory());
  if (lane_id() == 0) of_warps[thread_id() / kWarpSize] = value;
  sync_block();
  float sum = of_warps[0];
  for (i32 warp = 1; warp < num_threads() / kWarpSize; ++warp) sum += of_warps[warp];
  return sum;
}

struct NoResidual {};

template <typename X, typename Residual, typename Weight, typename Out, i32 count>
TW_DEVICE void rms_norm_row(const RmsNormParams& p, i32 row, i32 first) {
  constexpr bool kFused = !kIsSame<Residual, NoResidual>;
  const bool present = row < p.rows;  // the last block may have warps without a row
  const X* x = static_cast<const X*>(p.x.data);
  Out* out = static_cast<Out*>(p.out.data);
  float* unused = nullptr;
  auto* residual = [&] {
    if constexpr (kFused) {
      return static_cast<Residual*>(p.residual.data);
    } else {
      return unused;
    }
  }();
  if (present) {
    x += row_offset(p.x, row, p.inner);
    out += row_offset(p.out, row, p.inner);
    if constexpr (kFused) residual += row_offset(p.residual, row, p.inner);
  }
  const i32 dim = present ? p.dim : 0;
  const i32 step = p.row_threads * count;
  float squares = 0;
  for (i32 i = first * count; i < dim; i += step) {
    float value[count];
    load_run(x + i, value);
    if constexpr (kFused) {
      float before[count];
      load_run(residual + i, before);
#pragma unroll
      for (i32 j = 0; j < count; ++j)
        value[j] = rounded_to<Residual>(add_exact(before[j], value[j]));
      store_run(value, residual + i);
    }
#pragma unroll
    for (i32 j = 0; j < count; ++j) squares = multiply_add_exact(value[j], value[j], squares);
  }
  const float mean = divide_exact(sum_of_row(squares, p.row_threads), static_cast<float>(p.dim));
  const float factor = divide_exact(1.0F, sqrt_exact(add_exact(mean, p.eps)));
  for (i32 i = first * count; i < dim; i += step) {
    float value[count];
    float weight[count];
    // A thread reads again what it read, or wrote, itself.
    if constexpr (kFused) {
      load_run(residual + i, value);
    } else {
      load_run(x + i, value);
    }
    load_run(static_cast<const Weight*>(p.weight) + i, weight);
#pragma unroll
    for (i32 j = 0; j < count; ++j) {
      value[j] =
          multiply_exact(multiply_exact(value[j], factor), add_exact(weight[j], p.weight_offset));
    }
    store_run(value, out + i);
  }
}

// Residual: the residual's type, or NoResidual.
template <typename X, typename Residual, typename Weight, typename Out>
TW_DEVICE void rms_norm(const RmsNormParams& p) {
  const bool warps = p.row_threads == kWarpSize;
  const i32 row =
      warps ? block_id() * (num_threads() / kWarpSize) + thread_id() / kWarpSize : block_id();
  const i32 first = warps ? lane_id() : thread_id();
  if (p.aligned != 0) {
    rms_norm_row<X, Residual, Weight, Out, kRun>(p, row, first);
  } else {
    rms_norm_row<X, Residual, Weight, Out, 1>(p, row, first);
  }
}

}  // namespace tw
