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
  distribution.scale = {largest, WeightScale::of_temperature(at_one ? 1 : params.temperature)};
  if (largest == kInfinity) {
    // All mass lies on the infinite logits, evenly.
    distribution.list = compact_list(row, {kInfinity, kLastId});
    float* values = lists_[next_list_ ^ 1].values.data();
    std::fill(values, values + distribution.list.count, 0.0F);
    distribution.scale.largest = 0;
    std::fill(maxima_.begin(), maxima_.end(), 0.0F);
  }
  const bool top_k = params.top_k > 0 && params.top_k < distribution.list.count;
  const bool top_p = params.top_p < 1;
  const std::uint64_t least =
      params.min_p > 0 ? least_weight(params.min_p, kWeightOne) : std::uint64_t{0};
  if (params.order == FilterOrder::vllm && (top_k || top_p)) {
    distribution.least_weight = least;
    drop_light(distribution);
  }
  if (params.order == FilterOrder::joint && top_k && top_p) {
    const std::uint64_t whole = total_mass(distribution);
    filter_top_k(params.top_k, distribution);
    filter_joint_top_p(mass_target(params.top_p, whole), distribution);
    distribution.least_weight = least;
    return distribution;
  }
  // After vLLM's min-p there may be no more than k.
  if (top_k && params.top_k < distribution.list.count) filter_top_k(params.top_k, distribution);
  // With the weight of what min-p keeps top-p may do less.
  if (params.order != FilterOrder::vllm || !(top_k || top_p)) distribution.least_weight = least;
  if (top_p) filter_top_p(params.top_p, distribution);
  if (at_one) use_temperature(params.temperature, distribution);
  return distribution;
}

void RowSampler::filter_joint_top_p(std::uint64_t target, Distribution& distribution) {
  const std::uint64_t total = total_mass(distribution);
  if (target >= total) return;  // top-k keeps less than top-p
  distribution.kept =
      kept_at(distribution.list,
              find_threshold(distribution.list, Measure::mass, target, total, distribution.scale,
                             {-kInfinity, distribution.scale.largest}));
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
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < distribution.list.count; ++i) {
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

void RowSampler::use_temperature(float temperature, Distribution& distribution) {
  const float scale = WeightScale::of_temperature(temperature);
  if (scale == distribution.scale.scale) return;
  drop_light(distribution);
  distribution.scale.scale = scale;
  distribution.summed = false;
}

}  // namespace tilewright
