// SPDX-License-Identifier: Apache-2.0
// One row of scores, as a matrix product leaves it in the registers of a quad: of each tile of
// eight keys lane q has columns 2q and 2q + 1, for two rows (`half`) that lie eight apart.
#pragma once

#include "attention/keys.h"
#include "attention/softmax.h"

namespace tw {

// Whether scores become logits before their maximum is taken.
TW_DEVICE bool has_logits(const AttentionParams& p) {
  return Variant::kHasLogits || p.scales_logits != 0;
}
// Scores become logits. `r`: the tile's row. `positions`: of the keys, from this lane's first
// column on.
template <i32 kTiles, i32 most_rows>
TW_DEVICE void transform_row(const AttentionParams& p, const TileOf<most_rows>& tile, i32 r,
                             i32 half, const i32* positions, float (&scores)[kTiles][4]) {
  const float by = p.scales_logits != 0 ? tile.row_scale[r] : p.sm_scale;
  // What does not depend on the key, once: parameters may have to be loaded.
  const auto row = Variant::logits_row(query_row(p, tile, r), p.params);
#pragma unroll
  for (i32 n = 0; n < kTiles; ++n) {
#pragma unroll
    for (i32 e = 0; e < 2; ++e) {
      float& score = scores[n][half * 2 + e];
      score *= by;
      if constexpr (Variant::kHasLogits) {
        score = Variant::logits(row, positions[n * 8 + e], score, p.params);
      }
    }
  }
}

// What the row does not attend to becomes -inf.
template <i32 kTiles, i32 most_rows>
TW_DEVICE void mask_row(const AttentionParams& p, const TileOf<most_rows>& tile, i32 r, i32 half,
                        const i32* positions, float (&scores)[kTiles][4]) {
  const auto row = Variant::mask_row(query_row(p, tile, r), p.params);
#pragma unroll
  for (i32 n = 0; n < kTiles; ++n) {
#pragma unroll
    for (i32 e = 0; e < 2; ++e) {
      const i32 position = positions[n * 8 + e];
      const bool attends = position != kNoKey && Variant::mask(row, position, p.params);
      if (!attends) scores[n][half * 2 + e] = -kInfinity;
    }
  }
}

// A bit for each of the lane's columns of a row: whether the row attends to it.
template <i32 kTiles, i32 most_rows>
TW_DEVICE u32 attended_columns(const AttentionParams& p, const TileOf<most_rows>& tile, i32 r,
                               const i32* positions) {
  static_assert(kTiles * 2 <= 32);
  const auto row = Variant::mask_row(query_row(p, tile, r), p.params);
  u32 bits = 0;
#pragma unroll 1
  for (i32 i = 0; i < kTiles * 2; ++i) {
    const i32 position = positions[i / 2 * 8 + i % 2];
    if (position != kNoKey && Variant::mask(row, position, p.params)) bits |= 1U << i;
  }
  return bits;
}
// Those before `column`, which counts from the lane's first one.
TW_DEVICE u32 columns_before(u32 column) {
  const u32 count = column / 8 * 2 + (column % 8 < 2 ? column % 8 : 2);
  return count < 32 ? (1U << count) - 1 : ~0U;
}
// Others than those become -inf.
template <i32 kTiles>
TW_DEVICE void keep_columns(u32 kept, i32 half, float (&scores)[kTiles][4]) {
#pragma unroll
  for (i32 i = 0; i < kTiles * 2; ++i) {
    if ((kept >> i & 1) == 0) scores[i / 2][half * 2 + i % 2] = -kInfinity;
  }
}

// Of the lane's columns.
template <i32 kTiles>
TW_DEVICE float largest_of_lane(i32 half, const float (&scores)[kTiles][4]) {
  float largest = max_of(scores[0][half * 2], scores[0][half * 2 + 1]);
#pragma unroll
  for (i32 n = 1; n < kTiles; ++n) {
    largest = max_of(largest, max_of(scores[n][half * 2], scores[n][half * 2 + 1]));
  }
  return largest;
}
// Over the whole row.
template <i32 kTiles>
TW_DEVICE float largest_of_row(i32 half, const float (&scores)[kTiles][4]) {
  return max_of_quad(largest_of_lane(half, scores));
}

// Scores become weights, which sums.l counts: of keys without softmax.
template <i32 kTiles>
TW_DEVICE void weigh_row(i32 half, float scale, SoftmaxRow& sums, float (&scores)[kTiles][4]) {
  const float reference = sums.reference(scale);
#pragma unroll
  for (i32 n = 0; n < kTiles; ++n) {
#pragma unroll
    for (i32 e = 0; e < 2; ++e) {
      float& score = scores[n][half * 2 + e];
      if constexpr (Variant::kSoftmax) {
        score = exp2_fast(score * scale - reference);
        sums.l += score;
      } else {
        const bool attends = score != -kInfinity;
        sums.l += attends ? 1.0F : 0.0F;
        score = attends ? score : 0.0F;
      }
    }
  }
}

// Multiplies the outputs of two rows by what advance() gave for each.
template <i32 kTiles>
TW_DEVICE void multiply_rows(const float (&factor)[2], float (&o)[kTiles][4]) {
#pragma unroll
  for (i32 d = 0; d < kTiles; ++d) {
    o[d][0] *= factor[0];
    o[d][1] *= factor[0];
    o[d][2] *= factor[1];
    o[d][3] *= factor[1];
  }
}
// The same where some row of the warp needs it.
template <i32 kTiles>
TW_DEVICE void rescale_rows(const float (&factor)[2], float (&o)[kTiles][4]) {
  if (any_of_warp(factor[0] != 1.0F || factor[1] != 1.0F)) multiply_rows(factor, o);
}

}  // namespace tw
