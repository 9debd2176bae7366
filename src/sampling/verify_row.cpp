// SPDX-License-Identifier: Apache-2.0
#include "sampling/verify_row.h"

#include "base/element.h"
#include "base/numeric.h"
#include "sampling/residual.h"

namespace tilewright {

std::int32_t VerifyRow::read_logits(const Logits& row, const RowParams& params,
                                    const RowProcess& process, bool with_status) {
  probabilities_.values = nullptr;
  std::int32_t status = 0;
  sampler_.weigh(process.any() ? sampler_.process(row, process) : row, params,
                 with_status ? &status : nullptr, first_allowed(process, row.count));
  return status;
}

std::int32_t VerifyRow::read_probabilities(const Logits& row) {
  probabilities_ = row;
  mass_ = 0;
  bool nan = false;
  for (std::int64_t i = 0; i < row.count; ++i) {
    const float p = load_element(row.values, row.dtype, i);
    nan |= p != p;
    mass_ += probability_weight(p);
  }
  nothing_ = mass_ == 0;
  if (nothing_) mass_ = 1;
  const auto bits = (nan ? static_cast<std::uint32_t>(SamplingStatus::nan) : 0) |
                    (nothing_ ? static_cast<std::uint32_t>(SamplingStatus::no_candidate) : 0);
  return static_cast<std::int32_t>(bits);
}

std::uint64_t VerifyRow::weight_of(std::int32_t id) const {
  if (probabilities_.values == nullptr) return sampler_.weight_of(id);
  if (nothing_) return id == 0 ? 1 : 0;
  return probability_weight(load_element(probabilities_.values, probabilities_.dtype, id));
}

void VerifyRow::list_tokens(std::vector<WeightedToken>& tokens) const {
  tokens.clear();
  if (probabilities_.values == nullptr) {
    sampler_.for_weights([&](std::int32_t id, std::uint64_t weight) {
      tokens.push_back({id, weight});
    });
    return;
  }
  for (std::int64_t i = 0; i < probabilities_.count; ++i) {
    const auto id = static_cast<std::int32_t>(i);
    const std::uint64_t weight = weight_of(id);
    if (weight > 0) tokens.push_back({id, weight});
  }
}

}  // namespace tilewright
