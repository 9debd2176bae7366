// SPDX-License-Identifier: Apache-2.0
// Lengths and pages of a level's rows, read from what the caller gave and checked: whatever stands
// there, nothing outside the given tensors is read.
#pragma once

#include "arch/memory.h"
#include "plan/request_status.h"
#include "plan/update_params.h"

namespace tw {

namespace plan = tilewright::plan;

// Requests that there may be.
TW_DEVICE i32 request_slots(const plan::BatchInput& batch, const plan::PlanLimits& limits) {
  const i32 given = batch.qo_indptr.size - 1;
  return given < limits.requests ? given : limits.requests;
}
// Requests that there are said to be.
TW_DEVICE i32 live_requests(const plan::BatchInput& batch) {
  return batch.num_requests != nullptr ? load_once(batch.num_requests) : batch.qo_indptr.size - 1;
}

// Query tokens that there may be.
TW_DEVICE i32 most_tokens(const plan::BatchInput& batch, const plan::PlanLimits& limits) {
  return batch.num_q_pos >= 0 && batch.num_q_pos < limits.q_tokens ? batch.num_q_pos
                                                                   : limits.q_tokens;
}

// The rows of one level.
struct RowInput {
  const plan::PartInput& part;
  const plan::LevelInput& input;
  const plan::LevelPages& pages;
  const plan::PlanLimits& limits;

  TW_DEVICE RowInput(const plan::PartInput& of, i32 level, const plan::PlanLimits& most)
      : part(of), input(of.levels[level]), pages(of.view.levels[level]), limits(most) {}

  // Where a row's length or that of its last page is given; null: it is not.
  TW_DEVICE const i32* given_length(i32 row) const {
    return input.kv_lens.given() ? place_of(input.kv_lens, row)
                                 : place_of(input.last_page_len, row);
  }

  // Keys of a row; `bad` gets the bits of what is wrong, and then there are none.
  TW_DEVICE i32 kv_len(i32 row, u32& bad) const {
    // Loads first, so that none waits for another.
    const i32* const at = given_length(row);
    return kv_len(row, at != nullptr ? *at : -1, bad);
  }
  // `given`: what is at given_length, or -1.
  TW_DEVICE i32 kv_len(i32 row, i32 given, u32& bad) const {
    i32 holds = 0;
    const u32 wrong = capacity(row, holds);
    i32 length = holds;
    u32 wrong_length = 0;
    if (input.kv_lens.given()) {
      length = given;
    } else if (input.form == plan::TableForm::csr && holds > 0) {
      if (given < 1 || given > pages.page_size) wrong_length = plan::kBadKvLen;
      length = holds - static_cast<i32>(pages.page_size) + given;
    }
    // Of a row that is said to be empty no entry is looked at.
    if (length == 0 && input.kv_lens.given()) return 0;
    if (length < 0 || length > limits.kv_len || (wrong == 0 && length > holds)) {
      wrong_length = plan::kBadKvLen;
    }
    bad |= wrong | wrong_length;
    return (wrong | wrong_length) == 0 ? length : 0;
  }

  // The first page id of a row whose length is well; null: pages follow each other.
  TW_DEVICE const i32* entries(i32 row) const { return pages.entries(row); }

 private:
  TW_DEVICE static const i32* place_of(const plan::IntList& list, i32 row) {
    return list.has(row) ? &list.data[static_cast<std::int64_t>(row) * list.stride] : nullptr;
  }

  // Tokens that the row's table entries can hold; of more than 2^31 - 1 as many.
  TW_DEVICE u32 capacity(i32 row, i32& tokens) const {
    switch (input.form) {
      case plan::TableForm::padded: {
        i32 line = row;
        if (pages.row_ids != nullptr) line = row < input.num_row_ids ? pages.row_ids[row] : -1;
        if (line < 0 || line >= input.num_entries) return plan::kBadPage;
        tokens = input.row_tokens;
        return 0;
      }
      case plan::TableForm::csr:
      case plan::TableForm::ragged: {
        if (row + 1 >= input.indptr_size) return plan::kBadPage;
        const i32 begin = pages.indptr[row];
        const i32 end = pages.indptr[row + 1];
        if (begin < 0 || end < begin) return plan::kBadPage;
        if (input.form == plan::TableForm::csr && end > input.num_entries) return plan::kBadPage;
        tokens = static_cast<i32>(plan::min64((end - begin) * pages.page_size, 0x7FFFFFFF));
        return 0;
      }
      default:
        tokens = input.row_tokens;
        return 0;
    }
  }
};

// Whether all keys of a row are at positions of 32 bits.
TW_DEVICE_CALL bool shard_positions_fit(const plan::Interleave& shard, i32 kv_len) {
  constexpr std::int64_t kMost = 0x7FFFFFFF;
  // No product may overflow: turns are at most 2^30 * 2^31.
  const std::int64_t index = kv_len - 1;
  const std::int64_t chunk = index / shard.size * shard.world + shard.rank;
  return chunk <= kMost / shard.size && chunk * shard.size + index % shard.size <= kMost;
}
TW_DEVICE bool positions_fit(const plan::Interleave& shard, i32 kv_pos, i32 kv_len) {
  constexpr std::int64_t kMost = 0x7FFFFFFF;
  if (kv_len == 0) return true;
  if (shard.world == 1) return std::int64_t{kv_pos} + kv_len - 1 <= kMost;
  return shard_positions_fit(shard, kv_len);
}

}  // namespace tw
