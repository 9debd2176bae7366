// SPDX-License-Identifier: Apache-2.0
// The short way of a tile's results to global memory, for the plain case: sixteen complete rows of
// a warp, of which nothing but outputs of 16 bits, and perhaps their lse, are asked for. Matrices
// are turned into rows in shared memory. The time that a tile's end takes is that of its
// instructions, as nothing else is under way then.
#pragma once

#include "arch/matrix.h"
#include "attention/exact_row.h"
#include "attention/hopper_memory.h"

namespace tw {

template <typename Out>
class PlainRows {
 public:
  static constexpr i32 kTiles = Shape::kValueTiles;
  static constexpr bool kExist =
      sizeof(Out) == 2 && Hopper::kStoreBytes > 0 && !Variant::kHasOutput;

  // Of the present piece; the warp's rows begin with row `first_row` of its tile. `space`: the
  // warp's own, for eight rows of 64 elements.
  TW_DEVICE PlainRows(const AttentionParams& params, const HopperPiece& the_piece,
                      i32 the_first_row, char* the_space)
      : p(params), piece(the_piece), first_row(the_first_row), space(the_space) {}

  // Whether they are stored: else there is more to them, or a value is not finite, which may be for
  // a key that its row does not attend to.
  TW_DEVICE bool store(const SoftmaxRow (&rows)[2], const float (&o)[kTiles * 4]) const {
    const bool has_factors =
        p.sinks != nullptr || p.v_scale.data != nullptr || p.out_scale.data != nullptr;
    if (!piece.is_plain || has_factors) return false;
    const float scale = p.v_scale.value * p.out_scale.value;
    u32 words[2][kTiles];
    u32 sums[2] = {};
#pragma unroll
    for (i32 half = 0; half < 2; ++half) {
      const float l = sum_of_quad(rows[half].l);
      if (p.lse != nullptr) store_lse(half, rows[half], l);
      // Without keys outputs are sums of nothing.
      float by = scale;
      if constexpr (Variant::kSoftmax) by *= l == 0.0F ? 0.0F : reciprocal_fast(l);
#pragma unroll
      for (i32 d = 0; d < kTiles; ++d) {
        words[half][d] = pack<Out>(o[d * 4 + half * 2] * by, o[d * 4 + half * 2 + 1] * by);
        sums[half] = add_pairs<Out>(sums[half], words[half][d]);
      }
    }
    // Of finite f16 it may not be finite: then the longer way is taken for nothing.
    const u32 sum = add_pairs<Out>(sums[0], sums[1]);
    const bool finite = is_finite(low_of<Out>(sum)) && is_finite(high_of<Out>(sum));
    if (any_of_warp(!finite)) return false;
    store_words(words);
    return true;
  }

 private:
  using Rows = SwizzledRows<8>;

  TW_DEVICE void store_lse(i32 half, const SoftmaxRow& row, float l) const {
    const i32 r = first_row + half * 8 + lane_id() / 4;
    if (lane_id() % 4 != 0 || r >= piece.num_rows) return;
    const float m = row.log2_reference(p.exponent_scale);
    p.lse[piece.tile.rows[r].q_index * p.lse_token + q_head_of_row(piece, r) * p.lse_head] =
        l == 0.0F ? -kInfinity : (m + log2_fast(l)) * kLn2;
  }

  // Eight rows of 64 elements at a time. Lane l stores unit l % 8 of two of the rows.
  TW_DEVICE void store_words(const u32 (&words)[2][kTiles]) const {
    const u32 lane = static_cast<u32>(lane_id());
    const i32 unit = static_cast<i32>(lane % 8);
    const i32 row = static_cast<i32>(lane / 8);
    const SharedPlace to = shared_place(space + Rows::offset(unit, row));
    const char* const from = space + Rows::offset(row, unit);
    const char* const from_below = space + Rows::offset(row + 4, unit);
#pragma unroll
    for (i32 half = 0; half < 2; ++half) {
      char* const out = piece.outputs[first_row + half * 8 + row];
      char* const out_below = piece.outputs[first_row + half * 8 + row + 4];
#pragma unroll
      for (i32 first = 0; first < kTiles; first += 8) {
        sync_warp();  // the last rows are on their way
#pragma unroll
        for (i32 d = first; d < first + 8 && d < kTiles; d += 4) {
          const u32 four[4] = {words[half][d], words[half][d + 1],
                               d + 2 < kTiles ? words[half][d + 2] : 0,
                               d + 3 < kTiles ? words[half][d + 3] : 0};
          store_matrix_x4(Rows::right(to, d - first), four);
        }
        sync_warp();
        if ((first + unit) * 8 >= Spec::kValueDim) continue;
        const i32 at = (first + unit) * 16;
        if (out != nullptr) store_global_16(out + at, load_16(from));
        if (out_below != nullptr) store_global_16(out_below + at, load_16(from_below));
      }
    }
  }

  const AttentionParams& p;
  const HopperPiece& piece;
  const i32 first_row;
  char* const space;
};

}  // namespace tw
