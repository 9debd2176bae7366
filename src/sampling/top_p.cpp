// SPDX-License-Identifier: Apache-2.0
// Top-p in one read of the list: pivots are guessed from a sample before the mass is known, and the
// same pass measures the mass, splits the list at the pivots and sums what drawing needs. A guess
// that turns out wrong costs the general search.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "sampling/row_sampler.h"
#include "sampling/targets.h"

namespace tilewright {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int32_t kLastId = std::numeric_limits<std::int32_t>::max();

}  // namespace

RowSampler::Pivots RowSampler::top_p_pivots(const Distribution& distribution, float p) {
  const Logits& list = distribution.list;
  const WeightScale& scale = distribution.scale;
  if (list.count <= kSmallList) return {-kInfinity, kInfinity};
  const Ranking ranking{Measure::mass, scale};
  take_sample(list, ranking);
  // The sample knows little of the few largest entries, the maxima of the row's blocks know them.
  double mass = 0;
  for (const float logit : sorted_) mass += static_cast<double>(token_weight(logit, scale));
  mass *= static_cast<double>(list.count) / static_cast<double>(kSample);
  Distribution maxima;
  maxima.list = {maxima_.data(), DType::f32, nullptr, static_cast<std::int64_t>(maxima_.size())};
  maxima.scale = scale;
  mass += static_cast<double>(total_mass(maxima));
  const double rest = mass * (1 - static_cast<double>(p));
  const Pivots pivots = pivots_of_sample(list, ranking, rest, {-kInfinity, scale.largest});
  if (distribution.least_weight == 0) return pivots;
  // If min-p seems to keep less than top-p, only that has to be shown.
  const Bounds cut = bounds_of_weight(distribution.least_weight, scale);
  const Pivots min_p{cut.low, cut.high};
  return min_p.high > pivots.high ? min_p : pivots;
}

BlockSplit RowSampler::split_for_top_p(const Logits& list, Pivots pivots,
                                       const WeightScale& scale) {
  const auto blocks = static_cast<std::size_t>(divide_up(list.count, kMassBlock));
  split_.masses.resize(blocks);
  split_.counts.resize(blocks);
  chunks_.reserve(list.count, split_.middle);
  std::vector<BlockSplit> parts(static_cast<std::size_t>(chunks_.count(list.count)));
  chunks_.run(list.count, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
    parts[static_cast<std::size_t>(chunk)] =
        split_blocks(list, begin, end, pivots.low, pivots.high, scale, split_.masses.data(),
                     split_.counts.data(), Chunks::region(split_.middle, chunk));
  });
  BlockSplit result;
  for (std::size_t chunk = 0; chunk < parts.size(); ++chunk) {
    const BlockSplit& part = parts[chunk];
    Chunks::move_together(split_.middle, static_cast<std::int64_t>(chunk), part.middle,
                          result.middle);
    result.middle += part.middle;
    result.total += part.total;
  }
  return result;
}

void RowSampler::filter_top_p(float p, Distribution& distribution) {
  if (!(p < 1)) return;
  const Logits& list = distribution.list;
  const WeightScale& scale = distribution.scale;
  const std::uint64_t least = distribution.least_weight;
  const Ranking ranking{Measure::mass, scale};
  const Pivots pivots = top_p_pivots(distribution, p);
  const BlockSplit split = split_for_top_p(list, pivots, scale);
  const std::uint64_t target = mass_target(p, split.total);
  const std::uint64_t above =
      std::accumulate(split_.masses.begin(), split_.masses.end(), std::uint64_t{0});
  Distribution middle;
  middle.list = {split_.middle.data(), DType::f32, nullptr, split.middle};
  middle.scale = scale;
  const std::uint64_t middle_mass =
      pivots.low == pivots.high
          ? token_weight(pivots.low, scale) * static_cast<std::uint64_t>(split.middle)
          : total_mass(middle);
  if (above < target && target <= above + middle_mass) {
    distribution.kept = kept_at(
        list, find_threshold(middle.list, ranking, target - above, middle_mass, pivots), ranking);
  } else if (above + middle_mass < target && none_below_reaches(pivots.low, least, scale)) {
    distribution.kept.threshold = pivots.low;  // min-p alone decides, inside of what was split off
  } else {
    distribution.kept = kept_at(
        list, find_threshold(list, ranking, target, split.total, {-kInfinity, scale.largest}),
        ranking);
    return;
  }
  if (all_above_reach(pivots.high, least, scale)) {
    add_kept_middle(distribution);
    masses_.swap(split_.masses);
    distribution.summed = true;
  }
}

void RowSampler::add_kept_middle(const Distribution& distribution) {
  const Logits& list = distribution.list;
  const Kept& kept = distribution.kept;
  const auto blocks = static_cast<std::int64_t>(split_.counts.size());
  std::int64_t tie_block = blocks;  // the block where the last tie is that is kept
  if (kept.last_tie != kLastId) {
    tie_block = kept.last_tie;
    if (list.ids != nullptr) {
      tie_block = std::lower_bound(list.ids, list.ids + list.count, kept.last_tie) - list.ids;
    }
    tie_block /= kMassBlock;
  }
  const auto add = [&](std::int64_t from, std::int64_t block, std::int64_t end, float threshold) {
    return add_middle(split_.middle.data() + from, end - block, split_.counts.data() + block,
                      threshold, distribution.least_weight, distribution.scale,
                      split_.masses.data() + block);
  };
  std::int64_t seen = add(0, 0, tie_block, kept.threshold);
  if (tie_block == blocks) return;
  const std::int64_t begin = tie_block * kMassBlock;
  sum_block_masses(list, begin, std::min(list.count, begin + kMassBlock), kept,
                   distribution.least_weight, distribution.scale, split_.masses.data());
  seen += split_.counts[static_cast<std::size_t>(tie_block)];
  add(seen, tie_block + 1, blocks, std::nextafter(kept.threshold, kInfinity));
}

}  // namespace tilewright
