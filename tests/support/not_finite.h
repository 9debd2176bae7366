// SPDX-License-Identifier: Apache-2.0
// Batches in whose caches NaN or infinities are where a mask keeps queries from them: from all, or
// from some of a tile. For every device: `runner(spec, batch, view, plan_params, args)` updates a
// plan with `view` and runs it over the tensors of `batch`.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "support/simple_batch.h"

namespace tilewright::test {

inline void poison_key(Request& request, const Dims& dims, std::int64_t key, double k, double v) {
  const std::int64_t k_row = dims.kv_heads * dims.head_dim;
  const std::int64_t v_row = dims.kv_heads * dims.value_dim;
  std::fill_n(request.k.begin() + key * k_row, k_row, k);
  std::fill_n(request.v.begin() + key * v_row, v_row, v);
}

// Every element of a cache's tensor.
inline void fill_all(Tensor& tensor, double value) {
  const std::vector<double> row(static_cast<std::size_t>(tensor.shape()[3]), value);
  for (std::int64_t page = 0; page < tensor.shape()[0]; ++page) {
    for (std::int64_t i = 0; i < tensor.shape()[1]; ++i) {
      for (std::int64_t head = 0; head < tensor.shape()[2]; ++head) {
        tensor.set_row({page, i, head, 0}, row.data(), tensor.shape()[3]);
      }
    }
  }
}

// Keys that the mask takes from every query of the request. Returns how many there are.
inline int poison_unseen_keys(Request& request, const Dims& dims, const Semantics& semantics,
                              double value) {
  int poisoned = 0;
  for (std::int64_t key = 0; key < request.kv_len(); ++key) {
    bool seen = false;
    for (std::int64_t i = 0; i < request.q_len() * dims.qo_heads; ++i) {
      const std::int64_t head = i % dims.qo_heads;
      seen = seen ||
             semantics.mask({request.q_pos[i / dims.qo_heads], key, head, head / dims.group(),
                             request.batch, request.q_len(), request.kv_len(), i / dims.qo_heads});
    }
    if (seen) continue;
    poison_key(request, dims, key, value, -value);
    ++poisoned;
  }
  return poisoned;
}

// Keys that nobody sees next to keys that somebody does. Queries stand before the last keys, so
// that a causal mask has something to take away.
template <typename Runner>
void check_unseen_keys(VariantKind kind, const Dims& dims, DType dtype, double value,
                       double arithmetic, const Runner& runner) {
  const Lengths lengths = {{1, 100}, {5, 131}, {1, 64}, {20, 300}};
  Random random(52);
  const VariantCase c = make_variant(kind, dims, static_cast<std::int64_t>(lengths.size()), random);
  std::vector<Request> requests = SimpleBatch::draw(dims, dtype, lengths, 53);
  Extents positions;
  int poisoned = 0;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    requests[r].batch = static_cast<std::int64_t>(r);
    for (std::int64_t& position : requests[r].q_pos) {
      position -= 11;
      positions.push_back(position);
    }
    poisoned += poison_unseen_keys(requests[r], dims, c.semantics, value);
  }
  ASSERT_GT(poisoned, 3);
  SimpleBatch b(dims, dtype, requests, 16, 54);
  const Tensor q_pos = int_tensor(positions);
  Batch batch = b.batch();
  batch.q_pos = q_pos.view();
  RunArgs args = b.tensors.args();
  args.params = c.run_params;
  if (!c.semantics.softmax) {
    args.lse = {};
    b.tensors.lse = {};
  }
  runner(make_spec(dims, dtype, c.variant), b, batch, c.plan_params, args);
  b.tensors.expect(b.requests, c.semantics, {}, arithmetic);
}

// Keys that some queries of a tile see and others do not, under a causal mask: a prompt, a chunk, a
// few drafted tokens and a long row.
struct SeenBySome {
  std::optional<DType> kv_dtype = {};  // of the cache, where it is not that of queries
  std::optional<RopeSpec> rope = {};
};
template <typename Runner>
void check_seen_by_some(const Dims& dims, DType dtype, double k, double v, double arithmetic,
                        const Runner& runner, const SeenBySome& more = {}) {
  const std::optional<DType> kv_dtype = more.kv_dtype;
  Semantics semantics = causal_semantics();
  semantics.rope = more.rope;
  std::vector<Request> requests =
      SimpleBatch::draw(dims, dtype, {{80, 80}, {9, 200}, {3, 100}, {2, 700}}, 55, kv_dtype);
  const std::pair<std::size_t, std::int64_t> seen_by_some[] = {
      {0, 30}, {1, 196}, {2, 98}, {3, 699}};
  for (const auto& [request, key] : seen_by_some) {
    const std::vector<double> keys = requests[request].k;
    poison_key(requests[request], dims, key, k, v);
    if (k == 0) requests[request].k = keys;  // values alone
  }
  SimpleBatch b(dims, dtype, requests, 16, 56, kv_dtype);
  AttentionSpec spec = make_spec(dims, dtype, variants::causal());
  spec.kv_dtype = kv_dtype.value_or(dtype);
  spec.variant.rope = more.rope;
  runner(spec, b, b.batch(), std::vector<ParamValue>(), b.tensors.args());
  EXPECT_FALSE(std::isfinite(b.tensors.out.get({30, 0, 0})));
  EXPECT_TRUE(std::isfinite(b.tensors.out.get({29, 0, 0})));
  b.tensors.expect(requests, semantics, {}, arithmetic);
}

// Everything in the cache that is nobody's.
template <typename Runner>
void check_unused_bytes(const Dims& dims, DType dtype, double value, double arithmetic,
                        const Runner& runner) {
  SimpleBatch b(dims, dtype, {{1, 1}, {1, 15}, {7, 7}, {1, 129}, {33, 70}, {1, 0}}, 16, 51);
  fill_all(b.cache.k(), value);
  fill_all(b.cache.v(), value);
  fill_cache(b.cache, b.table, b.requests);
  runner(make_spec(dims, dtype, variants::causal()), b, b.batch(), std::vector<ParamValue>(),
         b.tensors.args());
  b.tensors.expect(b.requests, causal_semantics(), {}, arithmetic);
}

}  // namespace tilewright::test
