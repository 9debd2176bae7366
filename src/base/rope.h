// SPDX-License-Identifier: Apache-2.0
// The frequencies of a rotary embedding: what does not depend on the position.
#pragma once

#include <tilewright/variant.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tilewright {

// Arrays of one element a pair are padded to a multiple of this, for whole vectors.
inline constexpr std::size_t kRopePadding = 64;

// Errors (invalid_argument) for what is wrong whatever the head.
void check_rope(const RopeSpec& rope);
// The rotated elements of a head: rope.dim, or all. Errors when they do not fit head_dim.
int rope_dim(const RopeSpec& rope, std::int64_t head_dim);

struct RopeFrequencies {
  std::vector<double> values;  // [dim / 2], radians a position, padded with zeros
  float amplitude = 1;         // cosines and sines are multiplied by it
};
// For a spec that has passed check_rope and a dim from rope_dim.
RopeFrequencies rope_frequencies(const RopeSpec& rope, int dim);

}  // namespace tilewright
