// SPDX-License-Identifier: Apache-2.0
// Softmax of a block of scores on Hopper: a thread's part of two rows, as wgmma leaves it, becomes
// weights as wgmma takes them.
//
// Of many rows nobody looks for the largest score, which would take as many instructions as the
// exponentials: weights are made with the references as they are. Only where their sum tells that
// one may be too large, or that a row has no reference yet, references are raised and weights are
// made once more. Whether a row's is raised depends on the row alone.
#pragma once

#include "arch/wgmma.h"
#include "attention/softmax.h"

namespace tw {

// Of the weights of a row that a thread has, a fourth of a block's: no weight is larger, which is
// far from the limits of 16 bits, and 32 weights of 2^7 do not move a reference yet.
inline constexpr float kLargestSum = 4096.0F;

// Takes the largest scores of those two rows that `raises` says as their references, and leaves
// both rows' in units of exponents. `factor`: by which earlier results must be multiplied.
template <i32 count>
TW_DEVICE void raise_references(const float (&scores)[count], float by, const bool (&raises)[2],
                                SoftmaxRow (&rows)[2], float (&factor)[2], float (&reference)[2]) {
  float largest[4] = {scores[0], scores[1], scores[2], scores[3]};
#pragma unroll
  for (i32 i = 4; i < count; ++i) largest[i % 4] = max_of(largest[i % 4], scores[i]);
#pragma unroll
  for (i32 half = 0; half < 2; ++half) {
    const float of_row = max_of_quad(max_of(largest[half * 2], largest[half * 2 + 1]));
    factor[half] = raises[half] ? rows[half].raise(of_row, by) : 1.0F;
    reference[half] = rows[half].reference(by);
  }
}

// Weights and their sums, a row each. Products of the last block's weights may be under way in two
// groups: weights are packed a step behind the exponentials, and those of a half of the block when
// the products of that half are done.
//
// ptxas would add each weight right behind its exponential and wait for it; so that those of a step
// hide what is done with the last one's, the order of steps is held.
template <typename T, i32 count>
TW_DEVICE void make_weights(const float (&scores)[count], float by, const float (&reference)[2],
                            u32 (&weights)[count / 8][4], float (&sums)[2]) {
  constexpr i32 kStep = 8;
  static_assert(count % (2 * kStep) == 0);
  float exponents[2][kStep];  // of a step and the next one
  float values[2][kStep];     // of a step and the last one
  float parts[4] = {};        // two of each row: chains of additions half as long
  const auto exponent = [&](i32 i) { return scores[i] * by - reference[i % 4 / 2]; };
#pragma unroll
  for (i32 i = 0; i < kStep; ++i) exponents[0][i] = exponent(i);
#pragma unroll
  for (i32 step = 0; step <= count / kStep; ++step) {
    if (step == 1) wgmma_wait<1>();
    if (step == 1 + count / kStep / 2) wgmma_wait<0>();
#pragma unroll
    for (i32 i = 0; i < kStep; ++i) {
      const i32 at = step * kStep + i;
      if (at < count) values[step % 2][i] = exp2_fast(exponents[step % 2][i]);
      if (at + kStep < count) exponents[1 - step % 2][i] = exponent(at + kStep);
      if (step == 0) continue;
      const float(&last)[kStep] = values[1 - step % 2];
      parts[i % 4] += last[i];
      const i32 pair = (at - kStep) / 2;
      if (i % 2 == 1) weights[pair / 4][pair % 4] = pack<T>(last[i - 1], last[i]);
    }
    keep_order();
  }
  sums[0] = parts[0] + parts[1];
  sums[1] = parts[2] + parts[3];
}

// Of many rows. `first`: rows have no references. True: the reference of some row of the warp was
// raised.
template <typename T, bool first, i32 count>
TW_DEVICE bool weigh_block(const float (&scores)[count], float by, SoftmaxRow (&rows)[2],
                           float (&factor)[2], u32 (&weights)[count / 8][4]) {
  bool raised = first;
  // Without a reference weights are infinite where a row has keys, and else not a number.
  float reference[2] = {rows[0].log2_reference(by), rows[1].log2_reference(by)};
  if constexpr (first) raise_references(scores, by, {true, true}, rows, factor, reference);
#pragma unroll 1
  for (;;) {
    float sums[2];
    make_weights<T>(scores, by, reference, weights, sums);
    const bool too_large[2] = {!(sums[0] <= kLargestSum), !(sums[1] <= kLargestSum)};
    if (raised || !any_of_warp(too_large[0] || too_large[1])) [[likely]] {
      rows[0].l += sums[0];
      rows[1].l += sums[1];
      return raised;
    }
    raised = true;
    raise_references(scores, by, {any_of_quad(too_large[0]), any_of_quad(too_large[1])}, rows,
                     factor, reference);
  }
}

// One of the two rows of a tile of few, whose scores are left as weights. True: as above.
template <i32 count>
TW_DEVICE bool weigh_row_of_few(i32 half, float by, float (&scores)[count], SoftmaxRow& row,
                                float& factor) {
  const auto score = [&](i32 i) -> float& { return scores[i / 2 * 4 + half * 2 + i % 2]; };
  float largest[4] = {score(0), score(1), score(2), score(3)};
#pragma unroll
  for (i32 i = 4; i < count / 2; ++i) largest[i % 4] = max_of(largest[i % 4], score(i));
  largest[0] = max_of(max_of(largest[0], largest[1]), max_of(largest[2], largest[3]));
  const bool moved = any_of_warp(row.moves(largest[0], by));
  factor = moved ? row.advance(max_of_quad(largest[0]), by) : 1.0F;
  const float reference = row.reference(by);
  float sums[4] = {};  // a chain of additions would take as long as the exponentials
#pragma unroll
  for (i32 i = 0; i < count / 2; ++i) {
    score(i) = exp2_fast(score(i) * by - reference);
    sums[i % 4] += score(i);
  }
  row.l += (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return moved;
}

}  // namespace tw
