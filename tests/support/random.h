// SPDX-License-Identifier: Apache-2.0
// Seeded random numbers that are the same on every platform and standard library.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

namespace tilewright::test {

// SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  Random(const Random&) = default;
  Random& operator=(const Random&) = default;
  virtual ~Random() = default;

  // The one source of all that follows: a number below `bound`; 0 stands for 2^64.
  virtual std::uint64_t below(std::uint64_t bound) {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    z ^= z >> 31;
    return bound > 0 ? z % bound : z;
  }

  std::uint64_t bits() { return below(0); }

  // In [0, 1).
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1.0p-53; }

  // Mean 0, variance 1, nearly normal: a sum of four uniforms, so no libm is in it.
  double normal() {
    return (uniform() + uniform() + uniform() + uniform() - 2.0) * 1.7320508075688772;
  }

  // In [low, high], both included.
  std::int64_t range(std::int64_t low, std::int64_t high) {
    const auto span = static_cast<std::uint64_t>(high) - static_cast<std::uint64_t>(low) + 1;
    return static_cast<std::int64_t>(static_cast<std::uint64_t>(low) + below(span));
  }

  bool chance(double probability) { return uniform() < probability; }

  template <typename T>
  T pick(std::initializer_list<T> choices) {
    return choices.begin()[range(0, static_cast<std::int64_t>(choices.size()) - 1)];
  }

  template <typename T>
  void shuffle(std::vector<T>& values) {
    for (std::size_t i = values.size(); i > 1; --i) {
      std::swap(values[i - 1], values[static_cast<std::size_t>(below(i))]);
    }
  }

 private:
  std::uint64_t state_;
};

}  // namespace tilewright::test
