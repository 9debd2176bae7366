// SPDX-License-Identifier: Apache-2.0
// The entries of a row that come first, where a block has the row.
#pragma once

#include "sampling/best.h"
#include "sampling/row.h"

namespace tw {

// Lists the n entries of the row that come first of those that pass(id, value), sorted: how many
// there are.
template <typename Row, typename Pass>
TW_DEVICE i32 list_best(const Row& row, const Pass& pass, i32 n, SampleMemory& memory,
                        BestList& list) {
  const auto most = static_cast<u64>(n);
  const Threshold threshold = find_threshold(
      row, pass, [](float value) { return value; }, [](float) { return u64{1}; },
      [&](u64 total) { return most < total ? most : total; }, memory);
  i32 last_tie = kLastId;
  if (threshold.rest != threshold.group) {
    last_tie = locate(
        row, [&](i32 id, float value) { return u64{value == threshold.score && pass(id, value)}; },
        [&](u64) { return threshold.rest - 1; }, memory);
  }
  const Kept kept{threshold.score, last_tie};
  if (thread_id() == 0) list.count = 0;
  sync_block();
  row.for_all([&](i32 id, float value) {
    if (!kept.contains(id, value) || !pass(id, value)) return;
    list.entries[atomic_add(&list.count, 1U)] = entry_of(value, id);
  });
  sync_block();
  const auto count = static_cast<i32>(list.count);
  sort_best(list.entries, count);
  return count;
}

}  // namespace tw
