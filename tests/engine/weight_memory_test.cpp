// SPDX-License-Identifier: Apache-2.0
#include "engine/weight_memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace tilewright::engine {
namespace {

TEST(WeightMemory, PiecesAreAlignedAndApart) {
  WeightMemory memory;
  std::vector<std::pair<std::byte*, std::size_t>> pieces;
  // Odd sizes, and some that need large pages of their own.
  for (const std::size_t bytes : {1, 63, 64, 65, 40 << 20, 7 << 20, 20 << 20, 20 << 20, 100}) {
    std::byte* const piece = memory.allocate(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(piece) % 64, 0U);
    std::fill_n(piece, bytes, static_cast<std::byte>(pieces.size()));
    pieces.emplace_back(piece, bytes);
  }
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    const auto [piece, bytes] = pieces[i];
    EXPECT_EQ(std::count(piece, piece + bytes, static_cast<std::byte>(i)), bytes) << "piece " << i;
  }
}

}  // namespace
}  // namespace tilewright::engine
