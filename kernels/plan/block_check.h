// SPDX-License-Identifier: Apache-2.0
// Checks block structures while another block makes the schedule, as PageCheck does page ids:
// requests whose lists are malformed are marked.
#pragma once

#include "arch/thread.h"
#include "plan/row_input.h"

namespace tw {

class BlockCheck {
 public:
  // Of warp `warp` of `warps`. Without `status` nothing is marked.
  TW_DEVICE BlockCheck(const plan::BatchInput& batch, const plan::PlanLimits& limits,
                       const plan::BlockLists& lists, u32* status, i32 warp, i32 warps)
      : batch_(batch), limits_(limits), lists_(lists), status_(status), warp_(warp), warps_(warps) {
    requests_ =
        static_cast<i32>(plan::clamp64(live_requests(batch), 0, request_slots(batch, limits)));
  }

  // Whether something is wrong with what the warp looked at. All lanes.
  TW_DEVICE bool check() const {
    if (!lists_.defined() || requests_ == 0) return false;
    bool bad = false;
#pragma unroll 1
    for (i32 r = warp_ * kWarpSize + lane_id(); r < requests_; r += warps_ * kWarpSize) {
      if (rows_are_well(r)) continue;
      bad = true;
      mark(r);
    }
    const std::int64_t rows = plan::max64(lists_.request_rows[requests_], 0);
    const std::int64_t most = plan::min64(rows * lists_.heads, lists_.num_lists);
#pragma unroll 1
    for (std::int64_t list = warp_; list < most; list += warps_) {
      if (list_is_well(static_cast<i32>(list))) continue;
      bad = true;
      if (status_ != nullptr) mark_owner(static_cast<i32>(list / lists_.heads));
    }
    return bad;
  }

 private:
  // As many block rows as the request's query tokens need, with room for their lists.
  TW_DEVICE bool rows_are_well(i32 r) const {
    const i32 begin = lists_.request_rows[r];
    const i32 end = lists_.request_rows[r + 1];
    if (begin < 0 || end < begin || std::int64_t{end} * lists_.heads > lists_.num_lists)
      return false;
    const std::int64_t tokens = std::int64_t{batch_.qo_indptr[r + 1]} - batch_.qo_indptr[r];
    return tokens <= (std::int64_t{end} - begin) * lists_.q_block;
  }

  // Its entries are there, and ascend from 0.
  TW_DEVICE bool list_is_well(i32 list) const {
    const i32 begin = lists_.indptr[list];
    const i32 end = lists_.indptr[list + 1];
    if (begin < 0 || end < begin || end > lists_.num_entries) return false;
    bool bad = false;
#pragma unroll 1
    for (i32 i = begin + lane_id(); i < end; i += kWarpSize) {
      const i32 before = i == begin ? -1 : load_once(lists_.indices + i - 1);
      bad = bad || load_once(lists_.indices + i) <= before;
    }
    return !any_of_warp(bad);
  }

  // The requests that have a block row.
  TW_DEVICE void mark_owner(i32 row) const {
#pragma unroll 1
    for (i32 r = lane_id(); r < requests_; r += kWarpSize) {
      if (lists_.request_rows[r] <= row && row < lists_.request_rows[r + 1]) mark(r);
    }
  }
  TW_DEVICE void mark(i32 request) const {
    if (status_ == nullptr) return;
    atomic_or(status_ + request, plan::kBadBlocks);
    atomic_or(status_ + limits_.requests, plan::kBadBlocks);
  }

  const plan::BatchInput& batch_;
  const plan::PlanLimits& limits_;
  const plan::BlockLists& lists_;
  u32* status_;
  i32 warp_;
  i32 warps_;
  i32 requests_;
};

}  // namespace tw
