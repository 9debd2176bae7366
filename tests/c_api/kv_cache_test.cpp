// SPDX-License-Identifier: Apache-2.0
// KV caches and page tables made through the C API are those of C++.
#include "c_api/c_support.h"
#include "support/tensor.h"

namespace tilewright::test {
namespace {

bool same_cache(const tw_kv_cache& a, const KvCache& b) {
  return same_tensor(a.k, b.k) && same_tensor(a.v, b.v);
}

TEST(CKvCache, Forms) {
  const Tensor nhd(DType::bf16, {5, 2, 4, 3, 8});
  const Tensor kv0(DType::bf16, {2, 5, 4, 3, 8});
  const Tensor k(DType::f32, {5, 4, 3, 8});
  const Tensor v(DType::f32, {5, 4, 3, 16});
  const Tensor tokens(DType::f32, {5, 3, 24});
  const tw_tensor c_nhd = to_c(nhd.view());
  const tw_tensor c_kv0 = to_c(kv0.view());
  const tw_tensor c_k = to_c(k.view());
  const tw_tensor c_v = to_c(v.view());
  const tw_tensor c_tokens = to_c(tokens.view());
  for (const KvLayout layout : {KvLayout::nhd, KvLayout::hnd}) {
    const std::int32_t c_layout = layout == KvLayout::nhd ? TW_NHD : TW_HND;
    auto cache = sized<tw_kv_cache>();
    ASSERT_OK(tw_kv_cache_combined(&c_nhd, c_layout, 1, &cache));
    EXPECT_TRUE(same_cache(cache, KvCache::combined(nhd.view(), layout)));
    ASSERT_OK(tw_kv_cache_combined(&c_kv0, c_layout, 0, &cache));
    EXPECT_TRUE(same_cache(cache, KvCache::combined(kv0.view(), layout, 0)));
    ASSERT_OK(tw_kv_cache_separate(&c_k, &c_v, c_layout, &cache));
    EXPECT_TRUE(same_cache(cache, KvCache::separate(k.view(), v.view(), layout)));
    ASSERT_OK(tw_kv_cache_interleaved(&c_tokens, 8, c_layout, &cache));
    EXPECT_TRUE(same_cache(cache, KvCache::interleaved(tokens.view(), 8, layout)));
  }
  auto cache = sized<tw_kv_cache>();
  expect_invalid(tw_kv_cache_combined(&c_nhd, 2, 1, &cache), {"layout is 2", "[0, 1]"});
  expect_invalid(tw_kv_cache_combined(&c_nhd, TW_NHD, 2, &cache), {"kv_dim is 2"});
  expect_invalid(tw_kv_cache_combined(&c_k, TW_NHD, 1, &cache), {"kv is float32[5, 4, 3, 8]"});
  expect_invalid(tw_kv_cache_separate(&c_k, &c_tokens, TW_NHD, &cache), {"v is float32[5, 3, 24]"});
  expect_invalid(tw_kv_cache_interleaved(&c_tokens, 24, TW_NHD, &cache), {"head_dim is 24"});
  cache.size = 3;
  expect_invalid(tw_kv_cache_interleaved(&c_tokens, 8, TW_NHD, &cache), {"cache.size is 3"});
}

bool same_table(const tw_page_table& a, const PageTable& b) {
  return a.form - TW_TABLE_PADDED == static_cast<int>(b.form) && a.page_size == b.page_size &&
         same_tensor(a.indices, b.indices) && same_tensor(a.indptr, b.indptr) &&
         same_tensor(a.row_ids, b.row_ids) && same_tensor(a.last_page_len, b.last_page_len);
}

TEST(CPageTable, Forms) {
  const Tensor pages = int_matrix(3, 4);
  const Tensor ids = int_tensor({2, 0});
  const Tensor indptr = int_tensor({0, 2, 3});
  const Tensor indices = int_tensor({4, 1, 7});
  const Tensor last = int_tensor({3, 1});
  const tw_tensor c_pages = to_c(pages.view());
  const tw_tensor c_ids = to_c(ids.view());
  const tw_tensor c_indptr = to_c(indptr.view());
  const tw_tensor c_indices = to_c(indices.view());
  const tw_tensor c_last = to_c(last.view());
  auto table = sized<tw_page_table>();
  ASSERT_OK(tw_page_table_padded(&c_pages, 16, nullptr, &table));
  EXPECT_TRUE(same_table(table, PageTable::padded(pages.view(), 16)));
  ASSERT_OK(tw_page_table_padded(&c_pages, 16, &c_ids, &table));
  EXPECT_TRUE(same_table(table, PageTable::padded(pages.view(), 16, ids.view())));
  ASSERT_OK(tw_page_table_csr(&c_indptr, &c_indices, 4, nullptr, &table));
  EXPECT_TRUE(same_table(table, PageTable::csr(indptr.view(), indices.view(), 4)));
  ASSERT_OK(tw_page_table_csr(&c_indptr, &c_indices, 4, &c_last, &table));
  EXPECT_TRUE(same_table(table, PageTable::csr(indptr.view(), indices.view(), 4, last.view())));
  ASSERT_OK(tw_page_table_token_slots(&c_pages, nullptr, &table));
  EXPECT_TRUE(same_table(table, PageTable::token_slots(pages.view())));
  ASSERT_OK(tw_page_table_token_slots(&c_pages, &c_ids, &table));
  EXPECT_TRUE(same_table(table, PageTable::token_slots(pages.view(), ids.view())));
  ASSERT_OK(tw_page_table_ragged(&c_indptr, &table));
  EXPECT_TRUE(same_table(table, PageTable::ragged(indptr.view())));
  ASSERT_OK(tw_page_table_contiguous(33, &table));
  EXPECT_TRUE(same_table(table, PageTable::contiguous(33)));

  expect_invalid(tw_page_table_padded(&c_pages, 0, nullptr, &table), {"page_size is 0"});
  expect_invalid(tw_page_table_padded(&c_ids, 16, nullptr, &table), {"block_table is int32[2]"});
  expect_invalid(tw_page_table_csr(&c_indptr, &c_indices, 4, &c_indptr, &table),
                 {"last_page_len is int32[3]"});
  expect_invalid(tw_page_table_contiguous(0, &table), {"length is 0"});
  // What fails leaves the table.
  EXPECT_TRUE(same_table(table, PageTable::contiguous(33)));
}

}  // namespace
}  // namespace tilewright::test
