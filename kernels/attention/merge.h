// SPDX-License-Identifier: Apache-2.0
// Joins the parts of a split item: by the block of threads that finished last, which has the item's
// tile set up.
#pragma once

#include "attention/results.h"

namespace tw {

// A warp's rows of a tile, one after the other: all that kAtOnce of a row's parts have in memory is
// asked for at once. Lanes look at the sums of a part each; outputs are added in the order of their
// keys.
template <i32 kAtOnce, i32 most_rows>
TW_DEVICE void merge_rows(const AttentionParams& p, const TileOf<most_rows>& tile,
                          const plan::Split& split) {
  const i32 count = uniform(plan::parts_of(split));
#pragma unroll 1
  for (i32 r = warp_id(); r < tile.num_rows; r += Shape::kWarps) {
    const RowOfParts parts = row_of_parts(p, split, tile.kv_head, r);
#pragma unroll 1
    for (i32 columns = 0; columns < Spec::kValueDim; columns += kWarpSize * 4) {
      const i32 d = columns + lane_id() * 4;
      float m = -kInfinity;
      float l = 0;
      Float4 o{0, 0, 0, 0};
#pragma unroll 1
      for (i32 begin = 0; begin < count; begin += kAtOnce) {
        Float2 sums{-kInfinity, 0};
        const i32 own_part = begin + lane_id();
        if (lane_id() < kAtOnce && own_part < count) sums = load_from_l2(parts.sums(own_part));
        Float4 outputs[kAtOnce];
#pragma unroll
        for (i32 i = 0; i < kAtOnce; ++i) {
          outputs[i] = {0, 0, 0, 0};
          if (d >= Spec::kValueDim || begin + i >= count) continue;
          outputs[i] = load_from_l2(reinterpret_cast<const Float4*>(parts.outputs(begin + i) + d));
        }
        const Join by = join_parts(m, sums.x);
        l = l * by.own + sum_of_warp(sums.y * by.other);
        o = {o.x * by.own, o.y * by.own, o.z * by.own, o.w * by.own};
#pragma unroll
        for (i32 i = 0; i < kAtOnce; ++i) add(o, 1.0F, outputs[i], shuffle(by.other, i));
      }
      const RowTarget target = target_of(p, tile, -1, r, m, l);
      if (d < Spec::kValueDim) put_columns(p, query_row(p, tile, r), target, d, o);
    }
  }
}

// Registers that a decoding thread has beside its queries and outputs, which are kept meanwhile.
// Sixteen parts take 64, and where they are looked for and added half as many.
inline constexpr i32 kFreeRegisters =
    65536 / (Spec::kBlocksPerSm * Shape::kThreads) - 4 * (Shape::kHeadSteps + Shape::kValueTiles);
inline constexpr i32 kMostPartsAtOnce = Spec::kDecodeOnly && kFreeRegisters >= 120 ? 16 : 8;

template <i32 most_rows>
TW_DEVICE void merge_parts(const AttentionParams& p, const TileOf<most_rows>& tile,
                           const plan::Split& split) {
  // Instructions that run once take longer than memory does: those of parts that are not there,
  // too.
  if constexpr (Spec::kDecodeOnly) {
    if (plan::parts_of(split) <= 4) return merge_rows<4>(p, tile, split);
  }
  merge_rows<kMostPartsAtOnce>(p, tile, split);
}

// Called, not inlined, where there is prefill too: its loop is short of registers as it is.
template <i32 most_rows>
TW_DEVICE_CALL void merge_parts_apart(const AttentionParams& p, const TileOf<most_rows>& tile,
                                      const plan::Split& split) {
  merge_parts(p, tile, split);
}

}  // namespace tw
