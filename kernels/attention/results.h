// SPDX-License-Identifier: Apache-2.0
// From a row's sums to its output; partial results and their joins. A partial result of a row is
// (o, m, l): sums of weights times values and of weights, in f32, with weights 2^(score - m).
#pragma once

#include "arch/memory.h"
#include "attention/softmax.h"
#include "attention/tile.h"

namespace tw {

// Partial results of some rows, in global memory.
struct Partial {
  float* o;  // [rows, kValueDim]
  float* m;
  float* l;
};

// Of a tile: [rows] of one slot.
TW_DEVICE Partial slot_of(const AttentionParams& p, i32 slot) {
  constexpr i32 kSlot = Shape::kRows * (Spec::kValueDim + 2);
  float* o = p.slots + static_cast<i64>(slot) * kSlot;
  return {o, o + Shape::kRows * Spec::kValueDim, o + Shape::kRows * (Spec::kValueDim + 1)};
}

TW_DEVICE Partial row_of_slot(const AttentionParams& p, i32 slot, i32 r) {
  const Partial all = slot_of(p, slot);
  return {all.o + r * Spec::kValueDim, all.m + r, all.l + r};
}

// Of a level: [tokens, q heads], at one row.
TW_DEVICE Partial level_row(const AttentionParams& p, i32 level, i64 token, i32 head) {
  const i64 heads = static_cast<i64>(p.plan.schedule.config.num_kv_heads) * Spec::kGroupSize;
  const i64 rows = p.plan.schedule.header->q_tokens * heads;
  float* o = p.level_results + level * rows * (Spec::kValueDim + 2);
  const i64 row = token * heads + head;
  return {o + row * Spec::kValueDim, o + rows * Spec::kValueDim + row,
          o + rows * (Spec::kValueDim + 1) + row};
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
// Of the first `lanes` lanes of a warp (others have no keys); the result is in those.
TW_DEVICE void join_warp(float& m, float& l, i32 lanes) {
#pragma unroll
  for (i32 distance = 1; distance < kWarpSize; distance *= 2) {
    if (distance >= lanes) break;
    // Both lanes of a pair get the same bits.
    const float other_m = shuffle_xor(m, distance);
    const float other_l = shuffle_xor(l, distance);
    join(m, l, other_m, other_l);
  }
}
TW_DEVICE void add(Float4& sum, float own, const Float4& other, float by) {
  sum.x = sum.x * own + other.x * by;
  sum.y = sum.y * own + other.y * by;
  sum.z = sum.z * own + other.z * by;
  sum.w = sum.w * own + other.w * by;
}

// Whether several levels have keys of a query: their results are joined when all are there.
TW_DEVICE bool is_joined(const AttentionParams& p, i64 token) {
  if (p.plan.token_levels == nullptr) return false;
  const u32 levels = p.plan.token_levels[token];
  return (levels & (levels - 1)) != 0;
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
    target.factor /= l;
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
TW_DEVICE RowTarget target_of(const AttentionParams& p, const Tile& tile, i32 slot, i32 r, float m,
                              float l) {
  if (slot >= 0) {
    return keep_row(row_of_slot(p, slot, r), m, l);
  }
  const QueryRow row = query_row(p, tile, r);
  if (is_joined(p, row.q_index)) {
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
    // Else the pair is zero already.
    if (Variant::kHasOutput && target.kind == RowTarget::zeros) return Float2{0, 0};
    return Float2{finish_value(p, row, target, v.x), finish_value(p, row, target, v.y)};
  };
  if constexpr (sizeof(Out) == 4) {
    if (!stores) return;
#pragma unroll
    for (i32 d = 0; d < kTiles; ++d) {
      *reinterpret_cast<Float2*>(target.to + (d * 8 + own * 2) * 4) = finish(d);
    }
  } else {
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
        store_16(target.to + (first + own) * 16, {x[0], x[1], x[2], x[3]});
      }
    }
  }
}

// Stores a tile's rows, whose targets are known: columns(r, d) gives four columns. By all threads.
template <typename Columns>
TW_DEVICE void store_columns(const AttentionParams& p, const Tile& tile, const RowTarget* targets,
                             const Columns& columns) {
  for (i32 r = warp_id(); r < tile.num_rows; r += Shape::kWarps) {
    const RowTarget target = targets[r];
    for (i32 d = lane_id() * 4; d < Spec::kValueDim; d += kWarpSize * 4) {
      put_columns(p, query_row(p, tile, r), target, d, columns(r, d));
    }
  }
}

// The same, from the rows' sums: sums(r, m, l) tells them to one thread.
template <typename Sums, typename Columns>
TW_DEVICE void store_rows(const AttentionParams& p, const Tile& tile, i32 slot, RowTarget* targets,
                          const Sums& sums, const Columns& columns) {
  for (i32 r = thread_id(); r < tile.num_rows; r += Shape::kThreads) {
    float m = -kInfinity;
    float l = 0;
    sums(r, m, l);
    targets[r] = target_of(p, tile, slot, r, m, l);
  }
  sync_block();
  store_columns(p, tile, targets, columns);
}

// Of a tile whose parts are joined.
struct MergeMemory {
  float references[Shape::kRows];  // common to a row's parts
  float sums[Shape::kRows];
  RowTarget targets[Shape::kRows];
};

// The parts of a split item, in the order of its keys.
struct Parts {
  const AttentionParams& p;
  plan::Split split;

  TW_DEVICE i32 count() const { return plan::parts_of(split); }
  TW_DEVICE Partial operator[](i32 i) const {
    return slot_of(p, plan::slot_of_part(split.first, i));
  }
};

// A level's row that lies in the parts of a split item, as row `r` of its tile: the place of its
// sums says so, as sums of weights are not negative.
TW_DEVICE void leave_parts(const AttentionParams& p, const Tile& tile, i32 split) {
  for (i32 r = thread_id(); r < tile.num_rows; r += Shape::kThreads) {
    const QueryRow row = query_row(p, tile, r);
    const Partial at = level_row(p, tile.level, row.q_index, row.q_head);
    *at.m = static_cast<float>(r);
    *at.l = -1.0F - static_cast<float>(split);
  }
}
TW_DEVICE bool is_left_in_parts(const Partial& at) {
  return *at.l < 0.0F;
}
TW_DEVICE i32 split_of_parts(const Partial& at) {
  return -1 - static_cast<i32>(*at.l);
}

// Sums of a tile's rows over all parts, and where the rows go.
TW_DEVICE void merge_sums(const AttentionParams& p, const Tile& tile, const Parts& parts,
                          MergeMemory& memory) {
  constexpr i32 kAtOnce = 4;  // rows whose loads are under way
  // A warp a row: its lanes look at one part each.
  for (i32 first = warp_id(); first < tile.num_rows; first += kAtOnce * Shape::kWarps) {
    float m[kAtOnce];
    float l[kAtOnce];
#pragma unroll
    for (i32 k = 0; k < kAtOnce; ++k) {
      m[k] = -kInfinity;
      l[k] = 0;
    }
    for (i32 i = lane_id(); i < parts.count(); i += kWarpSize) {
      const Partial from = parts[i];
      float other_m[kAtOnce];
      float other_l[kAtOnce];
#pragma unroll
      for (i32 k = 0; k < kAtOnce; ++k) {
        const i32 r = first + k * Shape::kWarps;
        other_m[k] = r < tile.num_rows ? load_from_l2(from.m + r) : -kInfinity;
        other_l[k] = r < tile.num_rows ? load_from_l2(from.l + r) : 0.0F;
      }
#pragma unroll
      for (i32 k = 0; k < kAtOnce; ++k) join(m[k], l[k], other_m[k], other_l[k]);
    }
#pragma unroll
    for (i32 k = 0; k < kAtOnce; ++k) {
      if (first + k * Shape::kWarps >= tile.num_rows) break;
      join_warp(m[k], l[k], parts.count());
      const i32 r = first + k * Shape::kWarps;
      if (lane_id() == 0) {
        memory.references[r] = m[k];
        memory.sums[r] = l[k];
      }
    }
  }
  sync_block();
  // A thread a row finds out where it goes: that waits for memory, too.
  for (i32 r = thread_id(); r < tile.num_rows; r += Shape::kThreads) {
    memory.targets[r] = target_of(p, tile, -1, r, memory.references[r], memory.sums[r]);
    if (memory.references[r] == -kInfinity) memory.references[r] = 0;
  }
  sync_block();
}

// Joins the parts of a split item: by the block of threads that finished last, which has the item's
// tile set up. By all threads.
TW_DEVICE void merge_parts(const AttentionParams& p, const Tile& tile, const plan::Split& split,
                           MergeMemory& memory) {
  constexpr i32 kAtOnce = 8;  // loads under way
  const Parts parts{p, split};
  merge_sums(p, tile, parts, memory);
  store_columns(p, tile, memory.targets, [&](i32 r, i32 d) {
    Float4 o{0, 0, 0, 0};
    for (i32 first = 0; first < parts.count(); first += kAtOnce) {
      Float4 other[kAtOnce];
      float by[kAtOnce];
#pragma unroll
      for (i32 k = 0; k < kAtOnce; ++k) {
        // Behind the last part it is loaded again.
        const Partial from = parts[first + k < parts.count() ? first + k : parts.count() - 1];
        by[k] = load_from_l2(from.m + r);
        other[k] = load_from_l2(reinterpret_cast<const Float4*>(from.o + r * Spec::kValueDim + d));
      }
#pragma unroll
      for (i32 k = 0; k < kAtOnce; ++k) {
        if (first + k < parts.count()) {
          add(o, 1.0F, other[k], exp2_fast(by[k] - memory.references[r]));
        }
      }
    }
    return o;
  });
}

}  // namespace tw
