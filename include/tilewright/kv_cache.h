// SPDX-License-Identifier: Apache-2.0
// Where keys and values lie (KvCache), and which of them belong to whom (PageTable, KvLevel).
#pragma once

#include <tilewright/tensor_view.h>

#include <cstdint>
#include <vector>

namespace tilewright {

enum class KvLayout : std::uint8_t {
  nhd,
  hnd
};  // [.., token, head, dim] or [.., head, token, dim]

// Keys and values in one normal form: k [pages, page_size, kv_heads, head_dim] and v [pages,
// page_size, kv_heads, value_dim], any strides but a contiguous last dimension. v may alias k.
// Token tensors (ragged, slots) have page size 1.
struct TILEWRIGHT_API KvCache {
  TensorView k;
  TensorView v;

  // One tensor [pages, 2, page, heads, dim] (nhd) or [pages, 2, heads, page, dim] (hnd); kv_dim = 0
  // for [2, pages, ..].
  static KvCache combined(const TensorView& kv, KvLayout layout = KvLayout::nhd, int kv_dim = 1);
  // Two tensors of rank 4, [pages, page, heads, dim] or [pages, heads, page, dim], or of rank 3:
  // [tokens, heads, dim] or [heads, tokens, dim], page size 1.
  static KvCache separate(const TensorView& k, const TensorView& v,
                          KvLayout layout = KvLayout::nhd);
  // K and V side by side in the last dimension, [.., head_dim + value_dim], rank 3 or 4 as above.
  static KvCache interleaved(const TensorView& kv, int head_dim, KvLayout layout = KvLayout::nhd);
};

// Which pages hold the tokens of each row (a request; of a level with several requests a row, a
// group of them), in the forms engines have. Read in place: the tensors must stay as they are until
// the last run under the plan is done. Entries past a row's length are neither read nor checked.
struct TILEWRIGHT_API PageTable {
  enum class Form : std::uint8_t { padded, csr, ragged, contiguous };

  Form form = Form::contiguous;
  std::int64_t page_size = 1;
  TensorView indices;  // page ids, i32: [rows, columns] (padded), [entries] (csr)
  TensorView indptr;   // i32 [rows + 1]: into indices (csr) or into the tokens (ragged)
  TensorView row_ids;  // optional i32 [rows]: row r is indices[row_ids[r]] (padded)
  // Optional i32 [rows] (csr), 1 .. page_size: gives the lengths if no kv_lens are given.
  TensorView last_page_len;
  // Optional: pages of the cache. Page ids on a GPU are checked against it when a plan is updated:
  // a request with one that is not below it gets a status word and outputs of 0. 0: not known; such
  // a page is not read then, and what its keys would have been counts for nothing. On the CPU page
  // ids are always checked, when attention runs.
  std::int64_t num_pages = 0;

  // Block tables of vLLM and SGLang: token t of a row is in the page of column t / page_size.
  static PageTable padded(const TensorView& block_table, std::int64_t page_size,
                          const TensorView& row_ids = {});
  // indices[indptr[r] .. indptr[r + 1]) are row r's pages.
  static PageTable csr(const TensorView& indptr, const TensorView& indices, std::int64_t page_size,
                       const TensorView& last_page_len = {});
  // A slot for each token, [rows, columns]: page size 1.
  static PageTable token_slots(const TensorView& slots, const TensorView& row_ids = {});
  // Tokens [indptr[r], indptr[r + 1]) of k and v [tokens, heads, dim]; gives the lengths.
  static PageTable ragged(const TensorView& kv_indptr);
  // k and v [rows, length, heads, dim]: row r is page r.
  static PageTable contiguous(std::int64_t length);
};

// One level of a KV: rows of pages, each attended to by a range of query tokens. The plain case,
// one request a row, leaves everything but the table out. A query token attends to one row of each
// level at most, and need not have one in every level.
struct KvLevel {
  PageTable table;
  // Optional i32 [rows]: tokens; default: what the table tells, or, of an only level, the batch's.
  TensorView kv_lens;
  // Optional i32 [rows + 1], at most Limits::requests rows: query tokens of a row, of one or many
  // requests, or a part of one; default: a row for each request.
  TensorView qo_indptr;
  // Optional i32, with qo_indptr: the query tokens behind it, in any order, each at most once;
  // default: 0, 1, 2, ...
  TensorView q_rows;
  // Optional i32 [rows]: position of a row's first key; default: after the levels before, which
  // must then have the same number of keys for all its query tokens.
  TensorView kv_pos;
};

}  // namespace tilewright
