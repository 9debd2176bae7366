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

// `count` pairs of a head, from `pair` on: two runs of its elements.
template <typename T, i32 count>
struct PairRuns {
  Run<T, count> first;
  Run<T, count> second;
};

// Where the two runs of pairs begin in a head: of pairs (i, i + pairs) or (2i, 2i + 1).
struct PairPlaces {
  i32 first;
  i32 second;
};
template <i32 count>
TW_DEVICE PairPlaces pair_places(i32 pair, i32 pairs, bool interleaved) {
  return interleaved ? PairPlaces{2 * pair, 2 * pair + count} : PairPlaces{pair, pairs + pair};
}

template <i32 count>
TW_DEVICE void rotate_runs(float (&first)[count], float (&second)[count], const float* cosines,
                           const float* sines, bool interleaved) {
  if (!interleaved || count == 1) {
#pragma unroll
    for (i32 j = 0; j < count; ++j) rotate(first[j], second[j], cosines[j], sines[j]);
    return;
  }
#pragma unroll
  for (i32 j = 0; j < count / 2; ++j) {
    const i32 k = count / 2 + j;
    rotate(first[2 * j], first[2 * j + 1], cosines[j], sines[j]);
    rotate(second[2 * j], second[2 * j + 1], cosines[k], sines[k]);
  }
}

// A token's heads, by their types. A thread takes runs of pairs thread, thread + threads, ...; its
// first ones are read before cosines and sines are known.
template <typename X, typename Out, i32 count>
struct TokenHeads {
  static constexpr i32 kAhead = 2;

  const RopeParams& p;
  const X* x;
  Out* out;
  i32 runs;  // of a head
  i32 items;
  PairRuns<X, count> ahead[kAhead];
  i32 head_of_ahead[kAhead];

  TW_DEVICE TokenHeads(const RopeParams& params, i32 token)
      : p(params),
        x(static_cast<const X*>(params.x.data) + token * params.x.outer_stride),
        out(static_cast<Out*>(params.out.data) + token * params.out.outer_stride),
        runs(params.pairs / count),
        items(params.heads * runs) {
#pragma unroll
    for (i32 k = 0; k < kAhead; ++k) {
      const i32 item = thread_id() + k * num_threads();
      if (item >= items) continue;
      head_of_ahead[k] = head_of(item);
      ahead[k] = read(item, head_of_ahead[k]);
    }
  }

  TW_DEVICE i32 head_of(i32 item) const {
    return static_cast<i32>(static_cast<u32>(item) / static_cast<u32>(runs));
  }
  TW_DEVICE PairRuns<X, count> read(i32 item, i32 head) const {
    const PairPlaces at =
        pair_places<count>((item - head * runs) * count, p.pairs, p.interleaved != 0);
    const X* from = x + head * p.x.inner_stride;
    return {read_run<count>(from + at.first), read_run<count>(from + at.second)};
  }

  TW_DEVICE void write(i32 item, i32 head, const PairRuns<X, count>& read, const float* cosines,
                       const float* sines) const {
    const i32 pair = (item - head * runs) * count;
    const bool interleaved = p.interleaved != 0;
    float first[count];
    float second[count];
    unpack_run(read.first, first);
    unpack_run(read.second, second);
    rotate_runs(first, second, cosines + pair, sines + pair, interleaved);
    const PairPlaces at = pair_places<count>(pair, p.pairs, interleaved);
    Out* to = out + head * p.out.inner_stride;
    store_run(first, to + at.first);
    store_run(second, to + at.second);
  }

  TW_DEVICE void write_all(const float* cosines, const float* sines) const {
#pragma unroll
    for (i32 k = 0; k < kAhead; ++k) {
      const i32 item = thread_id() + k * num_threads();
      if (item < items) write(item, head_of_ahead[k], ahead[k], cosines, sines);
    }
    for (i32 item = thread_id() + kAhead * num_threads(); item < items; item += num_threads()) {
      const i32 head = head_of(item);
      write(item, head, read(item, head), cosines, sines);
    }
  }

  // Elements behind those that are rotated, where the output is not the input.
  TW_DEVICE void copy_rest() const {
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
};

// The cosines and sines of a token's pairs, for all of the block.
template <typename Table>
TW_DEVICE void find_cosines(const RopeParams& p, i32 token, float* cosines, float* sines) {
  for (i32 pair = thread_id(); pair < p.pairs; pair += num_threads()) {
    const CosSin value = cos_sin_of_pair<Table>(p, token, pair);
    cosines[pair] = value.cosine;
    sines[pair] = value.sine;
  }
  sync_block();
}

template <typename X, typename Out, typename Table, i32 count>
TW_DEVICE void rotate_token(const RopeParams& p) {
  const i32 token = block_id();
  float* cosines = reinterpret_cast<float*>(shared_memory());
  float* sines = cosines + RopeParams::kMaxPairs;
  const TokenHeads<X, Out, count> heads(p, token);
  find_cosines<Table>(p, token, cosines, sines);
  heads.write_all(cosines, sines);
  heads.copy_rest();
}

template <typename X, typename Out, typename Table>
TW_DEVICE void apply_rope(const RopeParams& p) {
  if (p.aligned != 0) {
    rotate_token<X, Out, Table, kRun>(p);
  } else {
    rotate_token<X, Out, Table, 1>(p);
  }
}

}  // namespace tw
