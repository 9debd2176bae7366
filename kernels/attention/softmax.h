// SPDX-License-Identifier: Apache-2.0
// Online softmax (arXiv 1805.02867) of one row, over blocks of scores. A row's reference m is not
// its maximum but a score that was: it only moves when a score exceeds it by a factor of 2^8 or
// more, so that outputs are seldom rescaled. Whether it moves depends on this row alone.
#pragma once

#include "arch/numeric.h"
#include "arch/thread.h"
#include "attention/params.h"
#include "attention/variant.h"

namespace tw {

inline constexpr float kLog2E = 1.4426950408889634F;
inline constexpr float kLn2 = 0.6931471805599453F;
inline constexpr float kRescaleThreshold = 8.0F;  // in powers of two

// Scores s become weights 2^(s * scale - reference), with reference = m * scale. Without softmax
// scores are the weights, m is 0 and l counts keys: in both cases l is 0 where there was none, and
// only there.
struct SoftmaxRow {
  float m = Variant::kSoftmax ? -kInfinity : 0.0F;  // in units of scores
  float l = 0;  // sum of the weights: this lane's columns only, until sum_of_quad

  // Whether the largest score of the next block moves the reference.
  TW_DEVICE bool moves(float largest, float scale) const {
    return (largest - m) * scale > kRescaleThreshold;
  }
  // Takes the largest score of the next block; returns what earlier results must be multiplied by.
  TW_DEVICE float advance(float largest, float scale) {
    return moves(largest, scale) ? raise(largest, scale) : 1.0F;
  }
  // The same, for every score that is larger than the reference.
  TW_DEVICE float raise(float largest, float scale) {
    if (!((largest - m) * scale > 0)) return 1.0F;
    const float factor = exp2_fast((m - largest) * scale);
    m = largest;
    l *= factor;
    return factor;
  }
  TW_DEVICE float reference(float scale) const { return m == -kInfinity ? 0.0F : m * scale; }
  // As partial results have it, which keep -inf.
  TW_DEVICE float log2_reference(float scale) const {
    return m == -kInfinity ? -kInfinity : m * scale;
  }
};

// Over the four lanes that hold a row of an accumulator.
TW_DEVICE float max_of_quad(float value) {
  value = max_of(value, shuffle_xor(value, 1));
  return max_of(value, shuffle_xor(value, 2));
}
TW_DEVICE bool any_of_quad(bool value) {
  return (ballot(value) >> (lane_id() & ~3) & 15) != 0;
}
TW_DEVICE float sum_of_quad(float value) {
  value += shuffle_xor(value, 1);
  return value + shuffle_xor(value, 2);
}

// Over all lanes: the same bits in each.
TW_DEVICE float max_of_warp(float value) {
#pragma unroll
  for (i32 step = 1; step < kWarpSize; step *= 2) value = max_of(value, shuffle_xor(value, step));
  return value;
}
TW_DEVICE float sum_of_warp(float value) {
#pragma unroll
  for (i32 step = 1; step < kWarpSize; step *= 2) value += shuffle_xor(value, step);
  return value;
}

}  // namespace tw
