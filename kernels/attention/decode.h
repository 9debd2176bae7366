// SPDX-License-Identifier: Apache-2.0
// A tile of at most 16 rows: bound by how fast keys and values arrive. All warps have the same rows
// and different keys, sixteen at a time, each with a ring of its own in shared memory: no warp
// waits for another until their results are joined at the end (Flash-Decoding, within a block).
#pragma once

#include "arch/matrix.h"
#include "attention/exact_row.h"
#include "attention/keys.h"
#include "attention/landed.h"
#include "attention/results.h"
#include "attention/scores.h"

namespace tw {

struct DecodeStage {
  alignas(16) char k[Shape::kDecodeKeys * Shape::kHeadPitch];
  alignas(16) char v[Shape::kDecodeKeys * Shape::kValuePitch];
};

// What a warp knows of its next keys, two chunks at a time.
struct DecodeTable {
  alignas(16) const char* keys[2][Shape::kDecodeKeys];
  alignas(16) const char* values[2][Shape::kDecodeKeys];
  i32 positions[4][Shape::kDecodeKeys];
};

// Of keys, a warp's together, and behind them of queries.
using DecodeRests =
    RowRests<Variant::kHasRope, Shape::kDecodeWarps * Shape::kDecodeKeys + Shape::kDecodeRows>;

struct DecodeMemory : DecodeRests {
  float m[Shape::kDecodeWarps][Shape::kDecodeRows];
  float l[Shape::kDecodeWarps][Shape::kDecodeRows];
  float factors[Shape::kDecodeWarps][Shape::kDecodeRows];
  RowTarget targets[Shape::kDecodeRows];
  DecodeTable tables[Shape::kDecodeWarps];
  union {
    // By stage, so that the last stage of all warps lies together.
    DecodeStage ring[Shape::kDecodeStages][Shape::kDecodeWarps];
    // At the begin: the queries, in the place of the last stage.
    struct {
      DecodeStage others[Shape::kDecodeStages - 1][Shape::kDecodeWarps];
      char q[Shape::kDecodeRows * Shape::kHeadPitch];
    };
    // At the end: the warps' outputs.
    float o[Shape::kDecodeWarps][Shape::kDecodeRows * Spec::kValueDim];
  };
};

class Decode {
 public:
  using Element = Shape::Element;
  static constexpr i32 kStages = Shape::kDecodeStages;
  using KeyCopy = RowCopy<Shape::kKeyUnits, Shape::kDecodeKeys, kWarpSize>;
  using ValueCopy = RowCopy<Shape::kValueUnits, Shape::kDecodeKeys, kWarpSize>;
  static constexpr i32 kChunksABlock = Shape::kBlock / Shape::kDecodeKeys;
  static_assert(Shape::kDecodeRows * Shape::kHeadPitch <=
                sizeof(DecodeStage) * Shape::kDecodeWarps);

  TW_DEVICE Decode(const AttentionParams& params, Tile& the_tile, DecodeMemory& the_memory)
      : p(params),
        tile(the_tile),
        memory(the_memory),
        thread(thread_id()),
        lane(thread % kWarpSize),
        warp(uniform(thread / kWarpSize)) {}

  // `count` blocks of those that the tile needs, from tile.first_block on. `at_begin` is called
  // while the first keys are on their way, `at_end` behind the last ones. The warp's chunks are
  // numbered: number i is chunk warp + i
  // * kDecodeWarps of the blocks'.
  template <typename AtBegin, typename AtEnd>
  TW_DEVICE void run(i32 count, const AtBegin& at_begin, const AtEnd& at_end) {
    num_chunks = warp < Shape::kDecodeWarps ? count * kChunksABlock : 0;
    load_queries();
    i32 page = page_at(0);
    for (i32 i = 0; i < kStages - 1; ++i) page = load_chunk(i, i, page);
    at_begin();
    copy_async_wait<kStages - 1>();
    sync_block();
    if constexpr (Variant::kHasRope) rotate_queries();
    read_queries();
    sync_block();  // the last stage may be filled
    i32 stage = 0;
    for (i32 i = 0; chunk_of(i) < num_chunks; ++i) {
      copy_async_wait<kStages - 2>();
      // Everyone's copies have landed, and everyone is done with the stage before this one.
      sync_warp();
      page = load_chunk(i + kStages - 1, stage == 0 ? kStages - 1 : stage - 1, page);
      DecodeStage& landed = memory.ring[stage][warp];
      Landed<Shape::kDecodeKeys, kWarpSize>::finish(landed.k, key_rests(), landed.v,
                                                    memory.tables[warp].positions[i & 3], lane,
                                                    [] { sync_warp(); });
      compute(i, landed);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    at_end();
    copy_async_wait<0>();
    sync_block();  // all are done with their rings
    const bool finite = warp >= Shape::kDecodeWarps || leave_results();
    all_finite = !any_of_block(!finite);
  }

  // Joins the warps' results, in their order, and stores the rows: in a slot, or where complete
  // rows go (slot -1).
  TW_DEVICE void store(i32 slot) {
    store_rows(
        p, tile, slot, memory.targets, [&](i32 r, float& m, float& l) { join_sums(r, m, l); },
        [&](i32 r, i32 d) { return join_columns(r, d); });
    if (!all_finite) store_again(slot);
  }

 private:
  // Also what each warp's outputs are multiplied by.
  TW_DEVICE void join_sums(i32 r, float& m, float& l) {
#pragma unroll
    for (i32 w = 0; w < Shape::kDecodeWarps; ++w) m = max_of(m, memory.m[w][r]);
    const float reference = m == -kInfinity ? 0.0F : m;
#pragma unroll
    for (i32 w = 0; w < Shape::kDecodeWarps; ++w) {
      const float by = exp2_fast(memory.m[w][r] - reference);
      memory.factors[w][r] = by;
      l += memory.l[w][r] * by;
    }
  }
  TW_DEVICE Float4 join_columns(i32 r, i32 d) const {
    Float4 sum{0, 0, 0, 0};
#pragma unroll
    for (i32 w = 0; w < Shape::kDecodeWarps; ++w) {
      add(sum, 1.0F, *reinterpret_cast<const Float4*>(&memory.o[w][r * Spec::kValueDim + d]),
          memory.factors[w][r]);
    }
    return sum;
  }

  // Rows whose outputs are not all finite, which may be for a value that they do not attend to.
  TW_DEVICE void store_again(i32 slot) {
    sync_block();  // all is stored
#pragma unroll 1
    for (i32 r = warp_id(); r < tile.num_rows; r += Shape::kWarps) {
      bool finite = true;
      for (i32 d = lane * 4; d < Spec::kValueDim; d += kWarpSize * 4) {
        finite = finite && is_finite(join_columns(r, d));
      }
      if (!any_of_warp(!finite)) continue;
      float m = -kInfinity;
      float l = 0;
      join_sums(r, m, l);  // the same for all lanes
      store_row_exactly(p, tile, slot, r, m, l);
    }
  }

  TW_DEVICE i32 chunk_of(i32 i) const {
    return warp + i * Shape::kDecodeWarps;
  }
  TW_DEVICE i32 key_begin(i32 i) const {
    const i32 chunk = chunk_of(i);
    return tile.block(tile.first_block + chunk / kChunksABlock) * Shape::kBlock +
           chunk % kChunksABlock * Shape::kDecodeKeys;
  }
  // The lanes look at two chunks, number i and the next one, a key each.
  TW_DEVICE i32 lane_chunk(i32 i) const {
    return i + lane / Shape::kDecodeKeys;
  }
  TW_DEVICE i32 lane_key(i32 i) const {
    return key_begin(lane_chunk(i)) + lane % Shape::kDecodeKeys;
  }
  TW_DEVICE i32 page_at(i32 i) const {
    return chunk_of(lane_chunk(i)) < num_chunks ? page_of_key(tile, lane_key(i)) : -1;
  }
  TW_DEVICE void note_keys(i32 i, i32 page) {
    if (chunk_of(lane_chunk(i)) >= num_chunks) return;
    const i32 key = lane % Shape::kDecodeKeys;
    const KeyAddress at = address_of_key(p, tile, lane_key(i), page);
    DecodeTable& table = memory.tables[warp];
    table.keys[lane_chunk(i) & 1][KeyCopy::table_index(key)] = at.key;
    table.values[lane_chunk(i) & 1][ValueCopy::table_index(key)] = at.value;
    table.positions[lane_chunk(i) & 3][key] = at.position;
  }

  // Copies chunk number i. The lanes hold the pages of this and the next one where i is even;
  // returns those of the next two.
  TW_DEVICE i32 load_chunk(i32 i, i32 stage, i32 page) {
    if ((i & 1) == 0) {
      sync_warp();  // the table's last addresses have been read
      note_keys(i, page);
      sync_warp();
      page = page_at(i + 2);
    }
    if (chunk_of(i) < num_chunks) {
      DecodeStage& to = memory.ring[stage][warp];
      const DecodeTable& table = memory.tables[warp];
      KeyCopy::copy<Shape::kHeadPitch, Spec::kHeadDim>(to.k, table.keys[i & 1], lane);
      ValueCopy::copy<Shape::kValuePitch, Spec::kValueDim>(to.v, table.values[i & 1], lane);
    }
    copy_async_commit();  // also of nothing: groups are counted
    return page;
  }

  TW_DEVICE void load_queries() {
    constexpr i32 kUnits = Shape::kHeadUnits;
    for (i32 i = thread; i < Shape::kDecodeRows * kUnits; i += Shape::kThreads) {
      const i32 r = i / kUnits;
      const i32 unit = i % kUnits;
      const QueryRow row = query_row(p, tile, r < tile.num_rows ? r : 0);
      const bool valid =
          r < tile.num_rows && unit * 8 < Spec::kHeadDim && row.q_index < p.out_tokens;
      copy_async_16(memory.q + r * Shape::kHeadPitch + unit * 16,
                    valid ? query_at(p, row) + unit * 16 : p.q, valid);
    }
    copy_async_commit();
  }
  TW_DEVICE void read_queries() {
    const char* const from = memory.q + lane % 16 * Shape::kHeadPitch + lane / 16 * 16;
#pragma unroll
    for (i32 step = 0; step < Shape::kHeadSteps; ++step) load_matrix_x4(q[step], from + step * 32);
  }
  TW_DEVICE void rotate_queries() {
    rotate_rows<Shape::kThreads>(memory.q, query_rests(), Shape::kDecodeRows, thread,
                                 [&](i32 r) { return tile.rows[r].q_pos; });
    sync_block();
  }
  TW_DEVICE char* key_rests() {
    return memory.rest_of(warp * Shape::kDecodeKeys);
  }
  TW_DEVICE char* query_rests() {
    return memory.rest_of(Shape::kDecodeWarps * Shape::kDecodeKeys);
  }

  TW_DEVICE void compute(i32 i, const DecodeStage& stage) {
    float scores[2][4] = {};
    const char* const k =
        stage.k + (lane % 8 + lane / 16 * 8) * Shape::kHeadPitch + lane / 8 % 2 * 16;
#pragma unroll
    for (i32 step = 0; step < Shape::kHeadSteps; ++step) {
      u32 b[4];
      load_matrix_x4(b, k + step * 32);
      multiply_16x8x16<Element>(scores[0], q[step], b[0], b[1]);
      multiply_16x8x16<Element>(scores[1], q[step], b[2], b[3]);
      if constexpr (Variant::kHasRope) {
        if (step < kRotatedSteps) add_rests(step, b, scores);
      }
    }
    transform(tile.is_full(tile.first_block + chunk_of(i) / kChunksABlock),
              memory.tables[warp].positions[i & 3], scores);
    weigh(scores);
    const u32 a[4] = {
        pack<Element>(scores[0][0], scores[0][1]), pack<Element>(scores[0][2], scores[0][3]),
        pack<Element>(scores[1][0], scores[1][1]), pack<Element>(scores[1][2], scores[1][3])};
    const char* const v = stage.v + lane % 16 * Shape::kValuePitch + lane / 16 * 16;
#pragma unroll
    for (i32 d = 0; d < Shape::kValueTiles; d += 2) {
      u32 b[4];
      load_matrix_x4_transposed(b, v + d * 16);
      multiply_16x8x16<Element>(o[d], a, b[0], b[1]);
      multiply_16x8x16<Element>(o[d + 1], a, b[2], b[3]);
    }
  }

  // What the rests of rotated queries and keys add to the product of one step.
  TW_DEVICE void add_rests(i32 step, const u32 (&keys)[4], float (&scores)[2][4]) {
    u32 b[4];
    load_matrix_x4(
        b, key_rests() + (lane % 8 + lane / 16 * 8) * kRestPitch + lane / 8 % 2 * 16 + step * 32);
    multiply_16x8x16<Element>(scores[0], q[step], b[0], b[1]);
    multiply_16x8x16<Element>(scores[1], q[step], b[2], b[3]);
    u32 a[4];
    load_matrix_x4(a, query_rests() + lane % 16 * kRestPitch + lane / 16 * 16 + step * 32);
    multiply_16x8x16<Element>(scores[0], a, keys[0], keys[1]);
    multiply_16x8x16<Element>(scores[1], a, keys[2], keys[3]);
  }

  TW_DEVICE void transform(bool full, const i32* positions, float (&scores)[2][4]) {
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

  TW_DEVICE void weigh(float (&scores)[2][4]) {
    const float by = p.exponent_scale;
    float factor[2] = {1, 1};
#pragma unroll
    for (i32 half = 0; half < 2; ++half) {
      if constexpr (Variant::kSoftmax) {
        factor[half] = sums[half].advance(largest_of_row(half, scores), by);
      }
      weigh_row(half, by, sums[half], scores);
    }
    rescale_rows(factor, o);
  }

  // Every warp's sums and outputs, for all to read. False: some output is not finite.
  TW_DEVICE bool leave_results() {
    bool finite = true;
#pragma unroll
    for (i32 half = 0; half < 2; ++half) {
      const i32 r = half * 8 + lane / 4;
      const float l = sum_of_quad(sums[half].l);
      if (lane % 4 == 0) {
        memory.m[warp][r] = sums[half].log2_reference(p.exponent_scale);
        memory.l[warp][r] = l;
      }
      if (r >= tile.num_rows) continue;
      float total = 0;
#pragma unroll
      for (i32 d = 0; d < Shape::kValueTiles; ++d) {
        const i32 column = d * 8 + lane % 4 * 2;
        if (column >= Spec::kValueDim) continue;
        memory.o[warp][r * Spec::kValueDim + column] = o[d][half * 2];
        memory.o[warp][r * Spec::kValueDim + column + 1] = o[d][half * 2 + 1];
        total += o[d][half * 2] + o[d][half * 2 + 1];
      }
      finite = finite && is_finite(total);
    }
    return finite;
  }

  const AttentionParams& p;
  Tile& tile;
  DecodeMemory& memory;
  const i32 thread;
  const i32 lane;
  const i32 warp;
  i32 num_chunks = 0;
  bool all_finite = true;
  SoftmaxRow sums[2];
  u32 q[Shape::kHeadSteps][4];
  float o[Shape::kValueTiles][4] = {};
};

}  // namespace tw
