// SPDX-License-Identifier: Apache-2.0
// Requests behind a common prefix, as a plan of two levels over ragged caches.
#pragma once

#include <tilewright/tilewright.h>

#include <cstdint>
#include <vector>

#include "support/batch.h"
#include "support/random.h"

namespace tilewright::test {

struct SharedPrefix {
  Dims dims;
  DType dtype;
  std::int64_t prefix;
  std::vector<Request> requests;  // with the prefix's keys before their own
  Tensor qo_indptr, all, prefix_indptr, own_indptr;
  Tensor prefix_k, prefix_v, own_k, own_v;

  // Own keys and queries by request.
  SharedPrefix(const Dims& d, DType type, std::int64_t prefix_len,
               const std::vector<std::pair<std::int64_t, std::int64_t>>& lengths,
               std::uint64_t seed)
      : dims(d), dtype(type), prefix(prefix_len) {
    Random random(seed);
    const Request common = random_request(random, d, 0, prefix_len, type, type, type);
    for (const auto& [q_len, own_len] : lengths) {
      Request request = random_request(random, d, q_len, prefix_len + own_len, type, type, type);
      std::copy(common.k.begin(), common.k.end(), request.k.begin());
      std::copy(common.v.begin(), common.v.end(), request.v.begin());
      request.batch = static_cast<std::int64_t>(requests.size());
      requests.push_back(std::move(request));
    }
    store();
  }

  // The requests' keys and values into the caches: again when they were changed.
  void store() {
    Extents own = {0};
    for (const Request& request : requests) {
      own.push_back(own.back() + request.kv_len() - prefix);
    }
    qo_indptr = int_tensor(query_indptr(requests));
    all = int_tensor({0, query_indptr(requests).back()});
    prefix_indptr = int_tensor({0, prefix});
    own_indptr = int_tensor(own);
    prefix_k = Tensor(dtype, {prefix, dims.kv_heads, dims.head_dim});
    prefix_v = Tensor(dtype, {prefix, dims.kv_heads, dims.value_dim});
    own_k = Tensor(dtype, {own.back() + 1, dims.kv_heads, dims.head_dim});
    own_v = Tensor(dtype, {own.back() + 1, dims.kv_heads, dims.value_dim});
    for (std::size_t r = 0; r < requests.size(); ++r) {
      const Request& request = requests[r];
      for (std::int64_t key = r == 0 ? 0 : prefix; key < request.kv_len(); ++key) {
        const bool shared = key < prefix;
        const std::int64_t at = shared ? key : own[r] + key - prefix;
        for (std::int64_t head = 0; head < dims.kv_heads; ++head) {
          const std::int64_t row = key * dims.kv_heads + head;
          (shared ? prefix_k : own_k)
              .set_row({at, head, 0}, &request.k[row * dims.head_dim], dims.head_dim);
          (shared ? prefix_v : own_v)
              .set_row({at, head, 0}, &request.v[row * dims.value_dim], dims.value_dim);
        }
      }
    }
  }

  Limits limits() const {
    Limits limits{static_cast<std::int64_t>(requests.size()), query_indptr(requests).back(), 1, 1,
                  2};
    for (const Request& request : requests) {
      limits.q_len = std::max(limits.q_len, request.q_len());
      limits.kv_len = std::max(limits.kv_len, request.kv_len());
    }
    return limits;
  }

  Batch batch() const {
    Batch batch;
    batch.qo_indptr = qo_indptr.view();
    return batch;
  }

  std::vector<KvLevel> levels() const {
    return {KvLevel{PageTable::ragged(prefix_indptr.view()), {}, all.view(), {}, {}},
            KvLevel{PageTable::ragged(own_indptr.view()), {}, {}, {}, {}}};
  }

  std::vector<KvCache> caches() const {
    return {KvCache::separate(prefix_k.view(), prefix_v.view()),
            KvCache::separate(own_k.view(), own_v.view())};
  }
};

}  // namespace tilewright::test
