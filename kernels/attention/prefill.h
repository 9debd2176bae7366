// SPDX-License-Identifier: Apache-2.0
// A tile of many rows (FlashAttention-2, arXiv 2307.08691): every warp has its own rows and walks
// over the same blocks of keys, which copies bring into two stages of shared memory, one block
// ahead.
#pragma once

#include "arch/matrix.h"
#include "attention/keys.h"
#include "attention/landed.h"
#include "attention/results.h"
#include "attention/scores.h"
#include "attention/store_tile.h"

namespace tw {

// Offsets that are constants are worth more here than copies that take less.
using PrefillHeadRows = SpacedRows<Shape::kHeadUnits>;
using PrefillValueRows = SpacedRows<Shape::kValueTiles>;

struct PrefillStage {
  alignas(16) char k[Shape::kBlock * PrefillHeadRows::kPitch];
  alignas(16) char v[Shape::kBlock * PrefillValueRows::kPitch];
};

// Of a tile's queries and, behind them, of a block's keys.
using PrefillRests = RowRests<Variant::kHasRope, Shape::kRows + Shape::kBlock>;

using PrefillTile = TileOf<Shape::kRows>;

struct PrefillMemory : PrefillRests {
  PrefillTile tile;
  alignas(16) char q[Shape::kRows * PrefillHeadRows::kPitch];
  PrefillStage stages[2];
  // Of the blocks of two rounds (see note_keys).
  alignas(16) const char* keys[2 * Shape::kRoundKeys];
  alignas(16) const char* values[2 * Shape::kRoundKeys];
  i32 positions[2 * Shape::kRoundKeys];
};

class Prefill {
 public:
  static constexpr i32 kRowTiles = Shape::kRowTiles;
  static constexpr i32 kWarpRows = kRowTiles * 16;
  static constexpr i32 kKeyTiles = Shape::kBlock / 8;
  static constexpr i32 kRoundBlocks = Shape::kRoundKeys / Shape::kBlock;
  static_assert(kRoundBlocks >= 2);
  using KeyCopy = RowCopy<Shape::kKeyUnits, Shape::kBlock, Shape::kThreads>;
  using ValueCopy = RowCopy<Shape::kValueUnits, Shape::kBlock, Shape::kThreads>;
  using QueryCopy = RowCopy<Shape::kHeadUnits, Shape::kRows, Shape::kThreads>;
  using HeadRows = PrefillHeadRows;
  using ValueRows = PrefillValueRows;
  using LandedBlock = Landed<Shape::kBlock, HeadRows, ValueRows, Shape::kThreads,
                             sizeof(Spec::Key) == 1, sizeof(Spec::Value) == 1>;
  using Element = Shape::Element;

  TW_DEVICE Prefill(const AttentionParams& params, PrefillMemory& the_memory)
      : p(params), tile(the_memory.tile), memory(the_memory), thread(thread_id()) {}

  // `count` blocks of those that the tile needs, from tile.first_block on. `at_begin` is called
  // while the first block is on its way, `at_end` behind the last one.
  template <typename AtBegin, typename AtEnd>
  TW_DEVICE void run(i32 count, const AtBegin& at_begin, const AtEnd& at_end) {
    note_keys(0, count, page_at(0, count));
    note_query();
    sync_block();
    QueryCopy::copy<HeadRows, Spec::kHeadDim>(memory.q, queries(), thread);
    load_block(0, count);
    at_begin();
    if constexpr (Variant::kHasRope) rotate_queries();
    for (i32 i = 0; i < count; ++i) {
      copy_async_wait<0>();
      sync_block();
      const bool notes = (i + 2) % kRoundBlocks == 0;
      const i32 page = notes ? page_at(i + 2, count) : -1;
      PrefillStage& stage = memory.stages[i & 1];
      LandedBlock::finish(stage.k, memory.rest_of(Shape::kRows), stage.v,
                          memory.positions + noted(i), thread, [] { sync_block(); });
      // Looked up here, while the product does not need what shared memory gives; with a transform
      // of logits later, as it would take a register from that.
      const bool full = !Variant::kHasLogits && tile.is_full(tile.first_block + i);
      float scores[kRowTiles][kKeyTiles][4];
      multiply_keys(stage.k, scores);
      if constexpr (Variant::kHasRope) add_rests(stage.k, scores);
      load_block(i + 1, count);
      transform(i, full, memory.positions + noted(i), scores);
      weigh(scores);
      multiply_values(stage.v, scores);
      if (notes) note_keys(i + 2, count, page);
    }
    at_end();
    copy_async_wait<0>();
  }

  // Stores the rows: in a slot, or where complete rows go (slot -1).
  TW_DEVICE void store(i32 slot) {
    store_rows_of_warp<kWarpRows>(
        p, tile, slot, warp() * kWarpRows,
        [&](i32 i) -> const SoftmaxRow& { return rows[i / 2][i % 2]; },
        [&](i32 i, i32 d, i32 e) { return o[i / 2][d][i % 2 * 2 + e]; });
  }

 private:
  TW_DEVICE i32 lane() const { return thread % kWarpSize; }
  // The thread, read anew where the registers are short that keep what follows from it: with
  // transforms of logits, and where keys or values are widened.
  TW_DEVICE i32 thread_anew() const {
    constexpr bool kIsFp8 = sizeof(Spec::Key) == 1 || sizeof(Spec::Value) == 1;
    return Variant::kHasLogits || kIsFp8 ? thread_id() : thread;
  }
  TW_DEVICE i32 warp() const { return thread / kWarpSize; }
  TW_DEVICE i32 key_begin(i32 i) const { return tile.block(tile.first_block + i) * Shape::kBlock; }

  // Threads look up a key each of the next kRoundBlocks blocks, from block i on: first its page,
  // which it waits for later.
  TW_DEVICE i32 page_at(i32 i, i32 count) const {
    const i32 own = thread_anew();
    const i32 block = i + own / Shape::kBlock;
    if (own >= Shape::kRoundKeys || block >= count) return -1;
    return page_of_key(tile, key_begin(block) + own % Shape::kBlock);
  }
  TW_DEVICE void note_keys(i32 i, i32 count, i32 page) {
    const i32 own = thread_anew();
    const i32 block = i + own / Shape::kBlock;
    if (own >= Shape::kRoundKeys || block >= count) return;
    const i32 key = own % Shape::kBlock;
    const KeyAddress at = address_of_key(p, tile, key_begin(block) + key, page);
    memory.keys[noted(block) + KeyCopy::table_index(key)] = at.key;
    memory.values[noted(block) + ValueCopy::table_index(key)] = at.value;
    memory.positions[noted(block) + key] = at.position;
  }
  TW_DEVICE static i32 noted(i32 block) { return block % (2 * kRoundBlocks) * Shape::kBlock; }

  // Queries' addresses, where those of the second round of keys will be.
  TW_DEVICE const char** queries() {
    static_assert(Shape::kRows <= Shape::kRoundKeys);
    return memory.keys + Shape::kRoundKeys;
  }
  TW_DEVICE void note_query() {
    if (thread >= Shape::kRows) return;
    const QueryRow row = query_row(p, tile, thread);
    // What is computed of others goes nowhere.
    const bool exists = thread < tile.num_rows && row.q_index < p.out_tokens;
    queries()[QueryCopy::table_index(thread)] = exists ? query_at(p, row) : p.q;
  }

  TW_DEVICE void load_block(i32 i, i32 count) {
    if (i < count) {
      PrefillStage& stage = memory.stages[i & 1];
      KeyCopy::copy<HeadRows, Spec::kHeadDim>(stage.k, memory.keys + noted(i), thread);
      ValueCopy::copy<ValueRows, Spec::kValueDim>(stage.v, memory.values + noted(i), thread);
    }
    copy_async_commit();
  }

  // scores = Q K^T
  TW_DEVICE void multiply_keys(const char* keys, float (&scores)[kRowTiles][kKeyTiles][4]) {
    const SharedPlace q =
        shared_place(memory.q + HeadRows::offset(warp() * kWarpRows + lane() % 16, lane() / 16));
    const SharedPlace k =
        shared_place(keys + HeadRows::offset(lane() % 8 + lane() / 16 * 8, lane() / 8 % 2));
#pragma unroll
    for (i32 t = 0; t < kRowTiles; ++t) {
#pragma unroll
      for (i32 n = 0; n < kKeyTiles; ++n) {
#pragma unroll
        for (i32 e = 0; e < 4; ++e) scores[t][n][e] = 0;
      }
    }
#pragma unroll
    for (i32 step = 0; step < Shape::kHeadSteps; ++step) {
      u32 a[kRowTiles][4];
#pragma unroll
      for (i32 t = 0; t < kRowTiles; ++t) {
        load_matrix_x4(a[t], HeadRows::right(HeadRows::below(q, t * 16), step * 2));
      }
#pragma unroll
      for (i32 n = 0; n < kKeyTiles; n += 2) {
        u32 b[4];
        load_matrix_x4(b, HeadRows::right(HeadRows::below(k, n * 8), step * 2));
#pragma unroll
        for (i32 t = 0; t < kRowTiles; ++t) {
          multiply_16x8x16<Element>(scores[t][n], a[t], b[0], b[1]);
          multiply_16x8x16<Element>(scores[t][n + 1], a[t], b[2], b[3]);
        }
      }
    }
  }

  TW_DEVICE void rotate_queries() {
    copy_async_wait<0>();
    sync_block();
    rotate_rows<HeadRows, Shape::kThreads>(memory.q, memory.rest_of(0), Shape::kRows, thread,
                                           [&](i32 r) { return tile.rows[r].q_pos; });
  }
  // What the rests of rotated queries and keys add to their product.
  TW_DEVICE void add_rests(const char* keys, float (&scores)[kRowTiles][kKeyTiles][4]) {
    const i32 first = warp() * kWarpRows;
    add_products<HeadRows, RestRows>(memory.q + HeadRows::offset(first, 0),
                                     memory.rest_of(Shape::kRows), scores);
    add_products<RestRows, HeadRows>(memory.rest_of(first), keys, scores);
  }

  // Logits transform and mask. `positions`: of the block's keys.
  TW_DEVICE void transform(i32 i, bool full, const i32* positions,
                           float (&scores)[kRowTiles][kKeyTiles][4]) {
    if (full && !has_logits(p)) return;
    // Rows and columns are found anew, each time: few blocks come here, and registers that keep
    // them are what the others lack.
    const auto each_row = [&](const auto& visit) {
      const i32 own = thread_id();
      const i32 first = own / kWarpSize * kWarpRows + own % kWarpSize / 4;
#pragma unroll
      for (i32 t = 0; t < kRowTiles; ++t) {
#pragma unroll
        for (i32 half = 0; half < 2; ++half) {
          visit(first + t * 16 + half * 8, half, positions + own % 4 * 2, scores[t]);
        }
      }
    };
    if (has_logits(p)) {
      each_row([&](i32 r, i32 half, const i32* at, auto& of_row) {
        transform_row(p, tile, r, half, at, of_row);
      });
    }
    if (Variant::kHasLogits ? tile.is_full(tile.first_block + i) : full) return;
    each_row([&](i32 r, i32 half, const i32* at, auto& of_row) {
      mask_row(p, tile, r, half, at, of_row);
    });
  }

  // Scores become weights; outputs are rescaled where a row's reference moved.
  TW_DEVICE void weigh(float (&scores)[kRowTiles][kKeyTiles][4]) {
    const float by = p.exponent_scale;
#pragma unroll
    for (i32 t = 0; t < kRowTiles; ++t) {
      if constexpr (Variant::kSoftmax) {
        float factor[2];
#pragma unroll
        for (i32 half = 0; half < 2; ++half) {
          factor[half] = rows[t][half].advance(largest_of_row(half, scores[t]), by);
        }
        rescale_rows(factor, o[t]);
      }
#pragma unroll
      for (i32 half = 0; half < 2; ++half) weigh_row(half, by, rows[t][half], scores[t]);
    }
  }

  // o += weights V
  TW_DEVICE void multiply_values(const char* values,
                                 const float (&weights)[kRowTiles][kKeyTiles][4]) {
    const i32 own = thread_anew() % kWarpSize;
    const SharedPlace v = shared_place(values + ValueRows::offset(own % 16, own / 16));
#pragma unroll
    for (i32 step = 0; step < kKeyTiles / 2; ++step) {
      u32 a[kRowTiles][4];
#pragma unroll
      for (i32 t = 0; t < kRowTiles; ++t) {
        const float(&low)[4] = weights[t][2 * step];
        const float(&high)[4] = weights[t][2 * step + 1];
        a[t][0] = pack<Element>(low[0], low[1]);
        a[t][1] = pack<Element>(low[2], low[3]);
        a[t][2] = pack<Element>(high[0], high[1]);
        a[t][3] = pack<Element>(high[2], high[3]);
      }
#pragma unroll
      for (i32 d = 0; d < Shape::kValueTiles; d += 2) {
        u32 b[4];
        load_matrix_x4_transposed(b, ValueRows::right(ValueRows::below(v, step * 16), d));
#pragma unroll
        for (i32 t = 0; t < kRowTiles; ++t) {
          multiply_16x8x16<Element>(o[t][d], a[t], b[0], b[1]);
          multiply_16x8x16<Element>(o[t][d + 1], a[t], b[2], b[3]);
        }
      }
    }
  }

  const AttentionParams& p;
  PrefillTile& tile;
  PrefillMemory& memory;
  const i32 thread;
  SoftmaxRow rows[kRowTiles][2];
  float o[kRowTiles][Shape::kValueTiles][4] = {};
};

}  // namespace tw
