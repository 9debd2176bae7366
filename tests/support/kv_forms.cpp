// SPDX-License-Identifier: Apache-2.0
#include "support/kv_forms.h"

#include <algorithm>
#include <numeric>

namespace tilewright::test {

const char* cache_form_name(CacheForm form) {
  static constexpr const char* kNames[] = {
      "combined_nhd", "combined_hnd",     "combined_nhd_kv0",  "combined_hnd_kv0", "separate_nhd",
      "separate_hnd", "separate_strided", "interleaved_nhd",   "interleaved_hnd",  "aliased",
      "tokens_nhd",   "tokens_hnd",       "tokens_interleaved"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(CacheForm::count));
  return kNames[static_cast<std::size_t>(form)];
}

Cache::Cache(CacheForm form, std::int64_t pages, std::int64_t page_size, const Dims& dims,
             DType k_dtype, DType v_dtype)
    : form_(form), dims_(dims) {
  const std::int64_t heads = dims.kv_heads;
  const std::int64_t d = dims.head_dim;
  const std::int64_t both = d + dims.value_dim;
  switch (form) {
    case CacheForm::combined_nhd:
      k_ = Tensor(k_dtype, {pages, 2, page_size, heads, d});
      break;
    case CacheForm::combined_hnd:
      k_ = Tensor(k_dtype, {pages, 2, heads, page_size, d});
      break;
    case CacheForm::combined_nhd_kv0:
      k_ = Tensor(k_dtype, {2, pages, page_size, heads, d});
      break;
    case CacheForm::combined_hnd_kv0:
      k_ = Tensor(k_dtype, {2, pages, heads, page_size, d});
      break;
    case CacheForm::separate_nhd:
      k_ = Tensor(k_dtype, {pages, page_size, heads, d});
      v_ = Tensor(v_dtype, {pages, page_size, heads, dims.value_dim});
      break;
    case CacheForm::separate_hnd:
      k_ = Tensor(k_dtype, {pages, heads, page_size, d});
      v_ = Tensor(v_dtype, {pages, heads, page_size, dims.value_dim});
      break;
    case CacheForm::separate_strided: {
      const Extents k_shape = {pages, page_size, heads, d};
      const Extents v_shape = {pages, page_size, heads, dims.value_dim};
      k_ = Tensor(k_dtype, k_shape, strides_in_order(k_shape, {2, 1, 0, 3}, 3), kPoison, 1);
      v_ = Tensor(v_dtype, v_shape, strides_in_order(v_shape, {1, 0, 2, 3}, 5), kPoison, 3);
      break;
    }
    case CacheForm::interleaved_nhd:
      k_ = Tensor(k_dtype, {pages, page_size, heads, both});
      break;
    case CacheForm::interleaved_hnd:
      k_ = Tensor(k_dtype, {pages, heads, page_size, both});
      break;
    case CacheForm::aliased:
      k_ = Tensor(k_dtype, {pages, page_size, heads, d});
      break;
    case CacheForm::tokens_nhd:
      k_ = Tensor(k_dtype, {pages, heads, d});
      v_ = Tensor(v_dtype, {pages, heads, dims.value_dim});
      break;
    case CacheForm::tokens_hnd:
      k_ = Tensor(k_dtype, {heads, pages, d});
      v_ = Tensor(v_dtype, {heads, pages, dims.value_dim});
      break;
    default:
      k_ = Tensor(k_dtype, {pages, heads, both});
      break;
  }
}

KvCache Cache::view() const {
  const KvLayout layout =
      form_ == CacheForm::combined_hnd || form_ == CacheForm::combined_hnd_kv0 ||
              form_ == CacheForm::separate_hnd || form_ == CacheForm::interleaved_hnd ||
              form_ == CacheForm::tokens_hnd
          ? KvLayout::hnd
          : KvLayout::nhd;
  switch (form_) {
    case CacheForm::combined_nhd:
    case CacheForm::combined_hnd:
      return KvCache::combined(k_.view(), layout);
    case CacheForm::combined_nhd_kv0:
    case CacheForm::combined_hnd_kv0:
      return KvCache::combined(k_.view(), layout, 0);
    case CacheForm::interleaved_nhd:
    case CacheForm::interleaved_hnd:
    case CacheForm::tokens_interleaved:
      return KvCache::interleaved(k_.view(), dims_.head_dim, layout);
    case CacheForm::aliased:
      return KvCache::separate(k_.view(), k_.view().slice(3, 0, dims_.value_dim));
    default:
      return KvCache::separate(k_.view(), v_.view(), layout);
  }
}

void Cache::put_row(bool value, std::int64_t page, std::int64_t row, std::int64_t head,
                    const double* x) {
  const std::int64_t size = value ? dims_.value_dim : dims_.head_dim;
  // Of forms that share a tensor: values are its second half, or behind the elements of their key.
  const std::int64_t half = value ? 1 : 0;
  const std::int64_t behind = value ? dims_.head_dim : 0;
  Tensor& own = value ? v_ : k_;
  switch (form_) {
    case CacheForm::combined_nhd:
      return k_.set_row({page, half, row, head, 0}, x, size);
    case CacheForm::combined_hnd:
      return k_.set_row({page, half, head, row, 0}, x, size);
    case CacheForm::combined_nhd_kv0:
      return k_.set_row({half, page, row, head, 0}, x, size);
    case CacheForm::combined_hnd_kv0:
      return k_.set_row({half, page, head, row, 0}, x, size);
    case CacheForm::separate_hnd:
      return own.set_row({page, head, row, 0}, x, size);
    case CacheForm::interleaved_nhd:
      return k_.set_row({page, row, head, behind}, x, size);
    case CacheForm::interleaved_hnd:
      return k_.set_row({page, head, row, behind}, x, size);
    case CacheForm::aliased:
      if (value) return;  // already there
      return k_.set_row({page, row, head, 0}, x, size);
    case CacheForm::tokens_nhd:
      return own.set_row({page, head, 0}, x, size);
    case CacheForm::tokens_hnd:
      return own.set_row({head, page, 0}, x, size);
    case CacheForm::tokens_interleaved:
      return k_.set_row({page, head, behind}, x, size);
    default:
      return own.set_row({page, row, head, 0}, x, size);
  }
}

void Cache::put(std::int64_t page, std::int64_t row, const Request& request, std::int64_t key) {
  for (std::int64_t head = 0; head < dims_.kv_heads; ++head) {
    put_row(false, page, row, head, &request.k[(key * dims_.kv_heads + head) * dims_.head_dim]);
    put_row(true, page, row, head, &request.v[(key * dims_.kv_heads + head) * dims_.value_dim]);
  }
}

const char* table_form_name(TableForm form) {
  static constexpr const char* kNames[] = {
      "padded",      "padded_row_ids",      "csr",    "csr_last_page_len",
      "token_slots", "token_slots_row_ids", "ragged", "contiguous"};
  static_assert(std::size(kNames) == static_cast<std::size_t>(TableForm::count));
  return kNames[static_cast<std::size_t>(form)];
}

Extents pages_needed(const Extents& kv_lens, std::int64_t page_size) {
  Extents counts;
  for (const std::int64_t length : kv_lens) counts.push_back((length + page_size - 1) / page_size);
  return counts;
}

Table make_table(TableForm form, const Extents& kv_lens, std::int64_t page_size, Random& random) {
  Table t;
  const auto rows = static_cast<std::int64_t>(kv_lens.size());
  const std::int64_t longest =
      kv_lens.empty() ? 0 : *std::max_element(kv_lens.begin(), kv_lens.end());
  if (form == TableForm::contiguous) page_size = std::max<std::int64_t>(longest, 1);
  if (has_page_size_one(form)) page_size = 1;
  t.page_size = page_size;
  const Extents counts = pages_needed(kv_lens, page_size);
  std::int64_t used = 0;
  for (const std::int64_t count : counts) used += count;

  if (form == TableForm::contiguous) {
    t.num_pages = rows;
    for (std::int64_t r = 0; r < rows; ++r) t.pages.push_back({r});
    t.table = PageTable::contiguous(page_size);
    return t;
  }
  if (form == TableForm::ragged) {
    Extents indptr = {0};
    for (const std::int64_t length : kv_lens) {
      Extents tokens(length);
      std::iota(tokens.begin(), tokens.end(), indptr.back());
      t.pages.push_back(tokens);
      indptr.push_back(indptr.back() + length);
    }
    t.num_pages = indptr.back() + random.range(0, 2);
    t.indptr = int_tensor(indptr);
    t.table = PageTable::ragged(t.indptr.view());
    return t;
  }

  t.num_pages = used + random.range(1, 3);
  Extents pool(t.num_pages);
  std::iota(pool.begin(), pool.end(), 0);
  random.shuffle(pool);
  for (const std::int64_t count : counts) {
    t.pages.emplace_back(pool.end() - count, pool.end());
    pool.resize(pool.size() - count);
  }

  if (form == TableForm::csr || form == TableForm::csr_last_page_len) {
    Extents indptr = {0};
    Extents indices;
    Extents last;
    for (std::int64_t r = 0; r < rows; ++r) {
      indices.insert(indices.end(), t.pages[r].begin(), t.pages[r].end());
      indptr.push_back(static_cast<std::int64_t>(indices.size()));
      // Of a row without pages it may be anything that is legal.
      last.push_back(kv_lens[r] == 0 ? 1 : (kv_lens[r] - 1) % page_size + 1);
    }
    t.indptr = int_tensor(indptr);
    t.indices = int_tensor(indices);
    if (form == TableForm::csr_last_page_len) t.last_page_len = int_tensor(last);
    t.table = PageTable::csr(t.indptr.view(), t.indices.view(), page_size, t.last_page_len.view());
    return t;
  }

  // Padded: columns and, with row ids, rows that nobody asked for hold nonsense (-1).
  const bool with_ids = form == TableForm::padded_row_ids || form == TableForm::token_slots_row_ids;
  const std::int64_t columns =
      std::max<std::int64_t>(1, (longest + page_size - 1) / page_size + random.range(0, 2));
  Extents ids(with_ids ? rows + 3 : rows);
  std::iota(ids.begin(), ids.end(), 0);
  if (with_ids) random.shuffle(ids);
  t.indices = int_matrix(static_cast<std::int64_t>(ids.size()), columns, with_ids ? 4 : 0);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::size_t c = 0; c < t.pages[r].size(); ++c) {
      t.indices.set({ids[r], static_cast<std::int64_t>(c)}, static_cast<double>(t.pages[r][c]));
    }
  }
  if (with_ids) {
    ids.resize(rows);
    t.row_ids = int_tensor(ids);
  }
  t.table = form == TableForm::padded || form == TableForm::padded_row_ids
                ? PageTable::padded(t.indices.view(), page_size, t.row_ids.view())
                : PageTable::token_slots(t.indices.view(), t.row_ids.view());
  return t;
}

void fill_cache(Cache& cache, const Table& table, const std::vector<Request>& requests) {
  for (std::size_t r = 0; r < requests.size(); ++r) {
    for (std::int64_t key = 0; key < requests[r].kv_len(); ++key) {
      cache.put(table.pages[r][key / table.page_size], key % table.page_size, requests[r], key);
    }
  }
}

}  // namespace tilewright::test
