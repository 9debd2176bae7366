// SPDX-License-Identifier: Apache-2.0
// Shared memory of decode.h: each warp's ring of places for keys and values, what it knows of them,
// and where queries are.
#pragma once

#include "attention/keys.h"
#include "attention/landed.h"
#include "attention/memory_size.h"
#include "attention/pieces.h"
#include "attention/row_layout.h"
#include "attention/tile.h"

namespace tw {

// Pieces that a block of threads knows at a time: the one that is computed, the one whose keys are
// asked for behind it, and the one that is being set up.
inline constexpr i32 kPieces = 3;
TW_DEVICE constexpr i32 next_piece(i32 at) {
  return at + 1 == kPieces ? 0 : at + 1;
}

// fp8 stays as it is in shared memory, and is widened in registers. But keys that are rotated are
// widened where they lie.
inline constexpr bool kNarrowKeys = sizeof(Spec::Key) == 1 && !Variant::kHasRope;
inline constexpr bool kNarrowValues = sizeof(Spec::Value) == 1;
inline constexpr bool kNarrowCache = kNarrowKeys && kNarrowValues;

inline constexpr i32 kChunkKeys =
    decode_keys(Spec::kHeadDim, Spec::kValueDim, Variant::kRopeDim, kNarrowCache);

// f16 holds each fp8 number, and a key becomes f16 by a quarter of the instructions that bf16
// takes. Queries of bf16 are f16 then, too, each row by a power of two: what that takes from its
// elements is less than 2^-24 of its largest one.
inline constexpr bool kScalesQueries = kNarrowKeys && kIsSame<Shape::Element, bf16>;

using DecodeQueryRows = SwizzledRows<Shape::kHeadUnits>;
using DecodeKeyRows = SwizzledRows<kNarrowKeys ? round_up(Shape::kKeyUnits, 2) : Shape::kHeadUnits>;
using DecodeValueRows = SwizzledRows<round_up(Shape::kValueUnits, 2)>;

struct alignas(128) DecodeStage {
  char k[kChunkKeys * DecodeKeyRows::kPitch];
  char v[kChunkKeys * DecodeValueRows::kPitch];
};
static_assert(sizeof(DecodeStage::k) % 128 == 0);

// Rows of a warp's outputs lie 8 banks apart: a quad of lanes writes 8 columns of each of 8 rows.
inline constexpr i32 kResultPitch = Spec::kValueDim + 8;

// A place in a ring. Between two pieces there is one that no keys are on their way to.
union DecodePlace {
  DecodeStage stage;
  alignas(16) float o[Shape::kDecodeRows * kResultPitch];  // a warp's outputs
  char q[Shape::kDecodeRows * DecodeQueryRows::kPitch];    // the first warp's
};

inline constexpr DecodeQueries kDecodeQueries =
    decode_queries(Spec::kDecodeOnly, Spec::kHeadDim, kNarrowCache);
inline constexpr bool kQueriesApart = kDecodeQueries != DecodeQueries::through_ring;
template <bool apart>
struct QueryPlace {
  alignas(128) char own[Shape::kDecodeRows * DecodeQueryRows::kPitch];

  TW_DEVICE char* query_rows(DecodePlace&) { return own; }
};
template <>
struct QueryPlace<false> {
  TW_DEVICE static char* query_rows(DecodePlace& free) { return free.q; }
};

// What a warp knows of its next keys: addresses of those that it asks for, positions of those that
// are on their way.
struct DecodeTable {
  alignas(16) const char* keys[kChunkKeys];
  alignas(16) const char* values[kChunkKeys];
  i32 positions[Shape::kDecodeStages][kChunkKeys];
};

// Of keys, a warp's together, and behind them of queries.
using DecodeRests =
    RowRests<Variant::kHasRope, Shape::kDecodeWarps * kChunkKeys + Shape::kDecodeRows>;

using DecodeTile = TileOf<Shape::kDecodeRows>;

struct DecodeMemory : DecodeRests, QueryPlace<kQueriesApart> {
  DecodeTile tiles[kPieces];
  float m[Shape::kDecodeWarps][Shape::kDecodeRows];
  float l[Shape::kDecodeWarps][Shape::kDecodeRows];
  i32 free_stage[Shape::kDecodeWarps];  // where a warp's outputs are
  // What products with a row of queries must be multiplied by: where kScalesQueries.
  float query_factors[kScalesQueries ? Shape::kDecodeRows : 1];
  DecodeTable tables[Shape::kDecodeWarps];
  DecodePlace ring[Shape::kDecodeStages][Shape::kDecodeWarps];
};

// A warp's queries, as matrix products take them.
template <DecodeQueries where>
struct HeldQueries {
  u32 steps[Shape::kHeadSteps][4] = {};

  TW_DEVICE void take(SharedPlace rows) {
#pragma unroll
    for (i32 step = 0; step < Shape::kHeadSteps; ++step) {
      load_matrix_x4(steps[step], DecodeQueryRows::right(rows, step * 2));
    }
  }
  TW_DEVICE void get(i32 step, u32 (&to)[4]) const {
#pragma unroll
    for (i32 i = 0; i < 4; ++i) to[i] = steps[step][i];
  }
};
template <>
struct HeldQueries<DecodeQueries::in_own_place> {
  SharedPlace place{};

  TW_DEVICE void take(SharedPlace rows) { place = rows; }
  TW_DEVICE void get(i32 step, u32 (&to)[4]) const {
    load_matrix_x4(to, DecodeQueryRows::right(place, step * 2));
  }
};

}  // namespace tw
