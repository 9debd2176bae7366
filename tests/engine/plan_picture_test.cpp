// SPDX-License-Identifier: Apache-2.0
#include "engine/plan_picture.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stack>
#include <string>

namespace tilewright::engine {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

PlanPiece piece(int worker, int request, std::int64_t start, std::int64_t cost, int tile = 0) {
  PlanPiece piece;
  piece.worker = worker;
  piece.row = piece.request = request;
  piece.tile = tile;
  piece.num_blocks = 3;
  piece.start = start;
  piece.cost = cost;
  return piece;
}

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = 0; (at = text.find(what, at)) != std::string::npos; ++at) ++n;
  return n;
}

// Every element that is opened is closed, in order.
void expect_well_formed(const std::string& svg) {
  std::stack<std::string> open;
  for (std::size_t begin = svg.find('<'); begin != std::string::npos;
       begin = svg.find('<', begin)) {
    const std::size_t end = svg.find('>', begin);
    ASSERT_NE(end, std::string::npos);
    const std::string tag = svg.substr(begin + 1, end - begin - 1);
    begin = end;
    if (tag.ends_with('/')) continue;
    if (!tag.starts_with('/')) {
      open.push(tag.substr(0, tag.find(' ')));
      continue;
    }
    ASSERT_FALSE(open.empty());
    EXPECT_EQ(open.top(), tag.substr(1));
    open.pop();
  }
  EXPECT_TRUE(open.empty());
}

TEST(PlanBalance, IsMeanOverLongest) {
  const PlanBalance balance =
      balance_of({piece(0, 0, 0, 6), piece(0, 1, 6, 4), piece(2, 1, 0, 5)}, 3);
  EXPECT_EQ(balance.total, 15);
  EXPECT_EQ(balance.longest, 10);
  EXPECT_EQ(balance.busy, 2);
  EXPECT_DOUBLE_EQ(balance.balance, 0.5);
  EXPECT_EQ(balance_of({}, 3).balance, 1);
}

TEST(PlanPicture, DrawsEveryPieceWhereItIs) {
  const std::vector<PlanPiece> pieces{piece(0, 0, 0, 50), piece(0, 1, 50, 50, 1),
                                      piece(1, 1, 0, 25, 1)};
  const std::string svg = plan_picture(pieces, 2, 1, {{1, 100}, {3, 9}});
  expect_well_formed(svg);
  EXPECT_EQ(count(svg, "<title>"), 3U);
  EXPECT_THAT(svg, HasSubstr("x=\"50.00\" y=\"46.0\" width=\"500.00\""));
  EXPECT_THAT(svg, HasSubstr("x=\"550.00\" y=\"46.0\" width=\"500.00\""));
  EXPECT_THAT(svg, HasSubstr("x=\"50.00\" y=\"72.0\" width=\"250.00\""));
  EXPECT_EQ(count(svg, "(a part)"), 2U);
  EXPECT_THAT(svg, HasSubstr("balance 0.625"));
  EXPECT_THAT(svg, HasSubstr("request 1: 3 of 9 tokens"));
  EXPECT_THAT(svg, Not(HasSubstr("level")));
}

TEST(PlanPicture, JoinsWhatIsTooNarrowAndCutsTheLegend) {
  std::vector<PlanPiece> pieces;
  for (int i = 0; i < 10'000; ++i) pieces.push_back(piece(0, i / 100, i, 1, i));
  const std::string svg =
      plan_picture(pieces, 1, 1, std::vector<PictureRequest>(100, PictureRequest{1, 1}));
  expect_well_formed(svg);
  EXPECT_LT(count(svg, "<title>"), 1000U);
  EXPECT_GE(count(svg, "<title>"), 100U);
  EXPECT_THAT(svg, HasSubstr("and 76 more, with less work"));
}

TEST(PlanPicture, ShowsLevelsAndNothing) {
  PlanPiece shared = piece(0, 0, 0, 5);
  PlanPiece own = piece(0, 0, 5, 5);
  own.level = 1;
  const std::string svg = plan_picture({shared, own}, 1, 2, {{1, 1}});
  EXPECT_THAT(svg, HasSubstr("level 0, shared from request 0"));
  EXPECT_THAT(svg, HasSubstr("level 1, request 0"));
  expect_well_formed(plan_picture({}, 4096, 1, {}));
}

}  // namespace
}  // namespace tilewright::engine
