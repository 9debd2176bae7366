// SPDX-License-Identifier: Apache-2.0
// The integer operators of expressions: int64 that wraps around, division towards minus infinity.
#pragma once

#include <cstdint>

namespace tilewright {

__extension__ using Int128 = __int128;

inline std::int64_t wrap_add(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) + static_cast<std::uint64_t>(b));
}
inline std::int64_t wrap_sub(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) - static_cast<std::uint64_t>(b));
}
inline std::int64_t wrap_mul(std::int64_t a, std::int64_t b) {
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(a) * static_cast<std::uint64_t>(b));
}
inline std::int64_t wrap_neg(std::int64_t a) {
  return wrap_sub(0, a);
}
inline std::int64_t wrap_abs(std::int64_t a) {
  return a < 0 ? wrap_neg(a) : a;
}

// b != 0; no overflow.
template <typename T>
T floor_quotient(T a, T b) {
  const T quotient = a / b;
  return a % b != 0 && (a < 0) != (b < 0) ? quotient - 1 : quotient;
}

// By 0: 0.
inline std::int64_t floor_div(std::int64_t a, std::int64_t b) {
  if (b == 0) return 0;
  return b == -1 ? wrap_neg(a) : floor_quotient(a, b);
}

// The sign of b; by 0: 0.
inline std::int64_t floor_mod(std::int64_t a, std::int64_t b) {
  if (b == 0 || b == -1) return 0;
  const std::int64_t rest = a % b;
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}

// Six bits of the count are used, as machines do: a shift by 64 is none.
inline std::int64_t shift_right(std::int64_t a, std::int64_t b) {
  return a >> (b & 63);
}

}  // namespace tilewright
