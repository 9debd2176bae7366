// SPDX-License-Identifier: Apache-2.0
// The merge of partial attention results (arXiv 2501.01005, section 2.2), in order of states. A
// thread has a run of a row and finds the row's weights itself: there are few states.
#pragma once

#include "arch/arithmetic.h"
#include "arch/elements.h"
#include "arch/thread.h"
#include "ops/params.h"

namespace tw {

// exp(lse - largest), also where both are +inf.
TW_DEVICE float state_weight(float lse, float largest) {
  return lse == largest ? 1.0F : exp_of(subtract_exact(lse, largest));
}

template <typename T, typename Out, i32 count>
TW_DEVICE void merge_run(const MergeParams& p) {
  const u32 runs = static_cast<u32>(p.dim / count);
  const u32 item = static_cast<u32>(block_id()) * static_cast<u32>(num_threads()) +
                   static_cast<u32>(thread_id());
  const u32 row = item / runs;
  const i64 token = row / static_cast<u32>(p.heads);
  const i64 head = row % static_cast<u32>(p.heads);
  if (token >= p.tokens) return;
  const i64 i = static_cast<i64>(item % runs) * count;
  const float* lse = p.lse + token * p.lse_stride[0] + head * p.lse_stride[2];
  const T* values =
      static_cast<const T*>(p.values) + token * p.values_stride[0] + head * p.values_stride[2] + i;
  float largest = -kInfinity;
  for (i32 s = 0; s < p.states; ++s) largest = max_of(largest, lse[s * p.lse_stride[1]]);
  float total = 0;
  for (i32 s = 0; s < p.states; ++s) {
    const float state_lse = lse[s * p.lse_stride[1]];
    if (state_lse != -kInfinity) total = add_exact(total, state_weight(state_lse, largest));
  }
  float sum[count] = {};
  for (i32 s = 0; s < p.states; ++s) {
    const float state_lse = lse[s * p.lse_stride[1]];
    if (state_lse == -kInfinity) continue;
    const float weight = divide_exact(state_weight(state_lse, largest), total);
    float value[count];
    load_run(values + s * p.values_stride[1], value);
#pragma unroll
    for (i32 j = 0; j < count; ++j) sum[j] = multiply_add_exact(weight, value[j], sum[j]);
  }
  store_run(sum, static_cast<Out*>(p.out) + token * p.out_stride[0] + head * p.out_stride[1] + i);
  if (p.lse_out != nullptr && i == 0) {
    p.lse_out[token * p.lse_out_stride[0] + head * p.lse_out_stride[1]] =
        total > 0 || total != total ? add_exact(largest, log_of(total)) : -kInfinity;
  }
}

template <typename T, typename Out>
TW_DEVICE void merge_states(const MergeParams& p) {
  if (p.aligned != 0) {
    merge_run<T, Out, kRun>(p);
  } else {
    merge_run<T, Out, 1>(p);
  }
}

}  // namespace tw
