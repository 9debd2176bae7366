// SPDX-License-Identifier: Apache-2.0
// RowSampler's search for the threshold of top-k and top-p: an exact selection that narrows an
// interval of logits. Pivots come from a sample of the list; when samples mislead, from halving the
// interval's bit patterns, which bounds the number of passes for every input.
#include <algorithm>
#include <bit>
#include <cmath>

#include "base/checks.h"
#include "sampling/row_sampler.h"

namespace tilewright {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Pivots stand this many sample entries on both sides of the estimate: two standard deviations.
constexpr std::int64_t kMargin = 16;
constexpr int kSampledRounds = 6;

// Unsigned integers in the order of the floats (no NaN; -0 does not occur).
std::uint32_t key_of(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return bits & 0x80000000U ? ~bits : bits | 0x80000000U;
}

float of_key(std::uint32_t key) {
  return std::bit_cast<float>(key & 0x80000000U ? key & 0x7FFFFFFFU : ~key) + 0.0F;
}

// Above `low`, so that an interval that ends or begins there is smaller.
float midpoint(float low, float high) {
  const std::uint32_t b = key_of(high);
  return of_key(b - (b - key_of(low)) / 2);
}

// How many entries of a group of equal ones reach `target`.
std::int64_t ties_for(std::uint64_t target, std::uint64_t weight) {
  return static_cast<std::int64_t>((target + weight - 1) / weight);
}

}  // namespace

Kept RowSampler::kept_at(const Logits& list, const Threshold& threshold, const Ranking& ranking) {
  Kept kept;
  kept.threshold = threshold.score;
  const std::int64_t ties = ties_for(threshold.rest, ranking.weight(threshold.score));
  if (ties < threshold.equals) kept.last_tie = find_tie(list, threshold.score, ties);
  return kept;
}

Split RowSampler::split(const Logits& list, const Ranking& ranking, Pivots pivots,
                        std::vector<float>& middle) {
  chunks_.reserve(list.count, middle);
  std::vector<Split> parts(static_cast<std::size_t>(chunks_.count(list.count)));
  chunks_.run(list.count, [&](std::int64_t chunk, std::int64_t begin, std::int64_t end) {
    float* out = Chunks::region(middle, chunk);
    Split& part = parts[static_cast<std::size_t>(chunk)];
    switch (ranking.measure) {
      case Measure::count:
        part = split_by_count(list, begin, end, pivots.low, pivots.high, out);
        break;
      case Measure::mass:
        part = split_by_mass(list, begin, end, pivots.low, pivots.high, ranking.scale, out);
        break;
      case Measure::typical_mass:
        part = split_by_typicality(list, begin, end, pivots.low, pivots.high, ranking.typicality(),
                                   out);
        break;
    }
  });
  return join_parts(parts, middle);
}

Split RowSampler::join_parts(const std::vector<Split>& parts, std::vector<float>& middle) {
  Split result;
  for (std::size_t chunk = 0; chunk < parts.size(); ++chunk) {
    const Split& part = parts[chunk];
    Chunks::move_together(middle, static_cast<std::int64_t>(chunk), part.middle, result.middle);
    result.middle += part.middle;
    result.above += part.above;
    result.least = std::min(result.least, part.least);
    result.largest = std::max(result.largest, part.largest);
  }
  return result;
}

RowSampler::Threshold RowSampler::find_threshold(const Logits& list, const Ranking& ranking,
                                                 std::uint64_t target, std::uint64_t total,
                                                 Pivots bounds) {
  // The threshold is in [bounds.low, bounds.high], and is that of `target` in `current`, whose
  // entries are all in there unless the last pivots missed.
  Logits current = list;
  bool missed = false;
  int free_buffer = 0;  // the other one may hold `current`
  for (int round = 0; current.count > kSmallList; ++round) {
    if (!missed && bounds.low == bounds.high) return {bounds.low, target, current.count};
    Pivots pivots = bounds;
    if (!missed && round < kSampledRounds) {
      take_sample(current, ranking);
      const auto rest = static_cast<double>(total - target);
      pivots = pivots_of_sample(current, ranking, rest, bounds);
    } else if (!missed) {
      pivots.low = midpoint(bounds.low, bounds.high);
    }
    std::vector<float>& buffer = middles_[free_buffer];
    const Split result = split(current, ranking, pivots, buffer);
    if (result.above >= target) {
      bounds.low = std::nextafter(pivots.high, kInfinity);
      missed = true;
      continue;
    }
    Distribution middle;
    middle.list = {buffer.data(), DType::f32, nullptr, result.middle};
    middle.scale = ranking.scale;
    const std::uint64_t measured = ranking.measure == Measure::count
                                       ? static_cast<std::uint64_t>(result.middle)
                                       : total_mass(middle);
    if (result.above + measured < target) {
      bounds.high = std::nextafter(pivots.low, -kInfinity);
      missed = true;
      continue;
    }
    target -= result.above;
    total = measured;
    current = middle.list;
    bounds = {result.least, result.largest};
    missed = false;
    free_buffer ^= 1;
  }
  return walk(current, ranking, target);
}

RowSampler::Threshold RowSampler::walk(const Logits& list, const Ranking& ranking,
                                       std::uint64_t target) {
  sorted_.resize(static_cast<std::size_t>(list.count));
  for (std::int64_t i = 0; i < list.count; ++i) {
    sorted_[static_cast<std::size_t>(i)] = logit_at(list, i);
  }
  sort_sample(ranking);
  for (std::size_t i = 0; i < sorted_.size();) {
    const float score = ranking.score(sorted_[i]);
    std::uint64_t group = 0;
    std::size_t end = i;
    for (; end < sorted_.size() && ranking.score(sorted_[end]) == score; ++end) {
      group += ranking.weight(sorted_[end]);
    }
    if (group >= target) return {score, target, static_cast<std::int64_t>(end - i)};
    target -= group;
    i = end;
  }
  raise(ErrorCode::internal, "sampling: a row holds less than its total");
}

void RowSampler::take_sample(const Logits& list, const Ranking& ranking) {
  sorted_.resize(static_cast<std::size_t>(kSample));
  for (std::int64_t i = 0; i < kSample; ++i) {
    sorted_[static_cast<std::size_t>(i)] = logit_at(list, i * list.count / kSample);
  }
  sort_sample(ranking);
}

void RowSampler::sort_sample(const Ranking& ranking) {
  if (!ranking.typical()) {
    std::sort(sorted_.begin(), sorted_.end(), std::greater<>());
    return;
  }
  const Typicality typicality = ranking.typicality();
  scored_.clear();
  for (const float value : sorted_) scored_.emplace_back(typicality.score(value), value);
  std::sort(scored_.begin(), scored_.end(), std::greater<>());
  for (std::size_t i = 0; i < sorted_.size(); ++i) sorted_[i] = scored_[i].second;
}

RowSampler::Pivots RowSampler::pivots_of_sample(const Logits& list, const Ranking& ranking,
                                                double rest, Pivots bounds) {
  // From the last entry up: there the sample's sum varies little, while the largest entries, which
  // may hold most of the mass, are likely not in the sample.
  const double each = static_cast<double>(list.count) / static_cast<double>(kSample);
  std::int64_t estimate = kSample - 1;
  for (double sum = 0; estimate > 0; --estimate) {
    const float value = sorted_[static_cast<std::size_t>(estimate)];
    sum += each * static_cast<double>(ranking.weight(value));
    if (sum > rest) break;
  }
  const auto score = [&](std::int64_t i) {
    return ranking.score(sorted_[static_cast<std::size_t>(i)]);
  };
  Pivots pivots = bounds;
  if (estimate >= kMargin) pivots.high = std::min(pivots.high, score(estimate - kMargin));
  if (estimate + kMargin < kSample) pivots.low = std::max(pivots.low, score(estimate + kMargin));
  return pivots;
}

}  // namespace tilewright
