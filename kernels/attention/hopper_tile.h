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
      wait_for_keys();
      const u32 block = block_of_keys();
      multiply_keys(scores);
      wgmma_wait<0>();
      hold_registers(scores);
      give_back_keys();
      if (left == 1) give_back_queries();
      if (scores_to_weights(block, scores)) rescale();
      pack_weights(scores, weights);
      ++turns.blocks;
      wait_for_values();
      multiply_values(weights);
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
      wait_for_keys();
      const u32 block = block_of_keys();
      wait_for_turn();
      multiply_keys(scores);
      end_turn();
      wgmma_wait<0>();
      hold_registers(scores);
      give_back_keys();
      if (left == 1) give_back_queries();
      scores_to_weights(block, scores);
      pack_weights(scores, weights);
      ++turns.blocks;
    }
#pragma unroll 1
    for (--left; left > 0; --left) {
      Scores scores;
      wait_for_keys();
      const u32 block = block_of_keys();
      wait_for_values();
      wait_for_turn();
      multiply_keys(scores);
      if (moved) rescale();
      multiply_values(weights);
      end_turn();
      wgmma_wait<1>();
      hold_registers(scores);
      give_back_keys();
      if (left == 1) give_back_queries();
      moved = scores_to_weights(block, scores);
      wgmma_wait<0>();
      hold_registers(o);
      give_back_values();
      pack_weights(scores, weights);
      ++turns.blocks;
    }
    if (moved) rescale();
    wait_for_values();
    wait_for_turn();
    multiply_values(weights);
    end_turn();
    wgmma_wait<0>();
    hold_registers(o);
    give_back_values();
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

  // Whether this warp computes rows that there are.
  TW_DEVICE bool has_rows() const {
    return !few_rows || warp_id() % 4 == 0;
  }
  // Of a thread's two: rows 8 to 15 of a warp are often not there in tiles of few.
  TW_DEVICE bool has_row(i32 half) const {
    return !few_rows || half == 0 || piece->tile.num_rows > 8;
  }

  // Adds the other group's results to those of the first one's first warp: true there.
  TW_DEVICE bool join_groups() {
    const u32 turn = turns.joins++;
    if (!has_rows()) return false;
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

  // Starts scores = Q K^T.
  TW_DEVICE void multiply_keys(Scores& scores) {
    const HopperStages& stages = memory.stages;
    const SharedMatrix q = shared_matrix(
        stages.q[0] + group * Hopper::kGroupRows * Hopper::kRowBytes, sizeof(stages.q[0]));
    const SharedMatrix k =
        shared_matrix(stages.k[turns.blocks % Hopper::kStages][0] + first_key() * Hopper::kRowBytes,
                      sizeof(stages.k[0][0]));
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

  // Starts o += weights V, of the last block.
  TW_DEVICE void multiply_values(const Weights& weights) {
    const HopperStages& stages = memory.stages;
    const SharedMatrix v = shared_matrix(
        stages.v[(turns.blocks - 1) % Hopper::kValueStages][0] + first_key() * Hopper::kRowBytes,
        sizeof(stages.v[0][0]));
    hold_registers(o);
    wgmma_fence();
#pragma unroll
    for (i32 i = 0; i < kSixteens; ++i) {
      MultiplyValues::registers(o, weights[i], v.at(i * 16 * Hopper::kRowBytes));
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

  // True: see weigh().
  TW_DEVICE bool scores_to_weights(u32 block, Scores& scores) {
    if (!has_rows()) return false;
    transform(block, scores);
    return weigh(scores);
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
#pragma unroll
    for (i32 half = 0; half < 2; ++half) {
      if (!has_row(half)) break;
      const i32 r = (few_rows ? 0 : warp_id() * 16) + half * 8 + lane_id() / 4;
      if (has_logits(p)) transform_row(p, piece->tile, r, half, positions, tiles);
      if (full) continue;
      const i32 begin = piece->row_begin[r];
      const i32 end = piece->row_end[r];
      const bool is_interval = (block & HopperMemory::kRegular) != 0 && !any_of_warp(begin > end);
      // To test bits is one instruction for seven of them, to compare one each.
      keep_columns(is_interval ? columns_between(begin, end)
                               : attended_columns<kKeyTiles>(p, piece->tile, r, positions),
                   half, tiles);
    }
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

  // Scores become weights. True: the reference of some row of the warp moved, and outputs so far
  // must be multiplied by `factor`. The two rows of a thread side by side, and sums of every other
  // weight: a chain of additions would take as long as the exponentials.
  TW_DEVICE bool weigh(Scores& scores) {
    if constexpr (!Variant::kSoftmax) {
      weigh_without_softmax(scores);
      return false;
    }
    if constexpr (few_rows) {
      bool moved = weigh_half(0, scores);
      if (has_row(1)) moved = weigh_half(1, scores) || moved;
      return moved;
    }
    const float by = p.exponent_scale;
    float largest[4] = {scores[0], scores[1], scores[2], scores[3]};
#pragma unroll
    for (i32 i = 4; i < kKeyTiles * 4; ++i) largest[i % 4] = max_of(largest[i % 4], scores[i]);
    largest[0] = max_of(largest[0], largest[1]);
    largest[1] = max_of(largest[2], largest[3]);
    // A row's reference moves if it does for one of the four threads that have its scores.
    const bool moved = any_of_warp(rows[0].moves(largest[0], by) || rows[1].moves(largest[1], by));
    if (moved) {
      factor[0] = rows[0].advance(max_of_quad(largest[0]), by);
      factor[1] = rows[1].advance(max_of_quad(largest[1]), by);
    }
    const float reference[2] = {rows[0].reference(by), rows[1].reference(by)};
    float sums[4] = {};
#pragma unroll
    for (i32 i = 0; i < kKeyTiles * 4; ++i) {
      scores[i] = exp2_fast(scores[i] * by - reference[i % 4 / 2]);
      sums[i % 4] += scores[i];
    }
#pragma unroll
    for (i32 half = 0; half < 2; ++half) rows[half].l += sums[half * 2] + sums[half * 2 + 1];
    return moved;
  }

  // One of a thread's two rows.
  TW_DEVICE bool weigh_half(i32 half, Scores& scores) {
    const float by = p.exponent_scale;
    const auto score = [&](i32 i) -> float& { return scores[i / 2 * 4 + half * 2 + i % 2]; };
    float largest[4] = {score(0), score(1), score(2), score(3)};
#pragma unroll
    for (i32 i = 4; i < kKeyTiles * 2; ++i) largest[i % 4] = max_of(largest[i % 4], score(i));
    largest[0] = max_of(max_of(largest[0], largest[1]), max_of(largest[2], largest[3]));
    const bool moved = any_of_warp(rows[half].moves(largest[0], by));
    factor[half] = moved ? rows[half].advance(max_of_quad(largest[0]), by) : 1.0F;
    const float reference = rows[half].reference(by);
    float sums[4] = {};
#pragma unroll
    for (i32 i = 0; i < kKeyTiles * 2; ++i) {
      score(i) = exp2_fast(score(i) * by - reference);
      sums[i % 4] += score(i);
    }
    rows[half].l += (sums[0] + sums[1]) + (sums[2] + sums[3]);
    return moved;
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
    if (!has_rows()) return;
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
