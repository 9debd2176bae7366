// SPDX-License-Identifier: Apache-2.0
// From a row's sums to its output; partial results and their joins. A partial result of a row is
// (o, m, l): sums of weights times values and of weights, in f32, with weights 2^(score - m).
#pragma once

#include "arch/memory.h"
#include "attention/softmax.h"
#include "attention/tile.h"
#include "attention/workers.h"

namespace tw {

// A row's partial result in global memory.
struct Partial {
  float* o;  // [kValueDim]
  float* m;
  float* l;
};

// The number of a worker's slot for one of its item's heads: of a power of two, all others' too.
TW_DEVICE i32 slot_of(const AttentionParams& p, i32 slot, i32 head) {
  if constexpr (!Spec::kDecodeOnly) return slot;
  const i32 heads = p.plan.schedule.config.max_heads;
  return slot * heads + (head & (heads - 1));
}

// Row `r` of a tile in a slot: rows' outputs, and behind them their m and l side by side.
TW_DEVICE Partial row_of_slot(const AttentionParams& p, i32 slot, i32 r) {
  constexpr i32 kRows = slot_rows(Spec::kDecodeOnly);
  constexpr i32 kSlot = kRows * (Spec::kValueDim + 2);
  float* const o = p.slots + static_cast<i64>(slot) * kSlot;
  float* const sums = o + kRows * Spec::kValueDim + 2 * r;
  return {o + r * Spec::kValueDim, sums, sums + 1};
}

// Of a level: [tokens, q heads], at one row; `rows`: how many that are. m and l lie behind o.
TW_DEVICE Partial level_row(const AttentionParams& p, i32 level, i64 rows, i64 token, i32 head) {
  const i32 heads = p.plan.schedule.config.num_kv_heads * Spec::kGroupSize;
  const i64 row = level * rows + token * heads + head;
  float* const o = p.level_results + row * level_row_floats(Spec::kValueDim);
  return {o, o + Spec::kValueDim, o + Spec::kValueDim + 1};
}
TW_DEVICE Partial level_row(const AttentionParams& p, i32 level, i64 token, i32 head) {
  const i64 heads = p.plan.schedule.config.num_kv_heads * Spec::kGroupSize;
  return level_row(p, level, p.plan.schedule.header->q_tokens * heads, token, head);
}

// Adds another partial result's row to (m, l); `own` and `other` are the factors of the two
// outputs.
struct Join {
  float own = 1;
  float other = 1;
};
TW_DEVICE Join join(float& m, float& l, float other_m, float other_l) {
  const float top = max_of(m, other_m);
  // Two rows without keys: any finite reference will do.
  const float reference = top == -kInfinity ? 0.0F : top;
  const Join factors{exp2_fast(m - reference), exp2_fast(other_m - reference)};
  l = l * factors.own + other_l * factors.other;
  m = top;
  return factors;
}
TW_DEVICE void add(Float4& sum, float own, const Float4& other, float by) {
  sum.x = sum.x * own + other.x * by;
  sum.y = sum.y * own + other.y * by;
  sum.z = sum.z * own + other.z * by;
  sum.w = sum.w * own + other.w * by;
}

// Where the columns of a row go, and what they are multiplied by.
struct RowTarget {
  char* to;
  float factor;
  float out_scale;  // behind the output transform, where there is one
  enum Kind : i32 { output, partial, zeros, nowhere } kind;
};

// The target of a row whose sums are complete; writes its lse.
TW_DEVICE RowTarget finish_row(const AttentionParams& p, const QueryRow& row, bool failed, float m,
                               float l) {
  RowTarget target;
  if (row.q_index >= p.out_tokens) {
    target.kind = RowTarget::nowhere;
    return target;
  }
  target.to = p.out + row.q_index * p.out_token + row.q_head * p.out_head;
  float* const lse =
      p.lse != nullptr ? p.lse + row.q_index * p.lse_token + row.q_head * p.lse_head : nullptr;
  target.kind = RowTarget::output;
  target.factor = 1.0F;
  // Without keys. The sum tells: a row of NaN scores may keep the reference it began with.
  if (failed || l == 0.0F) {
    if (lse != nullptr) *lse = -kInfinity;
    target.kind = RowTarget::zeros;
    target.out_scale = 1.0F;
    return target;
  }
  if constexpr (Variant::kSoftmax) {
    if (p.sinks != nullptr) {
      // The learned logit takes part in the denominator only; it may be larger than every score.
      const float sink = p.sinks[row.q_head * p.sinks_stride] * kLog2E;
      if (sink > m) {
        target.factor = exp2_fast(m - sink);
        l = l * target.factor + 1.0F;
        m = sink;
      } else {
        l += exp2_fast(sink - m);
      }
    }
    if (lse != nullptr) *lse = (m + log2_fast(l)) * kLn2;
    target.factor *= reciprocal_fast(l);
  }
  target.factor *= scale_of(p.v_scale, row.batch, row.kv_head);
  target.out_scale = scale_of(p.out_scale, row.batch, row.kv_head);
  if constexpr (!Variant::kHasOutput) target.factor *= target.out_scale;
  return target;
}

// The target of a partial result's row; writes its sums.
TW_DEVICE RowTarget keep_row(const Partial& at, float m, float l) {
  *at.m = m;
  *at.l = l;
  return {reinterpret_cast<char*>(at.o), 1.0F, 1.0F, RowTarget::partial};
}

// The target of row `r` of the tile: a slot, or where a tile's complete rows go (slot -1).
template <i32 most_rows>
TW_DEVICE RowTarget target_of(const AttentionParams& p, const TileOf<most_rows>& tile, i32 slot,
                              i32 r, float m, float l) {
  if (slot >= 0) {
    return keep_row(row_of_slot(p, slot, r), m, l);
  }
  const QueryRow row = query_row(p, tile, r);
  if (!rows_are_requests(p) && tile.rows[r].is_joined) {
    return keep_row(level_row(p, tile.level, row.q_index, row.q_head), m, l);
  }
  return finish_row(p, row, tile.rows[r].failed, m, l);
}

TW_DEVICE float finish_value(const AttentionParams& p, const QueryRow& row, const RowTarget& target,
                             float value) {
  if constexpr (Variant::kHasOutput) {
    return Variant::output(row, value * target.factor, p.params) * target.out_scale;
  }
  return value * target.factor;
}

template <typename Out>
TW_DEVICE void store_four(char* to, const Float4& v) {
  if constexpr (sizeof(Out) == 4) {
    *reinterpret_cast<Float4*>(to) = v;
  } else {
    *reinterpret_cast<Bytes8*>(to) = {pack<Out>(v.x, v.y), pack<Out>(v.z, v.w)};
  }
}

// Four columns of a row, from `d` on.
TW_DEVICE void put_columns(const AttentionParams& p, const QueryRow& row, const RowTarget& target,
                           i32 d, Float4 o) {
  if (target.kind == RowTarget::partial) {
    *reinterpret_cast<Float4*>(target.to + d * 4) = o;
    return;
  }
  if (target.kind == RowTarget::nowhere) return;
  if (target.kind == RowTarget::zeros) {
    o = {0, 0, 0, 0};
  } else {
    o = {finish_value(p, row, target, o.x), finish_value(p, row, target, o.y),
         finish_value(p, row, target, o.z), finish_value(p, row, target, o.w)};
  }
  store_four<Spec::Out>(target.to + d * static_cast<i32>(sizeof(Spec::Out)), o);
}

// One column of a row.
TW_DEVICE void put_column(const AttentionParams& p, const QueryRow& row, const RowTarget& target,
                          i32 d, float o) {
  if (target.kind == RowTarget::partial) {
    reinterpret_cast<float*>(target.to)[d] = o;
  } else if (target.kind != RowTarget::nowhere) {
    const float value = target.kind == RowTarget::zeros ? 0.0F : finish_value(p, row, target, o);
    reinterpret_cast<Spec::Out*>(target.to)[d] = from_float<Spec::Out>(value);
  }
}

TW_DEVICE RowTarget shuffle_target(const RowTarget& target, i32 lane) {
  RowTarget other;
  other.to = reinterpret_cast<char*>(shuffle(reinterpret_cast<u64>(target.to), lane));
  other.factor = shuffle(target.factor, lane);
  if constexpr (Variant::kHasOutput) other.out_scale = shuffle(target.out_scale, lane);
  other.kind = static_cast<RowTarget::Kind>(shuffle(static_cast<i32>(target.kind), lane));
  return other;
}

// Lane q of a quad has x[i], and gets what lane i had in x[q].
TW_DEVICE void transpose_quad(u32 (&x)[4]) {
#pragma unroll
  for (i32 bit = 1; bit <= 2; bit *= 2) {
    const bool upper = (lane_id() & bit) != 0;
#pragma unroll
    for (i32 i = 0; i < 4; ++i) {
      if ((i & bit) != 0) continue;
      const u32 other = shuffle_xor(upper ? x[i] : x[i | bit], bit);
      (upper ? x[i] : x[i | bit]) = other;
    }
  }
}

// A row that the four lanes of a quad hold as accumulators do: pair(d) gives this lane's two of the
// eight columns from 8 d on. By all lanes of a warp.
template <typename Out, typename Pair>
TW_DEVICE void store_row_of_quad(const AttentionParams& p, const QueryRow& row,
                                 const RowTarget& target, const Pair& pair) {
  constexpr i32 kTiles = Spec::kValueDim / 8;
  const i32 own = lane_id() % 4;
  if (target.kind == RowTarget::partial) {
#pragma unroll
    for (i32 d = 0; d < kTiles; ++d) {
      *reinterpret_cast<Float2*>(target.to + (d * 8 + own * 2) * 4) = pair(d);
    }
  }
  const bool stores = target.kind == RowTarget::output || target.kind == RowTarget::zeros;
  if (!any_of_warp(stores)) return;
  const auto finish = [&](i32 d) {
    const Float2 v = pair(d);
    return Float2{finish_value(p, row, target, v.x), finish_value(p, row, target, v.y)};
  };
  const bool is_zero = target.kind == RowTarget::zeros;
  if constexpr (sizeof(Out) == 4) {
    if (!stores) return;
#pragma unroll
    for (i32 d = 0; d < kTiles; ++d) {
      *reinterpret_cast<Float2*>(target.to + (d * 8 + own * 2) * 4) =
          is_zero ? Float2{0, 0} : finish(d);
    }
  } else {
    const u32 kept = is_zero ? 0U : ~0U;  // bits
    char* const to = target.to + own * 16;
    // The lanes trade, so that each stores eight columns at once.
#pragma unroll
    for (i32 first = 0; first < kTiles; first += 4) {
      u32 x[4];
#pragma unroll
      for (i32 i = 0; i < 4; ++i) {
        const Float2 v = finish(first + i < kTiles ? first + i : first);
        x[i] = pack<Out>(v.x, v.y);
      }
      transpose_quad(x);
      if (stores && first + own < kTiles) {
        store_global_16(to + first * 16, {x[0] & kept, x[1] & kept, x[2] & kept, x[3] & kept});
      }
    }
  }
}

// Where a row lies that several workers have computed in parts: all but the first one are equally
// far apart.
struct RowOfParts {
  const float* first;
  const float* second;
  i32 distance;
  i32 to_sums;  // from a part's outputs
  i32 count;

  TW_DEVICE const float* outputs(i32 part) const {
    return part == 0 ? first : second + static_cast<i64>(part - 1) * distance;
  }
  TW_DEVICE const Float2* sums(i32 part) const {
    return reinterpret_cast<const Float2*>(outputs(part) + to_sums);
  }
};
// Row `r` of a split item's tile: its first part is in its worker's second slot, all others are in
// their workers' first.
TW_DEVICE RowOfParts row_of_parts(const AttentionParams& p, const plan::Split& split, i32 head,
                                  i32 r) {
  const auto row = [&](i32 part) {
    return row_of_slot(p, slot_of(p, plan::slot_of_part(split.first, part), head), r);
  };
  const Partial first = row(0);
  const float* const second = row(1).o;
  return {first.o, second, static_cast<i32>(row(2).o - second), static_cast<i32>(first.m - first.o),
          plan::parts_of(split)};
}

// By a warp: adds up to a part a lane, of maximum `part_m` (-inf: none), to a row of maximum `m`.
// What results before are multiplied by, and the lane's part.
TW_DEVICE Join join_parts(float& m, float part_m) {
  const float top = max_of(m, max_of_warp(part_m));
  // Without keys any finite reference will do.
  const float reference = top == -kInfinity ? 0.0F : top;
  const Join factors{exp2_fast(m - reference), exp2_fast(part_m - reference)};
  m = top;
  return factors;
}

// Leaves a tile's rows of a level in the parts of their split item: what is at the place of their
// outputs tells where these are, and the place of their sums that it does, as no sum of weights is
// negative.
inline constexpr float kLeftInParts = -1;
template <i32 most_rows>
TW_DEVICE void leave_parts(const AttentionParams& p, const TileOf<most_rows>& tile,
                           const plan::Split& split) {
  static_assert(sizeof(RowOfParts) <= Spec::kValueDim * sizeof(float));
#pragma unroll 1
  for (i32 r = thread_id(); r < tile.num_rows; r += Shape::kThreads) {
    const QueryRow row = query_row(p, tile, r);
    const Partial at = level_row(p, tile.level, row.q_index, row.q_head);
    *reinterpret_cast<RowOfParts*>(at.o) = row_of_parts(p, split, tile.kv_head, r);
    *at.l = kLeftInParts;
  }
}
// All is read at once, whatever it is.
TW_DEVICE RowOfParts parts_of_level_row(const Partial& at) {
  const RowOfParts parts = *reinterpret_cast<const RowOfParts*>(at.o);
  if (*at.l == kLeftInParts) return parts;
  return {at.o, at.o, 0, Spec::kValueDim, 1};
}

}  // namespace tw
