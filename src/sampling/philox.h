// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10, the counter-based random number generator of Salmon, Moraes, Dror and Shaw,
// "Parallel random numbers: as easy as 1, 2, 3" (SC'11).
#pragma once

#include <array>
#include <cstdint>

namespace tilewright {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

constexpr PhiloxCounter philox4x32(PhiloxCounter counter, PhiloxKey key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53U} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key = {key[0] + 0x9E3779B9U, key[1] + 0xBB67AE85U};
  }
  return counter;
}

// What the random numbers of a request are for.
enum class RandomStream : std::uint32_t {
  sampling = 0,
  acceptance = 1,  // of a draft token
  correction = 2,  // the token behind the accepted ones
};

// A random number of a request's step: words 1 (upper half) and 0 of the block with counter (step,
// stream, index) under the key `seed`.
constexpr std::uint64_t sampling_bits(std::int64_t seed, std::int64_t step,
                                      RandomStream stream = RandomStream::sampling,
                                      std::uint32_t index = 0) {
  const auto seed_bits = static_cast<std::uint64_t>(seed);
  const auto step_bits = static_cast<std::uint64_t>(step);
  const PhiloxCounter block = philox4x32(
      {static_cast<std::uint32_t>(step_bits), static_cast<std::uint32_t>(step_bits >> 32),
       static_cast<std::uint32_t>(stream), index},
      {static_cast<std::uint32_t>(seed_bits), static_cast<std::uint32_t>(seed_bits >> 32)});
  return std::uint64_t{block[1]} << 32 | block[0];
}

}  // namespace tilewright
