// SPDX-License-Identifier: Apache-2.0
// Samples a token from each row of logits, as docs/sampling.md says: the same token as on the CPU.
// A block has a row.
#pragma once

#include "arch/elements.h"
#include "arch/thread.h"
#include "sampling/params.h"
#include "sampling/random_bits.h"
#include "sampling/row.h"

namespace tw {

// What the filters keep of a row, then the draw, as turns of one loop: each part of the code is
// there once, because it is long. The row has a finite largest value.
template <typename T>
TW_DEVICE i32 draw(const SampleParams& p, const RowOfLogits<T>& row, const WeightScale& scale,
                   SampleMemory& memory) {
  enum Turn { kTopK, kTopP, kDraw };
  const i64 index = block_id();
  const i32 top_k = value_of_row(p.top_k, index);
  const float top_p = value_of_row(p.top_p, index);
  const float min_p = value_of_row(p.min_p, index);
  const u64 least = min_p > 0 ? least_weight(min_of(min_p, 1.0F)) : 0;
  const u64 random = sampling_bits(value_of_row(p.seeds, index), value_of_row(p.steps, index));
  Kept kept{-kInfinity, kLastId};
#pragma unroll 1
  for (i32 turn = kTopK;; ++turn) {
    if (turn == kTopK && (top_k <= 0 || top_k >= row.count)) continue;
    if (turn == kTopP && !(top_p < 1)) continue;
    u64 ties = 0;
    if (turn < kDraw) {
      const Threshold threshold = find_threshold(
          row, kept,
          [&](float value) { return turn == kTopK ? u64{1} : token_weight(value, scale); },
          [&](u64 total) {
            return turn == kTopK ? static_cast<u64>(top_k) : mass_target(top_p, total);
          },
          memory);
      if (threshold.value != kept.threshold) kept = {threshold.value, kLastId};
      if (threshold.all_ties) continue;
      ties = threshold.ties;
    }
    const i32 id = locate(
        row,
        [&](i32 i, float value) {
          if (turn < kDraw) return value == kept.threshold ? u64{1} : u64{0};
          const u64 weight = token_weight(value, scale);
          return weight >= least && kept.contains(i, value) ? weight : u64{0};
        },
        // floor(random / 2^64 * total) is uniform in [0, total).
        [&](u64 total) { return turn < kDraw ? ties - 1 : multiply_high(random, total); }, memory);
    if (turn == kDraw) return id;
    kept.last_tie = id;
  }
}

template <typename T>
TW_DEVICE i32 sample_row(const SampleParams& p, SampleMemory& memory) {
  const i64 index = block_id();
  RowOfLogits<T> row{static_cast<const T*>(p.logits) + index * p.logits_stride, p.vocabulary,
                     p.aligned != 0, false};
  const u64 largest = largest_of_row(row, memory);
  const i32 arg_max = static_cast<i32>(~static_cast<u32>(largest));
  const float value = of_order_key(static_cast<u32>(largest >> 32));
  const float temperature = value_of_row(p.temperature, index);
  if (value == -kInfinity || !(temperature > 0)) return arg_max;
  row.infinite = value == kInfinity;
  return draw(p, row, {row.infinite ? 0.0F : value, scale_of_temperature(temperature)}, memory);
}

template <typename T>
TW_DEVICE void sample(const SampleParams& p) {
  SampleMemory& memory = *reinterpret_cast<SampleMemory*>(shared_memory());
  const i32 token = sample_row<T>(p, memory);
  if (thread_id() != 0) return;
  const i64 at = block_id() * p.tokens_stride;
  if (p.tokens_64 != 0) {
    static_cast<i64*>(p.tokens)[at] = token;
  } else {
    static_cast<i32*>(p.tokens)[at] = token;
  }
}

}  // namespace tw
