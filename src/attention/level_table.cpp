// SPDX-License-Identifier: Apache-2.0
#include "attention/level_table.h"

#include <algorithm>
#include <limits>

#include "attention/page_scan.h"

namespace tilewright {
namespace {

constexpr std::int64_t kMaxPageSize = 1024;

}  // namespace

void LevelTable::read_table() {
  pages_.page_size = table_.page_size;
  if (table_.form != PageTable::Form::contiguous) {
    require(table_.page_size >= 1 && table_.page_size <= kMaxPageSize,
            "{} is {}: it must be in [1, {}]", member("page_size"), table_.page_size, kMaxPageSize);
  }
  switch (table_.form) {
    case PageTable::Form::padded:
      require_rank(member("indices").text(), table_.indices, {2});
      require_dtype(member("indices").text(), table_.indices, {DType::i32});
      require_device(member("indices").text(), table_.indices, device_);
      require_last_dim_contiguous(member("indices").text(), table_.indices);
      pages_.indices = static_cast<const std::int32_t*>(table_.indices.data);
      pages_.row_stride = table_.indices.strides[0];
      if (table_.row_ids.defined()) {
        require_integers(member("row_ids").text(), table_.row_ids, -1, device_);
        require_last_dim_contiguous(member("row_ids").text(), table_.row_ids);
        require(table_.row_ids.shape[0] >= rows_, "{} is {}: it must have {} entries",
                member("row_ids"), table_.row_ids, rows_);
        pages_.row_ids = static_cast<const std::int32_t*>(table_.row_ids.data);
      } else {
        require(table_.indices.shape[0] >= rows_, "{} is {}: it must have {} rows",
                member("indices"), table_.indices, rows_);
      }
      break;
    case PageTable::Form::csr:
    case PageTable::Form::ragged: {
      const bool csr = table_.form == PageTable::Form::csr;
      require_integers(member("indptr").text(), table_.indptr, -1, device_);
      require_last_dim_contiguous(member("indptr").text(), table_.indptr);
      require(table_.indptr.shape[0] >= rows_ + 1, "{} is {}: it must have {} entries",
              member("indptr"), table_.indptr, rows_ + 1);
      require_indptr(member("indptr").text(), table_.indptr, rows_, false);
      pages_.indptr = static_cast<const std::int32_t*>(table_.indptr.data);
      if (!csr) {
        require(table_.page_size == 1, "{} is {}: a ragged table has 1", member("page_size"),
                table_.page_size);
        break;
      }
      require_integers(member("indices").text(), table_.indices, -1, device_);
      require_last_dim_contiguous(member("indices").text(), table_.indices);
      require(element(table_.indptr, rows_) <= table_.indices.shape[0],
              "{}[{}] is {}: it must be at most {}, the entries of {}", member("indptr"), rows_,
              element(table_.indptr, rows_), table_.indices.shape[0], member("indices"));
      pages_.indices = static_cast<const std::int32_t*>(table_.indices.data);
      if (table_.last_page_len.defined()) {
        require_integers(member("last_page_len").text(), table_.last_page_len, -1, device_);
        require(table_.last_page_len.shape[0] >= rows_, "{} is {}: it must have {} entries",
                member("last_page_len"), table_.last_page_len, rows_);
      }
      break;
    }
    case PageTable::Form::contiguous:
      require(table_.page_size >= 0, "{} is {}: it must not be negative", member("length"),
              table_.page_size);
      pages_.page_size = std::max<std::int64_t>(table_.page_size, 1);
      break;
  }
}

std::int64_t LevelTable::capacity(std::int64_t row) const {
  switch (table_.form) {
    case PageTable::Form::padded:
      return table_.indices.shape[1] * table_.page_size;
    case PageTable::Form::csr:
      return (element(table_.indptr, row + 1) - element(table_.indptr, row)) * table_.page_size;
    case PageTable::Form::ragged:
      return element(table_.indptr, row + 1) - element(table_.indptr, row);
    case PageTable::Form::contiguous:
      return table_.page_size;
  }
  return 0;
}

std::int64_t LevelTable::kv_len(std::int64_t row) const {
  const auto given = [&](const auto& what, const TensorView& lens) {
    const std::int64_t length = element(lens, row);
    require(length >= 0, "{}[{}] is {}: it must not be negative", what, row, length);
    require_limit(length, "kv_len", limits_.kv_len, "{}[{}]", what, row);
    require(length <= capacity(row), "{}[{}] is {}: levels[{}] has pages for {} tokens in this row",
            what, row, length, index_, capacity(row));
    return length;
  };
  if (kv_lens_.defined()) return given(member("kv_lens"), kv_lens_);
  if (batch_kv_lens_.defined()) return given("batch.kv_lens", batch_kv_lens_);
  if (table_.last_page_len.defined() && table_.form == PageTable::Form::csr) {
    if (capacity(row) == 0) return 0;
    const std::int64_t last = element(table_.last_page_len, row);
    require(last >= 1 && last <= table_.page_size,
            "{}[{}] is {}: it must be in [1, {}], the page size", member("last_page_len"), row,
            last, table_.page_size);
    return capacity(row) - table_.page_size + last;
  }
  require(table_.form == PageTable::Form::ragged || table_.form == PageTable::Form::contiguous,
          "{} is missing: this page table does not tell lengths",
          only_level_ ? FieldName{-1, "kv_lens"} : member("kv_lens"));
  return capacity(row);
}

// Checks the page ids in use and remembers the row with the largest.
void LevelTable::note_pages(std::int64_t row, std::int64_t kv_len) {
  if (kv_len == 0) return;
  const auto note = [&](std::int64_t page) {
    if (page <= pages_.max_page) return;
    pages_.max_page = page;
    pages_.max_page_row = row;
  };
  if (pages_.indices == nullptr) {
    note(pages_.indptr != nullptr ? pages_.first_page(row) + kv_len - 1 : row);
    return;
  }
  if (pages_.row_ids != nullptr) {
    require(pages_.row_ids[row] >= 0 && pages_.row_ids[row] < table_.indices.shape[0],
            "{}[{}] is {}: it must be in [0, {}), the rows of {}", member("row_ids"), row,
            pages_.row_ids[row], table_.indices.shape[0], member("indices"));
  }
  const std::int32_t* entries = pages_.entries(row);
  const std::int64_t count = (kv_len + pages_.page_size - 1) / pages_.page_size;
  const std::uint32_t largest = largest_id(entries, count);
  if (largest > std::uint32_t{std::numeric_limits<std::int32_t>::max()}) {
    const std::int64_t at =
        std::find_if(entries, entries + count, [](auto e) { return e < 0; }) - entries;
    raise(ErrorCode::invalid_argument,
          "{} has page {} for request {}, page {} of it: a page must not be negative",
          member("indices"), entries[at], row, at);
  }
  note(largest);
}

}  // namespace tilewright
