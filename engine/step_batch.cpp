// SPDX-License-Identifier: Apache-2.0
#include "engine/step_batch.h"

#include <algorithm>

namespace tilewright::engine {
namespace {

TensorView view_of(const std::vector<std::int32_t>& values) {
  return {values.data(), DType::i32, {static_cast<std::int64_t>(values.size())}};
}

}  // namespace

KvLevel StepLevel::view(std::int64_t page_size) const {
  KvLevel level;
  level.table = PageTable::csr(view_of(page_indptr), view_of(pages), page_size);
  level.kv_lens = view_of(kv_lens);
  level.qo_indptr = view_of(qo_indptr);
  level.kv_pos = view_of(kv_pos);
  return level;
}

StepBatch StepBatch::without_levels() const {
  StepBatch flat;
  flat.qo_indptr = qo_indptr;
  flat.kv_lens = kv_lens;
  StepLevel all{qo_indptr, kv_lens, std::vector<std::int32_t>(kv_lens.size(), 0), {0}, {}};
  for (std::size_t i = 0; i < kv_lens.size(); ++i) {
    for (const StepLevel& level : levels) {
      const auto next = std::ranges::upper_bound(level.qo_indptr, qo_indptr[i]);
      if (next == level.qo_indptr.end()) continue;  // behind the rows of this level
      const auto row = next - level.qo_indptr.begin() - 1;
      all.pages.insert(all.pages.end(),
                       level.pages.begin() + level.page_indptr[static_cast<std::size_t>(row)],
                       level.pages.begin() + level.page_indptr[static_cast<std::size_t>(row) + 1]);
    }
    all.page_indptr.push_back(static_cast<std::int32_t>(all.pages.size()));
  }
  flat.levels.push_back(std::move(all));
  return flat;
}

Batch StepBatch::plan_batch() const {
  Batch batch;
  batch.qo_indptr = view_of(qo_indptr);
  batch.kv_lens = view_of(kv_lens);
  return batch;
}

PlanInput StepBatch::plan_input(const Attention& attention, std::int64_t page_size) const {
  std::vector<KvLevel> views;
  for (const StepLevel& level : levels) views.push_back(level.view(page_size));
  // One row a sequence: what the library assumes when it is not told.
  views.back().qo_indptr = {};
  return {attention, std::move(views)};
}

}  // namespace tilewright::engine
