// SPDX-License-Identifier: Apache-2.0
// A call of verify_chain() or verify_tree(), in one form for both: a chain is a tree whose nodes
// have one child each.
#pragma once

#include <tilewright/speculative.h>

#include <cstdint>

namespace tilewright {

struct VerifyCall {
  TensorView target;  // [requests, nodes, vocabulary]
  TensorView draft_tokens;
  TensorView counts;  // of a chain, or undefined
  TensorView next_token;
  TensorView next_sibling;
  const VerifyArgs& args;
  TensorView tokens;
  TensorView nodes;     // of a tree
  TensorView emitted;   // the number of draft tokens in `tokens`
  TensorView accepted;  // of a chain, or undefined

  bool is_tree() const { return next_token.defined(); }
  std::int64_t requests() const { return target.shape[0]; }
  std::int64_t num_nodes() const { return target.shape[1]; }
  std::int64_t vocabulary() const { return target.shape[2]; }
  // Where the token of node 1 is.
  std::int64_t first_token() const { return is_tree() ? 1 : 0; }
};

// Errors as verify_chain() and verify_tree() document them. Nothing of a GPU's memory is read.
void check_verify(const VerifyCall& call);

// An element of an i32 or i64 [requests, n] on the CPU.
inline std::int64_t index_at(const TensorView& tensor, std::int64_t row, std::int64_t column) {
  const std::int64_t at = row * tensor.strides[0] + column * tensor.strides[1];
  return tensor.dtype == DType::i64 ? static_cast<const std::int64_t*>(tensor.data)[at]
                                    : static_cast<const std::int32_t*>(tensor.data)[at];
}

// counts[request], or what stands for it.
inline std::int64_t draft_count(const VerifyCall& call, std::int64_t request) {
  if (!call.counts.defined()) return call.num_nodes() - 1;
  return static_cast<const std::int32_t*>(call.counts.data)[request * call.counts.strides[0]];
}

}  // namespace tilewright
