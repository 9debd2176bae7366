// SPDX-License-Identifier: Apache-2.0
#include <tilewright/speculative.h>

#include "base/checks.h"
#include "sampling/verify_call.h"

namespace tilewright {
namespace {

void set_index(const TensorView& tensor, std::int64_t row, std::int64_t column,
               std::int64_t value) {
  const std::int64_t at = row * tensor.strides[0] + column * tensor.strides[1];
  if (tensor.dtype == DType::i64) {
    static_cast<std::int64_t*>(tensor.data)[at] = value;
  } else {
    static_cast<std::int32_t*>(tensor.data)[at] = static_cast<std::int32_t>(value);
  }
}

}  // namespace

void tree_links(const TensorView& parents, const TensorView& next_token,
                const TensorView& next_sibling) {
  require_rank("parents", parents, {2});
  require_dtype("parents", parents, {DType::i32, DType::i64});
  require_device("parents", parents, {});
  const std::int64_t requests = parents.shape[0];
  const std::int64_t nodes = parents.shape[1];
  const auto check_links = [&](const char* name, const TensorView& links) {
    require_shape(name, links, {requests, nodes});
    require_dtype(name, links, {parents.dtype});
    require_device(name, links, {});
    require_writable(name, links);
  };
  check_links("next_token", next_token);
  check_links("next_sibling", next_sibling);
  for (std::int64_t r = 0; r < requests; ++r) {
    for (std::int64_t node = 0; node < nodes; ++node) {
      const std::int64_t parent = index_at(parents, r, node);
      require(parent >= -1 && parent < node,
              "parents of node {} of request {} is {}: it must be -1 or an earlier node", node, r,
              parent);
    }
  }
  // Children are put in front of those behind them.
  for (std::int64_t r = 0; r < requests; ++r) {
    for (std::int64_t node = nodes - 1; node >= 0; --node) {
      set_index(next_token, r, node, -1);
      set_index(next_sibling, r, node, -1);
    }
    for (std::int64_t node = nodes - 1; node > 0; --node) {
      const std::int64_t parent = index_at(parents, r, node);
      if (parent < 0) continue;
      set_index(next_sibling, r, node, index_at(next_token, r, parent));
      set_index(next_token, r, parent, node);
    }
  }
}

}  // namespace tilewright
