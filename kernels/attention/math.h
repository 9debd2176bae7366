// SPDX-License-Identifier: Apache-2.0
// The operators of variants' expressions, as the CPU has them: integers wrap around and divide
// towards minus infinity; functions of reals are made of the hardware's fast ones.
#pragma once

#include "attention/variant.h"

namespace tw {

// In 64 bits, and in 32 of results that are known to fit.
TW_DEVICE i64 wrap_add(i64 a, i64 b) {
  return static_cast<i64>(static_cast<u64>(a) + static_cast<u64>(b));
}
TW_DEVICE i64 wrap_sub(i64 a, i64 b) {
  return static_cast<i64>(static_cast<u64>(a) - static_cast<u64>(b));
}
TW_DEVICE i64 wrap_mul(i64 a, i64 b) {
  return static_cast<i64>(static_cast<u64>(a) * static_cast<u64>(b));
}
TW_DEVICE i64 wrap_abs(i64 a) {
  return a < 0 ? wrap_sub(0, a) : a;
}
TW_DEVICE i32 low_add(i64 a, i64 b) {
  return static_cast<i32>(static_cast<u32>(a) + static_cast<u32>(b));
}
TW_DEVICE i32 low_sub(i64 a, i64 b) {
  return static_cast<i32>(static_cast<u32>(a) - static_cast<u32>(b));
}
TW_DEVICE i32 low_mul(i64 a, i64 b) {
  return static_cast<i32>(static_cast<u32>(a) * static_cast<u32>(b));
}
TW_DEVICE i32 low_bits(i64 a) {
  return static_cast<i32>(static_cast<u32>(a));
}

// The nearest 32-bit integer.
TW_DEVICE i32 saturated(i64 value) {
  const i32 low = low_bits(value);
  return low == value ? low : value < 0 ? -2147483647 - 1 : 2147483647;
}
// Of a value that a position is to be equal to: one that no position has if it does not fit.
TW_DEVICE i32 equal_bound(i64 value) {
  const i32 low = low_bits(value);
  return low == value ? low : -2147483647 - 1;
}

// By 0: 0. The smallest number by -1 wraps around.
template <typename T>
TW_DEVICE T floor_div(T a, T b) {
  if (b == 0) return 0;
  if (b == -1) return static_cast<T>(wrap_sub(0, a));
  const T quotient = a / b;
  const T rest = a - quotient * b;
  return rest != 0 && (rest < 0) != (b < 0) ? quotient - 1 : quotient;
}
// The sign of b; by 0: 0.
template <typename T>
TW_DEVICE T floor_mod(T a, T b) {
  if (b == 0 || b == -1) return 0;
  const T rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}
// Six bits of the count are used.
TW_DEVICE i64 shift_right(i64 a, i32 count) {
  return a >> (count & 63);
}
TW_DEVICE i32 shift_right(i32 a, i32 count) {
  count &= 63;
  return a >> (count < 31 ? count : 31);
}
// The second one when either is NaN.
template <typename T>
TW_DEVICE T least_of(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
TW_DEVICE T greatest_of(T a, T b) {
  return b < a ? a : b;
}

// float(a - b), where the difference may need 33 bits: conversions of 64 bits are slow.
TW_DEVICE float real_difference(i32 a, i32 b) {
  const i32 low = low_sub(a, b);
  const bool wrapped = ((a ^ b) & (a ^ low)) < 0;
  return static_cast<float>(low) + (wrapped ? (a < 0 ? -4294967296.0F : 4294967296.0F) : 0.0F);
}

// To about 3e-7; subnormal results are 0. The product with log2(e) is rounded: what that lost is
// made good, or large arguments would be off by as many ulp.
TW_DEVICE float exp_of(float x) {
  const float exponent = x * 1.44269504F;
  const float power = exp2_fast(exponent);
  const float lost = multiply_add(x, 1.44269504F, -exponent) + x * 1.92596299e-8F;
  const bool ordinary = exponent > -128.0F && exponent < 128.0F;
  return ordinary ? multiply_add(power, lost * 0.693147181F, power) : power;
}
// To 2e-7, absolutely where x is near 1.
TW_DEVICE float log_of(float x) {
  return log2_fast(x) * 0.693147181F;
}
// To 3e-7 absolutely, not of the result: five instructions, which is what a soft cap costs. Logits
// of that size are rounded as coarsely.
TW_DEVICE float tanh_of(float x) {
  return multiply_add(-2.0F, reciprocal_fast(exp2_fast(x * 2.88539008F) + 1.0F), 1.0F);
}
TW_DEVICE float sigmoid_of(float x) {
  return reciprocal_fast(1.0F + exp_of(-x));
}

// The rotation at a position of a pair that makes `turns` * 2^-64 turns a position. Whole turns
// fall off by themselves, so that it is as exact at the millionth position as at the first.
TW_DEVICE Rotation rotation_of(u64 turns, i32 position, float amplitude) {
  const u64 product = turns * static_cast<u64>(static_cast<i64>(position));
  const float angle =
      static_cast<float>(low_bits(static_cast<i64>(product >> 32))) * 1.46291808e-9F;
  return {cos_fast(angle) * amplitude, sin_fast(angle) * amplitude};
}

}  // namespace tw
