// SPDX-License-Identifier: Apache-2.0
// Functions that host and device compile from the same text. What includes this keeps to integers
// and to nothing of the standard library but fixed-width ones: NVRTC has no more.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define TILEWRIGHT_HD __host__ __device__
// Called, not inlined: what is large and seldom run costs compile time wherever it is copied to.
#define TILEWRIGHT_HD_CALL __host__ __device__ __noinline__
// Before a loop of few turns: copies of its body would only cost compile time.
#define TILEWRIGHT_HD_LOOP _Pragma("unroll 1")
#else
#define TILEWRIGHT_HD
#define TILEWRIGHT_HD_CALL
#define TILEWRIGHT_HD_LOOP
#endif

namespace tilewright::plan {

TILEWRIGHT_HD inline std::int64_t min64(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}
TILEWRIGHT_HD inline std::int64_t max64(std::int64_t a, std::int64_t b) {
  return a > b ? a : b;
}
TILEWRIGHT_HD inline std::int64_t clamp64(std::int64_t value, std::int64_t least,
                                          std::int64_t most) {
  return value < least ? least : value > most ? most : value;
}
TILEWRIGHT_HD inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}
// Of what is not negative and fits 32 bits, such as keys and blocks of one row: a division of 64
// bits is slow on the device, and one with signs longer.
TILEWRIGHT_HD inline std::int32_t div32(std::int32_t a, std::int32_t b) {
  return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b));
}
// Of numbers that are not negative. Most fit 32 bits, where a GPU divides many times as fast.
TILEWRIGHT_HD inline std::int64_t div64(std::int64_t a, std::int64_t b) {
  if (static_cast<std::uint64_t>(a | b) >> 32 == 0) {
    return static_cast<std::uint32_t>(a) / static_cast<std::uint32_t>(b);
  }
  return a / b;
}
TILEWRIGHT_HD inline std::int32_t ceil_div32(std::int32_t a, std::int32_t b) {
  const auto divisor = static_cast<std::uint32_t>(b);
  return static_cast<std::int32_t>((static_cast<std::uint32_t>(a) + divisor - 1) / divisor);
}

}  // namespace tilewright::plan
