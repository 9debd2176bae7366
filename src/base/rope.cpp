// SPDX-License-Identifier: Apache-2.0
#include "base/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <span>
#include <tuple>
#include <type_traits>

#include "base/checks.h"

namespace tilewright {
namespace {

constexpr double kTurn = 2 * std::numbers::pi;

void require_positive(const char* name, double value) {
  require(value > 0 && std::isfinite(value), "{} is {}: it must be positive and finite", name,
          value);
}

void require_finite(const char* name, double value) {
  require(value >= 0 && std::isfinite(value), "{} is {}: it must be finite and not negative", name,
          value);
}

// Of each scaling its checks, what it does to a frequency, and its amplitude.

void check(const std::monostate& /*none*/, const RopeSpec& /*rope*/) {}

void check(const NtkScaling& scaling, const RopeSpec& /*rope*/) {
  require_positive("rope.scaling.factor", scaling.factor);
}

void check(const Llama3Scaling& scaling, const RopeSpec& /*rope*/) {
  require_positive("rope.scaling.factor", scaling.factor);
  require_positive("rope.scaling.low_freq_factor", scaling.low_freq_factor);
  require_positive("rope.scaling.high_freq_factor", scaling.high_freq_factor);
  require(scaling.high_freq_factor > scaling.low_freq_factor,
          "rope.scaling.high_freq_factor is {}: it must be above low_freq_factor, {}",
          scaling.high_freq_factor, scaling.low_freq_factor);
  require_positive("rope.scaling.original_max_position", scaling.original_max_position);
}

void check(const YarnScaling& scaling, const RopeSpec& rope) {
  require(rope.theta > 1, "rope.theta is {}: it must be above 1 with YaRN", rope.theta);
  require_positive("rope.scaling.factor", scaling.factor);
  require_positive("rope.scaling.original_max_position", scaling.original_max_position);
  require_positive("rope.scaling.beta_fast", scaling.beta_fast);
  require_positive("rope.scaling.beta_slow", scaling.beta_slow);
  require(scaling.beta_fast >= scaling.beta_slow,
          "rope.scaling.beta_fast is {}: it must not be below beta_slow, {}", scaling.beta_fast,
          scaling.beta_slow);
  require_finite("rope.scaling.attention_factor", scaling.attention_factor);
}

void check(const LongRopeScaling& scaling, const RopeSpec& rope) {
  require(!scaling.factors.empty(), "rope.scaling.factors is empty: it must have dim / 2 elements");
  require(rope.dim == 0 || scaling.factors.size() == static_cast<std::size_t>(rope.dim / 2),
          "rope.scaling.factors has {} elements: it must have dim / 2, {}", scaling.factors.size(),
          rope.dim / 2);
  for (const double factor : scaling.factors) require_positive("rope.scaling.factors", factor);
  require_positive("rope.scaling.attention_factor", scaling.attention_factor);
}

void scale(const std::monostate& /*none*/, const RopeSpec& /*rope*/,
           std::span<double> /*frequencies*/) {}

void scale(const NtkScaling& scaling, const RopeSpec& /*rope*/, std::span<double> frequencies) {
  // Pair i has theta^(-i / n), so a larger theta divides it by factor^(i / (n - 1)).
  const auto last = static_cast<double>(frequencies.size()) - 1;
  for (std::size_t i = 1; i < frequencies.size(); ++i) {
    frequencies[i] *= std::pow(scaling.factor, -static_cast<double>(i) / last);
  }
}

void scale(const Llama3Scaling& scaling, const RopeSpec& /*rope*/, std::span<double> frequencies) {
  for (double& frequency : frequencies) {
    const double turns = scaling.original_max_position * frequency / kTurn;
    const double kept = std::clamp(
        (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor),
        0.0, 1.0);
    frequency *= (1 - kept) / scaling.factor + kept;
  }
}

void scale(const YarnScaling& scaling, const RopeSpec& rope, std::span<double> frequencies) {
  const auto dim = 2 * static_cast<double>(frequencies.size());
  // The pair, not a whole number, that turns so often over the original context.
  const auto pair_of = [&](double turns) {
    return dim * std::log(scaling.original_max_position / (turns * kTurn)) /
           (2 * std::log(rope.theta));
  };
  double first = pair_of(scaling.beta_fast);
  double last = pair_of(scaling.beta_slow);
  if (scaling.truncate) {
    first = std::floor(first);
    last = std::ceil(last);
  }
  first = std::max(first, 0.0);
  last = std::min(last, dim - 1);
  if (first == last) last += 0.001;
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    const double stretched = std::clamp((static_cast<double>(i) - first) / (last - first), 0., 1.);
    frequencies[i] *= stretched / scaling.factor + (1 - stretched);
  }
}

void scale(const LongRopeScaling& scaling, const RopeSpec& /*rope*/,
           std::span<double> frequencies) {
  for (std::size_t i = 0; i < frequencies.size(); ++i) frequencies[i] /= scaling.factors[i];
}

double amplitude(const RopeScaling& scaling) {
  if (const auto* yarn = std::get_if<YarnScaling>(&scaling)) {
    if (yarn->attention_factor > 0) return yarn->attention_factor;
    return yarn->factor > 1 ? 0.1 * std::log(yarn->factor) + 1 : 1;
  }
  const auto* longrope = std::get_if<LongRopeScaling>(&scaling);
  return longrope != nullptr ? longrope->attention_factor : 1;
}

auto fields(const NtkScaling& s) {
  return std::tie(s.factor);
}
auto fields(const Llama3Scaling& s) {
  return std::tie(s.factor, s.low_freq_factor, s.high_freq_factor, s.original_max_position);
}
auto fields(const YarnScaling& s) {
  return std::tie(s.factor, s.original_max_position, s.beta_fast, s.beta_slow, s.attention_factor,
                  s.truncate);
}
auto fields(const LongRopeScaling& s) {
  return std::tie(s.factors, s.attention_factor);
}

bool equal(const RopeScaling& a, const RopeScaling& b) {
  if (a.index() != b.index()) return false;
  return std::visit(
      [&](const auto& scaling) {
        using Scaling = std::decay_t<decltype(scaling)>;
        if constexpr (std::is_same_v<Scaling, std::monostate>) {
          return true;
        } else {
          return fields(scaling) == fields(std::get<Scaling>(b));
        }
      },
      a);
}

}  // namespace

bool operator==(const RopeSpec& a, const RopeSpec& b) {
  return a.dim == b.dim && a.theta == b.theta && a.position_scale == b.position_scale &&
         a.interleaved == b.interleaved && equal(a.scaling, b.scaling);
}

void check_rope(const RopeSpec& rope) {
  require(rope.dim >= 0 && rope.dim % 2 == 0,
          "rope.dim is {}: it must be 0 (the whole head) or a positive even number", rope.dim);
  require_positive("rope.theta", rope.theta);
  require_positive("rope.position_scale", rope.position_scale);
  std::visit([&](const auto& scaling) { check(scaling, rope); }, rope.scaling);
}

int rope_dim(const RopeSpec& rope, std::int64_t head_dim) {
  require(rope.dim <= head_dim, "rope.dim is {}: it must be in [0, {}]", rope.dim, head_dim);
  const int dim = rope.dim == 0 ? static_cast<int>(head_dim) : rope.dim;
  require(dim % 2 == 0, "rope.dim is {}: the head has {} elements, and it must be even", rope.dim,
          head_dim);
  if (const auto* longrope = std::get_if<LongRopeScaling>(&rope.scaling)) {
    require(longrope->factors.size() == static_cast<std::size_t>(dim / 2),
            "rope.scaling.factors has {} elements: it must have dim / 2, {}",
            longrope->factors.size(), dim / 2);
  }
  return dim;
}

RopeFrequencies rope_frequencies(const RopeSpec& rope, int dim) {
  const std::size_t pairs = static_cast<std::size_t>(dim) / 2;
  RopeFrequencies result;
  result.values.assign((pairs + kRopePadding - 1) / kRopePadding * kRopePadding, 0.0);
  const std::span<double> frequencies(result.values.data(), pairs);
  for (std::size_t i = 0; i < pairs; ++i) {
    frequencies[i] = std::pow(rope.theta, -2.0 * static_cast<double>(i) / dim);
  }
  std::visit([&](const auto& scaling) { scale(scaling, rope, frequencies); }, rope.scaling);
  for (double& frequency : frequencies) frequency *= rope.position_scale;
  result.amplitude = static_cast<float>(amplitude(rope.scaling));
  return result;
}

}  // namespace tilewright
