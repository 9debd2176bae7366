// SPDX-License-Identifier: Apache-2.0
// Philox against the known answers that its authors publish with Random123 (kat_vectors), and the
// stream that tokens are drawn from against a golden file: it must never change.
#include "sampling/philox.h"

#include <gtest/gtest.h>

#include <bit>
#include <fstream>
#include <sstream>
#include <string>

namespace tilewright {
namespace {

TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Philox, GoldenStream) {
  std::ifstream file(TILEWRIGHT_TEST_DATA "/philox_golden.txt");
  int checked = 0;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with('#')) continue;
    std::istringstream words(line);
    std::int64_t seed = 0;
    std::int64_t step = 0;
    std::uint64_t bits = 0;
    ASSERT_TRUE(words >> seed >> step >> std::hex >> bits) << line;
    EXPECT_EQ(sampling_bits(seed, step), bits) << line;
    ++checked;
  }
  EXPECT_EQ(checked, 64);
}

TEST(Philox, SamplingBitsUseAllOfSeedAndStep) {
  EXPECT_EQ(sampling_bits(0, 0), 0xe169c58d6627e8d5U);
  const std::uint64_t base = sampling_bits(5, 9);
  for (int bit = 0; bit < 64; ++bit) {
    const auto flip = static_cast<std::int64_t>(std::uint64_t{1} << bit);
    EXPECT_GT(std::popcount(base ^ sampling_bits(5 ^ flip, 9)), 10) << bit;
    EXPECT_GT(std::popcount(base ^ sampling_bits(5, 9 ^ flip)), 10) << bit;
  }
}

}  // namespace
}  // namespace tilewright
