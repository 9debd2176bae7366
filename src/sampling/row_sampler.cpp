// SPDX-License-Identifier: Apache-2.0
#include "sampling/row_sampler.h"

#include <tilewright/sampling.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/checks.h"
#include "base/numeric.h"

namespace tilewright {
namespace {

__extension__ using Uint128 = unsigned __int128;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int32_t kLastId = std::numeric_limits<std::int32_t>::max();

}  // namespace

float RowSampler::find_maxima(const Logits& row) {
  maxima_.resize(static_cast<std::size_t>(divide_up(row.count, kMaximumBlock)));
  chunks_.run(row.count, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    find_block_maxima(row, begin, end, maxima_.data());
  });
  return *std::max_element(maxima_.begin(), maxima_.end());
}

std::int32_t RowSampler::status_of(const Logits& row, float largest) const {
  auto bits = static_cast<std::uint32_t>(SamplingStatus::well);
  std::atomic<bool> nan = false;
  chunks_.run(row.count, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    if (has_nan(row, begin, end)) nan.store(true, std::memory_order_relaxed);
  });
  if (nan) bits |= static_cast<std::uint32_t>(SamplingStatus::nan);
  if (largest == kInfinity) bits |= static_cast<std::uint32_t>(SamplingStatus::infinity);
  if (largest == -kInfinity) bits |= static_cast<std::uint32_t>(SamplingStatus::no_candidate);
  return static_cast<std::int32_t>(bits);
}

std::int32_t RowSampler::arg_max(const Logits& row, float largest) const {
  const auto block = std::find(maxima_.begin(), maxima_.end(), largest) - maxima_.begin();
  std::int64_t i = block * kMaximumBlock;
  while (logit_at(row, i) != largest) ++i;
  return row.id(i);
}

Logits RowSampler::compact_list(const Logits& list, const Kept& kept) {
  const float* maxima = list.ids == nullptr ? maxima_.data() : nullptr;
  return copy_list(list, [&](std::int64_t, std::int64_t begin, std::int64_t end, float* values,
                             std::int32_t* ids) {
    return compact(list, begin, end, kept, maxima, values, ids);
  });
}

float RowSampler::block_threshold(std::int64_t rank) {
  sorted_ = maxima_;
  const auto nth = sorted_.begin() + (rank - 1);
  std::nth_element(sorted_.begin(), nth, sorted_.end(), std::greater<>());
  return *nth;
}

std::uint64_t RowSampler::total_mass(const Distribution& distribution) {
  masses_.resize(static_cast<std::size_t>(divide_up(distribution.list.count, kMassBlock)));
  chunks_.run(distribution.list.count, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    sum_block_masses(distribution.list, begin, end, distribution.kept, distribution.least_weight,
                     distribution.scale, masses_.data());
  });
  return std::accumulate(masses_.begin(), masses_.end(), std::uint64_t{0});
}

void RowSampler::filter_top_k(std::int64_t k, Distribution& distribution) {
  Logits& list = distribution.list;
  if (k <= 0 || k >= list.count) return;
  // k blocks whose largest entries are at least t hold k entries that are.
  if (list.ids == nullptr && k <= static_cast<std::int64_t>(maxima_.size())) {
    list = compact_list(list, {block_threshold(k), kLastId});
  }
  const Ranking ranking{Measure::count, distribution.scale};
  const Threshold threshold =
      find_threshold(list, ranking, static_cast<std::uint64_t>(k),
                     static_cast<std::uint64_t>(list.count), {-kInfinity, ranking.scale.largest});
  list = compact_list(list, kept_at(list, threshold, ranking));
}

std::int32_t RowSampler::draw(const Distribution& distribution, std::uint64_t random) {
  const std::uint64_t total =
      distribution.summed ? std::accumulate(masses_.begin(), masses_.end(), std::uint64_t{0})
                          : total_mass(distribution);
  // floor(random / 2^64 * total): uniform in [0, total).
  auto rest = static_cast<std::uint64_t>((Uint128{random} * total) >> 64);
  std::size_t block = 0;
  while (rest >= masses_[block]) rest -= masses_[block++];
  const Logits& list = distribution.list;
  for (std::int64_t i = static_cast<std::int64_t>(block) * kMassBlock; i < list.count; ++i) {
    const float logit = logit_at(list, i);
    if (!distribution.kept.contains(logit, list.id(i))) continue;
    const std::uint64_t weight = token_weight(logit, distribution.scale);
    if (weight < distribution.least_weight) continue;
    if (rest < weight) return list.id(i);
    rest -= weight;
  }
  raise(ErrorCode::internal, "sampling: a row's masses do not add up");
}

Logits RowSampler::process(const Logits& row, const RowProcess& process) {
  processed_.resize(static_cast<std::size_t>(row.count));
  chunks_.run(row.count, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    process_logits(row, begin, end, process, processed_.data());
  });
  if (process.biases > 0) process_biased(row, process, biases_, processed_.data());
  return {processed_.data(), DType::f32, nullptr, row.count};
}

Logits RowSampler::take_probabilities(const Logits& row, std::uint32_t& status) {
  processed_.resize(static_cast<std::size_t>(row.count));
  std::atomic<std::uint32_t> bits = 0;
  chunks_.run(row.count, [&](std::int64_t, std::int64_t begin, std::int64_t end) {
    std::uint32_t seen = 0;
    for (std::int64_t i = begin; i < end; ++i) {
      const float p = load_element(row.values, row.dtype, i);
      if (std::isnan(p)) seen |= static_cast<std::uint32_t>(SamplingStatus::nan);
      if (p < 0) seen |= static_cast<std::uint32_t>(SamplingStatus::negative);
      processed_[static_cast<std::size_t>(i)] = p > 0 ? p : -kInfinity;
    }
    bits.fetch_or(seen, std::memory_order_relaxed);
  });
  status |= bits;
  return {processed_.data(), DType::f32, nullptr, row.count};
}

std::int32_t RowSampler::sample(const Logits& row, const RowParams& params, std::int32_t* status,
                                std::int32_t otherwise, Survivors* survivors) {
  const float largest = find_maxima(row);
  if (status != nullptr) *status = status_of(row, largest);
  if (largest == -kInfinity || params.temperature == 0) {
    const std::int32_t token = largest == -kInfinity ? otherwise : arg_max(row, largest);
    if (survivors != nullptr) *survivors = {{token}, {0.0F}, WeightScale{}, kWeightOne};
    return token;
  }
  const Distribution distribution = filter(row, largest, params);
  if (survivors != nullptr) *survivors = survivors_of(distribution);
  return draw(distribution, params.random);
}

Survivors RowSampler::all_tokens(const Logits& row, bool probabilities) {
  RowParams params;
  params.probabilities = probabilities;
  const float largest = find_maxima(row);
  return largest == -kInfinity ? Survivors{} : survivors_of(filter(row, largest, params));
}

Survivors RowSampler::survivors_of(const Distribution& distribution) {
  Survivors survivors;
  survivors.scale = distribution.scale;
  for (std::int64_t i = 0; i < distribution.list.count; ++i) {
    const float value = logit_at(distribution.list, i);
    const std::int32_t id = distribution.list.id(i);
    if (value == -kInfinity || !distribution.kept.contains(value, id)) continue;
    const std::uint64_t weight = token_weight(value, distribution.scale);
    if (weight < distribution.least_weight) continue;
    survivors.mass += weight;
    survivors.ids.push_back(id);
    survivors.values.push_back(value);
  }
  return survivors;
}

std::vector<std::int32_t> RowSampler::largest_entries(const Logits& row, std::int64_t k) {
  Distribution distribution;
  distribution.list = row;
  distribution.scale.largest = find_maxima(row);
  filter_top_k(k, distribution);
  const Logits& list = distribution.list;
  std::vector<std::int32_t> order(static_cast<std::size_t>(list.count));
  std::iota(order.begin(), order.end(), 0);
  std::sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    const float x = logit_at(list, a);
    const float y = logit_at(list, b);
    return x > y || (x == y && a < b);
  });
  for (std::int32_t& entry : order) entry = list.id(entry);
  return order;
}

std::vector<std::int32_t> RowSampler::kept_tokens(const Logits& row, const RowParams& params) {
  const Distribution distribution = filter(row, find_maxima(row), params);
  std::vector<std::int32_t> tokens;
  for (std::int64_t i = 0; i < distribution.list.count; ++i) {
    const float logit = logit_at(distribution.list, i);
    const std::int32_t id = distribution.list.id(i);
    if (distribution.kept.contains(logit, id) &&
        token_weight(logit, distribution.scale) >= distribution.least_weight) {
      tokens.push_back(id);
    }
  }
  return tokens;
}

}  // namespace tilewright
