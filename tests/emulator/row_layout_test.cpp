// SPDX-License-Identifier: Apache-2.0
// Layouts of rows in shared memory: nothing lies twice, matrix loads meet no bank twice, and the
// steps that lanes take lead to where offset() says.
#include "attention/row_layout.h"

#include <gtest/gtest.h>

#include <set>

namespace tw {
namespace {

constexpr i32 kRows = 16;
alignas(1024) char memory[kRows * 64 * 16];

template <typename Rows>
char* at(i32 row, i32 unit) {
  return memory + Rows::offset(row, unit);
}

template <typename Rows, i32 units>
void check_places() {
  std::set<i32> places;
  for (i32 unit = 0; unit < units; ++unit) {
    for (i32 row = 0; row < kRows; ++row) {
      const i32 place = Rows::offset(row, unit);
      EXPECT_EQ(place % 16, 0);
      EXPECT_TRUE(0 <= place && place < kRows * Rows::kPitch);
      EXPECT_TRUE(places.insert(place).second) << "row " << row << ", unit " << unit;
    }
    for (i32 first = 0; first < kRows; first += 8) {
      std::set<i32> banks;  // 16 bytes each
      for (i32 row = first; row < first + 8; ++row) banks.insert(Rows::offset(row, unit) / 16 % 8);
      EXPECT_EQ(banks.size(), 8) << "rows from " << first << " on, unit " << unit;
    }
  }
}

template <typename Rows, i32 units>
void check_steps() {
  for (i32 at_once = 1; at_once <= kRows; at_once *= 2) {
    for (i32 row = 0; row < at_once; ++row) {
      for (i32 below = 0; row + below < kRows; below += at_once) {
        for (i32 unit = 0; unit < units; ++unit) {
          EXPECT_EQ(Rows::below(shared_place(at<Rows>(row, unit)), below).pointer,
                    at<Rows>(row + below, unit))
              << "from row " << row << " by " << below << ", unit " << unit;
        }
      }
    }
  }
  for (i32 row = 0; row < kRows; ++row) {
    for (i32 unit = 0; unit < units; ++unit) {
      EXPECT_EQ(Rows::right(shared_place(at<Rows>(row, unit % 2)), unit / 2 * 2).pointer,
                at<Rows>(row, unit))
          << "row " << row << ", unit " << unit;
    }
  }
}

template <i32 units>
void check_layouts() {
  SCOPED_TRACE(units);
  check_places<SpacedRows<units>, units>();
  check_places<SwizzledRows<units>, units>();
  check_steps<SpacedRows<units>, units>();
  check_steps<SwizzledRows<units>, units>();
}

// Of 16 to 256 elements of 16 bits, and of fp8.
TEST(RowLayout, UnitsLieApartAndStepsLeadToThem) {
  check_layouts<2>();
  check_layouts<4>();
  check_layouts<6>();
  check_layouts<8>();
  check_layouts<10>();
  check_layouts<12>();
  check_layouts<14>();
  check_layouts<16>();
  check_layouts<24>();
  check_layouts<32>();
}

}  // namespace
}  // namespace tw
