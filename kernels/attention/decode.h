// SPDX-License-Identifier: Apache-2.0
// Tiles of at most 16 rows: bound by how fast keys and values arrive. All warps have the same rows
// and different keys, kChunkKeys at a time, each with a ring of its own in shared memory: no warp
// waits for another until their results are joined at the end of a piece (Flash-Decoding, within a
// block). The rings go on from one piece to the next: while the results of one are joined and
// stored, the keys of the next are on their way.
#pragma once

#include "arch/fp8.h"
#include "arch/integer.h"
#include "arch/matrix.h"
#include "attention/decode_memory.h"
#include "attention/exact_row.h"
#include "attention/results.h"
#include "attention/scores.h"

namespace tw {

// What fp8 numbers become, and what they are multiplied by. f16 holds each of them, and softmax's
// weights: they are at most 2^kRescaleThreshold.
template <bool is_f16>
struct DecodeOperand {
  using Type = f16;
};
template <>
struct DecodeOperand<false> {
  using Type = Shape::Element;
};

class Decode {
 public:
  using Element = Shape::Element;
  using WideKey = DecodeOperand<kNarrowKeys>::Type;  // and queries
  using Weight = DecodeOperand<kNarrowValues && Variant::kSoftmax>::Type;
  static constexpr i32 kStages = Shape::kDecodeStages;
  using QueryRows = DecodeQueryRows;
  using KeyRows = DecodeKeyRows;
  using ValueRows = DecodeValueRows;
  using KeyCopy = RowCopy<Shape::kKeyUnits, kChunkKeys, kWarpSize>;
  using ValueCopy = RowCopy<Shape::kValueUnits, kChunkKeys, kWarpSize>;
  using LandedChunk = Landed<kChunkKeys, KeyRows, ValueRows, kWarpSize,
                             sizeof(Spec::Key) == 1 && !kNarrowKeys, false>;
  static_assert(Shape::kBlock % kChunkKeys == 0);
  static constexpr i32 kChunksABlock = Shape::kBlock / kChunkKeys;
  static constexpr i32 kKeyTiles = kChunkKeys / 8;

  // `pieces`: kPieces of them, whose tiles are memory.tiles.
  TW_DEVICE Decode(const AttentionParams& params, const Piece* the_pieces, DecodeMemory& the_memory)
      : p(params), pieces(the_pieces), memory(the_memory) {}

  // Asks for the first piece's queries and its first keys: the tile's keys and blocks are set up.
  TW_DEVICE void begin() {
    begin_phase();
    fetch_queries(at);
    // What is behind it is not known yet.
    find_next_chunk<false>();
    load_chunks<false>(kQueriesApart ? kStages : kStages - 1);
  }

  // The queries that were asked for become registers. By all threads; the tile's rows and the next
  // piece are known behind the first barrier in here.
  TW_DEVICE void take_queries(i32 free_stage = kStages - 1) {
    begin_phase();
    char* const rows = memory.query_rows(memory.ring[free_stage][0]);
    put_queries(rows);
    sync_workers();
    if constexpr (Variant::kHasRope) {
      rotate_rows<QueryRows, Shape::kThreads>(
          rows, query_rests(), Shape::kDecodeRows, thread,
          [&](i32 r) { return memory.tiles[at].rows[r].q_pos; });
      sync_workers();
    }
    q.take(shared_place(rows + QueryRows::offset(lane % 16, lane / 16)));
    if constexpr (!kQueriesApart) sync_workers();  // the stage may be filled
    if (next_chunk >= own_chunks(loading)) find_next_chunk<true>();
    // At the piece's end one stage is free.
    load_chunks<true>(own_chunks(at) > 0 ? kStages : kStages - 1);
  }

  // The piece, but for its end.
  TW_DEVICE void run() {
    begin_phase();
    const i32 chunks = own_chunks(at);
#pragma unroll
    for (i32 d = 0; d < Shape::kValueTiles; ++d) {
#pragma unroll
      for (i32 i = 0; i < 4; ++i) o[d][i] = 0;
    }
    sums[0] = sums[1] = {};
    for (i32 i = 0; i < chunks; ++i) {
      wait_for_oldest<kStages - 1>();
      // Everyone's copies have landed, and everyone is done with the stage before this one.
      sync_warp();
      load_chunks<true>(kStages);
      DecodeStage& landed = memory.ring[stage][warp].stage;
      LandedChunk::finish(landed.k, key_rests(), landed.v, memory.tables[warp].positions[stage],
                          lane, [] { sync_warp(); });
      compute(i, landed);
      stage = stage + 1 == kStages ? 0 : stage + 1;
      --in_flight;
    }
  }

  // Joins the warps' results, in their order, and stores the rows: in the piece's slot, or where
  // complete rows go. Another piece of few rows behind it `goes_on`: its queries are asked for.
  TW_DEVICE void store(bool goes_on) {
    begin_phase();
    sync_warp();  // all are done with the last stage
    const bool finite = warp >= Shape::kDecodeWarps || leave_results();
    if (goes_on) fetch_queries(next_piece(at));
    const bool all_finite = !any_of_workers(!finite);
    const DecodeTile& tile = memory.tiles[at];
    const i32 slot = pieces[at].slot;
    // A lane finds out where one of the warp's rows goes.
    JoinedSums joined;
    RowTarget target{nullptr, 0, 0, RowTarget::nowhere};
    const i32 own = warp + lane * Shape::kWarps;
    if (own < tile.num_rows) {
      joined = join_sums(own);
      target = target_of(p, tile, slot, own, joined.m, joined.l);
    }
    for (i32 r = warp; r < tile.num_rows; r += Shape::kWarps) {
      const RowTarget to = shuffle_target(target, r / Shape::kWarps);
      float factors[Shape::kDecodeWarps];
#pragma unroll
      for (i32 w = 0; w < Shape::kDecodeWarps; ++w) {
        factors[w] = shuffle(joined.factors[w], r / Shape::kWarps);
      }
      const QueryRow row = query_row(p, tile, r);
      for (i32 d = lane * 4; d < Spec::kValueDim; d += kWarpSize * 4) {
        put_columns(p, row, to, d, join_columns(r, d, factors));
      }
    }
    if (!all_finite) store_again(slot);
  }

  // To the piece behind it. By all threads, behind a barrier after store(true).
  TW_DEVICE i32 current() const {
    return at;
  }
  TW_DEVICE void go_on() {
    at = next_piece(at);
    take_queries(memory.free_stage[0]);
  }

 private:
  // Read anew, see thread_id(): else what follows from it is computed for all phases at once, and
  // kept in registers.
  TW_DEVICE void begin_phase() {
    thread = thread_id();
    lane = thread % kWarpSize;
    warp = uniform(thread / kWarpSize);
  }

  // A row's sums over all warps, and what each warp's outputs are multiplied by.
  struct JoinedSums {
    float m = -kInfinity;
    float l = 0;
    float factors[Shape::kDecodeWarps] = {};
  };
  TW_DEVICE JoinedSums join_sums(i32 r) const {
    JoinedSums joined;
#pragma unroll
    for (i32 w = 0; w < Shape::kDecodeWarps; ++w) joined.m = max_of(joined.m, memory.m[w][r]);
    const float reference = joined.m == -kInfinity ? 0.0F : joined.m;
#pragma unroll
    for (i32 w = 0; w < Shape::kDecodeWarps; ++w) {
      joined.factors[w] = exp2_fast(memory.m[w][r] - reference);
      joined.l += memory.l[w][r] * joined.factors[w];
    }
    return joined;
  }
  TW_DEVICE Float4 join_columns(i32 r, i32 d, const float (&factors)[Shape::kDecodeWarps]) const {
    Float4 sum{0, 0, 0, 0};
#pragma unroll
    for (i32 w = 0; w < Shape::kDecodeWarps; ++w) {
      const float* const row = memory.ring[memory.free_stage[w]][w].o + r * kResultPitch;
      add(sum, 1.0F, *reinterpret_cast<const Float4*>(row + d), factors[w]);
    }
    return sum;
  }

  // Rows whose outputs are not all finite, which may be for a value that they do not attend to. A
  // warp has stored them, and stores them again.
  TW_DEVICE void store_again(i32 slot) {
    sync_warp();
#pragma unroll 1
    for (i32 r = warp; r < memory.tiles[at].num_rows; r += Shape::kWarps) {
      const JoinedSums joined = join_sums(r);
      bool finite = true;
      for (i32 d = lane * 4; d < Spec::kValueDim; d += kWarpSize * 4) {
        finite = finite && is_finite(join_columns(r, d, joined.factors));
      }
      if (!any_of_warp(!finite)) continue;
      store_row_exactly(p, memory.tiles[at], slot, r, joined.m, joined.l);
    }
  }

  // A warp's chunks of a piece are numbered: number i is chunk warp + i * kDecodeWarps of the
  // blocks'.
  TW_DEVICE i32 own_chunks(i32 piece) const {
    const Tile& tile = memory.tiles[piece];
    const i32 chunks = (tile.part_end - tile.first_block) * kChunksABlock - warp;
    return warp < Shape::kDecodeWarps ? (chunks + Shape::kDecodeWarps - 1) / Shape::kDecodeWarps
                                      : 0;
  }
  TW_DEVICE i32 key_begin(const Tile& tile, i32 i) const {
    const i32 chunk = warp + i * Shape::kDecodeWarps;
    return tile.block(tile.first_block + chunk / kChunksABlock) * Shape::kBlock +
           chunk % kChunksABlock * kChunkKeys;
  }
  // The next one to fill: behind those that are in use.
  TW_DEVICE i32 free_stage() const {
    return stage + in_flight < kStages ? stage + in_flight : stage + in_flight - kStages;
  }

  // Goes on to the next piece, where it is known, if chunk number next_chunk is behind the end of
  // the one that is computed. Then asks for the page of the lane's key.
  template <bool next_is_known>
  TW_DEVICE void find_next_chunk() {
    while (next_chunk >= own_chunks(loading)) {
      if (!next_is_known || loading != at) return;
      if (pieces[next_piece(at)].kind != Piece::few_rows) return;
      loading = next_piece(at);
      next_chunk = 0;
    }
    const Tile& tile = memory.tiles[loading];
    page = page_of_key(tile, key_begin(tile, next_chunk) + lane % kChunkKeys);
  }

  // Until so many stages are in use: the one whose keys are computed, and those on their way.
  template <bool next_is_known>
  TW_DEVICE void load_chunks(i32 stages) {
#pragma unroll 1
    while (in_flight < stages && next_chunk < own_chunks(loading)) load_chunk<next_is_known>();
  }
  template <bool next_is_known>
  TW_DEVICE void load_chunk() {
    const i32 load_stage = free_stage();
    const Tile& tile = memory.tiles[loading];
    DecodeTable& table = memory.tables[warp];
    // A lane notes its key's address and its value's, or half of the lanes note either.
    const i32 key = lane % kChunkKeys;
    const KeyAddress place = address_of_key(p, tile, key_begin(tile, next_chunk) + key, page);
    sync_warp();  // the table's last addresses have been read
    if (kChunkKeys == kWarpSize || lane < kChunkKeys) {
      table.keys[KeyCopy::table_index(key)] = place.key;
      table.positions[load_stage][key] = place.position;
    }
    if (kChunkKeys == kWarpSize || lane >= kChunkKeys) {
      table.values[ValueCopy::table_index(key)] = place.value;
    }
    sync_warp();
    ++next_chunk;
    find_next_chunk<next_is_known>();
    DecodeStage& to = memory.ring[load_stage][warp].stage;
    // Nobody else reads them soon.
    const CachePolicy policy = evict_first();
    KeyCopy::copy<KeyRows, Spec::kHeadDim>(to.k, table.keys, lane, policy);
    ValueCopy::copy<ValueRows, Spec::kValueDim>(to.v, table.values, lane, policy);
    copy_async_commit();
    ++in_flight;
  }
  // Every chunk is a group of copies.
  template <i32 most>
  TW_DEVICE void wait_for_oldest() const {
    if constexpr (most > 0) {
      if (in_flight <= most) return wait_for_oldest<most - 1>();
    }
    copy_async_wait<most>();
  }

  // The queries' way is by registers: copies of keys that were asked for before are not waited for.
  // A row is that of lanes of one warp.
  static constexpr i32 kUnitLanes = power_of_two_from(Shape::kHeadUnits);
  static constexpr i32 kQueryUnits = Shape::kDecodeRows * kUnitLanes;
  static constexpr i32 kUnitsAThread = (kQueryUnits + Shape::kThreads - 1) / Shape::kThreads;

  TW_DEVICE void fetch_queries(i32 piece) {
    const Piece& of = pieces[piece];
#pragma unroll
    for (i32 i = 0; i < kUnitsAThread; ++i) {
      const i32 r = (thread + i * Shape::kThreads) / kUnitLanes;
      const i32 unit = (thread + i * Shape::kThreads) % kUnitLanes;
      units[i] = {};
      if (unit * 8 >= Spec::kHeadDim) continue;
      const char* const query = query_of_row(p, of, r);
      if (query != nullptr) units[i] = load_16(query + unit * 16);
    }
  }
  TW_DEVICE void put_queries(char* rows) {
#pragma unroll
    for (i32 i = 0; i < kUnitsAThread; ++i) {
      const i32 index = thread + i * Shape::kThreads;
      if (index >= kQueryUnits) break;
      const i32 r = index / kUnitLanes;
      const i32 unit = index % kUnitLanes;
      if constexpr (kScalesQueries) scale_unit(r, units[i]);
      if (unit < Shape::kHeadUnits) put_unit(rows, r, unit, units[i]);
    }
  }
  // A row's largest element becomes less than 2, and not less than 1. Infinity stays what it is.
  TW_DEVICE void scale_unit(i32 r, Bytes16& elements) {
    float values[8];
    float largest = 0;
#pragma unroll
    for (i32 i = 0; i < 4; ++i) {
      values[2 * i] = low_of<Element>(elements.word[i]);
      values[2 * i + 1] = high_of<Element>(elements.word[i]);
      largest = max_of(largest, max_of(abs_of(values[2 * i]), abs_of(values[2 * i + 1])));
    }
#pragma unroll
    for (i32 lanes = 1; lanes < kUnitLanes; lanes *= 2) {
      largest = max_of(largest, shuffle_xor(largest, lanes));
    }
    const i32 exponent = static_cast<i32>(bits_of(largest) >> 23);
    const u32 limited = static_cast<u32>(exponent < 1 ? 1 : exponent > 253 ? 253 : exponent);
    const float by = float_of((254 - limited) << 23);
    if (lane % kUnitLanes == 0) memory.query_factors[r] = float_of(limited << 23);
#pragma unroll
    for (i32 i = 0; i < 4; ++i) {
      elements.word[i] = pack<f16>(values[2 * i] * by, values[2 * i + 1] * by);
    }
  }
  TW_DEVICE static void put_unit(char* rows, i32 r, i32 unit, const Bytes16& elements) {
    if constexpr (kNarrowKeys) {
      // As narrow keys come to registers: a lane has four neighbouring elements of a key, where it
      // has two and two of a query.
      const i32 first = unit / 2 * 2;
      for (i32 half = 0; half < 2; ++half) {
        *reinterpret_cast<Bytes8*>(rows + QueryRows::offset(r, first + half) +
                                   unit % 2 * 8) = {{elements.word[half], elements.word[half + 2]}};
      }
    } else {
      store_16(rows + QueryRows::offset(r, unit), elements);
    }
  }
  TW_DEVICE char* key_rests() {
    return memory.rest_of(warp * kChunkKeys);
  }
  TW_DEVICE char* query_rests() {
    return memory.rest_of(Shape::kDecodeWarps * kChunkKeys);
  }

  TW_DEVICE void compute(i32 i, const DecodeStage& landed) {
    float scores[kKeyTiles][4] = {};
    multiply_keys(landed.k, scores);
    if (kScalesQueries && !scales_exponents())
      multiply_rows({query_factor(0), query_factor(1)}, scores);
    const DecodeTile& tile = memory.tiles[at];
    const i32 chunk = warp + i * Shape::kDecodeWarps;
    transform(tile, tile.is_full(tile.first_block + chunk / kChunksABlock),
              memory.tables[warp].positions[stage], scores);
    weigh(scores);
    multiply_values(landed.v, scores);
  }

  // What scores of a row must be multiplied by. Read each time: registers are short.
  TW_DEVICE float query_factor(i32 half) const {
    return kScalesQueries ? memory.query_factors[half * 8 + lane / 4] : 1.0F;
  }
  // Nobody but softmax sees scores, and it multiplies them anyway.
  TW_DEVICE bool scales_exponents() const {
    return Variant::kSoftmax && !has_logits(p);
  }
  TW_DEVICE float exponent_scale(i32 half) const {
    return kScalesQueries && scales_exponents() ? p.exponent_scale * query_factor(half)
                                                : p.exponent_scale;
  }

  // scores += Q K^T
  TW_DEVICE void multiply_keys(const char* keys, float (&scores)[kKeyTiles][4]) {
    if constexpr (kNarrowKeys) {
      const SharedPlace first = shared_place(keys + KeyRows::offset(lane % 16, lane / 16));
#pragma unroll
      for (i32 step = 0; step < Shape::kHeadSteps; step += 2) {
        u32 a[2][4];
        q.get(step, a[0]);
        if (step + 1 < Shape::kHeadSteps) q.get(step + 1, a[1]);
#pragma unroll
        for (i32 n = 0; n < kKeyTiles; n += 2) {
          // Two steps of eight keys, and of eight more.
          u32 narrow[4];
          load_matrix_x4(narrow, KeyRows::right(KeyRows::below(first, n * 8), step));
#pragma unroll
          for (i32 i = 0; i < 4; ++i) {
            if (step + i / 2 >= Shape::kHeadSteps) break;
            const WidePairs b = widen_pairs<WideKey, Spec::Key>(narrow[i]);
            multiply_16x8x16<WideKey>(scores[n + i % 2], a[i / 2], b.first, b.second);
          }
        }
      }
    } else {
      const SharedPlace first =
          shared_place(keys + KeyRows::offset(lane % 8 + lane / 16 * 8, lane / 8 % 2));
#pragma unroll
      for (i32 step = 0; step < Shape::kHeadSteps; ++step) {
        u32 a[4];
        q.get(step, a);
#pragma unroll
        for (i32 n = 0; n < kKeyTiles; n += 2) {
          u32 b[4];
          load_matrix_x4(b, KeyRows::right(KeyRows::below(first, n * 8), step * 2));
          multiply_16x8x16<Element>(scores[n], a, b[0], b[1]);
          multiply_16x8x16<Element>(scores[n + 1], a, b[2], b[3]);
          if constexpr (Variant::kHasRope) {
            if (step < kRotatedSteps) add_rests(step, n, a, b, scores);
          }
        }
      }
    }
  }

  // o += weights V
  TW_DEVICE void multiply_values(const char* values, const float (&weights)[kKeyTiles][4]) {
    const SharedPlace first = shared_place(values + ValueRows::offset(lane % 16, lane / 16));
#pragma unroll
    for (i32 n = 0; n < kKeyTiles; n += 2) {
      const float(&low)[4] = weights[n];
      const float(&high)[4] = weights[n + 1];
      const u32 a[4] = {pack<Weight>(low[0], low[1]), pack<Weight>(low[2], low[3]),
                        pack<Weight>(high[0], high[1]), pack<Weight>(high[2], high[3])};
      const SharedPlace v = ValueRows::below(first, n * 8);
      u32 b[4];
#pragma unroll
      for (i32 d = 0; d < Shape::kValueTiles; d += 2) {
        if constexpr (kNarrowValues) {
          // A unit is the columns of two tiles: even ones are in the first, odd ones in the second.
          if (d % 4 == 0) load_matrix_x4_transposed(b, ValueRows::right(v, d / 2));
          const WidePairs left = widen_pairs<Weight, Spec::Value>(swap_middle_bytes(b[d % 4]));
          const WidePairs right = widen_pairs<Weight, Spec::Value>(swap_middle_bytes(b[d % 4 + 1]));
          multiply_16x8x16<Weight>(o[d], a, left.first, right.first);
          multiply_16x8x16<Weight>(o[d + 1], a, left.second, right.second);
        } else {
          load_matrix_x4_transposed(b, ValueRows::right(v, d));
          multiply_16x8x16<Element>(o[d], a, b[0], b[1]);
          multiply_16x8x16<Element>(o[d + 1], a, b[2], b[3]);
        }
      }
    }
  }

  // What the rests of rotated queries and keys add to the products of one step and two tiles.
  TW_DEVICE void add_rests(i32 step, i32 n, const u32 (&queries)[4], const u32 (&keys)[4],
                           float (&scores)[kKeyTiles][4]) {
    u32 b[4];
    load_matrix_x4(b, key_rests() + RestRows::offset(n * 8 + lane % 8 + lane / 16 * 8,
                                                     lane / 8 % 2 + step * 2));
    multiply_16x8x16<Element>(scores[n], queries, b[0], b[1]);
    multiply_16x8x16<Element>(scores[n + 1], queries, b[2], b[3]);
    u32 a[4];
    load_matrix_x4(a, query_rests() + RestRows::offset(lane % 16, lane / 16 + step * 2));
    multiply_16x8x16<Element>(scores[n], a, keys[0], keys[1]);
    multiply_16x8x16<Element>(scores[n + 1], a, keys[2], keys[3]);
  }

  TW_DEVICE void transform(const DecodeTile& tile, bool full, const i32* positions,
                           float (&scores)[kKeyTiles][4]) {
    if (full && !has_logits(p)) return;
    const i32 own = lane_id();  // found anew: see Prefill::transform
    positions += own % 4 * 2;
#pragma unroll
    for (i32 half = 0; half < 2; ++half) {
      const i32 r = half * 8 + own / 4;
      if (has_logits(p)) transform_row(p, tile, r, half, positions, scores);
      if (!full) mask_row(p, tile, r, half, positions, scores);
    }
  }

  TW_DEVICE void weigh(float (&scores)[kKeyTiles][4]) {
    const float by[2] = {exponent_scale(0), exponent_scale(1)};
    if constexpr (Variant::kSoftmax) {
      const float largest[2] = {largest_of_lane(0, scores), largest_of_lane(1, scores)};
      // A row's largest score moves its reference where some lane's does.
      if (any_of_warp(sums[0].moves(largest[0], by[0]) || sums[1].moves(largest[1], by[1]))) {
        const float factor[2] = {sums[0].advance(max_of_quad(largest[0]), by[0]),
                                 sums[1].advance(max_of_quad(largest[1]), by[1])};
        multiply_rows(factor, o);
      }
    }
    weigh_row(0, by[0], sums[0], scores);
    weigh_row(1, by[1], sums[1], scores);
  }

  // Every warp's sums and outputs, for all to read. False: some output is not finite.
  TW_DEVICE bool leave_results() {
    const i32 num_rows = memory.tiles[at].num_rows;
    float* const results = memory.ring[free_stage()][warp].o;
    if (lane == 0) memory.free_stage[warp] = free_stage();
    bool finite = true;
#pragma unroll
    for (i32 half = 0; half < 2; ++half) {
      const i32 r = half * 8 + lane / 4;
      const float l = sum_of_quad(sums[half].l);
      if (lane % 4 == 0) {
        memory.m[warp][r] = sums[half].log2_reference(exponent_scale(half));
        memory.l[warp][r] = l;
      }
      if (r >= num_rows) continue;
      float total = 0;
#pragma unroll
      for (i32 d = 0; d < Shape::kValueTiles; d += 2) {
        const float x[4] = {o[d][half * 2], o[d][half * 2 + 1], o[d + 1][half * 2],
                            o[d + 1][half * 2 + 1]};
        float* const row = results + r * kResultPitch + d * 8;
        if constexpr (kNarrowValues) {
          *reinterpret_cast<Float4*>(row + lane % 4 * 4) = {x[0], x[2], x[1], x[3]};
        } else {
          *reinterpret_cast<Float2*>(row + lane % 4 * 2) = {x[0], x[1]};
          if (d * 8 + 8 < Spec::kValueDim) {
            *reinterpret_cast<Float2*>(row + 8 + lane % 4 * 2) = {x[2], x[3]};
          }
        }
        total += x[0] + x[1] + x[2] + x[3];
      }
      finite = finite && is_finite(total);
    }
    return finite;
  }

  const AttentionParams& p;
  const Piece* const pieces;
  DecodeMemory& memory;
  i32 thread = 0;
  i32 lane = 0;
  i32 warp = 0;
  i32 at = 0;  // the piece that is computed
  // The next chunk to ask for: of which piece, its number, and the page of the lane's key.
  i32 loading = 0;
  i32 next_chunk = 0;
  i32 page = 0;
  i32 stage = 0;      // of the oldest chunk that is not computed
  i32 in_flight = 0;  // how many there are that were asked for
  // With values from the start: else those of the last pieces are kept in registers until here.
  Bytes16 units[kUnitsAThread] = {};
  SoftmaxRow sums[2];
  HeldQueries<kDecodeQueries> q;
  float o[Shape::kValueTiles][4] = {};
};

}  // namespace tw
