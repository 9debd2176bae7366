// SPDX-License-Identifier: Apache-2.0
// RowSampler's weights of single tokens, for speculative verification.
#include <algorithm>
#include <numeric>

#include "sampling/row_sampler.h"

namespace tilewright {

void RowSampler::weigh(const Logits& row, const RowParams& params, std::int32_t* status,
                       std::int32_t otherwise) {
  const float largest = find_maxima(row);
  if (status != nullptr) *status = status_of(row, largest);
  certain_ = -1;
  mass_ = 1;
  if (largest == -std::numeric_limits<float>::infinity()) {
    certain_ = otherwise;
  } else if (params.temperature == 0) {
    certain_ = arg_max(row, largest);
  } else {
    weighed_ = filter(row, largest, params);
    mass_ = weighed_.summed ? std::accumulate(masses_.begin(), masses_.end(), std::uint64_t{0})
                            : total_mass(weighed_);
  }
}

std::uint64_t RowSampler::entry_weight(std::int64_t i) const {
  const float logit = logit_at(weighed_.list, i);
  if (!weighed_.kept.contains(logit, weighed_.list.id(i))) return 0;
  const std::uint64_t weight = token_weight(logit, weighed_.scale);
  return weight < weighed_.least_weight ? 0 : weight;
}

std::uint64_t RowSampler::weight_of(std::int32_t id) const {
  if (certain_ >= 0) return id == certain_ ? 1 : 0;
  const Logits& list = weighed_.list;
  if (list.ids == nullptr) return entry_weight(id);
  const std::int32_t* const end = list.ids + list.count;
  const std::int32_t* const at = std::lower_bound(list.ids, end, id);
  return at == end || *at != id ? 0 : entry_weight(at - list.ids);
}

}  // namespace tilewright
