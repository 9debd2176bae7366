// SPDX-License-Identifier: Apache-2.0
// From the accumulators of a warp that holds whole rows to where these go.
#pragma once

#include "attention/exact_row.h"
#include "attention/results.h"

namespace tw {

// Rows whose outputs are not all finite, which may be for a value that they do not attend to: bit i
// of `again` for row 8 i + lane / 4. The lanes have m and l of a row each.
template <i32 count, i32 most_rows>
TW_DEVICE void store_rows_again(const AttentionParams& p, const TileOf<most_rows>& tile, i32 slot,
                                i32 first_row, u32 again, float m, float l) {
  sync_warp();  // all is stored
#pragma unroll 1
  for (i32 i = 0; i < count / 8; ++i) {
    u32 left = ballot((again >> i & 1U) != 0);
#pragma unroll 1
    while (left != 0) {
      const i32 quad = lowest_bit(left) / 4;
      left &= ~(0xFU << (quad * 4));
      const i32 r = i * 8 + quad;
      store_row_exactly(p, tile, slot, first_row + r, shuffle(m, r), shuffle(l, r));
    }
  }
  rejoin_warp();
}

// Rows [first_row, first_row + count) of the tile, in a slot, or where complete rows go (slot -1).
// By a warp, a quad of which has rows 8 i + lane / 4: sums(i) is the softmax of such a row, and
// value(i, d, e) element 8 d + lane % 4 * 2 + e of its output.
template <i32 count, i32 most_rows, typename Sums, typename Value>
TW_DEVICE void store_rows_of_warp(const AttentionParams& p, const TileOf<most_rows>& tile, i32 slot,
                                  i32 first_row, const Sums& sums, const Value& value) {
  const i32 lane = lane_id();
  u32 again = 0;
  const i32 num_rows = uniform(tile.num_rows);
  // A lane finds out where one of the warp's rows goes.
  float m = -kInfinity;
  float l = 0;
#pragma unroll
  for (i32 i = 0; i < count / 8; ++i) {
    const SoftmaxRow& row = sums(i);
    const float row_m = shuffle(row.log2_reference(p.exponent_scale), lane % 8 * 4);
    const float row_l = shuffle(sum_of_quad(row.l), lane % 8 * 4);
    if (lane / 8 == i) {
      m = row_m;
      l = row_l;
    }
  }
  const i32 own = first_row + lane;
  RowTarget target{nullptr, 0, 0, RowTarget::nowhere};
  if (lane < count && own < num_rows) target = target_of(p, tile, slot, own, m, l);
#pragma unroll
  for (i32 i = 0; i < count / 8; ++i) {
    if (first_row + i * 8 >= num_rows) break;
    const i32 r = i * 8 + lane / 4;
    const RowTarget to = shuffle_target(target, r);
    float total = 0;
#pragma unroll
    for (i32 d = 0; d < Shape::kValueTiles; ++d) total += value(i, d, 0) + value(i, d, 1);
    if (!is_finite(total) && first_row + r < num_rows) again |= 1U << i;
    store_row_of_quad<Spec::Out>(p, query_row(p, tile, first_row + r), to, [&](i32 d) {
      return Float2{value(i, d, 0), value(i, d, 1)};
    });
  }
  if (any_of_warp(again != 0)) store_rows_again<count>(p, tile, slot, first_row, again, m, l);
}

}  // namespace tw
