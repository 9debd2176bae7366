// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <random>
#include <vector>

#include "arch/numeric.h"
#include "runtime/guarded_buffer.h"

namespace tw::emulator {

// Fills the buffer with normal elements of the two-byte type T, makes it read-only, and returns
// the values as the rounding to T left them.
template <typename T>
std::vector<float> fill_random(GuardedBuffer& buffer, u64 seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(buffer.bytes() / sizeof(T));
  for (std::size_t i = 0; i < values.size(); ++i) {
    const T element = from_float<T>(normal(random));
    buffer.as<T>()[i] = element;
    values[i] = to_float(element);
  }
  buffer.make_read_only();
  return values;
}

}  // namespace tw::emulator
