// SPDX-License-Identifier: Apache-2.0
// Verification of one request on the CPU: the walk from the root along accepted draft tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "sampling/verify_call.h"
#include "sampling/verify_row.h"

namespace tilewright {

// Holds the buffers that a request needs; one a thread.
class VerifyWalk {
 public:
  // With `parallel`, passes over a row are dealt out to threads; the results are the same.
  explicit VerifyWalk(bool parallel) : target_(parallel), draft_(parallel) {}

  void run(const VerifyCall& call, std::int64_t request);

 private:
  void start(const VerifyCall& call, std::int64_t request);
  void read_target(std::int64_t node);
  void read_draft(std::int64_t node);
  std::int32_t read(VerifyRow& row, const TensorView& rows, std::int64_t node);
  std::int64_t first_child(std::int64_t node) const;
  std::int64_t sibling(std::int64_t node) const;
  std::int32_t token_of(std::int64_t node) const;
  // Of the child that is tried behind `tried` other ones.
  std::uint64_t coin(std::int64_t node, std::int64_t child, std::uint32_t tried) const;
  std::uint64_t final_coin() const;
  std::int64_t step_at(std::int64_t depth) const;
  // The child that is accepted, or -1; then `left_` is what the next token is drawn from.
  std::int64_t accepted_child(std::int64_t node);
  bool passes_alone(std::int32_t token) const;
  bool accepts_child(std::int64_t node, std::int64_t child, std::uint32_t tried);
  // Takes a rejected token's share from what is left.
  void reject(std::int32_t token);
  std::int32_t draw() const;
  // How many draft tokens of a chain from `node` on would be accepted, each one by itself.
  std::int32_t count_accepted(std::int64_t node);
  void store_token(std::int64_t column, std::int32_t token) const;
  void store_node(std::int64_t column, std::int64_t node) const;

  const VerifyCall* call_ = nullptr;
  std::int64_t request_ = 0;
  std::int64_t entry_ = 0;  // in SamplingArgs
  std::int64_t count_ = 0;  // of a chain
  RowParams params_;
  RowProcess process_;
  std::int64_t seed_ = 0;
  std::int64_t step_ = 0;
  std::int64_t depth_ = 0;  // accepted so far
  std::uint32_t status_ = 0;
  VerifyRow target_;
  VerifyRow draft_;
  // What is left of the target's distribution, once a child was rejected or none is left.
  std::vector<WeightedToken> left_;
  std::uint64_t left_mass_ = 0;
  bool listed_ = false;
  // Without draft rows: the mass of the children that were tried.
  std::uint64_t tried_mass_ = 0;
};

}  // namespace tilewright
