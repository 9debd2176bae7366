// SPDX-License-Identifier: Apache-2.0
// Tiles on Hopper (FlashAttention-3, arXiv 2407.08608): two warp groups walk over the same blocks
// of keys. A group multiplies a block's keys and, behind them, the values of the last one, which go
// on under its softmax; the other group's products do so, too.
//
// Of a tile of many rows each group has 64, and all keys of a block. Of few rows, as decoding has
// them, both groups have the same, in their first warps, and each half of a block's keys: what
// counts is how soon its place may be filled again. Their results are joined behind the last block.
#pragma once

#include "attention/hopper_memory.h"
#include "attention/hopper_softmax.h"
#include "attention/hopper_store.h"
#include "attention/scores.h"
#include "attention/store_tile.h"

namespace tw {

// What a group has done since the kernel began.
struct HopperTurns {
  u32 pieces = 0;
  u32 blocks = 0;  // of keys
  u32 steps = 0;
  u32 joins = 0;  // of few rows
};

// Before the first tile: the first group goes first.
TW_DEVICE void begin_turns(HopperMemory& memory) {
  if (warp_id() / 4 == Hopper::kGroups - 1) arrive_as_warp(memory.may_multiply[0]);
}

// A thread's two rows of a tile, and its part of their outputs.
struct HopperResults {
  SoftmaxRow rows[2];
  float o[Shape::kValueTiles * 4];
};

template <bool few_rows>
class HopperTile {
 public:
  using Element = Shape::Element;
  static constexpr i32 kKeys = few_rows ? Shape::kBlock / Hopper::kGroups : Shape::kBlock;
  static constexpr i32 kKeyTiles = kKeys / 8;
  static constexpr i32 kSixteens = kKeys / 16;
  using Scores = float[kKeyTiles * 4];
  using Weights = u32[kSixteens][4];
  using MultiplyKeys = WarpGroupMultiply<Element, kKeys>;
  using MultiplyValues = WarpGroupMultiply<Element, Shape::kValueTiles * 8>;

  TW_DEVICE HopperTile(const AttentionParams& params, HopperMemory& the_memory,
                       HopperTurns& the_turns, HopperResults& results)
      : p(params),
        memory(the_memory),
        turns(the_turns),
        group(uniform(thread_id() / 128)),
        has_rows(!few_rows || warp_id() % 4 == 0),
        rows(results.rows),
        o(results.o) {
#pragma unroll
    for (float& value : o) value = 0;
  }

  // The present piece, a tile. True: results are left to be stored by the warp.
  TW_DEVICE bool run() {
    piece = &memory.pieces[turns.pieces % Hopper::kPieces];
    const i32 left = uniform(piece->blocks());
    memory.q[group].wait_full(turns.pieces);
    if (left == 0) {
      give_back_queries();
    } else if constexpr (few_rows) {
      add_blocks(left);
    } else {
      add_blocks_in_turns(left);
    }
    return few_rows ? join_groups() : !store_plain_rows();
  }

 private:
  // Few rows: what counts is how soon keys and values arrive.
  TW_DEVICE void add_blocks(i32 left) {
#pragma unroll 1
    for (; left > 0; --left) {
      Scores scores;
      Weights weights = {};
      const SharedMatrix q = queries();
      const SharedMatrix k = keys();
      wait_for_keys();
      const u32 block = block_of_keys();
      multiply_keys(scores, q, k);
      wgmma_wait<0>();
      hold_registers(scores);
      give_back_keys();
      if (left == 1) give_back_queries();
      if (has_rows) {
        transform(block, scores);
        if (weigh_few(scores)) rescale();
        pack_weights(scores, weights);
      }
      ++turns.blocks;
      const SharedMatrix v = values();
      wait_for_values();
      multiply_values(weights, v);
      wgmma_wait<0>();
      hold_registers(o);
      give_back_values();
    }
  }

  // Many rows. The first block has a softmax of its own: where the loop begins with the softmax
  // there is one less, but places of keys are given back later, and long rows take 1% more.
  TW_DEVICE void add_blocks_in_turns(i32 left) {
    bool moved = false;  // there is nothing to rescale before the second block
    Weights weights = {};
    {
      Scores scores;
      const SharedMatrix q = queries();
      const SharedMatrix k = keys();
      wait_for_keys();
      const u32 block = block_of_keys();
      wait_for_turn();
      multiply_keys(scores, q, k);
      end_turn();
      wgmma_wait<0>();
      hold_registers(scores);
      give_back_keys();
      if (left == 1) give_back_queries();
      transform(block, scores);
      weigh<true>(scores, weights);
      ++turns.blocks;
    }
#pragma unroll 1
    for (--left; left > 0; --left) {
      Scores scores;
      const SharedMatrix q = queries();
      const SharedMatrix k = keys();
      const SharedMatrix v = values();
      wait_for_all();
      const u32 block = block_of_keys();
      multiply_keys(scores, q, k);
      if (moved) rescale();
      multiply_values(weights, v);
      end_turn();
      wgmma_wait<2>();
      hold_registers(scores);
      give_back_keys();
      if (left == 1) give_back_queries();
      transform(block, scores);
      moved = weigh<false>(scores, weights);
      hold_registers(o);
      give_back_values();
      ++turns.blocks;
    }
    if (moved) rescale();
    const SharedMatrix v = values();
    wait_for_values();
    wait_for_turn();
    multiply_values(weights, v);
    end_turn();
    wgmma_wait<0>();
    hold_registers(o);
    give_back_values();
  }

  // For keys, values and the turn: asked at once, as each answer takes its time.
  TW_DEVICE void wait_for_all() {
    Handover& k = memory.k[turns.blocks % Hopper::kStages];
    const u32 last = turns.blocks - 1;
    Handover& v = memory.v[last % Hopper::kValueStages];
    const bool keys_are_there = k.is_full(turns.blocks / Hopper::kStages);
    const bool values_are_there = v.is_full(last / Hopper::kValueStages);
    const bool is_turn = mbarrier_try_wait(&memory.may_multiply[group], turns.steps & 1);
    if (keys_are_there && values_are_there && is_turn) [[likely]]
      return;
    wait_for_keys();
    wait_for_values();
    wait_for_turn();
  }
  TW_DEVICE void wait_for_keys() {
    memory.k[turns.blocks % Hopper::kStages].wait_full(turns.blocks / Hopper::kStages);
  }
  // Of the last block.
  TW_DEVICE void wait_for_values() {
    const u32 last = turns.blocks - 1;
    memory.v[last % Hopper::kValueStages].wait_full(last / Hopper::kValueStages);
  }
  TW_DEVICE void give_back_queries() {
    arrive_as_warp(memory.q[group].empty);
  }
  TW_DEVICE void give_back_keys() {
    arrive_as_warp(memory.k[turns.blocks % Hopper::kStages].empty);
  }
  TW_DEVICE void give_back_values() {
    arrive_as_warp(memory.v[(turns.blocks - 1) % Hopper::kValueStages].empty);
  }

  TW_DEVICE bool store_plain_rows() {
    using Plain = PlainRows<Spec::Out>;
    if constexpr (few_rows || !Plain::kExist) {
      return false;
    } else {
      return Plain(p, *piece, warp_id() * 16, memory.store_space[warp_id()]).store(rows, o);
    }
  }

  // Of a thread's two: rows 8 to 15 of a warp are often not there in tiles of few.
  TW_DEVICE bool has_row(i32 half) const {
    return !few_rows || half == 0 || piece->tile.num_rows > 8;
  }

  // Adds the other group's results to those of the first one's first warp: true there.
  TW_DEVICE bool join_groups() {
    const u32 turn = turns.joins++;
    if (!has_rows) return false;
    float* const sums = memory.result(Shape::kValueTiles);
    if (group != 0) {
      memory.joined.wait_empty(turn);
#pragma unroll
      for (i32 half = 0; half < 2; ++half) {
        if (!has_row(half)) break;
        sums[half * 2 * kWarpSize] = rows[half].m;
        sums[(half * 2 + 1) * kWarpSize] = rows[half].l;
#pragma unroll
        for (i32 i = 0; i < Shape::kValueTiles * 2; ++i) {
          const i32 within = half * 2 + i % 2;
          memory.result(i / 2)[within * kWarpSize] = o[i / 2 * 4 + within];
        }
      }
      arrive_as_warp(memory.joined.full);
      return false;
    }
    memory.joined.wait_full(turn);
    const float by = Variant::kSoftmax ? p.exponent_scale : 0.0F;
#pragma unroll
    for (i32 half = 0; half < 2; ++half) {
      if (!has_row(half)) break;
      const float m = sums[half * 2 * kWarpSize];
      const float top = max_of(rows[half].m, m);
      // Without keys any finite reference will do.
      const float reference = top == -kInfinity ? 0.0F : top;
      const float own = exp2_fast((rows[half].m - reference) * by);
      const float other = exp2_fast((m - reference) * by);
      rows[half].m = top;
      rows[half].l = rows[half].l * own + sums[(half * 2 + 1) * kWarpSize] * other;
#pragma unroll
      for (i32 i = 0; i < Shape::kValueTiles * 2; ++i) {
        const i32 within = half * 2 + i % 2;
        float& value = o[i / 2 * 4 + within];
        value = value * own + memory.result(i / 2)[within * kWarpSize] * other;
      }
    }
    arrive_as_warp(memory.joined.empty);
    return true;
  }

  // Each step of many rows takes one turn. Of few rows tensor cores are not short.
  TW_DEVICE void wait_for_turn() {
    wait_for(memory.may_multiply[group], turns.steps);
  }
  TW_DEVICE void end_turn() {
    arrive_as_warp(memory.may_multiply[1 - group]);
    ++turns.steps;
  }

  // What products read, known before it may be read.
  TW_DEVICE SharedMatrix queries() const {
    const HopperStages& stages = memory.stages;
    return uniform(shared_matrix(stages.q[0] + group * Hopper::kGroupRows * Hopper::kRowBytes,
                                 sizeof(stages.q[0])));
  }
  TW_DEVICE SharedMatrix keys() const {
    const HopperStages& stages = memory.stages;
    return uniform(
        shared_matrix(stages.k[turns.blocks % Hopper::kStages][0] + first_key() * Hopper::kRowBytes,
                      sizeof(stages.k[0][0])));
  }
  // Of the last block.
  TW_DEVICE SharedMatrix values() const {
    const HopperStages& stages = memory.stages;
    return uniform(shared_matrix(
        stages.v[(turns.blocks - 1) % Hopper::kValueStages][0] + first_key() * Hopper::kRowBytes,
        sizeof(stages.v[0][0])));
  }

  // Starts scores = Q K^T.
  TW_DEVICE void multiply_keys(Scores& scores, SharedMatrix q, SharedMatrix k) {
    const HopperStages& stages = memory.stages;
    hold_registers(scores);
    wgmma_fence();
#pragma unroll
    for (i32 i = 0; i < Shape::kHeadSteps; ++i) {
      const i32 within = i % 4 * 32;
      MultiplyKeys::shared(scores, q.at(i / 4 * static_cast<i32>(sizeof(stages.q[0])) + within),
                           k.at(i / 4 * static_cast<i32>(sizeof(stages.k[0][0])) + within), i != 0);
    }
    wgmma_commit();
  }

  // Starts o += weights V, of the last block. Of many rows in two parts, so that weights of the
  // first half of the next block may be written when the first one is done.
  TW_DEVICE void multiply_values(const Weights& weights, SharedMatrix v) {
    hold_registers(o);
    wgmma_fence();
#pragma unroll
    for (i32 i = 0; i < kSixteens; ++i) {
      MultiplyValues::registers(o, weights[i], v.at(i * 16 * Hopper::kRowBytes));
      if (!few_rows && i == kSixteens / 2 - 1) wgmma_commit();
    }
    wgmma_commit();
  }

  TW_DEVICE u32 block_of_keys() const {
    const u32(&parts)[Hopper::kLoaders] = memory.block[turns.blocks % Hopper::kSteps];
    return static_cast<u32>(uniform(static_cast<i32>(parts[0] & parts[Hopper::kLoaders - 1])));
  }

  // Of a block's, the group's first.
  TW_DEVICE i32 first_key() const {
    return few_rows ? group * kKeys : 0;
  }

  // Logits transform and mask.
  TW_DEVICE void transform(u32 block, Scores& scores) {
    const bool full = (block & HopperMemory::kFull) != 0;
    if (full && !has_logits(p)) [[likely]]
      return;
    // The keys were given back already, but their positions are kept for longer.
    const i32* const positions =
        memory.positions[turns.blocks % Hopper::kSteps] + first_key() + lane_id() % 4 * 2;
    auto& tiles = reinterpret_cast<float(&)[kKeyTiles][4]>(scores);
    const i32 first_row = (few_rows ? 0 : warp_id() * 16) + lane_id() / 4;
    if (has_logits(p)) {
#pragma unroll
      for (i32 half = 0; half < 2; ++half) {
        if (!has_row(half)) break;
        transform_row(p, piece->tile, first_row + half * 8, half, positions, tiles);
      }
    }
    if (full) return;
    // To test bits is one instruction for seven of them, to compare one each. Both rows' are found
    // together: neither waits for the other.
    i32 begin[2] = {};
    i32 end[2] = {};
#pragma unroll
    for (i32 half = 0; half < 2; ++half) {
      if (!has_row(half)) break;
      begin[half] = piece->row_begin[first_row + half * 8];
      end[half] = piece->row_end[first_row + half * 8];
    }
    const bool are_regular = (block & HopperMemory::kRegular) != 0;
    const bool are_intervals = !any_of_warp(!are_regular || begin[0] > end[0] || begin[1] > end[1]);
    u32 kept[2];
    if (are_intervals) [[likely]] {
      kept[0] = columns_between(begin[0], end[0]);
      kept[1] = columns_between(begin[1], end[1]);
    } else {
      kept[0] = attended_columns<kKeyTiles>(p, piece->tile, first_row, positions);
      kept[1] =
          has_row(1) ? attended_columns<kKeyTiles>(p, piece->tile, first_row + 8, positions) : 0;
    }
    keep_columns(kept[0], 0, tiles);
    if (has_row(1)) keep_columns(kept[1], 1, tiles);
  }

  // Of keys that follow each other, this lane's at positions [begin, end).
  TW_DEVICE u32 columns_between(i32 begin, i32 end) const {
    const Tile& tile = piece->tile;
    const i32 first =
        memory.positions[turns.blocks % Hopper::kSteps][0] + first_key() + lane_id() % 4 * 2;
    const i32 past = tile.kv_pos + tile.kv_len;
    // Of numbers without a sign: of `a > b ? a - b : 0` NVRTC 13.0 makes the maximum of a
    // difference that may not fit and 0.
    const auto before = [&](i32 position) {
      const i32 at = position > first ? position : first;
      return columns_before(static_cast<u32>(at) - static_cast<u32>(first));
    };
    return before(end < past ? end : past) & ~before(begin);
  }

  // Scores of many rows become weights. True: the reference of some row of the warp moved, and
  // outputs so far must be multiplied by `factor`. Behind it the last block's values are done with.
  template <bool first>
  TW_DEVICE bool weigh(Scores& scores, Weights& weights) {
    if constexpr (Variant::kSoftmax) {
      return weigh_block<Element, first>(scores, p.exponent_scale, rows, factor, weights);
    } else {
      weigh_without_softmax(scores);
      wgmma_wait<0>();
      pack_weights(scores, weights);
      return false;
    }
  }

  // The same of few rows, whose weights are not packed.
  TW_DEVICE bool weigh_few(Scores& scores) {
    if constexpr (Variant::kSoftmax) {
      const float by = p.exponent_scale;
      bool moved = weigh_row_of_few(0, by, scores, rows[0], factor[0]);
      if (has_row(1)) moved = weigh_row_of_few(1, by, scores, rows[1], factor[1]) || moved;
      return moved;
    } else {
      weigh_without_softmax(scores);
      return false;
    }
  }

  TW_DEVICE void weigh_without_softmax(Scores& scores) {
    auto& tiles = reinterpret_cast<float(&)[kKeyTiles][4]>(scores);
    weigh_row(0, 1.0F, rows[0], tiles);
    weigh_row(1, 1.0F, rows[1], tiles);
  }

  TW_DEVICE void rescale() {
    multiply_rows(factor, reinterpret_cast<float(&)[Shape::kValueTiles][4]>(o));
  }

  TW_DEVICE void pack_weights(const Scores& scores, Weights& weights) const {
#pragma unroll
    for (i32 i = 0; i < kSixteens * 4; ++i) {
      weights[i / 4][i % 4] = pack<Element>(scores[i * 2], scores[i * 2 + 1]);
    }
  }

  const AttentionParams& p;
  HopperMemory& memory;
  HopperTurns& turns;
  const HopperPiece* piece = nullptr;  // whose keys are multiplied
  const i32 group;
  const bool has_rows;  // whether this warp computes rows that there are
  SoftmaxRow (&rows)[2];
  float (&o)[Shape::kValueTiles * 4];
  float factor[2] = {1.0F, 1.0F};
};

// Behind a tile. `stores`: its rows are stored, in a slot or where complete rows go.
TW_DEVICE void finish_tile(const AttentionParams& p, HopperMemory& memory, HopperTurns& turns,
                           const HopperResults& results, bool few_rows, bool stores) {
  const HopperPiece& piece = memory.pieces[turns.pieces % Hopper::kPieces];
  if (stores) {
    store_rows_of_warp<16>(
        p, piece.tile, piece.slot, few_rows ? 0 : warp_id() * 16,
        [&](i32 i) -> const SoftmaxRow& { return results.rows[i]; },
        [&](i32 i, i32 d, i32 e) { return results.o[d * 4 + i * 2 + e]; });
  }
  if (uniform(piece.slot) >= 0) {
    sync_workers();
    merge_if_last(p, piece.tile, piece, memory.message);
    rejoin_warp();
  }
  arrive_as_warp(memory.piece[turns.pieces % Hopper::kPieces].empty);
  ++turns.pieces;
}

}  // namespace tw
