// SPDX-License-Identifier: Apache-2.0
// kernels/arch/numeric.h for the emulator: the hardware's roundings, bit for bit; its approximate
// functions by the C library, with the hardware's treatment of subnormal numbers.
#pragma once

#include <cmath>

#include "arch/types.h"

namespace tw {

inline constexpr float kInfinity = __builtin_bit_cast(float, 0x7F800000U);

TW_DEVICE u32 bits_of(float value) {
  return __builtin_bit_cast(u32, value);
}
TW_DEVICE float float_of(u32 bits) {
  return __builtin_bit_cast(float, bits);
}

namespace emulator {
inline constexpr u32 kFloatInfinity = 0x7F800000U;
inline constexpr u16 kHardwareNan = 0x7FFF;

inline u16 bf16_bits(float value) {
  const u32 bits = bits_of(value);
  if ((bits & 0x7FFFFFFFU) > kFloatInfinity) return kHardwareNan;
  return static_cast<u16>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

inline u16 f16_bits(float value) {
  const u32 bits = bits_of(value);
  const u32 sign = (bits >> 16) & 0x8000U;
  const u32 magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > kFloatInfinity) return kHardwareNan;
  // 65520, half way from the largest number to the next one, and more become infinity.
  if (magnitude >= 0x477FF000U) return static_cast<u16>(sign | 0x7C00U);
  if (magnitude < 0x38800000U) {
    // Subnormal: 0.5 has an ulp of 2^-24, so the addition itself rounds to multiples of it.
    return static_cast<u16>(sign | (bits_of(float_of(magnitude) + 0.5F) - bits_of(0.5F)));
  }
  const u32 rebased = magnitude - ((127U - 15U) << 23);
  return static_cast<u16>(sign | ((rebased + 0xFFFU + ((rebased >> 13) & 1U)) >> 13));
}

inline float f16_value(u16 bits) {
  const u32 sign = (bits & 0x8000U) << 16;
  const u32 magnitude = static_cast<u32>(bits & 0x7FFFU) << 13;
  // The exponent of infinity and NaN stays all ones; a multiplication scales the rest exactly.
  if (magnitude >= 0x0F800000U) return float_of(sign | magnitude | kFloatInfinity);
  return float_of(sign | bits_of(float_of(magnitude) * 0x1p112F));
}
}  // namespace emulator

template <typename T>
TW_DEVICE T from_float(float value);
template <>
TW_DEVICE float from_float<float>(float value) {
  return value;
}
template <>
TW_DEVICE bf16 from_float<bf16>(float value) {
  return {emulator::bf16_bits(value)};
}
template <>
TW_DEVICE f16 from_float<f16>(float value) {
  return {emulator::f16_bits(value)};
}
TW_DEVICE float to_float(float value) {
  return value;
}
TW_DEVICE float to_float(bf16 value) {
  return float_of(static_cast<u32>(value.bits) << 16);
}
TW_DEVICE float to_float(f16 value) {
  return emulator::f16_value(value.bits);
}

template <typename T>
TW_DEVICE u32 pack(float low, float high) {
  return from_float<T>(low).bits | static_cast<u32>(from_float<T>(high).bits) << 16;
}
template <typename T>
TW_DEVICE float low_of(u32 pair) {
  return to_float(T{static_cast<u16>(pair)});
}
template <typename T>
TW_DEVICE float high_of(u32 pair) {
  return to_float(T{static_cast<u16>(pair >> 16)});
}

template <typename T>
TW_DEVICE u32 add_pairs(u32 a, u32 b) {
  return pack<T>(low_of<T>(a) + low_of<T>(b), high_of<T>(a) + high_of<T>(b));
}

// ftz: subnormal arguments count as 0, subnormal results are 0.
TW_DEVICE float exp2_fast(float x) {
  const float result = std::exp2(x);
  return result < 0x1p-126F ? 0.0F : result;
}
TW_DEVICE float log2_fast(float x) {
  return std::log2(x);
}
TW_DEVICE float reciprocal_fast(float x) {
  const float result = 1.0F / x;
  return std::fabs(result) < 0x1p-126F ? std::copysign(0.0F, x) : result;
}
TW_DEVICE float divide_fast(float a, float b) {
  const float result = a / b;
  return std::fabs(result) < 0x1p-126F ? std::copysign(0.0F, result) : result;
}
TW_DEVICE float sin_fast(float angle) {
  return std::sin(angle);
}
TW_DEVICE float cos_fast(float angle) {
  return std::cos(angle);
}
TW_DEVICE float abs_of(float x) {
  return std::fabs(x);
}
TW_DEVICE float multiply_add(float a, float b, float c) {
  return std::fma(a, b, c);
}
TW_DEVICE float max_of(float a, float b) {
  return a > b || b != b ? a : b;
}
TW_DEVICE float min_of(float a, float b) {
  return a < b || b != b ? a : b;
}
TW_DEVICE float max_or_nan(float a, float b) {
  return a >= b || a != a ? a : b;
}

}  // namespace tw
