// SPDX-License-Identifier: Apache-2.0
#include "c_api/page_table.h"

#include "c_api/guard.h"

using namespace tilewright;
using namespace tilewright::c_api;

namespace {

std::int32_t c_form(PageTable::Form form) {
  switch (form) {
    case PageTable::Form::padded:
      return TW_TABLE_PADDED;
    case PageTable::Form::csr:
      return TW_TABLE_CSR;
    case PageTable::Form::ragged:
      return TW_TABLE_RAGGED;
    case PageTable::Form::contiguous:
      return TW_TABLE_CONTIGUOUS;
  }
  raise(ErrorCode::internal, "a page table has the unknown form {}", static_cast<int>(form));
}

void write_table(tw_page_table* table, const PageTable& value) {
  tw_page_table result{};
  result.form = c_form(value.form);
  result.page_size = value.page_size;
  result.indices = c_tensor(value.indices);
  result.indptr = c_tensor(value.indptr);
  result.row_ids = c_tensor(value.row_ids);
  result.last_page_len = c_tensor(value.last_page_len);
  write_struct("table", table, result);
}

}  // namespace

namespace tilewright::c_api {

PageTable read_page_table(const Path& path, const tw_page_table* table) {
  const tw_page_table given = read_struct(path, table);
  require(given.form >= TW_TABLE_PADDED && given.form <= TW_TABLE_CONTIGUOUS,
          "{}.form is {}: it must be one of TW_TABLE_PADDED (1) to TW_TABLE_CONTIGUOUS (4)", path,
          given.form);
  const TensorView indices = read_tensor({path, "indices"}, given.indices);
  const TensorView indptr = read_tensor({path, "indptr"}, given.indptr);
  const TensorView row_ids = read_tensor({path, "row_ids"}, given.row_ids);
  const TensorView last_page_len = read_tensor({path, "last_page_len"}, given.last_page_len);
  switch (given.form) {
    case TW_TABLE_PADDED:
      return PageTable::padded(indices, given.page_size, row_ids);
    case TW_TABLE_CSR:
      return PageTable::csr(indptr, indices, given.page_size, last_page_len);
    case TW_TABLE_RAGGED:
      return PageTable::ragged(indptr);
    default:
      return PageTable::contiguous(given.page_size);
  }
}

}  // namespace tilewright::c_api

tw_status tw_page_table_padded(const tw_tensor* block_table, int64_t page_size,
                               const tw_tensor* row_ids, tw_page_table* table) {
  return guarded([&] {
    write_table(table, PageTable::padded(read_tensor("block_table", block_table), page_size,
                                         read_optional_tensor("row_ids", row_ids)));
  });
}

tw_status tw_page_table_csr(const tw_tensor* indptr, const tw_tensor* indices, int64_t page_size,
                            const tw_tensor* last_page_len, tw_page_table* table) {
  return guarded([&] {
    write_table(table,
                PageTable::csr(read_tensor("indptr", indptr), read_tensor("indices", indices),
                               page_size, read_optional_tensor("last_page_len", last_page_len)));
  });
}

tw_status tw_page_table_token_slots(const tw_tensor* slots, const tw_tensor* row_ids,
                                    tw_page_table* table) {
  return guarded([&] {
    write_table(table, PageTable::token_slots(read_tensor("slots", slots),
                                              read_optional_tensor("row_ids", row_ids)));
  });
}

tw_status tw_page_table_ragged(const tw_tensor* kv_indptr, tw_page_table* table) {
  return guarded(
      [&] { write_table(table, PageTable::ragged(read_tensor("kv_indptr", kv_indptr))); });
}

tw_status tw_page_table_contiguous(int64_t length, tw_page_table* table) {
  return guarded([&] { write_table(table, PageTable::contiguous(length)); });
}
