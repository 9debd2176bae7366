// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding (arXiv 2104.09864). A block has a token: it finds the cosines and sines
// once, then rotates all heads.
#pragma once

#include "arch/arithmetic.h"
#include "arch/elements.h"
#include "arch/thread.h"
#include "ops/params.h"

namespace tw {

struct CosSin {
  float cosine;
  float sine;
};

// Of an angle in fractions of a turn, 2^64 of them. Whole turns leave a position's product with the
// turns of one position by overflow, so reduction is exact whatever the position.
TW_DEVICE CosSin cos_sin_of_turns(u64 turns) {
  // turns = quarters * 2^62 + rest, with |rest| <= 2^61: an eighth of a turn.
  const u64 quarters = (turns + (u64{1} << 61)) >> 62;
  const i64 rest = static_cast<i64>(turns - (quarters << 62));
  // Units of 2^-34 turns, in radians.
  const float angle =
      multiply_exact(static_cast<float>(static_cast<i32>(rest >> 30)), 3.6572952e-10F);
  // Polynomials of Cephes' sinf and cosf.
  const float square = multiply_exact(angle, angle);
  float sine = multiply_add_exact(square, -1.9515295891e-4F, 8.3321608736e-3F);
  sine = multiply_add_exact(square, sine, -1.6666654611e-1F);
  sine = multiply_add_exact(multiply_exact(square, sine), angle, angle);
  float cosine = multiply_add_exact(square, 2.443315711809948e-5F, -1.388731625493765e-3F);
  cosine = multiply_add_exact(square, cosine, 4.166664568298827e-2F);
  cosine = multiply_add_exact(multiply_exact(square, square), cosine,
                              multiply_add_exact(square, -0.5F, 1.0F));
  // A quarter turn is (cos, sin) -> (-sin, cos).
  if ((quarters & 1U) != 0)
    return (quarters & 2U) != 0 ? CosSin{sine, -cosine} : CosSin{-sine, cosine};
  return (quarters & 2U) != 0 ? CosSin{-cosine, -sine} : CosSin{cosine, sine};
}

struct NoTable {};

// Table: the type of the table's elements, or NoTable.
template <typename Table>
TW_DEVICE CosSin cos_sin_of_pair(const RopeParams& p, i32 token, i32 pair) {
  const i64 at = p.axis_of_pair[pair] * p.positions_stride[0] + token * p.positions_stride[1];
  const i64 position = load_index(p.positions, p.positions_64 != 0, at);
  if constexpr (kIsSame<Table, NoTable>) {
    const CosSin unit = cos_sin_of_turns(static_cast<u64>(position) * p.turns[pair]);
    return {multiply_exact(unit.cosine, p.amplitude), multiply_exact(unit.sine, p.amplitude)};
  } else {
    // A position outside of the table must not read outside of it.
    const i64 last = p.table_rows - 1;
    const i64 row = position < 0 ? 0 : position > last ? last : position;
    const Table* from = static_cast<const Table*>(p.table) + row * p.table_stride;
    return {to_float(from[pair]), to_float(from[p.pairs + pair])};
  }
}

TW_DEVICE void rotate(float& first, float& second, float cosine, float sine) {
  const float before = first;
  first = multiply_add_exact(before, cosine, -multiply_exact(second, sine));
  second = multiply_add_exact(second, cosine, multiply_exact(before, sine));
}

// Pairs (i, i + pairs), `count` of them from `pair` on.
template <typename X, typename Out, i32 count>
TW_DEVICE void rotate_halves(const X* x, Out* out, const float* cosines, const float* sines,
                             i32 pairs, i32 pair) {
  float first[count];
  float second[count];
  load_run(x + pair, first);
  load_run(x + pairs + pair, second);
#pragma unroll
  for (i32 j = 0; j < count; ++j) rotate(first[j], second[j], cosines[pair + j], sines[pair + j]);
  store_run(first, out + pair);
  store_run(second, out + pairs + pair);
}

// Pairs (2i, 2i + 1): a run of elements, or one pair where rows are not aligned to runs.
template <typename X, typename Out, i32 count>
TW_DEVICE void rotate_neighbours(const X* x, Out* out, const float* cosines, const float* sines,
                                 i32 pair) {
  if constexpr (count == 1) {
    float first = to_float(x[2 * pair]);
    float second = to_float(x[2 * pair + 1]);
    rotate(first, second, cosines[pair], sines[pair]);
    out[2 * pair] = from_float<Out>(first);
    out[2 * pair + 1] = from_float<Out>(second);
  } else {
    float value[2 * count];
    load_run(x + 2 * pair, value);
#pragma unroll
    for (i32 j = 0; j < count; ++j)
      rotate(value[2 * j], value[2 * j + 1], cosines[pair + j], sines[pair + j]);
    store_run(value, out + 2 * pair);
  }
}

// `count` pairs, or elements that are only copied, at a time.
template <typename X, typename Out, i32 count>
TW_DEVICE void rotate_heads(const RopeParams& p, const X* x, Out* out, const float* cosines,
                            const float* sines) {
  const i32 runs = p.pairs / count;
  for (i32 item = thread_id(); item < p.heads * runs; item += num_threads()) {
    const i32 head = item / runs;
    const i32 pair = item % runs * count;
    const X* from = x + head * p.x.inner_stride;
    Out* to = out + head * p.out.inner_stride;
    if (p.interleaved != 0) {
      rotate_neighbours<X, Out, count>(from, to, cosines, sines, pair);
    } else {
      rotate_halves<X, Out, count>(from, to, cosines, sines, p.pairs, pair);
    }
  }
  const i32 rest = p.head_dim - 2 * p.pairs;
  if (rest == 0 || static_cast<const void*>(x) == static_cast<const void*>(out)) return;
  const i32 rest_runs = rest / count;
  for (i32 item = thread_id(); item < p.heads * rest_runs; item += num_threads()) {
    const i32 head = item / rest_runs;
    const i32 at = 2 * p.pairs + item % rest_runs * count;
    float value[count];
    load_run(x + head * p.x.inner_stride + at, value);
    store_run(value, out + head * p.out.inner_stride + at);
  }
}

template <typename X, typename Out, typename Table>
TW_DEVICE void apply_rope(const RopeParams& p) {
  const i32 token = block_id();
  float* cosines = reinterpret_cast<float*>(shared_memory());
  float* sines = cosines + p.pairs;
  for (i32 pair = thread_id(); pair < p.pairs; pair += num_threads()) {
    const CosSin value = cos_sin_of_pair<Table>(p, token, pair);
    cosines[pair] = value.cosine;
    sines[pair] = value.sine;
  }
  sync_block();
  const X* x = static_cast<const X*>(p.x.data) + token * p.x.outer_stride;
  Out* out = static_cast<Out*>(p.out.data) + token * p.out.outer_stride;
  if (p.aligned != 0) {
    rotate_heads<X, Out, kRun>(p, x, out, cosines, sines);
  } else {
    rotate_heads<X, Out, 1>(p, x, out, cosines, sines);
  }
}

}  // namespace tw
