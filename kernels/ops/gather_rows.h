// SPDX-License-Identifier: Apache-2.0
// Rows of a table by their indices. A thread has a run of a row.
#pragma once

#include "arch/elements.h"
#include "arch/thread.h"
#include "ops/params.h"

namespace tw {

template <typename X, typename Out, i32 count>
TW_DEVICE void gather_run(const GatherParams& p) {
  const u32 runs = static_cast<u32>(p.dim / count);
  const u32 item = static_cast<u32>(block_id()) * static_cast<u32>(num_threads()) +
                   static_cast<u32>(thread_id());
  const u32 row = item / runs;
  if (row >= static_cast<u32>(p.rows)) return;
  const i64 i = static_cast<i64>(item % runs) * count;
  Out* const out = static_cast<Out*>(p.out) + row * p.out_stride + i;
  const i64 index = load_index(p.indices, p.indices_64 != 0, row * p.indices_stride);
  if (static_cast<u64>(index) >= static_cast<u64>(p.x_rows)) {
    const float zeros[count] = {};
    store_run(zeros, out);
    return;
  }
  const Run<X, count> run = read_run<count>(static_cast<const X*>(p.x) + index * p.x_stride + i);
  if constexpr (kIsSame<X, Out>) {
    write_run(run, out);  // any bits
  } else {
    float values[count];
    unpack_run(run, values);
    store_run(values, out);
  }
}

template <typename X, typename Out>
TW_DEVICE void gather_rows(const GatherParams& p) {
  if (p.aligned != 0) {
    gather_run<X, Out, kRun>(p);
  } else {
    gather_run<X, Out, 1>(p);
  }
}

}  // namespace tw
