// SPDX-License-Identifier: Apache-2.0
// The batch's requests, and the rows of a plan whose rows are simply the requests.
#pragma once

#include "plan/part_maker.h"

namespace tw {

// Query ranges that are not well: what can be kept of them. Requests' ranges follow each other from
// 0 on whatever qo_indptr says, so that each token has one request. One thread.
TW_DEVICE void mend_q_ranges(PartMaker& maker, i32 most) {
  const i32 requests = maker.header().num_requests;
  i32 begin = 0;
#pragma unroll 1
  for (i32 r = 0; r < requests; ++r) {
    const i32 given_begin = maker.batch.qo_indptr[r];
    const i32 given_end = maker.batch.qo_indptr[r + 1];
    const i32 end = given_end < begin ? begin : given_end > most ? most : given_end;
    if (given_begin != begin || given_end != end) maker.mark_request(r, plan::kBadQRange);
    maker.view().requests[r].q_begin = begin;
    maker.view().requests[r].q_len = end - begin;
    begin = end;
  }
  maker.header().q_tokens = begin;
}

// One thread's requests that are longer than the limit.
TW_DEVICE void mark_long_requests(const PartMaker& maker) {
#pragma unroll 1
  for (i32 r = thread_id(); r < maker.header().num_requests; r += num_threads()) {
    const std::int64_t length =
        std::int64_t{maker.batch.qo_indptr[r + 1]} - maker.batch.qo_indptr[r];
    if (length > maker.limits.q_len) maker.mark_request(r, plan::kBadQRange);
  }
}

// Writes the requests' query tokens; the rest of a request is what `read(r, request)` makes of it,
// whose loads are under way with those of the ranges. The turn of the status words, which only
// thread 0 knows, becomes known.
template <typename Read>
TW_DEVICE void read_requests(PartMaker& maker, i32 turn, const Read& read) {
  const i32 most = most_tokens(maker.batch, maker.limits);
  const i32 slots = request_slots(maker.batch, maker.limits);
  i32 live = slots == 0 ? live_requests(maker.batch) : 0;
  const plan::IntList& indptr = maker.batch.qo_indptr;
  bool bad = false;
  bool too_long = false;
#pragma unroll 1
  for (i32 r = thread_id(); r < slots; r += num_threads()) {
    const i32 begin = indptr[r];
    const i32 end = indptr[r + 1];
    const std::int64_t length = std::int64_t{end} - begin;
    plan::Request request = {begin, static_cast<i32>(length), 0, 0};
    read(r, request);
    // Only now, for it is a load too that nothing should wait for.
    live = live_requests(maker.batch);
    if (r >= live) continue;
    bad = bad || (r == 0 && begin != 0) || end < begin || end > most;
    too_long = too_long || length > maker.limits.q_len;
    maker.view().requests[r] = request;
    if (r == live - 1 || r == slots - 1) maker.memory.end_of_queries = end;
  }
  if (thread_id() == 0) {
    maker.memory.turn = turn;
    maker.memory.live_requests = live;
    maker.header() = {};
    maker.header().num_requests = static_cast<i32>(plan::clamp64(live, 0, slots));
  }
  if (any_of_block(bad)) {
    if (thread_id() == 0) mend_q_ranges(maker, most);
  } else if (thread_id() == 0 && maker.header().num_requests > 0) {
    maker.header().q_tokens = maker.memory.end_of_queries;
  }
  if (too_long) mark_long_requests(maker);
  if (maker.memory.live_requests != maker.header().num_requests)
    maker.mark_all(plan::kBadNumRequests);
  sync_block();
}

// The position of a request's first query token; its length is known.
TW_DEVICE void set_position(const PartMaker& maker, i32 r, plan::Request& request) {
  constexpr std::int64_t kMost = 0x7FFFFFFF;
  request.q_pos = request.kv_len - request.q_len;
  if (!maker.batch.q_pos_offset.given()) return;
  const bool has = maker.batch.q_pos_offset.has(r);
  request.q_pos = has ? maker.batch.q_pos_offset[r] : 0;
  if (!has || std::int64_t{request.q_pos} + request.q_len - 1 > kMost) {
    maker.mark_request(r, plan::kBadPosition);
  }
}

// Rows from requests, those without query tokens left out.
TW_DEVICE void read_request_rows(PartMaker& maker, i32 turn) {
  const RowInput input(maker.part, 0, maker.limits);
  // What is wrong with a length stands in q_pos until the position does.
  read_requests(maker, turn, [&](i32 r, plan::Request& request) {
    u32 bad = 0;
    request.kv_len = input.kv_len(r, bad);
    request.q_pos = static_cast<i32>(bad);
  });
  const i32 requests = maker.header().num_requests;
  i32 num_rows = 0;
#pragma unroll 1
  for (i32 base = 0; base < requests; base += num_threads()) {
    const i32 r = base + thread_id();
    plan::Request request;
    plan::Row row;
    if (r < requests) {
      request = maker.view().requests[r];
      u32 bad = static_cast<u32>(request.q_pos);
      if (request.q_len > maker.limits.q_len) bad |= plan::kBadQRange;
      if (input.input.kv_pos.given()) {
        if (input.input.kv_pos.has(r)) {
          row.kv_pos = input.input.kv_pos[r];
        } else {
          bad |= plan::kBadPosition;
        }
      }
      if (request.q_len > 0 &&
          !positions_fit(maker.view().interleave, row.kv_pos, request.kv_len)) {
        bad |= plan::kBadPosition;
      }
      if (bad != 0) maker.mark_request(r, bad);
      if (bad != 0 || request.q_len == 0) request.kv_len = 0;
      set_position(maker, r, request);
      maker.view().requests[r] = request;
    }
    const bool live = r < requests && request.q_len > 0;
    i32 rows = 0;
    const i32 before = maker.scan.count_before(live, rows);
    if (live) {
      const i32 at = num_rows + before;
      row.index = r;
      row.segment = at;
      row.q_begin = request.q_begin;
      row.q_len = request.q_len;
      row.kv_len = request.kv_len;
      maker.rows[at] = row;
      maker.view().segments[at] = {0, r, request.kv_len, -1};
    }
    num_rows += rows;
  }
  if (thread_id() == 0) maker.header().num_rows = maker.header().num_segments = num_rows;
  sync_block();
}

}  // namespace tw
