// SPDX-License-Identifier: Apache-2.0
// Rotary embeddings in long double, from the formulas as their papers and transformers'
// modeling_rope_utils.py write them.
#pragma once

#include <tilewright/variant.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>

namespace tilewright::test {

// Radians that pair `pair` of `dim / 2` turns a position.
inline long double reference_rope_frequency(const RopeSpec& rope, int pair, int dim) {
  constexpr long double kPi = std::numbers::pi_v<long double>;
  const auto power = [&](long double theta) {
    return 1 / powl(theta, 2.0L * pair / static_cast<long double>(dim));
  };
  const long double plain = power(rope.theta);
  const long double position_scale = rope.position_scale;
  if (const auto* ntk = std::get_if<NtkScaling>(&rope.scaling)) {
    if (dim == 2) return position_scale;
    return power(rope.theta * powl(ntk->factor, dim / (dim - 2.0L))) * position_scale;
  }
  if (const auto* llama3 = std::get_if<Llama3Scaling>(&rope.scaling)) {
    const long double length = llama3->original_max_position;
    const long double wavelength = 2 * kPi / plain;
    if (wavelength < length / llama3->high_freq_factor) return plain * position_scale;
    if (wavelength > length / llama3->low_freq_factor) {
      return plain / llama3->factor * position_scale;
    }
    const long double smooth = (length / wavelength - llama3->low_freq_factor) /
                               (llama3->high_freq_factor - llama3->low_freq_factor);
    return ((1 - smooth) * plain / llama3->factor + smooth * plain) * position_scale;
  }
  if (const auto* yarn = std::get_if<YarnScaling>(&rope.scaling)) {
    const auto correction = [&](long double rotations) {
      return dim * logl(yarn->original_max_position / (rotations * 2 * kPi)) /
             (2 * logl(rope.theta));
    };
    long double low = correction(yarn->beta_fast);
    long double high = correction(yarn->beta_slow);
    if (yarn->truncate) {
      low = floorl(low);
      high = ceill(high);
    }
    low = std::max(low, 0.0L);
    high = std::min(high, dim - 1.0L);
    if (low == high) high += 0.001L;
    const long double ramp = std::min(std::max((pair - low) / (high - low), 0.0L), 1.0L);
    return (plain / yarn->factor * ramp + plain * (1 - ramp)) * position_scale;
  }
  if (const auto* longrope = std::get_if<LongRopeScaling>(&rope.scaling)) {
    return plain / longrope->factors[static_cast<std::size_t>(pair)] * position_scale;
  }
  return plain * position_scale;
}

// What cosines and sines are multiplied by.
inline long double reference_rope_amplitude(const RopeSpec& rope) {
  if (const auto* yarn = std::get_if<YarnScaling>(&rope.scaling)) {
    if (yarn->attention_factor != 0) return yarn->attention_factor;
    return yarn->factor <= 1 ? 1.0L : 0.1L * logl(yarn->factor) + 1;
  }
  if (const auto* longrope = std::get_if<LongRopeScaling>(&rope.scaling)) {
    return longrope->attention_factor;
  }
  return 1;
}

}  // namespace tilewright::test
