// SPDX-License-Identifier: Apache-2.0
// What the steps of making one attention's plan share: the block's memory, the batch, marks of what
// is wrong.
#pragma once

#include "arch/memory.h"
#include "arch/thread.h"
#include "plan/block_scan.h"
#include "plan/row_input.h"

namespace tw {

// Which array of status words is this update's: the counts of two updates go round.
TW_DEVICE i32 turn_of(u32 count) {
  return count < static_cast<u32>(num_blocks()) ? 0 : 1;
}

// These are called, not inlined: seldom run, or long, and in many places.
TW_DEVICE_CALL void mark_word(u32* status, i32 request, i32 batch, u32 bits) {
  atomic_or(status + request, bits);
  atomic_or(status + batch, bits);
}
TW_DEVICE_CALL i32 request_of(const plan::View& view, i32 token) {
  take_for_shared(&view);
  return view.request_of(token);
}

// The first of rows [begin, end) that begins at `token` or behind it.
TW_DEVICE_CALL i32 first_row_at(const plan::Row* rows, i32 begin, i32 end, i32 token) {
#pragma unroll 1
  while (begin < end) {
    const i32 middle = begin + (end - begin) / 2;
    if (rows[middle].q_begin < token) {
      begin = middle + 1;
    } else {
      end = middle;
    }
  }
  return begin;
}

struct PartMaker {
  const plan::BatchInput& batch;
  const plan::PlanLimits& limits;
  const plan::PartInput& part;
  const plan::StatusMemory& all_status;
  plan::UpdateMemory& memory;
  BlockScan scan;
  // See UpdateArrays.
  std::int64_t* tail_costs;
  std::int64_t* cost_before;
  plan::ShortRow* short_rows;
  plan::Request* requests;  // view().requests
  plan::ShortSpan* short_spans;
  i32* first_tile;
  i32* fold;
  plan::Row* level_rows;
  plan::Row* work_rows;  // the plan's, while there are long ones: in shared memory where they fit
  std::int64_t* tile_costs;

  TW_DEVICE plan::View& view() const { return memory.view; }
  TW_DEVICE plan::Header& header() const { return memory.header; }
  // Parameters are operands of instructions: what does not change is not read from shared memory.
  TW_DEVICE const plan::Config& config() const { return part.view.schedule.config; }
  // The plan's rows, in the workspace.
  TW_DEVICE plan::Row* rows() const { return part.view.schedule.rows; }
  // Whether rows are simply the requests.
  TW_DEVICE bool is_plain() const { return part.view.token_levels == nullptr; }
  TW_DEVICE plan::LongRow* long_rows() const {
    return reinterpret_cast<plan::LongRow*>(cost_before);
  }
  TW_DEVICE plan::LongestItem* longest_items() const {
    static_assert(sizeof(plan::LongestItem) == sizeof(plan::ShortRow));
    return reinterpret_cast<plan::LongestItem*>(short_rows);
  }

  // Behind the first barrier after start_part.
  TW_DEVICE u32* status() const { return all_status.words + memory.turn * (limits.requests + 1); }
  TW_DEVICE void mark_request(i32 request, u32 bits) const {
    mark_word(status(), request, limits.requests, bits);
  }
  // All requests; called by all threads.
  TW_DEVICE void mark_all(u32 bits) const {
#pragma unroll 1
    for (i32 r = thread_id(); r < header().num_requests; r += num_threads()) mark_request(r, bits);
    if (thread_id() == 0) atomic_or(status() + limits.requests, bits);
  }
  // The requests of a row's query tokens.
  TW_DEVICE void mark_row(const plan::Row& row, u32 bits) const {
    i32 marked = -1;
#pragma unroll 1
    for (i32 i = 0; i < row.q_len; ++i) {
      const i32 r = request_of(view(), static_cast<i32>(view().token_of(row, i)));
      if (r != marked) mark_request(r, bits);
      marked = r;
    }
  }
};

// The last of [begin, end) with costs[i] <= cost, or `begin`. Four at a time: a step waits for
// shared memory once.
TW_DEVICE i32 find_cost(const std::int64_t* costs, i32 begin, i32 end, std::int64_t cost) {
  constexpr i32 kWays = 4;
  const i32 last = end - 1;
  i32 step = 1;
#pragma unroll 1
  while (step < end - begin) step *= kWays;
#pragma unroll 1
  for (step /= kWays; step > 0; step /= kWays) {
    // All are on their way before one is looked at. Behind the last there are more like it.
    std::int64_t bounds[kWays - 1];
#pragma unroll
    for (i32 i = 0; i < kWays - 1; ++i) {
      const i32 at = begin + (i + 1) * step;
      bounds[i] = costs[at < last ? at : last];
    }
    i32 steps = 0;
#pragma unroll
    for (i32 i = 0; i < kWays - 1; ++i) steps += bounds[i] <= cost ? 1 : 0;
    begin += steps * step;
    begin = begin < last ? begin : last;
  }
  return begin;
}

// How many heads' tiles are measured: those of one where heads do not differ.
TW_DEVICE i32 heads_to_measure(const plan::Config& config) {
  return config.heads_differ != 0 ? config.num_kv_heads : 1;
}

}  // namespace tw
