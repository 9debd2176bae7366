// SPDX-License-Identifier: Apache-2.0
// Numbers: conversions between formats, and the special functions of the hardware.
#pragma once

#include "arch/types.h"

namespace tw {

inline constexpr float kInfinity = __builtin_bit_cast(float, 0x7F800000U);

TW_DEVICE u32 bits_of(float value) {
  return __float_as_uint(value);
}
TW_DEVICE float float_of(u32 bits) {
  return __uint_as_float(bits);
}

// To the nearest, ties to even; NaN stays NaN, f16 overflows to infinity.
template <typename T>
TW_DEVICE T from_float(float value);
template <>
TW_DEVICE float from_float<float>(float value) {
  return value;
}
template <>
TW_DEVICE bf16 from_float<bf16>(float value) {
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}
template <>
TW_DEVICE f16 from_float<f16>(float value) {
  f16 result;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
}
TW_DEVICE float to_float(float value) {
  return value;
}
TW_DEVICE float to_float(bf16 value) {
  return float_of(static_cast<u32>(value.bits) << 16);
}
TW_DEVICE float to_float(f16 value) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
  return result;
}

// Two elements in a register, the first one in the low half.
template <typename T>
TW_DEVICE u32 pack(float low, float high);
template <>
TW_DEVICE u32 pack<bf16>(float low, float high) {
  u32 result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}
template <>
TW_DEVICE u32 pack<f16>(float low, float high) {
  u32 result;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}
template <typename T>
TW_DEVICE float low_of(u32 pair) {
  return to_float(T{static_cast<u16>(pair)});
}
template <typename T>
TW_DEVICE float high_of(u32 pair) {
  return to_float(T{static_cast<u16>(pair >> 16)});
}

// Both sums, each rounded to an element; Hopper and later.
template <typename T>
TW_DEVICE u32 add_pairs(u32 a, u32 b);
template <>
TW_DEVICE u32 add_pairs<bf16>(u32 a, u32 b) {
  u32 result;
  asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}
template <>
TW_DEVICE u32 add_pairs<f16>(u32 a, u32 b) {
  u32 result;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
  return result;
}

// 2^x and log2(x), to about 2 ulp; 2^-inf is 0, subnormal results are 0.
TW_DEVICE float exp2_fast(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
TW_DEVICE float log2_fast(float x) {
  float result;
  asm("lg2.approx.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
// 1 / x and a / b to 1 and 2 ulp; subnormal numbers count as 0.
TW_DEVICE float reciprocal_fast(float x) {
  float result;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}
TW_DEVICE float divide_fast(float a, float b) {
  float result;
  asm("div.full.ftz.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}
// To 1e-6, absolutely, for angles in [-pi, pi].
TW_DEVICE float sin_fast(float angle) {
  float result;
  asm("sin.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(angle));
  return result;
}
TW_DEVICE float cos_fast(float angle) {
  float result;
  asm("cos.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(angle));
  return result;
}
TW_DEVICE float abs_of(float x) {
  return fabsf(x);
}
// a * b + c, rounded once.
TW_DEVICE float multiply_add(float a, float b, float c) {
  return fmaf(a, b, c);
}
// The larger one; if one is NaN, the other.
TW_DEVICE float max_of(float a, float b) {
  return fmaxf(a, b);
}
TW_DEVICE float min_of(float a, float b) {
  return fminf(a, b);
}
// The larger one, or NaN if one is NaN.
TW_DEVICE float max_or_nan(float a, float b) {
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
}

}  // namespace tw
