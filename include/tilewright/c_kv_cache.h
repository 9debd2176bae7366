/* SPDX-License-Identifier: Apache-2.0 */
/* KV caches, page tables and levels in C. See kv_cache.h. */
#ifndef TILEWRIGHT_C_KV_CACHE_H
#define TILEWRIGHT_C_KV_CACHE_H

#include <tilewright/c_base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* NOLINTBEGIN(readability-identifier-naming) */

enum { TW_NHD = 0, TW_HND = 1 };

/* The normal form: k [pages, page_size, kv_heads, head_dim], v [pages, page_size, kv_heads,
 * value_dim]. It may be filled in by hand, or by these functions. */
typedef struct tw_kv_cache {
  size_t size;
  tw_tensor k;
  tw_tensor v;
} tw_kv_cache;

/* kv_dim: 1, or 0 for [2, pages, ..]. */
TILEWRIGHT_API tw_status tw_kv_cache_combined(const tw_tensor* kv, int32_t layout, int32_t kv_dim,
                                              tw_kv_cache* cache);
TILEWRIGHT_API tw_status tw_kv_cache_separate(const tw_tensor* k, const tw_tensor* v,
                                              int32_t layout, tw_kv_cache* cache);
TILEWRIGHT_API tw_status tw_kv_cache_interleaved(const tw_tensor* kv, int32_t head_dim,
                                                 int32_t layout, tw_kv_cache* cache);

/* Zero is no form: a table is filled in by the functions below, or by hand. */
enum { TW_TABLE_PADDED = 1, TW_TABLE_CSR = 2, TW_TABLE_RAGGED = 3, TW_TABLE_CONTIGUOUS = 4 };

typedef struct tw_page_table {
  size_t size;
  int32_t form;            /* TW_TABLE_... */
  int64_t page_size;       /* contiguous: the length */
  tw_tensor indices;       /* padded, csr */
  tw_tensor indptr;        /* csr, ragged */
  tw_tensor row_ids;       /* padded; optional */
  tw_tensor last_page_len; /* csr; optional */
} tw_page_table;

/* row_ids and last_page_len may be NULL. */
TILEWRIGHT_API tw_status tw_page_table_padded(const tw_tensor* block_table, int64_t page_size,
                                              const tw_tensor* row_ids, tw_page_table* table);
TILEWRIGHT_API tw_status tw_page_table_csr(const tw_tensor* indptr, const tw_tensor* indices,
                                           int64_t page_size, const tw_tensor* last_page_len,
                                           tw_page_table* table);
TILEWRIGHT_API tw_status tw_page_table_token_slots(const tw_tensor* slots, const tw_tensor* row_ids,
                                                   tw_page_table* table);
TILEWRIGHT_API tw_status tw_page_table_ragged(const tw_tensor* kv_indptr, tw_page_table* table);
TILEWRIGHT_API tw_status tw_page_table_contiguous(int64_t length, tw_page_table* table);

/* Everything but the table is optional. */
typedef struct tw_kv_level {
  size_t size;
  const tw_page_table* table;
  tw_tensor kv_lens;
  tw_tensor qo_indptr;
  tw_tensor q_rows;
  tw_tensor kv_pos;
} tw_kv_level;

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif
