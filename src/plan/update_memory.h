// SPDX-License-Identifier: Apache-2.0
// Shared memory of the block that makes an attention's plan.
#pragma once

#include "plan/view.h"

namespace tilewright::plan {

inline constexpr int kMaxUpdateWarps = 32;
// On the device: cuts and the tail's costs are in shared memory.
inline constexpr int kMaxDeviceWorkers = 1024;
// Of shared memory for rows: what every GPU since Ampere has, less the rest.
inline constexpr std::int64_t kSharedRowBytes = std::int64_t{56} << 10;

struct Sums {
  std::int64_t first;
  std::int64_t second;
};

// Behind it: rows before and after they are sorted, [limits.rows] each, and requests, as many,
// where they fit; cuts, [workers + 1]; costs of the tail's items, [workers].
struct alignas(16) UpdateMemory {
  View view;  // header, rows and requests are those that are worked on
  Header header;
  Sums warp_sums[2][kMaxUpdateWarps];
  std::int32_t turn;  // of the status words
  std::int32_t end_of_queries;
  std::int32_t live_requests;
  std::int32_t level_end[kMaxLevels + 1];  // of the rows of levels before each

  TILEWRIGHT_HD Row* rows() { return reinterpret_cast<Row*>(this + 1); }
};

TILEWRIGHT_HD inline bool rows_fit_shared(std::int64_t rows) {
  return rows * static_cast<std::int64_t>(2 * sizeof(Row) + sizeof(Request)) <= kSharedRowBytes;
}
TILEWRIGHT_HD inline std::int64_t update_shared_bytes(std::int64_t workers, std::int64_t rows) {
  const std::int64_t shared = rows_fit_shared(rows) ? rows : 0;
  return static_cast<std::int64_t>(sizeof(UpdateMemory)) +
         shared * static_cast<std::int64_t>(2 * sizeof(Row) + sizeof(Request)) +
         (workers + 1) * static_cast<std::int64_t>(sizeof(Cut) + sizeof(std::int64_t));
}

}  // namespace tilewright::plan
