// SPDX-License-Identifier: Apache-2.0
// The batch's requests, and the rows of a plan whose rows are simply the requests.
#pragma once

#include "plan/part_maker.h"

namespace tw {

// Query ranges that are not well: what can be kept of them. Requests' ranges follow each other from
// 0 on whatever qo_indptr says, so that each token has one request. One thread.
TW_DEVICE_CALL void mend_q_ranges(const plan::BatchInput& batch, plan::UpdateMemory& memory,
                                  u32* status, i32 max_requests, i32 most) {
  take_for_shared(&memory);
  i32 begin = 0;
#pragma unroll 1
  for (i32 r = 0; r < memory.header.num_requests; ++r) {
    const i32 given_begin = batch.qo_indptr[r];
    const i32 given_end = batch.qo_indptr[r + 1];
    const i32 end = given_end < begin ? begin : given_end > most ? most : given_end;
    if (given_begin != begin || given_end != end) {
      atomic_or(status + r, plan::kBadQRange);
      atomic_or(status + max_requests, plan::kBadQRange);
    }
    memory.view.requests[r].q_begin = begin;
    memory.view.requests[r].q_len = end - begin;
    begin = end;
  }
  memory.header.q_tokens = begin;
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

// Where a request's query tokens begin, and where its length is given; which nothing is read for.
struct RequestPlace {
  const i32* q_begin;
  const i32* length;
};
TW_DEVICE RequestPlace place_of_request(const PartMaker& maker, i32 r) {
  const RowInput input(maker.part, 0, maker.limits);
  const plan::IntList& indptr = maker.batch.qo_indptr;
  return {kept(indptr.data + static_cast<std::int64_t>(r) * indptr.stride),
          kept(input.given_length(r))};
}
// What is there.
struct RequestWords {
  i32 q_begin = 0;
  i32 q_end = 0;
  i32 length = -1;
};
TW_DEVICE RequestWords load_request(const PartMaker& maker, const RequestPlace& at, i32 r) {
  RequestWords words;
  if (r >= request_slots(maker.batch, maker.limits)) return words;
  words.q_begin = load_relaxed(at.q_begin);
  words.q_end = load_relaxed(at.q_begin + maker.batch.qo_indptr.stride);
  if (at.length != nullptr) words.length = load_relaxed(at.length);
  return words;
}

// What is asked for before all else.
struct FirstWords {
  u32 count = 0;         // count_block
  RequestWords request;  // the thread's first one
  i32 live = 0;          // live_requests
};

// Writes the requests' query tokens and, where rows are requests, their lengths; what is wrong with
// a length stands in q_pos until the position does. The turn of the status words becomes known,
// from the count that thread 0 has.
TW_DEVICE void read_requests(PartMaker& maker, const FirstWords& first) {
  const i32 most = most_tokens(maker.batch, maker.limits);
  const i32 slots = request_slots(maker.batch, maker.limits);
  const bool plain = maker.is_plain();
  const RowInput input(maker.part, 0, maker.limits);
  bool bad = false;
  bool too_long = false;
  RequestWords words = first.request;
  i32 live = first.live;
#pragma unroll 1
  for (i32 r = thread_id(); r < slots; r += num_threads()) {
    const i32 next_r = r + num_threads();
    const RequestWords next = load_request(maker, place_of_request(maker, next_r), next_r);
    const i32 begin = words.q_begin;
    const i32 end = words.q_end;
    const std::int64_t length = std::int64_t{end} - begin;
    plan::Request request = {begin, static_cast<i32>(length), 0, 0};
    if (plain) {
      u32 bits = 0;
      request.kv_len = input.kv_len(r, words.length, bits);
      request.q_pos = static_cast<i32>(bits);
    }
    if (r >= live) break;
    bad = bad || (r == 0 && begin != 0) || end < begin || end > most;
    too_long = too_long || length > maker.limits.q_len;
    maker.requests[r] = request;
    // Not live - 1, which would be made before the loop, and wait there.
    if (r + 1 == live || r + 1 == slots) maker.memory.end_of_queries = end;
    words = next;
  }
  const auto requests = static_cast<i32>(plan::clamp64(live, 0, slots));
  if (thread_id() == 0) {
    maker.memory.turn = turn_of(first.count);
    maker.header().num_requests = requests;
  }
  if (any_of_block(bad)) {
    if (thread_id() == 0) {
      mend_q_ranges(maker.batch, maker.memory, maker.status(), maker.limits.requests, most);
    }
    sync_block();
  } else if (thread_id() == 0 && requests > 0) {
    maker.header().q_tokens = maker.memory.end_of_queries;
  }
  if (too_long) mark_long_requests(maker);
  if (live != requests) maker.mark_all(plan::kBadNumRequests);
}

// The position of a request's first query token; its length is known.
TW_DEVICE u32 set_position(const PartMaker& maker, i32 r, plan::Request& request) {
  constexpr std::int64_t kMost = 0x7FFFFFFF;
  request.q_pos = request.kv_len - request.q_len;
  if (!maker.batch.q_pos_offset.given()) return 0;
  const bool has = maker.batch.q_pos_offset.has(r);
  request.q_pos = has ? maker.batch.q_pos_offset[r] : 0;
  const bool fits = std::int64_t{request.q_pos} + request.q_len - 1 <= kMost;
  return has && fits ? 0 : plan::kBadPosition;
}

// Checks what read_requests read of a request, writes the request to the plan, and makes its row;
// false: it has no query tokens.
TW_DEVICE bool row_of_request(const PartMaker& maker, const RowInput& input, i32 r, plan::Row& row,
                              plan::Request& request) {
  request = maker.requests[r];
  u32 bad = static_cast<u32>(request.q_pos);
  if (request.q_len > maker.limits.q_len) bad |= plan::kBadQRange;
  if (input.input.kv_pos.given()) {
    if (input.input.kv_pos.has(r)) {
      row.kv_pos = input.input.kv_pos[r];
    } else {
      bad |= plan::kBadPosition;
    }
  }
  if (request.q_len > 0 && !positions_fit(maker.part.view.interleave, row.kv_pos, request.kv_len)) {
    bad |= plan::kBadPosition;
  }
  if (bad != 0 || request.q_len == 0) request.kv_len = 0;
  bad |= set_position(maker, r, request);
  if (bad != 0) maker.mark_request(r, bad);
  maker.requests[r] = request;
  maker.part.view.requests[r] = request;
  row.index = r;
  row.q_begin = request.q_begin;
  row.q_len = request.q_len;
  row.kv_len = request.kv_len;
  return request.q_len > 0;
}

}  // namespace tw
