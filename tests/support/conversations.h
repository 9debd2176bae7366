// SPDX-License-Identifier: Apache-2.0
// Conversations behind a common prefix, each computed alone in one piece, and random batches of
// their pieces, whose bits must be the same in batch-invariant mode.
#pragma once

#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>
#include <vector>

#include "support/batch.h"
#include "support/kv_forms.h"

namespace tilewright::test {

// The queries [begin, end) of a conversation and its keys [first_key, end).
inline Request piece(const Request& whole, const Dims& dims, std::int64_t begin, std::int64_t end,
                     std::int64_t first_key) {
  const auto part = [](const auto& values, std::int64_t width, std::int64_t from, std::int64_t to) {
    return std::decay_t<decltype(values)>(values.begin() + from * width,
                                          values.begin() + to * width);
  };
  Request request;
  request.q_pos = part(whole.q_pos, 1, begin, end);
  request.kv_pos = part(whole.kv_pos, 1, first_key, end);
  request.q = part(whole.q, dims.qo_heads * dims.head_dim, begin, end);
  request.k = part(whole.k, dims.kv_heads * dims.head_dim, first_key, end);
  request.v = part(whole.v, dims.kv_heads * dims.value_dim, first_key, end);
  return request;
}

// Rows of a level in a cache of their own.
struct Stored {
  Table table;
  Cache cache;
  Tensor kv_lens;

  Stored(const std::vector<Request>& rows, const Dims& dims, DType dtype, Random& random)
      : table(make_table(TableForm::padded, kv_lengths(rows), random.range(1, 17), random)),
        cache(CacheForm::separate_nhd, table.num_pages, table.page_size, dims, dtype, dtype),
        kv_lens(int_tensor(kv_lengths(rows))) {
    fill_cache(cache, table, rows);
  }
};

// Updates the plan and runs: on another device, over copies of the host's tensors.
using LevelsRunner =
    std::function<void(Plan&, const Attention&, const Batch&, const std::vector<KvLevel>&,
                       const TensorView& q, const std::vector<KvCache>&, const RunArgs&)>;

inline void run_levels_on_cpu(Plan& plan, const Attention& attention, const Batch& batch,
                              const std::vector<KvLevel>& levels, const TensorView& q,
                              const std::vector<KvCache>& caches, const RunArgs& args) {
  plan.update(batch, {PlanInput(attention, levels)});
  attention.run(plan, q, caches, args);
}

class Conversations {
 public:
  static constexpr std::int64_t kPrefix = 150;

  Conversations(const Dims& dims, DType dtype, const Variant& variant, std::uint64_t seed,
                Device device = {}, LevelsRunner runner = run_levels_on_cpu)
      : dims_(dims),
        dtype_(dtype),
        attention_(make_spec(dims, dtype, variant), device),
        runner_(std::move(runner)),
        random_(seed) {
    const auto draw = [&](std::int64_t length) {
      return random_request(random_, dims_, length, length, dtype, dtype, dtype);
    };
    const Request prefix = draw(kPrefix);
    for (const std::int64_t own : {1, 2, 17, 64, 65, 130, 200}) {
      Request whole = draw(kPrefix + own);
      std::copy(prefix.k.begin(), prefix.k.end(), whole.k.begin());
      std::copy(prefix.v.begin(), prefix.v.end(), whole.v.begin());
      wholes_.push_back(whole);
      alone_.push_back(run({whole}, 0));
    }
  }

  // One random batch; every element must be that of the conversation alone.
  void check_random_batch() {
    std::vector<std::size_t> members;
    std::vector<std::int64_t> begins;
    std::vector<Request> requests;
    const std::int64_t shared = random_.chance(0.5) ? random_.range(1, kPrefix) : 0;
    for (std::int64_t n = random_.range(1, 5); n > 0; --n) {
      const auto member = static_cast<std::size_t>(random_.bits() % wholes_.size());
      const Request& whole = wholes_[member];
      const std::int64_t begin = random_.range(shared, whole.q_len() - 1);
      const std::int64_t most = random_.chance(0.5) ? 1 : random_.range(1, 90);
      members.push_back(member);
      begins.push_back(begin);
      requests.push_back(piece(whole, dims_, begin, std::min(begin + most, whole.q_len()), 0));
    }
    const std::vector<std::uint8_t> bits = run(requests, shared);
    const std::size_t row =
        static_cast<std::size_t>(dims_.qo_heads) * dims_.value_dim * dtype_bytes(dtype_);
    std::size_t token = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      for (std::int64_t q = 0; q < requests[i].q_len(); ++q, ++token) {
        const auto at = static_cast<std::size_t>(begins[i] + q);
        ASSERT_EQ(std::memcmp(&bits[kGuardBytes + token * row],
                              &alone_[members[i]][kGuardBytes + at * row], row),
                  0)
            << "conversation " << members[i] << ", query " << at << ", " << requests.size()
            << " requests, " << shared << " shared tokens";
      }
    }
  }

 private:
  // Bytes of the outputs. The first `shared` keys are a level of their own.
  std::vector<std::uint8_t> run(const std::vector<Request>& requests, std::int64_t shared) {
    std::vector<Request> own;
    for (const Request& request : requests) {
      own.push_back(request);
      own.back().k.erase(own.back().k.begin(),
                         own.back().k.begin() + shared * dims_.kv_heads * dims_.head_dim);
      own.back().v.erase(own.back().v.begin(),
                         own.back().v.begin() + shared * dims_.kv_heads * dims_.value_dim);
      own.back().kv_pos.resize(request.kv_pos.size() - static_cast<std::size_t>(shared));
    }
    const BatchTensors tensors(requests, dims_, dtype_);
    const Tensor qo_indptr = int_tensor(query_indptr(requests));
    const Tensor all = int_tensor({0, tensors.tokens});
    Request first = requests[0];
    first.k.resize(static_cast<std::size_t>(shared * dims_.kv_heads * dims_.head_dim));
    first.v.resize(static_cast<std::size_t>(shared * dims_.kv_heads * dims_.value_dim));
    first.kv_pos.resize(static_cast<std::size_t>(shared));
    const Stored outer({first}, dims_, dtype_, random_);
    const Stored inner(own, dims_, dtype_, random_);
    Limits limits{5, 600, 400, 400, 2, Determinism::batch_invariant};
    limits.workers = static_cast<int>(random_.range(0, 9));
    Plan plan({attention_}, limits);
    Batch batch;
    batch.qo_indptr = qo_indptr.view();
    std::vector<KvLevel> levels;
    std::vector<KvCache> caches;
    if (shared > 0) {
      levels.push_back({outer.table.table, outer.kv_lens.view(), all.view(), {}, {}});
      caches.push_back(outer.cache.view());
    }
    levels.push_back({inner.table.table, inner.kv_lens.view(), {}, {}, {}});
    caches.push_back(inner.cache.view());
    runner_(plan, attention_, batch, levels, tensors.q.view(), caches, tensors.args());
    return tensors.out.snapshot();
  }

  Dims dims_;
  DType dtype_;
  Attention attention_;
  LevelsRunner runner_;
  Random random_;
  std::vector<Request> wholes_;
  std::vector<std::vector<std::uint8_t>> alone_;  // outputs of each conversation by itself
};

}  // namespace tilewright::test
