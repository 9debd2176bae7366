// SPDX-License-Identifier: Apache-2.0
// RowSampler's filters, one after the other as FilterOrder says.
#include <algorithm>

#include "sampling/row_sampler.h"
#include "sampling/targets.h"

namespace tilewright {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int32_t kLastId = std::numeric_limits<std::int32_t>::max();

}  // namespace

RowSampler::Distribution RowSampler::filter(const Logits& row, float largest,
                                            const RowParams& params) {
  Distribution distribution;
  distribution.list = row;
  const bool at_one = params.order == FilterOrder::llamacpp;
  distribution.scale = {largest, WeightScale::of_temperature(at_one ? 1 : params.temperature),
                        params.probabilities};
  if (largest == kInfinity) {
    // All mass lies on the infinite ones, evenly.
    const float each = params.probabilities ? 1.0F : 0.0F;
    distribution.list = compact_list(row, {kInfinity, kLastId});
    float* values = lists_[next_list_ ^ 1].values.data();
    std::fill(values, values + distribution.list.count, each);
    distribution.scale.largest = each;
    std::fill(maxima_.begin(), maxima_.end(), each);
  }
  switch (params.order) {
    case FilterOrder::hf:
      filter_top_k(params.top_k, distribution);
      set_least_weight(params.min_p, distribution.scale.largest, distribution);
      filter_top_p(params.top_p, distribution);
      break;
    case FilterOrder::joint:
      filter_jointly(params, distribution);
      break;
    case FilterOrder::vllm:
      set_least_weight(params.min_p, distribution.scale.largest, distribution);
      if (params.top_k > 0 || params.top_p < 1) drop_light(distribution);
      filter_top_k(params.top_k, distribution);
      filter_top_p(params.top_p, distribution);
      break;
    case FilterOrder::llamacpp: {
      filter_top_k(params.top_k, distribution);
      const float first = filter_typical_p(params.typical_p, distribution)
                              ? find_maxima(distribution.list)
                              : distribution.scale.largest;
      set_least_weight(params.min_p, first, distribution);
      filter_top_p(params.top_p, distribution);
      use_temperature(params.temperature, first, distribution);
      return distribution;
    }
  }
  filter_typical_p(params.typical_p, distribution);
  return distribution;
}

void RowSampler::set_least_weight(float p, float first, Distribution& distribution) {
  if (!(p > 0)) return;
  const std::uint64_t least = least_weight(p, token_weight(first, distribution.scale));
  distribution.least_weight = std::max(distribution.least_weight, least);
}

void RowSampler::filter_jointly(const RowParams& params, Distribution& distribution) {
  const std::int64_t k = params.top_k;
  const float first = distribution.scale.largest;
  if (k <= 0 || k >= distribution.list.count || !(params.top_p < 1)) {
    filter_top_k(k, distribution);
    set_least_weight(params.min_p, first, distribution);
    filter_top_p(params.top_p, distribution);
    return;
  }
  const std::uint64_t target = mass_target(params.top_p, total_mass(distribution));
  filter_top_k(k, distribution);
  keep_mass(target, distribution);
  set_least_weight(params.min_p, first, distribution);
}

void RowSampler::keep_mass(std::uint64_t target, Distribution& distribution) {
  const std::uint64_t total = total_mass(distribution);
  if (target >= total) return;  // top-k keeps less than top-p
  const Ranking ranking{Measure::mass, distribution.scale};
  distribution.kept = kept_at(distribution.list,
                              find_threshold(distribution.list, ranking, target, total,
                                             {-kInfinity, ranking.scale.largest}),
                              ranking);
}

void RowSampler::drop_light(Distribution& distribution) {
  const std::uint64_t least = distribution.least_weight;
  if (least == 0) return;
  const WeightScale& scale = distribution.scale;
  Bounds cut = bounds_of_weight(least, scale);
  if (!none_below_reaches(cut.low, least, scale)) cut.low = -kInfinity;
  if (!all_above_reach(cut.high, least, scale)) cut.high = kInfinity;
  Kept kept = distribution.kept;
  if (kept.threshold < cut.low) kept = {cut.low, kLastId};
  distribution.list = compact_list(distribution.list, kept);
  List& list = lists_[next_list_ ^ 1];
  const auto end = list.values.begin() + distribution.list.count;
  const bool all =
      std::count_if(list.values.begin(), end, [&](float logit) { return logit <= cut.high; }) == 0;
  std::int64_t count = all ? distribution.list.count : 0;
  for (std::int64_t i = 0; !all && i < distribution.list.count; ++i) {
    const auto from = static_cast<std::size_t>(i);
    const auto to = static_cast<std::size_t>(count);
    const float logit = list.values[from];
    list.values[to] = logit;
    list.ids[to] = list.ids[from];
    if (logit > cut.high || token_weight(logit, scale) >= least) ++count;
  }
  distribution.list.count = count;
  distribution.kept = {};
  distribution.least_weight = 0;
  distribution.summed = false;
}

void RowSampler::use_temperature(float temperature, float largest, Distribution& distribution) {
  const WeightScale scale{largest, WeightScale::of_temperature(temperature)};
  if (scale.scale == distribution.scale.scale && largest == distribution.scale.largest) return;
  drop_light(distribution);
  distribution.scale = scale;
  distribution.summed = false;
}

}  // namespace tilewright
