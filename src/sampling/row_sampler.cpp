// SPDX-License-Identifier: Apache-2.0
#include "sampling/row_sampler.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "base/checks.h"
#include "base/parallel.h"

namespace tilewright {
namespace {

__extension__ using Uint128 = unsigned __int128;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int32_t kLastId = std::numeric_limits<std::int32_t>::max();

// Entries to a chunk that is worth a thread. Chunks write lists into regions of their own.
constexpr std::int64_t kChunk = 16384;
static_assert(kChunk % kMassBlock == 0 && kMassBlock % kMaximumBlock == 0);

// How many of the largest block maxima are tried as the candidates of top-p.
constexpr std::int64_t kHeadBlocks = 128;

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

std::size_t list_capacity(std::int64_t count) {
  return static_cast<std::size_t>(count + divide_up(count, kChunk) * kListPadding);
}

std::int64_t chunk_start(std::int64_t chunk) {
  return chunk * (kChunk + kListPadding);
}

// ceil(p * total) for 0 <= p < 1, exactly; at least 1: the most likely token is always kept.
std::uint64_t mass_target(float p, std::uint64_t total) {
  if (!(p > 0)) return 1;
  int exponent = 0;
  const float fraction = std::frexp(p, &exponent);  // p = fraction * 2^exponent, exponent <= 0
  const auto mantissa = static_cast<std::uint64_t>(fraction * 0x1.0p24F);
  const int shift = 24 - exponent;
  if (shift > 100) return 1;
  const Uint128 product = Uint128{mantissa} * total;
  const Uint128 round_up = (Uint128{1} << shift) - 1;
  return static_cast<std::uint64_t>((product + round_up) >> shift);
}

// The least weight that is not below p times the largest one.
std::uint64_t least_weight(float p) {
  return static_cast<std::uint64_t>(std::ceil(std::ldexp(static_cast<double>(p), kWeightBits)));
}

}  // namespace

template <typename Body>
void RowSampler::for_chunks(std::int64_t count, const Body& body) const {
  if (parallel_ && count > kChunk) {
    parallel_for(count, kChunk, body);
    return;
  }
  for (std::int64_t begin = 0; begin < count; begin += kChunk) {
    body(begin, std::min(count, begin + kChunk));
  }
}

float RowSampler::find_maxima(const Logits& row) {
  maxima_.resize(static_cast<std::size_t>(divide_up(row.count, kMaximumBlock)));
  for_chunks(row.count, [&](std::int64_t begin, std::int64_t end) {
    find_block_maxima(row, begin, end, maxima_.data());
  });
  return *std::max_element(maxima_.begin(), maxima_.end());
}

std::int32_t RowSampler::arg_max(const Logits& row, float largest) const {
  const auto block = std::find(maxima_.begin(), maxima_.end(), largest) - maxima_.begin();
  std::int64_t i = block * kMaximumBlock;
  while (logit_at(row, i) != largest) ++i;
  return row.id(i);
}

Logits RowSampler::compact_list(const Logits& list, const Kept& kept) {
  List& out = lists_[next_list_];
  next_list_ ^= 1;
  const std::int64_t chunks = divide_up(list.count, kChunk);
  if (out.values.size() < list_capacity(list.count)) {
    out.values.resize(list_capacity(list.count));
    out.ids.resize(list_capacity(list.count));
  }
  written_.resize(static_cast<std::size_t>(chunks));
  const float* maxima = list.ids == nullptr ? maxima_.data() : nullptr;
  for_chunks(list.count, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t chunk = begin / kChunk;
    written_[static_cast<std::size_t>(chunk)] =
        compact(list, begin, end, kept, maxima, out.values.data() + chunk_start(chunk),
                out.ids.data() + chunk_start(chunk));
  });
  std::int64_t total = 0;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    const std::int64_t count = written_[static_cast<std::size_t>(chunk)];
    std::memmove(out.values.data() + total, out.values.data() + chunk_start(chunk),
                 static_cast<std::size_t>(count) * sizeof(float));
    std::memmove(out.ids.data() + total, out.ids.data() + chunk_start(chunk),
                 static_cast<std::size_t>(count) * sizeof(std::int32_t));
    total += count;
  }
  return {out.values.data(), DType::f32, out.ids.data(), total};
}

float RowSampler::block_threshold(std::int64_t rank) {
  sorted_ = maxima_;
  const auto nth = sorted_.begin() + (rank - 1);
  std::nth_element(sorted_.begin(), nth, sorted_.end(), std::greater<>());
  return *nth;
}

std::uint64_t RowSampler::total_mass(const Distribution& distribution) {
  masses_.resize(static_cast<std::size_t>(divide_up(distribution.list.count, kMassBlock)));
  for_chunks(distribution.list.count, [&](std::int64_t begin, std::int64_t end) {
    sum_block_masses(distribution.list, begin, end, distribution.kept, distribution.least_weight,
                     distribution.scale, masses_.data());
  });
  return std::accumulate(masses_.begin(), masses_.end(), std::uint64_t{0});
}

Split RowSampler::split(const Logits& list, Measure measure, Pivots pivots,
                        const WeightScale& scale, std::vector<float>& middle) {
  const std::int64_t chunks = divide_up(list.count, kChunk);
  if (middle.size() < list_capacity(list.count)) middle.resize(list_capacity(list.count));
  std::vector<Split> parts(static_cast<std::size_t>(chunks));
  for_chunks(list.count, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t chunk = begin / kChunk;
    float* out = middle.data() + chunk_start(chunk);
    parts[static_cast<std::size_t>(chunk)] =
        measure == Measure::mass
            ? split_by_mass(list, begin, end, pivots.low, pivots.high, scale, out)
            : split_by_count(list, begin, end, pivots.low, pivots.high, out);
  });
  Split result;
  for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
    const Split& part = parts[static_cast<std::size_t>(chunk)];
    std::memmove(middle.data() + result.middle, middle.data() + chunk_start(chunk),
                 static_cast<std::size_t>(part.middle) * sizeof(float));
    result.middle += part.middle;
    result.above += part.above;
  }
  return result;
}

RowSampler::Distribution RowSampler::filter(const Logits& row, float largest,
                                            const RowParams& params) {
  Distribution distribution;
  distribution.list = row;
  distribution.scale = {largest, WeightScale::of_temperature(params.temperature)};
  if (largest == kInfinity) {
    // All mass lies on the infinite logits, evenly.
    distribution.list = compact_list(row, {kInfinity, kLastId});
    float* values = lists_[next_list_ ^ 1].values.data();
    std::fill(values, values + distribution.list.count, 0.0F);
    distribution.scale.largest = 0;
  }
  if (params.top_k > 0 && params.top_k < distribution.list.count) {
    filter_top_k(params.top_k, distribution);
  }
  if (params.top_p < 1) filter_top_p(params.top_p, distribution);
  if (params.min_p > 0) distribution.least_weight = least_weight(params.min_p);
  return distribution;
}

void RowSampler::filter_top_k(std::int64_t k, Distribution& distribution) {
  Logits& list = distribution.list;
  // k blocks whose largest entries are at least t hold k entries that are.
  if (list.ids == nullptr && k <= static_cast<std::int64_t>(maxima_.size())) {
    list = compact_list(list, {block_threshold(k), kLastId});
  }
  const Kept kept = find_kept(list, Measure::count, static_cast<std::uint64_t>(k),
                              static_cast<std::uint64_t>(list.count), distribution.scale);
  list = compact_list(list, kept);
}

void RowSampler::filter_top_p(float p, Distribution& distribution) {
  Logits& list = distribution.list;
  std::uint64_t total = total_mass(distribution);
  const std::uint64_t target = mass_target(p, total);
  // Most rows have peaks: the few blocks with the largest entries hold the mass that is needed.
  if (list.ids == nullptr && kHeadBlocks < static_cast<std::int64_t>(maxima_.size())) {
    Distribution head = distribution;
    head.list = compact_list(list, {block_threshold(kHeadBlocks), kLastId});
    const std::uint64_t head_mass = total_mass(head);
    if (head_mass >= target) {
      list = head.list;
      total = head_mass;
    }
  }
  distribution.kept = find_kept(list, Measure::mass, target, total, distribution.scale);
}

std::int32_t RowSampler::draw(const Distribution& distribution, std::uint64_t random) {
  const std::uint64_t total = total_mass(distribution);
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

std::int32_t RowSampler::sample(const Logits& row, const RowParams& params) {
  const float largest = find_maxima(row);
  if (largest == -kInfinity) return 0;
  if (params.temperature == 0) return arg_max(row, largest);
  return draw(filter(row, largest, params), params.random);
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
