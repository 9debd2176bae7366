// SPDX-License-Identifier: Apache-2.0
// The k largest entries of each row, sorted: a block has a row.
#pragma once

#include "sampling/row_best.h"

namespace tw {

template <typename T>
TW_DEVICE void top_k(const TopKParams& p) {
  BestMemory& memory = *reinterpret_cast<BestMemory*>(shared_memory());
  const i64 index = block_id();
  const RowOfLogits<T> row{static_cast<const T*>(p.logits) + index * p.logits_stride,
                           p.vocabulary,
                           p.aligned != 0,
                           false,
                           memory.row.process,
                           false};
  const i32 count = list_best(
      row, [](i32, float) { return true; }, p.k, memory.row, memory.best);
  store_best<T>(p, index, memory.best.entries, count);
}

}  // namespace tw
