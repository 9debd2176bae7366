// SPDX-License-Identifier: Apache-2.0
// The factories of KvCache and PageTable.
#include <tilewright/kv_cache.h>

#include "ops/ops_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

// Elements are numbered, so that a view shows which element it reads.
Tensor numbered(const Extents& shape) {
  Tensor tensor(DType::f32, shape);
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  for (std::int64_t i = 0; i < count; ++i) {
    store_element(tensor.data(), DType::f32, i, static_cast<float>(i));
  }
  return tensor;
}

double at(const TensorView& view, std::int64_t page, std::int64_t row, std::int64_t head,
          std::int64_t i) {
  return static_cast<const float*>(view.data)[page * view.strides[0] + row * view.strides[1] +
                                              head * view.strides[2] + i * view.strides[3]];
}

TEST(KvCache, CombinedInEveryOrder) {
  const Tensor nhd = numbered({3, 2, 4, 5, 8});
  const KvCache a = KvCache::combined(nhd.view());
  EXPECT_EQ(at(a.k, 2, 3, 4, 7), nhd.get({2, 0, 3, 4, 7}));
  EXPECT_EQ(at(a.v, 2, 3, 4, 7), nhd.get({2, 1, 3, 4, 7}));
  const KvCache b = KvCache::combined(nhd.view(), KvLayout::hnd);
  EXPECT_EQ(b.k.shape[1], 5);
  EXPECT_EQ(at(b.v, 1, 4, 2, 6), nhd.get({1, 1, 2, 4, 6}));
  const Tensor outside = numbered({2, 3, 4, 5, 8});
  const KvCache c = KvCache::combined(outside.view(), KvLayout::nhd, 0);
  EXPECT_EQ(at(c.v, 2, 3, 4, 7), outside.get({1, 2, 3, 4, 7}));
}

TEST(KvCache, SeparateOfRankThreeAndFour) {
  const Tensor k = numbered({3, 4, 5, 8});
  const Tensor v = numbered({3, 4, 5, 16});
  const KvCache paged = KvCache::separate(k.view(), v.view(), KvLayout::hnd);
  EXPECT_EQ(paged.v.shape[1], 5);
  EXPECT_EQ(at(paged.v, 2, 4, 3, 15), v.get({2, 3, 4, 15}));
  const Tensor tokens = numbered({6, 5, 8});
  const KvCache slots = KvCache::separate(tokens.view(), tokens.view());
  EXPECT_EQ(slots.k.describe(), "float32[6, 1, 5, 8]");
  EXPECT_EQ(at(slots.k, 3, 0, 4, 2), tokens.get({3, 4, 2}));
  const KvCache turned = KvCache::separate(tokens.view(), tokens.view(), KvLayout::hnd);
  EXPECT_EQ(turned.k.shape[0], 5);
  EXPECT_EQ(turned.k.shape[2], 6);
  EXPECT_EQ(at(turned.k, 3, 0, 4, 2), tokens.get({4, 3, 2}));
}

TEST(KvCache, Interleaved) {
  const Tensor kv = numbered({3, 4, 5, 24});
  const KvCache cache = KvCache::interleaved(kv.view(), 16);
  EXPECT_EQ(cache.v.shape[3], 8);
  EXPECT_EQ(at(cache.k, 1, 2, 3, 15), kv.get({1, 2, 3, 15}));
  EXPECT_EQ(at(cache.v, 1, 2, 3, 7), kv.get({1, 2, 3, 23}));
}

TEST(KvCache, Errors) {
  const TensorView kv = numbered({3, 2, 4, 5, 8}).view();
  expect_invalid([&] { KvCache::combined(kv.select(0, 0)); },
                 "kv is float32[2, 4, 5, 8]: its rank must be 5");
  expect_invalid([&] { KvCache::combined(kv, KvLayout::nhd, 0); },
                 "its dimension 0 (kv_dim) must be 2");
  expect_invalid([&] { KvCache::combined(kv, KvLayout::nhd, 2); }, "kv_dim is 2");
  expect_invalid([&] { KvCache::combined(kv.transpose(3, 4)); },
                 "last dimension must be contiguous");
  const TensorView k = kv.select(1, 0);
  expect_invalid([&] { KvCache::separate(k, k.slice(0, 0, 2)); }, "v is float32[2, 4, 5, 8]");
  expect_invalid([&] { KvCache::separate(k, k.slice(1, 0, 2)); }, "v is float32[3, 2, 5, 8]");
  expect_invalid([&] { KvCache::separate(k, k.slice(2, 0, 2)); }, "v is float32[3, 4, 2, 8]");
  expect_invalid([&] { KvCache::separate(k, k.select(0, 0)); }, "its rank must be 4");
  expect_invalid([&] { KvCache::separate(kv, kv); }, "its rank must be 3 or 4");
  expect_invalid([&] { KvCache::separate({}, k); }, "k is missing");
  expect_invalid([&] { KvCache::interleaved(k, 8); }, "head_dim is 8");
  expect_invalid([&] { KvCache::interleaved(k, 0); }, "head_dim is 0");
  TensorView integers = k;
  integers.dtype = DType::i32;
  expect_invalid([&] { KvCache::separate(integers, k); }, "k is int32");
  TensorView elsewhere = k;
  elsewhere.device = {DeviceType::cuda, 0};
  expect_invalid([&] { KvCache::separate(k, elsewhere); }, "must be on cpu");
}

TEST(PageTable, Forms) {
  const Tensor matrix = int_matrix(3, 7, 2);
  const Tensor rows = int_tensor({2, 0});
  const PageTable padded = PageTable::padded(matrix.view(), 16, rows.view());
  EXPECT_EQ(padded.form, PageTable::Form::padded);
  EXPECT_EQ(padded.page_size, 16);
  EXPECT_EQ(padded.row_ids.shape[0], 2);
  const Tensor indptr = int_tensor({0, 2, 2, 5});
  const Tensor indices = int_tensor({4, 1, 0, 3, 2});
  const Tensor last = int_tensor({1, 16, 3});
  const PageTable csr = PageTable::csr(indptr.view(), indices.view(), 1024, last.view());
  EXPECT_EQ(csr.form, PageTable::Form::csr);
  EXPECT_EQ(csr.last_page_len.shape[0], 3);
  EXPECT_EQ(PageTable::token_slots(matrix.view()).page_size, 1);
  EXPECT_EQ(PageTable::token_slots(matrix.view()).form, PageTable::Form::padded);
  EXPECT_EQ(PageTable::ragged(indptr.view()).form, PageTable::Form::ragged);
  EXPECT_EQ(PageTable::contiguous(5000).page_size, 5000);
}

TEST(PageTable, Errors) {
  const Tensor matrix = int_matrix(3, 7);
  const Tensor indptr = int_tensor({0, 2, 5});
  const Tensor indices = int_tensor({4, 1, 0, 3, 2});
  const TensorView m = matrix.view();
  expect_invalid([&] { PageTable::padded(m, 0); }, "page_size is 0: it must be in [1, 1024]");
  expect_invalid([&] { PageTable::padded(m, 1025); }, "page_size is 1025");
  expect_invalid([&] { PageTable::padded(m.select(0, 0), 16); }, "block_table is int32[7]");
  expect_invalid([&] { PageTable::padded(m.transpose(0, 1), 16); }, "last dimension");
  expect_invalid(
      [&] {
        PageTable::padded(TensorView(m.data, DType::i64, {3, 3}), 16);
      },
      "its dtype must be int32");
  expect_invalid([&] { PageTable::padded(m, 16, m); }, "row_ids is int32[3, 7]");
  expect_invalid([&] { PageTable::csr(m, indices.view(), 16); }, "indptr is int32[3, 7]");
  expect_invalid([&] { PageTable::csr(indptr.view().slice(0, 0, 0), indices.view(), 16); },
                 "one entry more");
  expect_invalid([&] { PageTable::csr(indptr.view(), indices.view(), 16, indptr.view()); },
                 "last_page_len is int32[3]: its shape must be [2]");
  expect_invalid([&] { PageTable::token_slots(indices.view()); }, "slots is int32[5]");
  expect_invalid([&] { PageTable::ragged({}); }, "kv_indptr is missing");
  expect_invalid([&] { PageTable::contiguous(0); }, "length is 0");
}

}  // namespace
}  // namespace tilewright
