// SPDX-License-Identifier: Apache-2.0
#include <tilewright/kv_cache.h>

#include "base/checks.h"

namespace tilewright {
namespace {

constexpr std::int64_t kMaxPageSize = 1024;

void require_cache_tensor(std::string_view name, const TensorView& tensor,
                          std::initializer_list<int> ranks) {
  require_rank(name, tensor, ranks);
  require_dtype(name, tensor, {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2});
  require_last_dim_contiguous(name, tensor);
}

// [.., token, head, dim] or [.., head, token, dim] of rank 3 or 4 -> [pages, page_size, heads,
// dim].
TensorView normal_form(const TensorView& tensor, KvLayout layout) {
  const int token_dim = tensor.rank - 3;
  const TensorView by_token =
      layout == KvLayout::nhd ? tensor : tensor.transpose(token_dim, token_dim + 1);
  return tensor.rank == 3 ? by_token.unsqueeze(1) : by_token;
}

void require_indices(std::string_view name, const TensorView& tensor, int rank) {
  require_rank(name, tensor, {rank});
  require_dtype(name, tensor, {DType::i32});
  require_last_dim_contiguous(name, tensor);
}

void require_page_size(std::int64_t page_size) {
  require(page_size >= 1 && page_size <= kMaxPageSize, "page_size is {}: it must be in [1, {}]",
          page_size, kMaxPageSize);
}

void require_indptr(std::string_view name, const TensorView& indptr) {
  require_indices(name, indptr, 1);
  require(indptr.shape[0] >= 1, "{} is {}: it must have one entry more than there are rows", name,
          indptr);
}

}  // namespace

KvCache KvCache::combined(const TensorView& kv, KvLayout layout, int kv_dim) {
  require_cache_tensor("kv", kv, {5});
  require(kv_dim == 0 || kv_dim == 1, "kv_dim is {}: it must be 0 or 1", kv_dim);
  require(kv.shape[kv_dim] == 2, "kv is {}: its dimension {} (kv_dim) must be 2: keys and values",
          kv, kv_dim);
  return {normal_form(kv.select(kv_dim, 0), layout), normal_form(kv.select(kv_dim, 1), layout)};
}

KvCache KvCache::separate(const TensorView& k, const TensorView& v, KvLayout layout) {
  require_cache_tensor("k", k, {3, 4});
  require_cache_tensor("v", v, {k.rank});
  require_device("v", v, k.device);
  for (int dim = 0; dim + 1 < k.rank; ++dim) {
    require(k.shape[dim] == v.shape[dim],
            "v is {}: all but its last dimension must be those of k, {}", v, k);
  }
  return {normal_form(k, layout), normal_form(v, layout)};
}

KvCache KvCache::interleaved(const TensorView& kv, int head_dim, KvLayout layout) {
  require_cache_tensor("kv", kv, {3, 4});
  const int last = kv.rank - 1;
  require(head_dim >= 1 && head_dim < kv.shape[last],
          "head_dim is {}: it must be in [1, {}), to leave values in kv, {}", head_dim,
          kv.shape[last], kv);
  return {normal_form(kv.slice(last, 0, head_dim), layout),
          normal_form(kv.slice(last, head_dim, kv.shape[last]), layout)};
}

PageTable PageTable::padded(const TensorView& block_table, std::int64_t page_size,
                            const TensorView& row_ids) {
  require_indices("block_table", block_table, 2);
  require_page_size(page_size);
  if (row_ids.defined()) {
    require_indices("row_ids", row_ids, 1);
    require_device("row_ids", row_ids, block_table.device);
  }
  PageTable table;
  table.form = Form::padded;
  table.page_size = page_size;
  table.indices = block_table;
  table.row_ids = row_ids;
  return table;
}

PageTable PageTable::csr(const TensorView& indptr, const TensorView& indices,
                         std::int64_t page_size, const TensorView& last_page_len) {
  require_indptr("indptr", indptr);
  require_indices("indices", indices, 1);
  require_device("indices", indices, indptr.device);
  require_page_size(page_size);
  if (last_page_len.defined()) {
    require_indices("last_page_len", last_page_len, 1);
    require_shape("last_page_len", last_page_len, {indptr.shape[0] - 1});
    require_device("last_page_len", last_page_len, indptr.device);
  }
  PageTable table;
  table.form = Form::csr;
  table.page_size = page_size;
  table.indices = indices;
  table.indptr = indptr;
  table.last_page_len = last_page_len;
  return table;
}

PageTable PageTable::token_slots(const TensorView& slots, const TensorView& row_ids) {
  require_indices("slots", slots, 2);
  return padded(slots, 1, row_ids);
}

PageTable PageTable::ragged(const TensorView& kv_indptr) {
  require_indptr("kv_indptr", kv_indptr);
  PageTable table;
  table.form = Form::ragged;
  table.indptr = kv_indptr;
  return table;
}

PageTable PageTable::contiguous(std::int64_t length) {
  require(length >= 1, "length is {}: it must be at least 1", length);
  PageTable table;
  table.form = Form::contiguous;
  table.page_size = length;
  return table;
}

}  // namespace tilewright
