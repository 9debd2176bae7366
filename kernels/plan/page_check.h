// SPDX-License-Identifier: Apache-2.0
// Checks page ids while another block makes the schedule: requests whose pages are not in the cache
// are marked. Nothing waits for it but the kernels that run after this one.
#pragma once

#include "arch/thread.h"
#include "plan/row_input.h"

namespace tw {

class PageCheck {
 public:
  // Of warp `warp` of `warps`. Without `status` nothing is marked.
  TW_DEVICE PageCheck(const plan::BatchInput& batch, const plan::PlanLimits& limits,
                      const plan::PartInput& part, u32* status, i32 warp, i32 warps)
      : batch_(batch), limits_(limits), part_(part), status_(status), warp_(warp), warps_(warps) {
    const std::int64_t slots = request_slots(batch, limits);
    requests_ = static_cast<i32>(plan::clamp64(live_requests(batch), 0, slots));
  }

  // Whether one of the warp's rows has a page that is not there. All lanes.
  TW_DEVICE bool check_level(i32 level) {
    const RowInput input(part_, level, limits_);
    const bool rows_are_requests = input.input.num_rows < 0;
    const plan::IntList& indptr = rows_are_requests ? batch_.qo_indptr : input.input.qo_indptr;
    const i32 rows = rows_are_requests ? requests_ : input.input.num_rows;
    if (rows == 0) return false;
    // Several warps a row where there are more of them.
    const i32 warps_a_row = warps_ > rows ? warps_ / rows : 1;
    const i32 step = warps_ / warps_a_row;
    const i32 part = warp_ / step;
    if (part >= warps_a_row) return false;
    bool bad = false;
#pragma unroll 1
    for (i32 row = warp_ % step; row < rows; row += step) {
      const i32 begin = indptr[row];
      const i32 end = indptr[row + 1];
      if (begin < 0 || end <= begin) continue;
      u32 bits = 0;
      const i32 kv_len = input.kv_len(row, bits);
      if (kv_len == 0 || entries_are_well(input, row, kv_len, part, warps_a_row)) continue;
      bad = true;
      if (status_ != nullptr) mark(rows_are_requests, level, row, begin, end);
    }
    return bad;
  }

 private:
  TW_DEVICE bool entries_are_well(const RowInput& input, i32 row, i32 kv_len, i32 part,
                                  i32 parts) const {
    const std::int64_t pages = input.input.num_pages;
    const i32 page_size = static_cast<i32>(input.pages.page_size);
    if (input.pages.indices == nullptr) {
      if (pages == 0) return true;
      const std::int64_t last = input.pages.indptr != nullptr
                                    ? input.pages.first_page(row) + kv_len - 1
                                    : std::int64_t{row};
      return last < pages;
    }
    const i32* const entries = input.entries(row);
    const i32 count = plan::ceil_div32(kv_len, page_size);
    const u32 most = pages > 0 && pages < 0x7FFFFFFF ? static_cast<u32>(pages - 1) : 0x7FFFFFFFU;
    // Several loads at a time: one takes as long as the rest of the check.
    constexpr i32 kLoads = 4;
    const i32 stride = parts * kWarpSize;
    bool bad = false;
#pragma unroll 1
    for (i32 base = part * kWarpSize + lane_id(); base < count; base += kLoads * stride) {
      u32 ids[kLoads];
#pragma unroll
      for (i32 i = 0; i < kLoads; ++i) {
        const i32 at = base + i * stride;
        ids[i] = at < count ? static_cast<u32>(load_once(entries + at)) : 0;
      }
#pragma unroll
      for (i32 i = 0; i < kLoads; ++i) bad = bad || ids[i] > most;
    }
    return !any_of_warp(bad);
  }

  // The requests of a row's query tokens. Block 0 may not have read qo_indptr yet.
  TW_DEVICE void mark(bool rows_are_requests, i32 level, i32 row, i32 begin, i32 end) const {
    if (rows_are_requests) {
      if (lane_id() == 0) mark_request(row);
      return;
    }
    const i32* const q_rows = part_.view.levels[level].q_rows;
    if (q_rows != nullptr && end > part_.levels[level].num_q_rows) return;  // marked elsewhere
#pragma unroll 1
    for (i32 r = lane_id(); r < requests_; r += kWarpSize) {
      const i32 first = batch_.qo_indptr[r];
      const i32 past = batch_.qo_indptr[r + 1];
      bool covered = q_rows == nullptr && first < end && begin < past && first < past;
#pragma unroll 1
      for (i32 i = begin; q_rows != nullptr && i < end; ++i) {
        covered = covered || (first <= q_rows[i] && q_rows[i] < past);
      }
      if (covered) mark_request(r);
    }
  }
  TW_DEVICE void mark_request(i32 request) const {
    atomic_or(status_ + request, plan::kBadPage);
    atomic_or(status_ + limits_.requests, plan::kBadPage);
  }

  const plan::BatchInput& batch_;
  const plan::PlanLimits& limits_;
  const plan::PartInput& part_;
  u32* status_;
  i32 warp_;
  i32 warps_;
  i32 requests_ = 0;
};

}  // namespace tw
