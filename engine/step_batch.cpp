// SPDX-License-Identifier: Apache-2.0
#include "engine/step_batch.h"

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
