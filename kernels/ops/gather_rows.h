// SPDX-License-Identifier: Apache-2.0
// Rows of a table by their indices. A thread has a run of an output row.
#pragma once

#include "arch/elements.h"
#include "arch/numeric.h"
#include "arch/thread.h"
#include "ops/params.h"

namespace tw {

// Tables may have more than 2^31 elements: offsets of rows are of 64 bits.
template <typename X, typename Out, i32 count>
TW_DEVICE void gather_run(const GatherRowsParams& p) {
  const u32 runs = static_cast<u32>(p.dim / count);
  const u32 item = static_cast<u32>(block_id()) * static_cast<u32>(num_threads()) +
                   static_cast<u32>(thread_id());
  const u32 row = item / runs;
  if (row >= static_cast<u32>(p.rows)) return;
  const i64 i = static_cast<i64>(item % runs) * count;
  Out* out = static_cast<Out*>(p.out) + row * p.out_stride + i;
  const i64 index = load_index(p.indices, p.indices_64 != 0, row * p.indices_stride);
  float value[count] = {};
  if (static_cast<u64>(index) < static_cast<u64>(p.x_rows)) {
    const X* x = static_cast<const X*>(p.x) + index * p.x_stride + i;
    if constexpr (kIsSame<X, Out>) {
      write_run(read_run<count>(x), out);
      return;
    }
    load_run(x, value);
  }
  store_run(value, out);
}

template <typename X, typename Out>
TW_DEVICE void gather_rows(const GatherRowsParams& p) {
  if (p.aligned != 0) {
    gather_run<X, Out, kRun>(p);
  } else {
    gather_run<X, Out, 1>(p);
  }
}

}  // namespace tw
