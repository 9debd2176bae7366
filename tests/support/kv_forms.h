// SPDX-License-Identifier: Apache-2.0
// Caches and page tables in every form that engines have, built by this code's own indexing.
#pragma once

#include <tilewright/kv_cache.h>

#include <cstdint>
#include <vector>

#include "support/random.h"
#include "support/reference.h"
#include "support/tensor.h"

namespace tilewright::test {

enum class CacheForm : std::uint8_t {
  combined_nhd,
  combined_hnd,
  combined_nhd_kv0,
  combined_hnd_kv0,
  separate_nhd,
  separate_hnd,
  separate_strided,  // gaps behind every run, pages innermost but one
  interleaved_nhd,
  interleaved_hnd,
  aliased,     // v is the first value_dim elements of k
  tokens_nhd,  // rank 3 from here on: page size 1
  tokens_hnd,
  tokens_interleaved,
  count,
};

const char* cache_form_name(CacheForm form);

inline bool needs_equal_dims(CacheForm form) {
  return form <= CacheForm::combined_hnd_kv0;
}
inline bool is_token_form(CacheForm form) {
  return form >= CacheForm::tokens_nhd;
}

// A cache full of NaN, and where its elements are.
class Cache {
 public:
  Cache(CacheForm form, std::int64_t pages, std::int64_t page_size, const Dims& dims, DType k_dtype,
        DType v_dtype);

  KvCache view() const;

  // All heads of key `key` of a request.
  void put(std::int64_t page, std::int64_t row, const Request& request, std::int64_t key);

  Tensor& k() { return k_; }
  Tensor& v() { return v_; }

 private:
  // A key's elements of a head, or its value's.
  void put_row(bool value, std::int64_t page, std::int64_t row, std::int64_t head, const double* x);

  CacheForm form_;
  Dims dims_;
  Tensor k_;  // or both
  Tensor v_;
};

enum class TableForm : std::uint8_t {
  padded,
  padded_row_ids,
  csr,
  csr_last_page_len,
  token_slots,
  token_slots_row_ids,
  ragged,
  contiguous,
  count,
};

const char* table_form_name(TableForm form);

inline bool has_page_size_one(TableForm form) {
  return form == TableForm::token_slots || form == TableForm::token_slots_row_ids ||
         form == TableForm::ragged;
}

// Forms that say how long a row is, so that no kv_lens are needed.
inline bool tells_lengths(TableForm form) {
  return form == TableForm::csr_last_page_len || form == TableForm::ragged;
}

// Which page holds which keys, drawn at random, and the tensors that say so.
struct Table {
  std::int64_t page_size = 1;
  std::int64_t num_pages = 0;  // of the cache, unused ones included
  std::vector<Extents> pages;  // by row
  Tensor indices, indptr, row_ids, last_page_len;
  PageTable table;
};

Extents pages_needed(const Extents& kv_lens, std::int64_t page_size);

Table make_table(TableForm form, const Extents& kv_lens, std::int64_t page_size, Random& random);

void fill_cache(Cache& cache, const Table& table, const std::vector<Request>& requests);

}  // namespace tilewright::test
