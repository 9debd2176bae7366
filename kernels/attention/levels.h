// SPDX-License-Identifier: Apache-2.0
// tilewright_join_levels: joins what several levels gave for one query.
#pragma once

#include "attention/results.h"

namespace tw {

// What several levels, or their parts, gave for one (token, q head): a list of partial results, in
// order, outermost level first. By all lanes of a warp; a lane a level.
class RowParts {
 public:
  TW_DEVICE RowParts(const AttentionParams& params, u32 levels, i64 the_token, i32 the_head)
      : p(params), token(the_token), head(the_head) {
    i32 count = 0;
    if (lane_id() < p.plan.num_levels && (levels >> lane_id() & 1U) != 0) {
      count = 1;
      const Partial at = level_row(p, lane_id(), token, head);
      if (is_left_in_parts(at)) {
        const plan::Split split = p.plan.schedule.splits[split_of_parts(at)];
        first_worker = split.first;
        tile_row = static_cast<i32>(*at.m);
        count = plan::parts_of(split);
      }
    }
    end = count;
#pragma unroll
    for (i32 distance = 1; distance < kWarpSize; distance *= 2) {
      const i32 before = shuffle_up(end, distance);
      if (lane_id() >= distance) end += before;
    }
  }

  TW_DEVICE i32 count() const {
    return shuffle(end, kWarpSize - 1);
  }

  // The i-th one; i may differ from lane to lane.
  TW_DEVICE Partial operator[](i32 i) const {
    i32 level = 0;
    i32 begin = 0;
    for (i32 other = 0; other < p.plan.num_levels; ++other) {
      const i32 other_end = shuffle(end, other);
      if (other_end <= i) {
        level = other + 1;
        begin = other_end;
      }
    }
    const i32 worker = shuffle(first_worker, level);
    const i32 r = shuffle(tile_row, level);
    if (worker < 0) return level_row(p, level, token, head);
    const i32 slot = slot_of(p, plan::slot_of_part(worker, i - begin), head / Spec::kGroupSize);
    return row_of_slot(p, slot, r);
  }

 private:
  const AttentionParams& p;
  const i64 token;
  const i32 head;
  // Of this lane's level:
  i32 first_worker = -1;  // of the split item that has the row; -1: it is in one piece
  i32 tile_row = 0;
  i32 end = 0;  // of its partial results in the list
};

// One (token, q head), and what the plan says about it: that needs nothing of what levels gave.
struct JoinedRow {
  u32 levels;      // that have keys of it
  bool is_joined;  // else its one level has written the output
  bool failed;
  QueryRow row;

  TW_DEVICE JoinedRow(const AttentionParams& p, i64 token, i32 head)
      : levels(p.plan.token_levels[token]) {
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
};

// Some partial results' outputs: the lane's four columns from `d` on of those whose pointers the
// lanes from `first` on have, zeros behind the last one.
struct PartOutputs {
  static constexpr i32 kAtOnce = 8;  // loads under way
  Float4 o[kAtOnce];

  TW_DEVICE void load(const Partial& of_lane, i32 first, i32 count, i32 d) {
#pragma unroll
    for (i32 k = 0; k < kAtOnce; ++k) {
      const auto* const from =
          reinterpret_cast<const Float4*>(shuffle(reinterpret_cast<u64>(of_lane.o), first + k));
      const bool exists = d < Spec::kValueDim && first + k < count;
      o[k] = exists ? from[d / 4] : Float4{0, 0, 0, 0};
    }
  }
};

// By a warp: joins the levels' results of a row.
TW_DEVICE void join_levels_of_row(const AttentionParams& p, const JoinedRow& joined) {
  if (!joined.is_joined) return;
  const QueryRow& row = joined.row;
  const RowParts parts(p, joined.levels, row.q_index, row.q_head);
  const i32 count = parts.count();
  // The first outputs are asked for together with the sums.
  PartOutputs outputs;
  float m = -kInfinity;
  float l = 0;
  for (i32 first = 0; first < count; first += kWarpSize) {
    const Partial part = parts[first + lane_id()];
    if (first == 0) outputs.load(part, 0, count, lane_id() * 4);
    if (first + lane_id() < count) join(m, l, *part.m, *part.l);
  }
  join_warp(m, l, kWarpSize);
  const float reference = m == -kInfinity ? 0.0F : m;
  // All lanes write the same lse.
  const RowTarget target = finish_row(p, row, joined.failed, m, l);
  for (i32 columns = 0; columns < Spec::kValueDim; columns += kWarpSize * 4) {
    const i32 d = columns + lane_id() * 4;
    Float4 o{0, 0, 0, 0};
    for (i32 first = 0; first < count; first += kWarpSize) {
      const Partial part = parts[first + lane_id()];
      const float by = first + lane_id() < count ? exp2_fast(*part.m - reference) : 0.0F;
      for (i32 within = 0; within < kWarpSize && first + within < count;
           within += PartOutputs::kAtOnce) {
        if (columns + first + within > 0) outputs.load(part, within, count - first, d);
#pragma unroll
        for (i32 k = 0; k < PartOutputs::kAtOnce; ++k) {
          add(o, 1.0F, outputs.o[k], shuffle(by, within + k));
        }
      }
    }
    if (d < Spec::kValueDim) put_columns(p, row, target, d, o);
  }
}

}  // namespace tw

// Starts while the attention kernel ends, which has waited for the plan: what that says about a
// warp's first row is read meanwhile.
TW_KERNEL TW_LAUNCH_BOUNDS(256, 1) tilewright_join_levels(TW_PARAMETER tw::AttentionParams params) {
  const int heads = params.plan.schedule.config.num_kv_heads * tw::Spec::kGroupSize;
  const tw::i64 rows = static_cast<tw::i64>(params.plan.schedule.header->q_tokens) * heads;
  const tw::i64 warps = static_cast<tw::i64>(tw::num_blocks()) * 8;
  bool waits = true;
  for (tw::i64 row = tw::block_id() * 8 + tw::warp_id(); row < rows; row += warps) {
    const tw::i64 token = tilewright::plan::div64(row, heads);
    const tw::JoinedRow joined(params, token, static_cast<int>(row - token * heads));
    if (waits) tw::wait_for_previous_kernel();
    waits = false;
    tw::join_levels_of_row(params, joined);
  }
  if (waits) tw::wait_for_previous_kernel();
}
