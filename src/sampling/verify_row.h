// SPDX-License-Identifier: Apache-2.0
// The weights of one row of target or draft.
#pragma once

#include <tilewright/speculative.h>

#include <cstdint>
#include <vector>

#include "sampling/row_sampler.h"

namespace tilewright {

struct WeightedToken {
  std::int32_t id = 0;
  std::uint64_t weight = 0;
};

// One a thread: holds the buffers that a row needs.
class VerifyRow {
 public:
  explicit VerifyRow(bool parallel) : sampler_(parallel) {}

  // Filters a row of logits. Returns bits of SamplingStatus if `with_status`.
  std::int32_t read_logits(const Logits& row, const RowParams& params, const RowProcess& process,
                           bool with_status);
  // Of a row without any probability token 0 is certain.
  std::int32_t read_probabilities(const Logits& row);

  std::uint64_t mass() const { return probabilities_.values != nullptr ? mass_ : sampler_.mass(); }
  std::uint64_t weight_of(std::int32_t id) const;
  // Those that have weight, by rising id.
  void list_tokens(std::vector<WeightedToken>& tokens) const;

 private:
  RowSampler sampler_;
  Logits probabilities_;  // without values: the row is of logits
  std::uint64_t mass_ = 0;
  bool nothing_ = false;  // the probabilities are all 0
};

}  // namespace tilewright
