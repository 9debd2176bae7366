// SPDX-License-Identifier: Apache-2.0
// A level whose rows are any sets of query tokens.
#pragma once

#include <tilewright/tilewright.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "support/batch.h"
#include "support/random.h"

namespace tilewright::test {

// A level over a ragged cache: rows of tokens and keys.
struct RaggedLevel {
  DType dtype = DType::f32;
  Extents qo_indptr = {0}, q_rows, kv_indptr = {0}, kv_pos;
  std::vector<double> k, v;
  Tensor qo_indptr_tensor, q_rows_tensor, kv_indptr_tensor, kv_pos_tensor, k_tensor, v_tensor;

  // Gives the keys of a new row to its tokens, which are requests of their own for the reference.
  void add_row(const Dims& dims, const Extents& tokens, std::int64_t keys, std::int64_t position,
               Random& random, std::vector<Request>& references) {
    q_rows.insert(q_rows.end(), tokens.begin(), tokens.end());
    qo_indptr.push_back(static_cast<std::int64_t>(q_rows.size()));
    kv_indptr.push_back(kv_indptr.back() + keys);
    kv_pos.push_back(position);
    const Request row = random_request(random, dims, 0, keys, dtype, dtype, dtype);
    k.insert(k.end(), row.k.begin(), row.k.end());
    v.insert(v.end(), row.v.begin(), row.v.end());
    for (const std::int64_t token : tokens) {
      Request& reference = references[static_cast<std::size_t>(token)];
      reference.k.insert(reference.k.end(), row.k.begin(), row.k.end());
      reference.v.insert(reference.v.end(), row.v.begin(), row.v.end());
      for (std::int64_t i = 0; i < keys; ++i) reference.kv_pos.push_back(position + i);
    }
  }

  // Rows of some of `tokens` tokens. Returns whether their tokens are listed: without a list the
  // rows are consecutive; with one, tokens may be left out.
  bool add_random_rows(const Dims& dims, std::int64_t tokens, Random& random,
                       std::vector<Request>& references) {
    const bool listed = random.chance(0.6);
    Extents order(static_cast<std::size_t>(tokens));
    std::iota(order.begin(), order.end(), 0);
    if (listed) random.shuffle(order);
    std::int64_t at = 0;
    const std::int64_t most = random.range(1, 8);
    for (std::int64_t row = 0; row < 8 && at < tokens; ++row) {
      const std::int64_t end = row == most ? tokens : random.range(at, tokens);
      add_row(dims, Extents(order.begin() + at, order.begin() + end),
              random.range(0, 3) == 0 ? 0 : random.range(1, 90), random.range(0, 150), random,
              references);
      at = end;
    }
    return listed;
  }

  KvLevel view(const Dims& dims, bool listed) {
    qo_indptr_tensor = int_tensor(qo_indptr);
    q_rows_tensor = int_tensor(q_rows);
    kv_indptr_tensor = int_tensor(kv_indptr);
    kv_pos_tensor = int_tensor(kv_pos);
    const std::int64_t keys = std::max<std::int64_t>(kv_indptr.back(), 1);
    k_tensor = Tensor(dtype, {keys, dims.kv_heads, dims.head_dim});
    v_tensor = Tensor(dtype, {keys, dims.kv_heads, dims.value_dim});
    for (std::int64_t i = 0; i < kv_indptr.back(); ++i) {
      for (std::int64_t head = 0; head < dims.kv_heads; ++head) {
        k_tensor.set_row({i, head, 0}, &k[(i * dims.kv_heads + head) * dims.head_dim],
                         dims.head_dim);
        v_tensor.set_row({i, head, 0}, &v[(i * dims.kv_heads + head) * dims.value_dim],
                         dims.value_dim);
      }
    }
    return {PageTable::ragged(kv_indptr_tensor.view()),
            {},
            qo_indptr_tensor.view(),
            listed ? q_rows_tensor.view() : TensorView(),
            kv_pos_tensor.view()};
  }

  KvCache cache() const { return KvCache::separate(k_tensor.view(), v_tensor.view()); }
};

}  // namespace tilewright::test
