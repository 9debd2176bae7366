// SPDX-License-Identifier: Apache-2.0
// Some rows of a tile by one warp, in f32 throughout: what a key or a value is loaded for goes to
// all of them.
#pragma once

#include "arch/elements.h"
#include "attention/keys.h"
#include "attention/results.h"
#include "attention/rotate.h"

namespace tw {

using ScalarTile = TileOf<Shape::kRows>;

inline constexpr i32 kScalarColumns = round_up(Spec::kValueDim, kWarpSize) / kWarpSize;
// The lane's i-th column of a value or an output.
TW_DEVICE i32 scalar_column(i32 i) {
  return i * kWarpSize + lane_id();
}

// Partial results of a group of rows, one of each warp, in shared memory.
struct ScalarParts {
  float o[Shape::kWarps][kScalarRows][Spec::kValueDim];
  Float2 sums[Shape::kWarps][kScalarRows];  // m and l
};

// One row's outputs, of which each lane has its columns.
TW_DEVICE void store_scalar_row(const AttentionParams& p, const ScalarTile& tile, i32 slot, i32 r,
                                float m, float l, const float (&o)[kScalarColumns]) {
  const RowTarget target = target_of(p, tile, slot, r, m, l);
  const QueryRow row = query_row(p, tile, r);
#pragma unroll
  for (i32 i = 0; i < kScalarColumns; ++i) {
    if (scalar_column(i) < Spec::kValueDim) put_column(p, row, target, scalar_column(i), o[i]);
  }
}

// Joins what the warps have put into `parts`, in their order, and stores it: a warp takes a row.
TW_DEVICE void store_joined(const ScalarParts& parts, const AttentionParams& p,
                            const ScalarTile& tile, i32 first, i32 slot) {
  const i32 r = warp_id();
  if (r >= kScalarRows || first + r >= tile.num_rows) return;
  float m = parts.sums[0][r].x;
  float l = parts.sums[0][r].y;
  float o[kScalarColumns] = {};
#pragma unroll 1
  for (i32 warp = 0; warp < Shape::kWarps; ++warp) {
    Join by{0.0F, 1.0F};
    if (warp > 0) by = join(m, l, parts.sums[warp][r].x, parts.sums[warp][r].y);
#pragma unroll
    for (i32 i = 0; i < kScalarColumns; ++i) {
      const i32 column = scalar_column(i);
      const float other = column < Spec::kValueDim ? parts.o[warp][r][column] : 0.0F;
      o[i] = o[i] * by.own + other * by.other;
    }
  }
  store_scalar_row(p, tile, slot, first + r, m, l, o);
}

class ScalarRows {
 public:
  static constexpr i32 kRows = kScalarRows;

  // The rows from `first` on. Those behind the tile's last one repeat it.
  TW_DEVICE ScalarRows(const AttentionParams& params, const ScalarTile& the_tile, i32 first)
      : p(params), tile(the_tile), first_row(first) {
#pragma unroll
    for (i32 i = 0; i < kRows; ++i) {
      const QueryRow row = query_row(p, tile, first_row + i);
      // What is computed of rows that are not there goes nowhere.
      q[i] = reinterpret_cast<const float*>(row.q_index < p.out_tokens ? query_at(p, row) : p.q);
    }
  }

  // Of the chunks of 32 keys that the part has every `stride`-th one, from the `begin`-th on.
  TW_DEVICE void add_keys(i32 begin, i32 stride) {
    constexpr i32 kChunks = Shape::kBlock / kWarpSize;
    const i32 end = (tile.part_end - tile.first_block) * kChunks;
#pragma unroll 1
    for (i32 chunk = begin; chunk < end; chunk += stride) {
      const i32 n = tile.first_block + chunk / kChunks;
      add_chunk(tile.block(n) * Shape::kBlock + chunk % kChunks * kWarpSize, tile.is_full(n));
    }
#pragma unroll
    for (i32 i = 0; i < kRows; ++i) sums[i].l = sum_of_warp(sums[i].l);
  }

  TW_DEVICE void store(i32 slot) const {
#pragma unroll
    for (i32 i = 0; i < kRows; ++i) {
      if (first_row + i < tile.num_rows) {
        store_scalar_row(p, tile, slot, first_row + i, sums[i].log2_reference(p.exponent_scale),
                         sums[i].l, o[i]);
      }
    }
  }

  TW_DEVICE void put(ScalarParts& parts) const {
    const i32 warp = warp_id();
#pragma unroll
    for (i32 i = 0; i < kRows; ++i) {
      parts.sums[warp][i] = {sums[i].log2_reference(p.exponent_scale), sums[i].l};
#pragma unroll
      for (i32 c = 0; c < kScalarColumns; ++c) {
        if (scalar_column(c) < Spec::kValueDim) parts.o[warp][i][scalar_column(c)] = o[i][c];
      }
    }
  }

 private:
  TW_DEVICE void add_chunk(i32 first_key, bool full) {
    const KeyAddress at = find_key(p, tile, first_key + lane_id());
    float weights[kRows] = {};
    multiply_key(reinterpret_cast<const Spec::Key*>(at.key), at.position, weights);
    u32 attended[kRows];  // a bit a lane
#pragma unroll
    for (i32 i = 0; i < kRows; ++i) attended[i] = weigh(i, at.position, full, weights[i]);
    add_values(at.value, weights, attended);
  }

  // scores += the rows' queries times the lane's key
  TW_DEVICE void multiply_key(const Spec::Key* key, i32 position, float (&scores)[kRows]) const {
    if constexpr (Variant::kHasRope) {
#pragma unroll
      for (i32 i = 0; i < kRows; ++i) {
        scores[i] = rotated_dot(q[i], key, tile.rows[first_row + i].q_pos, position);
      }
    }
    constexpr i32 kBegin = Variant::kRopeDim;
    constexpr i32 kAtOnce = kBegin % kRun == 0 ? kRun : 1;
#pragma unroll 2
    for (i32 d = kBegin; d < Spec::kHeadDim; d += kAtOnce) {
      float k[kAtOnce];
      unpack_run<Spec::Key>(read_run<kAtOnce>(key + d), k);
#pragma unroll
      for (i32 i = 0; i < kRows; ++i) {
        float of_row[kAtOnce];
        unpack_run<float>(read_run<kAtOnce>(q[i] + d), of_row);
#pragma unroll
        for (i32 j = 0; j < kAtOnce; ++j) scores[i] = multiply_add(of_row[j], k[j], scores[i]);
      }
    }
  }

  // The lane's score becomes a weight, and what the row had is rescaled. Returns which lanes' keys
  // the row attends to.
  TW_DEVICE u32 weigh(i32 i, i32 position, bool full, float& score) {
    const i32 r = first_row + i;
    const QueryRow row = query_row(p, tile, r);
    if (p.scales_logits != 0) {
      score *= tile.row_scale[r];
    } else if (Variant::kHasLogits) {
      score *= p.sm_scale;
    }
    if constexpr (Variant::kHasLogits) score = Variant::logits(row, position, score, p.params);
    const bool attends_to = full || attends(p, row, position);
    SoftmaxRow& sum = sums[i];
    if constexpr (Variant::kSoftmax) {
      const float scale = p.exponent_scale;
      const float factor = sum.advance(max_of_warp(attends_to ? score : -kInfinity), scale);
#pragma unroll
      for (i32 c = 0; c < kScalarColumns; ++c) o[i][c] *= factor;
      score = attends_to ? exp2_fast(score * scale - sum.reference(scale)) : 0.0F;
      sum.l += score;
    } else {
      sum.l += attends_to ? 1.0F : 0.0F;
      score = attends_to ? score : 0.0F;
    }
    return ballot(attends_to);
  }

  // A value that a row does not attend to may be anything, also NaN: it is not multiplied by 0.
  TW_DEVICE void add_values(const char* value, const float (&weights)[kRows],
                            const u32 (&attended)[kRows]) {
#pragma unroll 4
    for (i32 lane = 0; lane < kWarpSize; ++lane) {
      const auto* const v =
          reinterpret_cast<const Spec::Value*>(shuffle(reinterpret_cast<u64>(value), lane));
      float columns[kScalarColumns];
#pragma unroll
      for (i32 c = 0; c < kScalarColumns; ++c) {
        const i32 column = scalar_column(c);
        columns[c] = column < Spec::kValueDim ? to_float(v[column]) : 0.0F;
      }
#pragma unroll
      for (i32 i = 0; i < kRows; ++i) {
        const float weight = shuffle(weights[i], lane);
        const bool counts = (attended[i] >> lane & 1U) != 0;
#pragma unroll
        for (i32 c = 0; c < kScalarColumns; ++c) {
          const float sum = multiply_add(weight, columns[c], o[i][c]);
          o[i][c] = counts ? sum : o[i][c];
        }
      }
    }
  }

  const AttentionParams& p;
  const ScalarTile& tile;
  const i32 first_row;
  const float* q[kRows];
  SoftmaxRow sums[kRows];
  float o[kRows][kScalarColumns] = {};
};

}  // namespace tw
