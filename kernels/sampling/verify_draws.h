// SPDX-License-Identifier: Apache-2.0
// Speculative verification of chains, behind its decisions: the token behind the accepted ones.
// Warps sum parts of the row where the chain ends; the last block looks for the token in one part.
#pragma once

#include "sampling/verify_chunks.h"
#include "sampling/verify_requests.h"

namespace tw {

TW_DEVICE_CALL u64 filtered_weight(const FilteredRow& row, i32 id, float value) {
  return row.weight(id, value);
}

inline constexpr u64 kNoLimit = ~u64{0};
inline constexpr i32 kDrawStep = kWarpSize * kRowRun;  // entries that a warp has at once
static_assert(kChunkStep % (kChunkWarps * kDrawStep) == 0);

// A row that weights are summed of. What is asked here is the same for all of its entries.
template <typename T>
struct WeighableRow {
  RowOfLogits<T> row;
  const RowSummary& summary;
  bool probabilities;

  TW_DEVICE WeighableRow(const VerifyParams& p, bool draft, i64 request, i32 node,
                         const VerifyMemory& memory)
      : row(row_of_node<T>(p, draft, request, node, memory.sample.process)),
        summary(draft ? memory.draft : memory.target),
        probabilities(p.probabilities != 0) {
    row.infinite = summary.infinite != 0;
  }

  // The run of this lane of a step of a warp that begins at `at`; behind the row's end there is
  // what weighs nothing.
  TW_DEVICE void load(i32 at, float (&run)[kRowRun]) const {
    const i32 id = at + lane_id() * kRowRun;
    if (row.aligned & (at + kDrawStep <= row.count)) {
      load_run(row.logits + id, run);
    } else {
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j) {
        run[j] = probabilities ? 0.0F : -kInfinity;
        if (id + j < row.count) run[j] = to_float(row.logits[id + j]);
      }
    }
  }

  TW_DEVICE void weigh(i32 id, float (&run)[kRowRun], u64 (&weights)[kRowRun]) const {
    if (summary.certain >= 0) {
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j) weights[j] = id + j == summary.certain ? 1 : 0;
      return;
    }
    if (probabilities) {
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j) weights[j] = probability_weight(run[j]);
      return;
    }
    if (row.processed) {
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j)
        if (id + j < row.count) run[j] = process_logit(row.process, id + j, run[j]);
    }
    if (row.infinite) {
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j) run[j] = row.value(run[j]);
    }
    const FilteredRow& filtered = summary.filtered;
#pragma unroll
    for (i32 j = 0; j < kRowRun; ++j) weights[j] = converted_weight(run[j], filtered.of_draw);
    if (filtered.kept.threshold > -kInfinity) {
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j)
        weights[j] = filtered.kept.contains(id + j, run[j]) ? weights[j] : 0;
    }
    if ((filtered.least == 0) & (filtered.typical.threshold == -kInfinity)) return;
#pragma unroll
    for (i32 j = 0; j < kRowRun; ++j) {
      if (weights[j] != 0) weights[j] = filtered_weight(filtered, id + j, run[j]);
    }
  }
};

// A warp's sum of what rejection left of the weights of entries [begin, end) of the row where
// `memory` is. The first entry at which the sum exceeds `most` becomes the request's token.
template <typename T>
TW_DEVICE u64 sum_left(const VerifyParams& p, const VerifyMemory& memory, i64 request, i32 node,
                       i32 begin, i32 end, u64 most) {
  const bool minus_draft = memory.rejected != 0 && p.draft.data != nullptr;
  const u64 rejection = memory.rejected != 0 ? memory.rejections[0] : 0;
  const i32 shift = minus_draft ? static_cast<i32>(memory.shifts[0]) : 0;
  const WeighableRow<T> target(p, false, request, node, memory);
  const WeighableRow<T> draft(p, true, request, node, memory);
  float next[kRowRun], next_draft[kRowRun] = {};
  target.load(begin, next);
  if (minus_draft) draft.load(begin, next_draft);
  u64 sum = 0;  // of this lane, if all are summed
#pragma unroll 1
  for (i32 at = begin; at < end; at += kDrawStep) {
    float values[kRowRun], draft_values[kRowRun];
#pragma unroll
    for (i32 j = 0; j < kRowRun; ++j) {
      values[j] = next[j];
      draft_values[j] = next_draft[j];
    }
    // One ahead; behind the last one the same.
    const i32 ahead = at + kDrawStep < end ? at + kDrawStep : at;
    target.load(ahead, next);
    if (minus_draft) draft.load(ahead, next_draft);
    const i32 id = at + lane_id() * kRowRun;
    u64 weights[kRowRun];
    target.weigh(id, values, weights);
    if (minus_draft) {
      u64 of_draft[kRowRun];
      draft.weigh(id, draft_values, of_draft);
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j) {
        weights[j] =
            residual_of_weights({weights[j], rejection, of_draft[j], memory.draft.mass}, shift);
      }
    } else if (memory.rejected != 0) {
#pragma unroll
      for (i32 j = 0; j < kRowRun; ++j)
        weights[j] = rejection == static_cast<u64>(id + j) ? 0 : weights[j];
    }
    const u64 of_run = weights[0] + weights[1] + weights[2] + weights[3];
    if (most == kNoLimit) {
      sum += of_run;
      continue;
    }
    const u64 up_to = sum + sum_up_to_lane(of_run);
    const u32 exceed = ballot(up_to > most);
    if (exceed != 0) {
      if (lane_id() != lowest_bit(exceed)) return 0;
      u64 rest = most - (up_to - of_run);
      i32 j = 0;
#pragma unroll
      for (i32 i = 0; i + 1 < kRowRun; ++i) {
        if ((j == i) & (rest >= weights[i])) {
          rest -= weights[i];
          ++j;
        }
      }
      store_number(p.tokens, request, node, id + j);
      return 0;
    }
    sum = shuffle(up_to, kWarpSize - 1);
  }
  return sum_of_warp(sum);
}

// What a block sums: its chunk; then the last one all of the row, if need be, the part that has the
// token, and that token's part of it.
enum class Stage : i32 { chunk, row, part, token };

template <typename T>
TW_DEVICE void verify_draws(const VerifyParams& p) {
  VerifyMemory& memory = *reinterpret_cast<VerifyMemory*>(shared_memory());
  const i32 chunks = chunks_of_row(p);
  const i64 request = block_id() / chunks;
  const RequestWorkspace workspace(p, request);
  i64 entry;
  if (!find_entry(p.sample, request, entry)) {
    wait_for_previous_kernel();  // else this one may be done before it
    return;
  }
  process_of_entry(p.sample.process, entry, p.sample.vocabulary, memory.sample.bias_filter,
                   memory.sample.process);
  wait_for_previous_kernel();
  const ChainEnd end = workspace.end();
  enter_node(p, workspace, request, end.node, memory);
  if (thread_id() == 0) {
    memory.rejections = workspace.rejections();
    memory.shifts = workspace.shifts();
    memory.rejected = end.rejected;
    const Decision decision{p, request, value_of_entry(p.sample.seeds, entry),
                            value_of_entry(p.sample.steps, entry)};
    memory.coin = decision.final_coin(end.node);
  }
  sync_block();
  // A part of a chunk for each warp.
  const i32 of_part = p.chunk / kChunkWarps;
  const i32 parts = chunks * kChunkWarps;
  u64* const sums = workspace.left();
  Stage stage = Stage::chunk;
  i32 part = block_id() % chunks * kChunkWarps + warp_id();
  i32 parts_end = part + 1;
  // Where parts are: all but the last one have whole steps.
  i32 begin = 0, each = of_part, limit = p.sample.vocabulary;
  u64 most = kNoLimit;
#pragma unroll 1
  for (;;) {
    u64 sum = 0;
#pragma unroll 1
    for (; part < parts_end; part += kChunkWarps) {
      const i32 from = begin + part * each;
      const i32 rest = limit - from;
      sum =
          sum_left<T>(p, memory, request, end.node, from, from + (rest < each ? rest : each), most);
      if ((lane_id() == 0) & (stage <= Stage::row)) sums[part] = sum;
    }
    if (stage == Stage::token) return;
    if (stage == Stage::part) {
      if (lane_id() == 0) memory.sample.stretches[warp_of_thread()] = sum;
      sync_block();
      u64 before = 0;
#pragma unroll 1
      for (i32 warp = 0; warp < warp_id(); ++warp) before += memory.sample.stretches[warp];
      most = memory.sample.result[2];
      if ((most < before) | (most - before >= sum)) return;
      most -= before;
      stage = Stage::token;
      part = warp_id();
      continue;
    }
    sync_block();
    if (stage == Stage::chunk) {
      if (thread_id() == 0) {
        memory.sample.result[0] =
            static_cast<u64>(atomic_add_acq_rel(&workspace.end().chunks, 1) == chunks - 1);
      }
      sync_block();
      if (memory.sample.result[0] == 0) return;
    }
    const u64 mine = thread_id() < parts ? sums[thread_id()] : 0;
    const BlockSum all = sum_up_to_thread<kChunkWarps>(memory.sample.of_warps, mine);
    if (all.total == 0) {
      // The difference is below a unit: target and draft are the same, as if nothing was rejected.
      if (thread_id() == 0) memory.rejected = 0;
      sync_block();
      stage = Stage::row;
      part = warp_id();
      parts_end = parts;
      continue;
    }
    const u64 drawn = multiply_high(memory.coin, all.total);
    const u64 before = all.up_to - mine;
    if ((drawn >= before) & (drawn < all.up_to)) {
      memory.sample.result[1] = static_cast<u64>(thread_id());
      memory.sample.result[2] = drawn - before;
    }
    sync_block();
    stage = Stage::part;
    begin = static_cast<i32>(memory.sample.result[1]) * of_part;
    limit = begin + of_part < limit ? begin + of_part : limit;
    each = (of_part / kChunkWarps + kDrawStep - 1) / kDrawStep * kDrawStep;
    part = warp_id();
    parts_end = part + 1;
  }
}

}  // namespace tw
