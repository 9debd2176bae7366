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
    maker.view().requests[r] = {begin, end - begin, 0, 0};
    begin = end;
  }
  maker.header().q_tokens = begin;
}

// Writes the requests' query tokens.
TW_DEVICE void read_q_ranges(PartMaker& maker) {
  bool bad_count = false;
  const i32 requests = count_requests(maker.batch, maker.limits, bad_count);
  const i32 most = most_tokens(maker.batch, maker.limits);
  const plan::IntList& indptr = maker.batch.qo_indptr;
  if (thread_id() == 0) {
    maker.header() = {};
    maker.header().num_requests = requests;
    if (requests == 0) maker.header().q_tokens = 0;
  }
  bool bad = false;
#pragma unroll 1
  for (i32 r = thread_id(); r < requests; r += num_threads()) {
    const i32 begin = indptr[r];
    const i32 end = indptr[r + 1];
    bad = bad || (r == 0 && begin != 0) || end < begin || end > most;
    if (end >= begin && end - begin > maker.limits.q_len) maker.mark_request(r, plan::kBadQRange);
    maker.view().requests[r] = {begin, end - begin, 0, 0};
    if (r == requests - 1) maker.memory.end_of_queries = end;
  }
  if (any_of_block(bad)) {
    if (thread_id() == 0) mend_q_ranges(maker, most);
  } else if (thread_id() == 0 && requests > 0) {
    maker.header().q_tokens = maker.memory.end_of_queries;
  }
  if (bad_count) maker.mark_all(plan::kBadNumRequests);
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
TW_DEVICE void read_request_rows(PartMaker& maker) {
  const RowInput input(maker.part, 0, maker.limits);
  const i32 requests = maker.header().num_requests;
  i32 num_rows = 0;
#pragma unroll 1
  for (i32 base = 0; base < requests; base += num_threads()) {
    const i32 r = base + thread_id();
    plan::Request request;
    plan::Row row;
    if (r < requests) {
      request = maker.view().requests[r];
      u32 bad = request.q_len > maker.limits.q_len ? plan::kBadQRange : 0;
      i32 kv_len = input.kv_len(r, bad);
      if (input.input.kv_pos.given()) {
        if (input.input.kv_pos.has(r)) {
          row.kv_pos = input.input.kv_pos[r];
        } else {
          bad |= plan::kBadPosition;
        }
      }
      if (request.q_len > 0 && !positions_fit(maker.view().interleave, row.kv_pos, kv_len)) {
        bad |= plan::kBadPosition;
      }
      if (bad != 0) {
        kv_len = 0;
        maker.mark_request(r, bad);
      }
      request.kv_len = request.q_len > 0 ? kv_len : 0;
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
