// SPDX-License-Identifier: Apache-2.0
// Batches whose scores grow or fall along their keys, so that the references of an online softmax
// must move, or are far too high for what follows. For every device: `runner` as in not_finite.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "support/simple_batch.h"

namespace tilewright::test {

// Every 40 keys scores grow by about `slope` powers of two: a block of keys has three such steps.
template <typename Runner>
void check_growing_scores(const Dims& dims, DType dtype, double slope, double arithmetic,
                          const Runner& runner) {
  std::vector<Request> requests =
      SimpleBatch::draw(dims, dtype, {{40, 700}, {150, 150}, {1, 650}, {4, 600}}, 57);
  const auto head_dim = static_cast<std::size_t>(dims.head_dim);
  const std::size_t key_elements = head_dim * static_cast<std::size_t>(dims.kv_heads);
  // By the first element alone: 8 of each query, of keys few bits, which every dtype has.
  for (Request& request : requests) {
    for (std::size_t i = 0; i < request.q.size(); i += head_dim) request.q[i] = 8;
    for (std::size_t i = 0; i < request.k.size(); i += head_dim) {
      const std::size_t forty_keys = i / key_elements / 40;
      request.k[i] = slope * static_cast<double>(forty_keys);
    }
  }
  SimpleBatch b(dims, dtype, requests, 16, 58);
  runner(make_spec(dims, dtype, variants::causal()), b, b.batch(), std::vector<ParamValue>(),
         b.tensors.args());
  b.tensors.expect(requests, causal_semantics(), {}, arithmetic);
}

}  // namespace tilewright::test
