// SPDX-License-Identifier: Apache-2.0
// tilewright_join_levels: joins what several levels gave for one query.
#pragma once

#include "attention/results.h"

namespace tw {

// One (token, q head), and what the plan says about it: that needs nothing of what levels gave.
struct JoinedRow {
  i64 rows;        // of the batch
  u32 levels;      // that have keys of it
  bool is_joined;  // else its one level has written the output
  bool failed;
  QueryRow row;

  TW_DEVICE void read(const AttentionParams& p, i64 all_rows, i64 index) {
    const i32 heads = p.plan.schedule.config.num_kv_heads * Spec::kGroupSize;
    const i64 token = plan::div64(index, heads);
    const auto head = static_cast<i32>(index - token * heads);
    rows = all_rows;
    levels = p.plan.token_levels[token];
    is_joined = levels == 0 || (levels & (levels - 1)) != 0;
    row.batch = p.plan.request_of(token);
    const plan::Request request = p.plan.requests[row.batch];
    failed = has_failed(p, row.batch);
    row.q_pos = static_cast<i32>(p.plan.position_of_query(request, token));
    row.q_head = head;
    row.kv_head = head / Spec::kGroupSize;
    row.q_len = request.q_len;
    row.kv_len = request.kv_len;
    row.q_index = static_cast<i32>(token);
    row.q_begin = request.q_begin;
  }
  // Nothing is read of levels for it, and nothing is written.
  TW_DEVICE JoinedRow without_results(const AttentionParams& p) const {
    JoinedRow other = *this;
    other.levels = 0;
    other.row.q_index = static_cast<i32>(p.out_tokens);
    return other;
  }
};

// What several levels, or their parts, gave for a row: a list of partial results, in order,
// outermost level first. By all lanes of a warp; a lane a level.
class LevelParts {
 public:
  TW_DEVICE LevelParts(const AttentionParams& params, const JoinedRow& joined) : p(params) {
    const bool exists = (joined.levels >> lane_id() & 1U) != 0;
    if (exists) {
      parts = parts_of_level_row(
          level_row(p, lane_id(), joined.rows, joined.row.q_index, joined.row.q_head));
    }
    end = exists ? parts.count : 0;
#pragma unroll
    for (i32 distance = 1; distance < plan::kMaxLevels; distance *= 2) {
      const i32 before = shuffle_up(end, distance);
      if (lane_id() >= distance) end += before;
    }
  }

  TW_DEVICE i32 count() const {
    return shuffle(end, plan::kMaxLevels - 1);
  }

  // The outputs of the i-th one; i may differ from lane to lane. Their sums are `to_sums` behind
  // them.
  TW_DEVICE const float* outputs(i32 i, i32& to_sums) const {
    i32 level = 0;
    i32 begin = 0;
#pragma unroll 1
    for (i32 other = 0; other < p.plan.num_levels; ++other) {
      const i32 other_end = shuffle(end, other);
      if (other_end <= i) {
        level = other + 1;
        begin = other_end;
      }
    }
    const RowOfParts of_level = {
        reinterpret_cast<const float*>(shuffle(reinterpret_cast<u64>(parts.first), level)),
        reinterpret_cast<const float*>(shuffle(reinterpret_cast<u64>(parts.second), level)),
        shuffle(parts.distance, level), 0, 0};
    to_sums = shuffle(parts.to_sums, level);
    return of_level.outputs(i - begin);
  }

 private:
  const AttentionParams& p;
  // Of this lane's level, and where its own end in the list.
  RowOfParts parts = {};
  i32 end;
};

// By a warp: joins what levels gave for a row.
TW_DEVICE void join_levels_of_row(const AttentionParams& p, const JoinedRow& joined) {
  constexpr i32 kPasses = round_up(Spec::kValueDim, kWarpSize * 4) / (kWarpSize * 4);
  constexpr i32 kAtOnce = kPasses <= 2 ? 8 : 4;  // parts whose outputs are under way
  const LevelParts parts(p, joined);
  const i32 count = parts.count();
  float m = -kInfinity;
  float l = 0;  // of the lane's parts
  Float4 o[kPasses] = {};
  i32 first = 0;
  do {
    i32 to_sums;
    const float* const part = parts.outputs(first + lane_id(), to_sums);
    Float4 outputs[kPasses][kAtOnce];
    const auto ask = [&](i32 within) {
#pragma unroll
      for (i32 k = 0; k < kAtOnce; ++k) {
        const u64 from = shuffle(reinterpret_cast<u64>(part), within + k);
#pragma unroll
        for (i32 pass = 0; pass < kPasses; ++pass) {
          const i32 d = (pass * kWarpSize + lane_id()) * 4;
          const bool exists = first + within + k < count && d < Spec::kValueDim;
          outputs[pass][k] = {0, 0, 0, 0};
          if (exists) outputs[pass][k] = reinterpret_cast<const Float4*>(from)[d / 4];
        }
      }
    };
    // Asked for together with the sums.
    ask(0);
    Float2 sums{-kInfinity, 0};
    if (first + lane_id() < count) sums = *reinterpret_cast<const Float2*>(part + to_sums);
    const Join by = join_parts(m, sums.x);
    l = l * by.own + sums.y * by.other;
#pragma unroll
    for (Float4& sum : o) sum = {sum.x * by.own, sum.y * by.own, sum.z * by.own, sum.w * by.own};
    i32 within = 0;
#pragma unroll 1
    for (;;) {
#pragma unroll
      for (i32 k = 0; k < kAtOnce; ++k) {
        const float factor = shuffle(by.other, within + k);
#pragma unroll
        for (i32 pass = 0; pass < kPasses; ++pass) add(o[pass], 1.0F, outputs[pass][k], factor);
      }
      within += kAtOnce;
      if (within >= kWarpSize || first + within >= count) break;
      ask(within);
    }
    first += kWarpSize;
  } while (first < count);
  // All lanes write the same lse.
  const RowTarget target = finish_row(p, joined.row, joined.failed, m, sum_of_warp(l));
#pragma unroll
  for (i32 pass = 0; pass < kPasses; ++pass) {
    const i32 d = (pass * kWarpSize + lane_id()) * 4;
    if (d < Spec::kValueDim) put_columns(p, joined.row, target, d, o[pass]);
  }
}

}  // namespace tw

// Starts while the attention kernel ends, which has waited for the plan: what that says about a
// warp's first row is read meanwhile, and instructions are fetched by joining nothing.
TW_KERNEL TW_LAUNCH_BOUNDS(256, 1) tilewright_join_levels(TW_PARAMETER tw::AttentionParams params) {
  const int heads = params.plan.schedule.config.num_kv_heads * tw::Spec::kGroupSize;
  const tw::i64 rows = static_cast<tw::i64>(params.plan.schedule.header->q_tokens) * heads;
  const tw::i64 warps = static_cast<tw::i64>(tw::num_blocks()) * 8;
  tw::i64 row = tw::block_id() * 8 + tw::warp_id();
  tw::JoinedRow joined;
  for (int turn = 0; row < rows; ++turn) {
    if (turn != 1) joined.read(params, rows, row);
    if (turn == 1) tw::wait_for_previous_kernel();
    const bool rehearses = turn == 0;
    if (rehearses || joined.is_joined) {
      tw::join_levels_of_row(params, rehearses ? joined.without_results(params) : joined);
    }
    if (!rehearses) row += warps;
  }
  tw::wait_for_previous_kernel();
}
