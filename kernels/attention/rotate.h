// SPDX-License-Identifier: Apache-2.0
// Rotary embedding on the way (Variant::kHasRope): queries and keys are rotated in shared memory,
// in place. The elements of matrix products have too few digits for what comes out, so it becomes
// two of them: the nearest one, and in a row beside it the rest. A product of two rotated rows is
// the sum of three, without that of both rests, which is smaller than what is lost anyway.
#pragma once

#include "arch/matrix.h"
#include "arch/numeric.h"
#include "arch/thread.h"
#include "attention/row_layout.h"
#include "attention/shape.h"
#include "attention/variant.h"

namespace tw {

inline constexpr i32 kRotatedPairs = Variant::kRopeDim / 2;
// Of 16 elements: only of those that hold rotated ones there are rests.
inline constexpr i32 kRotatedSteps = round_up(Variant::kRopeDim, 16) / 16;
using RestRows = SpacedRows<2 * kRotatedSteps>;

TW_DEVICE constexpr i32 first_of_pair(i32 pair) {
  return Variant::kRopeInterleaved ? 2 * pair : pair;
}
TW_DEVICE constexpr i32 second_of_pair(i32 pair) {
  return Variant::kRopeInterleaved ? 2 * pair + 1 : pair + kRotatedPairs;
}

struct RotatedPair {
  float first;
  float second;
};
TW_DEVICE RotatedPair rotate(float first, float second, const Rotation& by) {
  return {first * by.cos - second * by.sin, first * by.sin + second * by.cos};
}

// What the rotated elements of a query and a key add to their product.
template <typename Query, typename Key>
TW_DEVICE float rotated_dot(const Query* q, const Key* k, i32 q_pos, i32 k_pos) {
  float sum = 0;
#pragma unroll 1
  for (i32 pair = 0; pair < kRotatedPairs; ++pair) {
    const i32 i = first_of_pair(pair);
    const i32 j = second_of_pair(pair);
    const RotatedPair a = rotate(to_float(q[i]), to_float(q[j]), Variant::rotation(pair, q_pos));
    const RotatedPair b = rotate(to_float(k[i]), to_float(k[j]), Variant::rotation(pair, k_pos));
    sum += a.first * b.first + a.second * b.second;
  }
  return sum;
}

// The rests of some rows, in shared memory; of none where nothing is rotated.
template <bool kHasRope, i32 rows>
struct RowRests {
  alignas(16) char rests[rows * RestRows::kPitch];

  TW_DEVICE char* rest_of(i32 row) { return rests + RestRows::offset(row, 0); }
};
template <i32 rows>
struct RowRests<false, rows> {
  TW_DEVICE char* rest_of(i32) { return nullptr; }
};

// Rotates `count` rows, as Rows lie, to position(row). By `threads` threads: a row is one warp's.
template <typename Rows, i32 threads, typename Position>
TW_DEVICE void rotate_rows(char* rows, char* rests, i32 count, i32 thread,
                           const Position& position) {
  using Element = Shape::Element;
  const auto at = [&](i32 r, i32 d) -> Element& {
    return reinterpret_cast<Element*>(rows + Rows::offset(r, d / 8))[d % 8];
  };
  const auto put = [&](i32 r, i32 d, float value) {
    at(r, d) = from_float<Element>(value);
    reinterpret_cast<Element*>(rests + RestRows::offset(r, 0))[d] =
        from_float<Element>(value - to_float(at(r, d)));
  };
  const i32 lane = thread % kWarpSize;
  // All lanes go through loops as often: of a loop that some leave early NVRTC 13.0 takes for
  // granted that they are together again behind it, and they are not.
#pragma unroll 1
  for (i32 begin = 0; begin < kRotatedPairs; begin += kWarpSize) {
    const i32 pair = begin + lane;
    if (pair >= kRotatedPairs) continue;
    const i32 i = first_of_pair(pair);
    const i32 j = second_of_pair(pair);
#pragma unroll 4
    for (i32 r = thread / kWarpSize; r < count; r += threads / kWarpSize) {
      const RotatedPair rotated =
          rotate(to_float(at(r, i)), to_float(at(r, j)), Variant::rotation(pair, position(r)));
      put(r, i, rotated.first);
      put(r, j, rotated.second);
    }
  }
  // Behind the rotated elements products meet whole steps.
  constexpr i32 kBehind = kRotatedSteps * 16 - Variant::kRopeDim;
  static_assert(kBehind < kWarpSize);
  if (lane < kBehind) {
    for (i32 r = thread / kWarpSize; r < count; r += threads / kWarpSize) {
      reinterpret_cast<Element*>(rests + RestRows::offset(r, 0))[Variant::kRopeDim + lane] =
          from_float<Element>(0.0F);
    }
  }
  sync_warp();
}

// scores += A B^T over the rotated elements, of a warp's rows of A and all keys of B, which are
// spaced.
template <typename ARows, typename BRows, i32 row_tiles, i32 key_tiles>
TW_DEVICE void add_products(const char* a, const char* b,
                            float (&scores)[row_tiles][key_tiles][4]) {
  const i32 lane = lane_id();
  a += ARows::offset(lane % 16, lane / 16);
  b += BRows::offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
#pragma unroll 1  // what later steps need would be loaded early, into registers that are not there
  for (i32 step = 0; step < kRotatedSteps; ++step) {
    u32 x[row_tiles][4];
#pragma unroll
    for (i32 t = 0; t < row_tiles; ++t) load_matrix_x4(x[t], a + ARows::offset(t * 16, step * 2));
#pragma unroll
    for (i32 n = 0; n < key_tiles; n += 2) {
      u32 y[4];
      load_matrix_x4(y, b + BRows::offset(n * 8, step * 2));
#pragma unroll
      for (i32 t = 0; t < row_tiles; ++t) {
        multiply_16x8x16<Shape::Element>(scores[t][n], x[t], y[0], y[1]);
        multiply_16x8x16<Shape::Element>(scores[t][n + 1], x[t], y[2], y[3]);
      }
    }
  }
}

}  // namespace tw
