// SPDX-License-Identifier: Apache-2.0
// What the steps of making one attention's plan share: the block's memory, the batch, marks of what
// is wrong.
#pragma once

#include "arch/memory.h"
#include "arch/thread.h"
#include "plan/block_scan.h"
#include "plan/row_input.h"

namespace tw {

struct PartMaker {
  const plan::BatchInput& batch;
  const plan::PlanLimits& limits;
  const plan::PartInput& part;
  const plan::StatusMemory& all_status;
  plan::UpdateMemory& memory;
  BlockScan scan;
  plan::Row* rows;           // that are being worked on; memory.view.schedule.rows
  plan::Row* other_rows;     // where they are sorted to
  plan::Cut* cuts;           // in shared memory
  std::int64_t* tail_costs;  // before each item of the tail

  TW_DEVICE plan::View& view() const { return memory.view; }
  TW_DEVICE plan::Header& header() const { return memory.header; }
  TW_DEVICE const plan::Config& config() const { return memory.view.schedule.config; }

  // Behind the first barrier after start_part.
  TW_DEVICE u32* status() const { return all_status.words + memory.turn * (limits.requests + 1); }
  TW_DEVICE void mark_request(i32 request, u32 bits) const {
    atomic_or(status() + request, bits);
    atomic_or(status() + limits.requests, bits);
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
      const i32 r = view().request_of(row, view().token_of(row, i));
      if (r != marked) mark_request(r, bits);
      marked = r;
    }
  }
};

}  // namespace tw
