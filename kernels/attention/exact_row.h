// SPDX-License-Identifier: Apache-2.0
// A row's sum of weights times values once more, from the keys alone that it attends to. A key that
// a row does not attend to has the weight 0 in matrix products, and 0 times NaN is NaN. To look for
// such values would cost every block of keys that is masked in part; so products are made as if
// there were none, and where a sum comes out as NaN or infinite it is made again here: by plain
// loads, slowly, and seldom.
#pragma once

#include "arch/elements.h"
#include "attention/keys.h"
#include "attention/results.h"
#include "attention/rotate.h"

namespace tw {

TW_DEVICE bool is_finite(float value) {
  return abs_of(value) < kInfinity;
}
TW_DEVICE bool is_finite(const Float4& v) {
  return is_finite(v.x) && is_finite(v.y) && is_finite(v.z) && is_finite(v.w);
}

template <i32 most_rows>
class ExactRow {
 public:
  using RowTile = TileOf<most_rows>;

  TW_DEVICE ExactRow(const AttentionParams& params, const RowTile& the_tile, i32 r)
      : p(params), tile(the_tile), row(query_row(params, the_tile, r)) {
    q = reinterpret_cast<const Element*>(query_at(p, row));
    scale = p.scales_logits != 0 ? tile.row_scale[r] : p.sm_scale;
  }

  // Where the row's other results went: `slot` as in target_of, whose m and l were right. By a
  // warp, whose lanes take a key each, and then a column each.
  TW_DEVICE void store(i32 slot, i32 r, float m, float l) const {
    if (row.q_index >= p.out_tokens) return;
    float o[kColumns] = {};
    sum(m == -kInfinity ? 0.0F : m, o);
    const RowTarget target = target_of(p, tile, slot, r, m, l);
#pragma unroll
    for (i32 i = 0; i < kColumns; ++i) {
      if (has_column(i)) put_column(p, row, target, column(i), o[i]);
    }
  }

 private:
  using Element = Spec::Element;
  static constexpr i32 kColumns = round_up(Spec::kValueDim, kWarpSize) / kWarpSize;

  TW_DEVICE static i32 column(i32 i) {
    return i * kWarpSize + lane_id();
  }
  TW_DEVICE static bool has_column(i32 i) {
    return column(i) < Spec::kValueDim;
  }

  // Over the part of the tile that is computed here; weights are 2^(score - reference).
  TW_DEVICE void sum(float reference, float (&o)[kColumns]) const {
#pragma unroll 1
    for (i32 n = tile.first_block; n < tile.part_end; ++n) {
      const i32 begin = tile.block(n) * Shape::kBlock;
      const bool full = tile.is_full(n);
#pragma unroll 1
      for (i32 key = begin; key < begin + Shape::kBlock; key += kWarpSize) {
        add_keys(key, full, reference, o);
      }
      // NaN stays NaN: a row that attends to one need not look at all its other keys.
      bool all_nan = true;
#pragma unroll
      for (i32 i = 0; i < kColumns; ++i) all_nan = all_nan && (o[i] != o[i] || !has_column(i));
      if (!any_of_warp(!all_nan)) break;
    }
  }

  // Keys [first, first + 32).
  TW_DEVICE void add_keys(i32 first, bool full, float reference, float (&o)[kColumns]) const {
    const i32 key = first + lane_id();
    const KeyAddress at = find_key(p, tile, key);
    const bool attended = full || attends(p, row, at.position);
    const float weight = attended ? weight_of(at, reference) : 0.0F;
#pragma unroll 1
    for (u32 left = ballot(attended); left != 0; left &= left - 1) {
      const i32 lane = lowest_bit(left);
      const float by = shuffle(weight, lane);
      const auto* const v =
          reinterpret_cast<const Spec::Value*>(shuffle(reinterpret_cast<u64>(at.value), lane));
#pragma unroll
      for (i32 i = 0; i < kColumns; ++i) {
        if (has_column(i)) o[i] = multiply_add(by, to_float(v[column(i)]), o[i]);
      }
    }
  }

  TW_DEVICE float weight_of(const KeyAddress& at, float reference) const {
    float score = dot(reinterpret_cast<const Spec::Key*>(at.key), at.position);
    if (Variant::kHasLogits || p.scales_logits != 0) score *= scale;
    if constexpr (Variant::kHasLogits) score = Variant::logits(row, at.position, score, p.params);
    if constexpr (!Variant::kSoftmax) return rounded_to<Element>(score);
    return rounded_to<Element>(exp2_fast(score * p.exponent_scale - reference));
  }

  TW_DEVICE float dot(const Spec::Key* k, i32 position) const {
    float sum = 0;
    if constexpr (Variant::kHasRope) sum = rotated_dot(q, k, row.q_pos, position);
#pragma unroll 4  // few registers: the kernel has as many as its largest function
    for (i32 d = Variant::kRopeDim; d < Spec::kHeadDim; ++d) {
      sum = multiply_add(to_float(q[d]), to_float(k[d]), sum);
    }
    return sum;
  }

  const AttentionParams& p;
  const RowTile& tile;
  const QueryRow row;
  const Element* q;
  float scale;
};

// Sums row `r` of the tile once more, and stores it over what was stored before. Where the sum of
// weights is NaN, so is the output, whatever the values. By a warp, behind its barrier. Called, not
// inlined: the way there is seldom taken.
template <i32 most_rows>
TW_DEVICE_CALL void store_row_exactly(const AttentionParams& p, const TileOf<most_rows>& tile,
                                      i32 slot, i32 r, float m, float l) {
  if (l == l) ExactRow<most_rows>(p, tile, r).store(slot, r, m, l);
}

}  // namespace tw
