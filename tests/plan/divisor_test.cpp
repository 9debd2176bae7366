// SPDX-License-Identifier: Apache-2.0
#include "plan/divisor.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

namespace tilewright::plan {
namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 31;

std::vector<std::int64_t> divisors() {
  std::vector<std::int64_t> all{1, 3, 5, 7, 10, 641, kMost / 3, kMost + 1, std::int64_t{1} << 61};
  for (int bit = 1; bit <= 31; ++bit) {
    for (const int by : {-1, 0, 1}) all.push_back((std::int64_t{1} << bit) + by);
  }
  std::mt19937 random(5);
  for (int i = 0; i < 200; ++i) all.push_back((random() >> random() % 31) + std::int64_t{1});
  return all;
}

TEST(Divisor, QuotientsAreThoseOfDivision) {
  std::mt19937 random(6);
  for (const std::int64_t d : divisors()) {
    const Divisor by(d);
    std::vector<std::int64_t> dividends{0, 1, kMost - 1, kMost};
    // Where a quotient changes, from the first multiple to the last one.
    const std::int64_t last = kMost / d;
    for (const std::int64_t multiple : {std::int64_t{1}, last / 2, last - 1, last}) {
      for (const int beside : {-1, 0, 1}) dividends.push_back(multiple * d + beside);
    }
    for (int i = 0; i < 100; ++i) dividends.push_back(random() >> 1);
    for (const std::int64_t n : dividends) {
      if (n < 0 || n > kMost) continue;
      ASSERT_EQ(by.quotient(static_cast<std::uint32_t>(n)), n / d) << n << " / " << d;
    }
  }
}

TEST(Divisor, IsOneAtFirst) {
  EXPECT_EQ(Divisor().quotient(12345), 12345U);
}

}  // namespace
}  // namespace tilewright::plan
