// SPDX-License-Identifier: Apache-2.0
// Division by a number that is known long before, by a multiplication: on a GPU a division of 64
// bits is a call, and takes the registers of one.
#pragma once

#include "plan/host_device.h"

namespace tilewright::plan {

// With 2^(shift - 1) < d <= 2^shift and factor * d = 2^(31 + shift) + e, 0 <= e < d: a dividend of
// at most 2^31 adds less than 2^(31 + shift) by e, which is not a step of the quotient (Granlund
// and Montgomery, Division by Invariant Integers using Multiplication, 1994).
class Divisor {
 public:
  constexpr Divisor() = default;  // 1
  TILEWRIGHT_HD constexpr explicit Divisor(std::int64_t d) {
    if (d > std::int64_t{1} << 31) {
      factor_ = 0;  // every dividend is less
      return;
    }
    while (std::int64_t{1} << shift_ < d) ++shift_;
    const std::uint64_t power = std::uint64_t{1} << (31 + shift_);
    const auto divisor = static_cast<std::uint64_t>(d);
    factor_ = static_cast<std::uint32_t>((power + divisor - 1) / divisor);
  }

  // n / d, n <= 2^31.
  TILEWRIGHT_HD constexpr std::uint32_t quotient(std::uint32_t n) const {
    return static_cast<std::uint32_t>(std::uint64_t{n} * factor_ >> (31 + shift_));
  }

 private:
  std::uint32_t factor_ = std::uint32_t{1} << 31;
  std::int32_t shift_ = 0;
};

}  // namespace tilewright::plan
