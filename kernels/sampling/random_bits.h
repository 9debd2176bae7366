// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10, the counter-based random number generator of Salmon, Moraes, Dror and Shaw,
// "Parallel random numbers: as easy as 1, 2, 3" (SC'11).
#pragma once

#include "arch/types.h"

namespace tw {

// What the random numbers of a request are for, as RandomStream has them.
inline constexpr u32 kSamplingStream = 0;
inline constexpr u32 kAcceptanceStream = 1;
inline constexpr u32 kCorrectionStream = 2;

// A random number of a request's step: words 1 (upper half) and 0 of the block with counter (step,
// stream, index) under the key `seed`.
TW_DEVICE u64 sampling_bits(i64 seed, i64 step, u32 stream = kSamplingStream, u32 index = 0) {
  u32 counter[4] = {static_cast<u32>(step), static_cast<u32>(static_cast<u64>(step) >> 32), stream,
                    index};
  u32 key[2] = {static_cast<u32>(seed), static_cast<u32>(static_cast<u64>(seed) >> 32)};
  for (i32 round = 0; round < 10; ++round) {
    const u64 product0 = u64{0xD2511F53U} * counter[0];
    const u64 product1 = u64{0xCD9E8D57U} * counter[2];
    counter[0] = static_cast<u32>(product1 >> 32) ^ counter[1] ^ key[0];
    counter[1] = static_cast<u32>(product1);
    counter[2] = static_cast<u32>(product0 >> 32) ^ counter[3] ^ key[1];
    counter[3] = static_cast<u32>(product0);
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return u64{counter[1]} << 32 | counter[0];
}

}  // namespace tw
