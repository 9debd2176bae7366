// SPDX-License-Identifier: Apache-2.0
#include "sampling/outputs.h"

#include <algorithm>

#include "base/numeric.h"

namespace tilewright {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

template <typename T>
T* row_of(const TensorView& tensor, std::int64_t index) {
  return static_cast<T*>(tensor.data) + index * tensor.strides[0];
}

void store_kept(const TensorView& kept, std::int64_t index, const Survivors& survivors) {
  auto* words = row_of<std::uint32_t>(kept, index);
  std::fill(words, words + kept.shape[1], 0U);
  for (const std::int32_t id : survivors.ids) words[id / 32] |= std::uint32_t{1} << (id % 32);
}

void store_probabilities(const TensorView& probabilities, std::int64_t index,
                         const Survivors& survivors) {
  auto* row = row_of<float>(probabilities, index);
  std::fill(row, row + probabilities.shape[1], 0.0F);
  const auto mass = static_cast<float>(survivors.mass);
  for (std::size_t i = 0; i < survivors.ids.size(); ++i) {
    const std::uint64_t weight = token_weight(survivors.values[i], survivors.scale);
    row[survivors.ids[i]] = static_cast<float>(weight) / mass;
  }
}

void store_masked(const TensorView& masked, std::int64_t index, const Logits& row,
                  const Survivors& survivors) {
  const std::int64_t begin = index * masked.strides[0];
  for (std::int64_t i = 0; i < row.count; ++i) {
    store_element(masked.data, masked.dtype, begin + i, -kInfinity);
  }
  for (const std::int32_t id : survivors.ids) {
    store_element(masked.data, masked.dtype, begin + id, logit_at(row, id));
  }
}

// Of entry i.
float log_prob(const Survivors& survivors, std::size_t i) {
  return log_probability(relative_log2(survivors.values[i], survivors.scale), survivors.mass);
}

}  // namespace

void store_outputs(const SamplingOutputs& outputs, std::int64_t index, const Logits& row,
                   const Survivors& survivors) {
  if (outputs.kept.defined()) store_kept(outputs.kept, index, survivors);
  if (outputs.probabilities.defined()) {
    store_probabilities(outputs.probabilities, index, survivors);
  }
  if (outputs.masked_logits.defined()) store_masked(outputs.masked_logits, index, row, survivors);
}

void store_log_probs(const LogProbs& out, std::int64_t index, const Survivors& survivors,
                     std::int32_t token) {
  const auto& ids = survivors.ids;
  const auto& values = survivors.values;
  const auto at = std::lower_bound(ids.begin(), ids.end(), token);
  const bool there = at != ids.end() && *at == token;
  const auto place = static_cast<std::size_t>(at - ids.begin());
  const float value = there ? values[place] : -kInfinity;
  if (out.chosen.defined()) {
    *row_of<float>(out.chosen, index) = there ? log_prob(survivors, place) : -kInfinity;
  }
  if (out.ranks.defined()) {
    const auto larger =
        std::count_if(values.begin(), values.end(), [&](float other) { return other > value; });
    *row_of<std::int32_t>(out.ranks, index) = static_cast<std::int32_t>(1 + larger);
  }
  if (!out.best.defined()) return;
  std::vector<std::int32_t> order(ids.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
  const auto n = static_cast<std::size_t>(out.best.shape[1]);
  const std::size_t told = std::min(n, order.size());
  const auto before = [&](std::int32_t a, std::int32_t b) {
    const float x = values[static_cast<std::size_t>(a)];
    const float y = values[static_cast<std::size_t>(b)];
    return x > y || (x == y && a < b);
  };
  const auto end = order.begin() + static_cast<std::ptrdiff_t>(told);
  if (told < order.size()) std::nth_element(order.begin(), end, order.end(), before);
  std::sort(order.begin(), end, before);
  auto* best = row_of<float>(out.best, index);
  auto* best_ids = row_of<std::int32_t>(out.best_ids, index);
  for (std::size_t i = 0; i < n; ++i) {
    const auto entry = static_cast<std::size_t>(i < told ? order[i] : 0);
    best[i] = i < told ? log_prob(survivors, entry) : -kInfinity;
    best_ids[i] = i < told ? ids[entry] : -1;
  }
}

}  // namespace tilewright
