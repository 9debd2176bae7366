// SPDX-License-Identifier: Apache-2.0
// RowSampler's typical-p: locally typical sampling (Meister et al., arXiv 2202.00666). With x a
// token's exponent, -log2 p - H is E[x] - x: no logarithm is needed.
#include <algorithm>

#include "base/checks.h"
#include "sampling/row_sampler.h"
#include "sampling/targets.h"

namespace tilewright {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int32_t kLastId = std::numeric_limits<std::int32_t>::max();

}  // namespace

Moments RowSampler::total_moments(const Logits& list, const WeightScale& scale) {
  std::vector<Moments> parts(static_cast<std::size_t>(chunks_.count(list.count)));
  chunks_.run(list.count, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
    parts[static_cast<std::size_t>(chunk)] = sum_moments(list, begin, end, scale);
  });
  Moments total;
  for (const Moments& part : parts) {
    total.mass += part.mass;
    total.product += part.product;
  }
  return total;
}

Logits RowSampler::compact_typical_list(const Logits& list, const Kept& kept, bool ties_only,
                                        const Typicality& typicality) {
  return copy_list(list, [&](std::int64_t, std::int64_t begin, std::int64_t end, float* values,
                             std::int32_t* ids) {
    return compact_typical(list, begin, end, kept, ties_only, typicality, values, ids);
  });
}

std::int32_t RowSampler::last_typical_tie(const Logits& list, const Threshold& threshold,
                                          const Typicality& typicality) {
  if (threshold.equals == 1) return kLastId;
  const Logits ties = compact_typical_list(list, {threshold.score, kLastId}, true, typicality);
  next_list_ ^= 1;  // `list` may be the other one: this one is free again
  const auto* values = static_cast<const float*>(ties.values);
  std::uint64_t sum = 0;
  float last = kInfinity;
  std::uint64_t weight = 0;
  for (std::int64_t i = 0; i < ties.count; ++i) {
    if (values[i] != last) weight = token_weight(values[i], typicality.scale);
    last = values[i];
    sum += weight;
    if (sum >= threshold.rest) return ties.ids[i];
  }
  raise(ErrorCode::internal, "sampling: entries at a threshold hold less than is needed");
}

Logits RowSampler::split_near_list(const Logits& list, const Typicality& typicality, Pivots pivots,
                                   std::vector<float>& middle, Split& result) {
  chunks_.reserve(list.count, middle);
  std::vector<Split> parts(static_cast<std::size_t>(chunks_.count(list.count)));
  const Logits near = copy_list(list, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end,
                                          float* values, std::int32_t* ids) {
    const NearSplit split = split_near(list, begin, end, pivots.low, pivots.high, typicality,
                                       Chunks::region(middle, chunk), values, ids);
    parts[static_cast<std::size_t>(chunk)] = split.split;
    return split.near;
  });
  result = join_parts(parts, middle);
  return near;
}

RowSampler::TypicalCut RowSampler::find_typical(const Logits& list, const Ranking& ranking,
                                                std::uint64_t target, std::uint64_t total) {
  const Pivots bounds{-kInfinity, 0.0F};
  if (list.count > kSmallList) {
    take_sample(list, ranking);
    const Pivots pivots =
        pivots_of_sample(list, ranking, static_cast<double>(total - target), bounds);
    // The first of two buffers is the search's.
    std::vector<float>& buffer = middles_[1];
    Split split;
    const Logits near = split_near_list(list, ranking.typicality(), pivots, buffer, split);
    Distribution middle;
    middle.list = {buffer.data(), DType::f32, nullptr, split.middle};
    middle.scale = ranking.scale;
    const std::uint64_t mass = total_mass(middle);
    if (split.above < target && split.above + mass >= target) {
      return {find_threshold(middle.list, ranking, target - split.above, mass,
                             {split.least, split.largest}),
              near};
    }
    next_list_ ^= 1;  // `list` may be in the other buffer: this one is free again
  }
  return {find_threshold(list, ranking, target, total, bounds), list};
}

bool RowSampler::filter_typical_p(float p, Distribution& distribution) {
  const WeightScale scale = distribution.scale;
  if (!(p > 0 && p < 1)) return false;
  if (distribution.least_weight > 0) {
    drop_light(distribution);
  } else if (distribution.kept.threshold > -kInfinity) {
    distribution.list = compact_list(distribution.list, distribution.kept);
    distribution.kept = {};
  }
  const Moments moments = total_moments(distribution.list, scale);
  const Ranking ranking{Measure::typical_mass, scale, mean_exponent(moments)};
  const Typicality typicality = ranking.typicality();
  const auto [threshold, near] =
      find_typical(distribution.list, ranking, mass_target(p, moments.mass), moments.mass);
  const Kept kept{threshold.score, last_typical_tie(near, threshold, typicality)};
  distribution.list = compact_typical_list(near, kept, false, typicality);
  distribution.least_weight = 1;  // others may be nearer to the mean than what is kept, on one side
  distribution.summed = false;
  return true;
}

}  // namespace tilewright
