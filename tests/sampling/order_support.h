// SPDX-License-Identifier: Apache-2.0
// What each order of filters keeps, by its definition: sorting, and sums of exact integers.
#pragma once

#include "sampling/sampling_support.h"

namespace tilewright::test {

__extension__ using Uint128 = unsigned __int128;

struct NaiveRow {
  Row logits;  // cleaned; infinite ones as 0 among -inf
  float largest = 0;
  std::vector<std::int32_t> left;  // ids, the most likely first, equal ones by id

  explicit NaiveRow(const Row& row) : logits(row), left(ranked(row)) {
    for (float& x : logits) x = clean_logit(x);
    largest = logits[static_cast<std::size_t>(left[0])];
    if (largest != kInf) return;
    largest = 0;
    for (float& x : logits) x = x == kInf ? 0 : -kInf;
    while (logits[static_cast<std::size_t>(left.back())] == -kInf) left.pop_back();
  }

  std::uint64_t weight(std::int32_t id, float temperature) const {
    return token_weight(logits[static_cast<std::size_t>(id)],
                        {largest, WeightScale::of_temperature(temperature)});
  }
  std::uint64_t mass(float temperature) const {
    std::uint64_t sum = 0;
    for (const std::int32_t id : left) sum += weight(id, temperature);
    return sum;
  }

  // ceil(p * total), at least 1, of a p that is not tiny.
  static std::uint64_t target_of(float p, std::uint64_t total) {
    if (!(p > 0)) return 1;
    const auto mantissa = static_cast<std::uint64_t>(std::ldexp(static_cast<double>(p), 60));
    const Uint128 product = Uint128{mantissa} * total + ((Uint128{1} << 60) - 1);
    return std::max<std::uint64_t>(1, static_cast<std::uint64_t>(product >> 60));
  }

  void top_k(std::int64_t k) {
    if (k > 0 && k < std::ssize(left)) left.resize(static_cast<std::size_t>(k));
  }
  // `total`: what p is a share of.
  void top_p(float p, std::uint64_t total, float temperature) {
    if (!(p < 1)) return;
    std::uint64_t sum = 0;
    std::size_t count = 0;
    while (count < left.size() && sum < target_of(p, total)) {
      sum += weight(left[count++], temperature);
    }
    left.resize(count);
  }
  void min_p(float p, float temperature) {
    if (!(p > 0)) return;
    const std::uint64_t most = weight(left[0], temperature);
    const std::uint64_t least = p >= 1 ? most : target_of(p, most);
    std::erase_if(left, [&](std::int32_t id) { return weight(id, temperature) < least; });
  }

  // Exponents of what is left and their weighted mean, in whole numbers of 2^-16 for the mean.
  float exponent(std::int32_t id, float temperature) const {
    const float scale = WeightScale::of_temperature(temperature);
    const float difference = logits[static_cast<std::size_t>(id)] - largest;
    return std::max(difference * scale, -42.0F);
  }
  void typical_p(float p, float temperature) {
    if (!(p > 0 && p < 1)) return;
    std::erase_if(left, [&](std::int32_t id) { return weight(id, temperature) == 0; });
    Uint128 sum = 0;
    for (const std::int32_t id : left) {
      const double fixed = std::nearbyint(-std::ldexp(exponent(id, temperature), 16));
      sum += Uint128{weight(id, temperature)} * static_cast<std::uint64_t>(fixed);
    }
    const std::uint64_t total = mass(temperature);
    const auto quotient = static_cast<std::uint64_t>((sum + total / 2) / total);
    const auto mean = static_cast<float>(-std::ldexp(static_cast<double>(quotient), -16));
    const auto distance = [&](std::int32_t id) {
      return std::fabs(exponent(id, temperature) - mean);
    };
    const std::vector<std::int32_t> by_logit = left;
    std::sort(left.begin(), left.end(), [&](std::int32_t a, std::int32_t b) {
      return distance(a) != distance(b) ? distance(a) < distance(b) : a < b;
    });
    top_p(p, total, temperature);
    std::vector<bool> kept(logits.size());
    for (const std::int32_t id : left) kept[static_cast<std::size_t>(id)] = true;
    left = by_logit;
    std::erase_if(left, [&](std::int32_t id) { return !kept[static_cast<std::size_t>(id)]; });
  }

  void filter(const RowParams& params) {
    const float t = params.temperature;
    switch (params.order) {
      case FilterOrder::hf:
        top_k(params.top_k);
        top_p(params.top_p, mass(t), t);
        min_p(params.min_p, t);
        typical_p(params.typical_p, t);
        break;
      case FilterOrder::joint: {
        const std::uint64_t whole = mass(t);
        top_k(params.top_k);
        top_p(params.top_p, whole, t);
        min_p(params.min_p, t);
        typical_p(params.typical_p, t);
        break;
      }
      case FilterOrder::vllm:
        min_p(params.min_p, t);
        top_k(params.top_k);
        top_p(params.top_p, mass(t), t);
        typical_p(params.typical_p, t);
        break;
      case FilterOrder::llamacpp:
        top_k(params.top_k);
        typical_p(params.typical_p, 1);
        top_p(params.top_p, mass(1), 1);
        min_p(params.min_p, 1);
        // The draw's weights are relative to the largest logit left.
        largest = logits[static_cast<std::size_t>(left[0])];
        break;
    }
  }

  // Those of what is left that can be drawn, in order of ids.
  std::vector<std::int32_t> candidates(float temperature) const {
    std::vector<std::int32_t> ids;
    for (const std::int32_t id : left) {
      if (weight(id, temperature) > 0) ids.push_back(id);
    }
    std::sort(ids.begin(), ids.end());
    return ids;
  }

  std::int32_t draw(float temperature, std::uint64_t random) const {
    auto rest = static_cast<std::uint64_t>((Uint128{random} * mass(temperature)) >> 64);
    for (const std::int32_t id : candidates(temperature)) {
      if (rest < weight(id, temperature)) return id;
      rest -= weight(id, temperature);
    }
    return -1;
  }
};

}  // namespace tilewright::test
