// SPDX-License-Identifier: Apache-2.0
#include "attention/device_batch.h"

#include <algorithm>
#include <limits>

#include "attention/batch_checks.h"

namespace tilewright {
namespace {

constexpr std::int64_t kMaxPageSize = 1024;

// A size for the device, where indices have 32 bits: none is beyond it.
std::int32_t narrow(std::int64_t size) {
  return static_cast<std::int32_t>(
      std::min<std::int64_t>(size, std::numeric_limits<std::int32_t>::max()));
}

// A checked tensor of at least `least` elements (-1: any); one that is not given stays so.
plan::IntList list_of(std::string_view name, const TensorView& tensor, std::int64_t least,
                      Device device) {
  plan::IntList list;
  if (!tensor.defined()) return list;
  require_integers(name, tensor, -1, device);
  require(tensor.shape[0] >= least, "{} is {}: it must have {} entries", name, tensor, least);
  list.data = static_cast<const std::int32_t*>(tensor.data);
  list.size = narrow(tensor.shape[0]);
  if (list.size < 2) return list;  // its stride means nothing
  list.stride = static_cast<std::int32_t>(tensor.strides[0]);
  require(list.stride == tensor.strides[0], "{} is {}: its stride must have 32 bits", name, tensor);
  return list;
}

const std::int32_t* contiguous(std::string_view name, const TensorView& tensor, std::int64_t least,
                               Device device) {
  const plan::IntList list = list_of(name, tensor, least, device);
  require_last_dim_contiguous(name, tensor);
  return list.data;
}

}  // namespace

DeviceBatch::DeviceBatch(const Batch& batch, const Limits& limits, Device device)
    : batch_(batch), limits_(limits), device_(device) {
  require_integers("batch.qo_indptr", batch.qo_indptr, -1, device);
  require(batch.qo_indptr.shape[0] >= 1,
          "batch.qo_indptr is {}: it must have one entry more than there are requests",
          batch.qo_indptr);
  if (batch.num_requests.defined()) {
    require_integers("batch.num_requests", batch.num_requests, 1, device);
  } else {
    num_requests_ = batch.qo_indptr.shape[0] - 1;
    require_limit(num_requests_, "requests", limits.requests, "the number of requests");
  }
  list_of("batch.kv_lens", batch.kv_lens, num_requests_, device);
  require_interleave(batch.interleave);
  require(batch.interleave.world == 1 || batch.q_pos.defined() || batch.q_pos_offset.defined(),
          "batch.interleave has world {}: q_pos or q_pos_offset must be given",
          batch.interleave.world);
  require(!batch.q_pos.defined() || !batch.q_pos_offset.defined(),
          "batch.q_pos and batch.q_pos_offset are both given: at most one");
  list_of("batch.q_pos", batch.q_pos, -1, device);
  list_of("batch.q_pos_offset", batch.q_pos_offset, num_requests_, device);
}

std::int64_t DeviceBatch::most_requests() const {
  return std::min(batch_.qo_indptr.shape[0] - 1, limits_.requests);
}

plan::BatchInput DeviceBatch::input() const {
  plan::BatchInput input;
  input.qo_indptr = list_of("batch.qo_indptr", batch_.qo_indptr, -1, device_);
  if (batch_.num_requests.defined()) {
    input.num_requests = static_cast<const std::int32_t*>(batch_.num_requests.data);
  }
  input.q_pos_offset = list_of("batch.q_pos_offset", batch_.q_pos_offset, -1, device_);
  if (batch_.q_pos.defined()) input.num_q_pos = narrow(batch_.q_pos.shape[0]);
  return input;
}

void DeviceBatch::read(const PlanInput& input, plan::PartInput& part) const {
  const auto levels = static_cast<int>(input.levels.size());
  require(levels >= 1, "levels is empty: an attention's KV has at least one");
  require_limit(levels, "levels", limits_.levels, "the number of levels");
  require(levels == 1 || batch_.interleave.world == 1,
          "batch.interleave has world {}: with {} levels it must be 1", batch_.interleave.world,
          levels);
  plan::View& view = part.view;
  view.num_levels = levels;
  view.interleave = {batch_.interleave.size, batch_.interleave.world, batch_.interleave.rank};
  view.q_pos =
      batch_.q_pos.defined() ? static_cast<const std::int32_t*>(batch_.q_pos.data) : nullptr;
  view.q_pos_stride = batch_.q_pos.defined() ? batch_.q_pos.strides[0] : 1;
  for (int level = 0; level < levels; ++level) {
    read_level(input.levels[static_cast<std::size_t>(level)], level, levels == 1, part);
  }
}

// Rows of a level; -1: only the device knows.
std::int64_t DeviceBatch::count_rows(const KvLevel& level, int index,
                                     plan::LevelInput& input) const {
  if (!level.qo_indptr.defined()) return num_requests_;
  const FieldName name{index, "qo_indptr"};
  input.qo_indptr = list_of(name.text(), level.qo_indptr, -1, device_);
  require(input.qo_indptr.size >= 1, "{} is {}: it must have one entry more than rows", name,
          level.qo_indptr);
  const std::int64_t rows = input.qo_indptr.size - 1;
  require_limit(rows, "requests", limits_.requests, "the number of rows of levels[{}]", index);
  input.num_rows = static_cast<std::int32_t>(rows);
  return rows;
}

void DeviceBatch::read_level(const KvLevel& level, int index, bool only_level,
                             plan::PartInput& part) const {
  plan::LevelPages& pages = part.view.levels[index];
  plan::LevelInput& input = part.levels[index];
  pages = {};
  input = {};
  if (level.q_rows.defined()) {
    const FieldName name{index, "q_rows"};
    pages.q_rows = contiguous(name.text(), level.q_rows, -1, device_);
    input.num_q_rows = narrow(level.q_rows.shape[0]);
    require(level.qo_indptr.defined(),
            "{} is given without levels[{}].qo_indptr: it tells their rows", name, index);
  }
  const std::int64_t rows = count_rows(level, index, input);
  read_table(level.table, index, rows, pages, input);
  const FieldName kv_lens{index, "kv_lens"};
  if (level.kv_lens.defined()) {
    input.kv_lens = list_of(kv_lens.text(), level.kv_lens, rows, device_);
  } else if (only_level && !level.qo_indptr.defined()) {
    input.kv_lens = list_of("batch.kv_lens", batch_.kv_lens, -1, device_);
  }
  require(input.kv_lens.given() || input.form == plan::TableForm::ragged ||
              input.form == plan::TableForm::contiguous || input.last_page_len.given(),
          "{} is missing: this page table does not tell lengths",
          only_level ? FieldName{-1, "kv_lens"} : kv_lens);
  const FieldName kv_pos{index, "kv_pos"};
  input.kv_pos = list_of(kv_pos.text(), level.kv_pos, rows, device_);
  require(!level.kv_pos.defined() || batch_.interleave.world == 1,
          "levels[{}].kv_pos is given: with batch.interleave.world {} the shard tells positions",
          index, batch_.interleave.world);
}

void DeviceBatch::read_table(const PageTable& table, int index, std::int64_t rows,
                             plan::LevelPages& pages, plan::LevelInput& input) const {
  const auto name = [&](const char* field) { return FieldName{index, field}.text(); };
  pages.page_size = table.page_size;
  if (table.form != PageTable::Form::contiguous) {
    require(table.page_size >= 1 && table.page_size <= kMaxPageSize,
            "{} is {}: it must be in [1, {}]", FieldName{index, "page_size"}, table.page_size,
            kMaxPageSize);
  }
  switch (table.form) {
    case PageTable::Form::padded:
      input.form = plan::TableForm::padded;
      require_rank(name("indices"), table.indices, {2});
      require_dtype(name("indices"), table.indices, {DType::i32});
      require_device(name("indices"), table.indices, device_);
      require_last_dim_contiguous(name("indices"), table.indices);
      pages.indices = static_cast<const std::int32_t*>(table.indices.data);
      pages.row_stride = table.indices.strides[0];
      // The product has 42 bits at most where a row is longer than any limit.
      input.row_tokens = narrow(narrow(table.indices.shape[1]) * table.page_size);
      input.num_entries = narrow(table.indices.shape[0]);
      if (table.row_ids.defined()) {
        pages.row_ids = contiguous(name("row_ids"), table.row_ids, rows, device_);
        input.num_row_ids = narrow(table.row_ids.shape[0]);
      } else {
        require(table.indices.shape[0] >= rows, "{} is {}: it must have {} rows",
                FieldName{index, "indices"}, table.indices, rows);
      }
      break;
    case PageTable::Form::csr:
    case PageTable::Form::ragged:
      pages.indptr = contiguous(name("indptr"), table.indptr, rows + 1, device_);
      input.indptr_size = narrow(table.indptr.shape[0]);
      if (table.form == PageTable::Form::ragged) {
        input.form = plan::TableForm::ragged;
        require(table.page_size == 1, "{} is {}: a ragged table has 1",
                FieldName{index, "page_size"}, table.page_size);
        break;
      }
      input.form = plan::TableForm::csr;
      pages.indices = contiguous(name("indices"), table.indices, -1, device_);
      input.num_entries = narrow(table.indices.shape[0]);
      input.last_page_len = list_of(name("last_page_len"), table.last_page_len, rows, device_);
      break;
    case PageTable::Form::contiguous:
      input.form = plan::TableForm::contiguous;
      require(table.page_size >= 0, "{} is {}: it must not be negative", FieldName{index, "length"},
              table.page_size);
      pages.page_size = std::max<std::int64_t>(table.page_size, 1);
      input.row_tokens = narrow(table.page_size);
      break;
  }
}

}  // namespace tilewright
