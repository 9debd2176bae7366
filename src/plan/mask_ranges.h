// SPDX-License-Identifier: Apache-2.0
// What a tile asks a mask, and what the mask answers, without evaluating it element by element.
#pragma once

#include "plan/interval_set.h"

namespace tilewright::plan {

// A set of query rows of one request: neighbouring query tokens, every head in [q_head_begin,
// q_head_end).
struct QueryRange {
  std::int64_t q_pos_min = 0;  // bounds of the tokens' positions
  std::int64_t q_pos_max = 0;
  std::int64_t q_head_begin = 0;
  std::int64_t q_head_end = 1;
  std::int64_t kv_head = 0;
  std::int64_t batch = 0;
  std::int64_t q_len = 0;
  std::int64_t kv_len = 0;
  std::int64_t q_index = 0;  // of the first token in the batch
  std::int64_t q_begin = 0;  // of its request's first one
  // The positions of q_count tokens. Null: they are q_pos_min, q_pos_min + 1, ... q_pos_max.
  const std::int32_t* q_pos = nullptr;
  std::int64_t q_pos_stride = 1;
  std::int64_t q_count = 0;

  TILEWRIGHT_HD std::int64_t tokens() const {
    return q_pos != nullptr ? q_count : q_pos_max - q_pos_min + 1;
  }
  TILEWRIGHT_HD std::int64_t position(std::int64_t token) const {
    return q_pos != nullptr ? q_pos[token * q_pos_stride] : q_pos_min + token;
  }
  TILEWRIGHT_HD bool empty() const {
    return q_pos_min > q_pos_max || tokens() <= 0 || q_head_begin >= q_head_end;
  }
};

// Heads of a query range that are looped over where the mask depends on the head; beyond, nothing
// is claimed.
inline constexpr std::int64_t kMaxMaskHeads = 128;

struct MaskRanges {
  IntervalSet needed;  // a superset of the key positions that some query of the range attends to
  IntervalSet full;    // a subset of those that all of them attend to
  // needed == full: for one query row of a mask of closed form or with row bounds, unless kMax was
  // not enough
  bool exact = false;
};

// The same for masks that never need more than one interval of each (over several heads: the hull
// of what is needed). Either may be empty.
struct MaskInterval {
  Interval needed;
  Interval full;
};

}  // namespace tilewright::plan
