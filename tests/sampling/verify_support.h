// SPDX-License-Identifier: Apache-2.0
// Calls of speculative verification with all of their tensors, and random trees.
#pragma once

#include <tilewright/speculative.h>

#include <string>
#include <vector>

#include "sampling/sampling_support.h"
#include "support/tensor.h"

namespace tilewright::test {

// Results, [requests, length] and [requests].
struct VerifyResults {
  Tensor tokens;
  Tensor nodes;
  Tensor emitted;
  Tensor accepted;
  Tensor status;

  VerifyResults(std::int64_t requests, std::int64_t length, DType dtype = DType::i32)
      : tokens(dtype, {requests, length}, {length + 3, 1}),
        nodes(DType::i32, {requests, length}, {length + 1, 1}),
        emitted(DType::i32, {requests}, {2}),
        accepted(DType::i32, {requests}, {3}),
        status(DType::i32, {requests}, {2}) {}

  std::vector<std::int64_t> tokens_of(std::int64_t request) const {
    std::vector<std::int64_t> list;
    for (std::int64_t i = 0; i < tokens.shape()[1]; ++i) {
      list.push_back(static_cast<std::int64_t>(tokens.get({request, i})));
    }
    return list;
  }
};

// Links [requests, nodes] of trees that are given by parents.
struct TreeTensors {
  Tensor tokens;
  Tensor parents;
  Tensor next_token;
  Tensor next_sibling;

  TreeTensors(const Extents& shape, DType dtype)
      : tokens(dtype, shape),
        parents(dtype, shape),
        next_token(dtype, shape),
        next_sibling(dtype, shape) {}

  void link() { tree_links(parents.view(), next_token.view(), next_sibling.view()); }
  VerifyTree view() const { return {tokens.view(), next_token.view(), next_sibling.view()}; }
};

// Each node hangs below an earlier one; some belong to no tree. Tokens repeat among siblings now
// and then.
inline TreeTensors random_trees(Random& random, std::int64_t requests, std::int64_t nodes,
                                std::int64_t vocabulary, DType dtype) {
  TreeTensors trees({requests, nodes}, dtype);
  for (std::int64_t r = 0; r < requests; ++r) {
    for (std::int64_t node = 0; node < nodes; ++node) {
      trees.tokens.set({r, node}, static_cast<double>(random.range(0, vocabulary - 1)));
      const bool alone = node == 0 || random.chance(0.1);
      const std::int64_t earliest = std::max<std::int64_t>(0, node - 4);
      trees.parents.set({r, node},
                        alone ? -1 : static_cast<double>(random.range(earliest, node - 1)));
    }
  }
  trees.link();
  return trees;
}

// [requests, nodes, vocabulary]: rows of one kind, or probabilities.
inline Tensor random_rows(Random& random, RowKind kind, const Extents& shape, DType dtype,
                          bool probabilities, std::int64_t gap = 0) {
  const std::int64_t stride = shape[2] + gap;
  Tensor rows(dtype, shape, {stride * shape[1] + gap, stride, 1});
  for (std::int64_t r = 0; r < shape[0]; ++r) {
    for (std::int64_t node = 0; node < shape[1]; ++node) {
      const Row row = make_row(random, kind, shape[2]);
      const std::vector<double> p = softmax(row, 1);
      for (std::int64_t i = 0; i < shape[2]; ++i) {
        const auto at = static_cast<std::size_t>(i);
        rows.set({r, node, i}, probabilities ? p[at] : row[at]);
      }
    }
  }
  return rows;
}

// Rows [1, nodes, vocabulary] that are the same for all requests.
inline Tensor repeated(const std::vector<Row>& rows, std::int64_t requests) {
  const auto nodes = static_cast<std::int64_t>(rows.size());
  const auto vocabulary = static_cast<std::int64_t>(rows[0].size());
  Tensor tensor(DType::f32, {requests, nodes, vocabulary}, {0, vocabulary, 1});
  for (std::int64_t node = 0; node < nodes; ++node) {
    for (std::int64_t i = 0; i < vocabulary; ++i) {
      tensor.set({0, node, i}, rows[static_cast<std::size_t>(node)][static_cast<std::size_t>(i)]);
    }
  }
  return tensor;
}

// Draft rows near the target's, so that some tokens are accepted: a mean of both.
inline void pull_towards(const Tensor& target, Tensor& draft, double share) {
  for (std::int64_t r = 0; r < draft.shape()[0]; ++r) {
    for (std::int64_t node = 0; node < draft.shape()[1]; ++node) {
      for (std::int64_t i = 0; i < draft.shape()[2]; ++i) {
        const double mean =
            share * target.get({r, node, i}) + (1 - share) * draft.get({r, node, i});
        draft.set({r, node, i}, mean);
      }
    }
  }
}

}  // namespace tilewright::test
