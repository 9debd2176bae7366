// SPDX-License-Identifier: Apache-2.0
// What norms share: who has which part of a row, and sums over it. A row is one warp's, or one
// block's where it is long; which of them, and the order of its sums, depends on its length and on
// how rows are aligned alone.
#pragma once

#include "arch/arithmetic.h"
#include "arch/elements.h"
#include "arch/thread.h"
#include "ops/params.h"

namespace tw {

// A thread's part of a row: runs that begin at first, first + step, ...
struct RowPart {
  i32 outer;  // the row's indices
  i32 inner;
  i32 dim;  // 0: the last block may have warps without a row
  i32 first;
  i32 step;
};

template <i32 count, typename Params>
TW_DEVICE RowPart row_part(const Params& p) {
  const bool warps = p.row_threads == kWarpSize;
  const i32 row = warps ? block_id() * (num_threads() / kWarpSize) + warp_of_thread() : block_id();
  if (row >= p.rows) return {0, 0, 0, 0, p.row_threads * count};
  // Rows of a matrix need no division.
  const u32 outer = row < p.inner ? 0 : static_cast<u32>(row) / static_cast<u32>(p.inner);
  return {static_cast<i32>(outer), row - static_cast<i32>(outer) * p.inner, p.dim,
          (warps ? lane_id() : thread_id()) * count, p.row_threads * count};
}

TW_DEVICE i64 row_offset(const RowsOf& rows, const RowPart& part) {
  return part.outer * rows.outer_stride + part.inner * rows.inner_stride;
}

// The output's row of a thread.
template <typename Out>
struct NormOutput {
  Out* row;
  float scale;

  TW_DEVICE NormOutput(const RowsOf& out, const OutScale& out_scale, const RowPart& part)
      : row(static_cast<Out*>(out.data) + row_offset(out, part)), scale(out_scale.value) {
    if constexpr (kIsFp8<Out>) {
      if (out_scale.data != nullptr) scale = *out_scale.data;
    }
  }

  template <i32 count>
  TW_DEVICE void store(float (&value)[count], i32 i) const {
    if constexpr (kIsFp8<Out>) {
#pragma unroll
      for (i32 j = 0; j < count; ++j) value[j] = divide_exact(value[j], scale);
    }
    store_run(value, row + i);
  }
};

// The sum over the threads of a row, in a fixed order; all of the block call it. Sums of one kernel
// have places of their own in shared memory, so that one barrier is enough for each.
TW_DEVICE float sum_of_row(float value, i32 row_threads, i32 place = 0) {
#pragma unroll
  for (i32 mask = kWarpSize / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  if (row_threads == kWarpSize) return value;
  const i32 warps = num_threads() / kWarpSize;
  float* of_warps = reinterpret_cast<float*>(shared_memory()) + place * warps;
  if (lane_id() == 0) of_warps[warp_of_thread()] = value;
  sync_block();
  float sum = of_warps[0];
  for (i32 warp = 1; warp < warps; ++warp) sum += of_warps[warp];
  return sum;
}

}  // namespace tw
