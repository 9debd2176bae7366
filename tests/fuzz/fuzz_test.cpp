// SPDX-License-Identifier: Apache-2.0
// Thousands of cases of every target, and the framework itself. TILEWRIGHT_FUZZ_CASES sets how
// many.
#include "fuzz/fuzz.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <tilewright/threads.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace tilewright::fuzz {
namespace {

class Fuzz : public testing::TestWithParam<Target> {};

TEST_P(Fuzz, CasesAreTakenOrRefused) {
  const int threads = num_threads();
  set_num_threads(1);
  const char* wanted = std::getenv("TILEWRIGHT_FUZZ_CASES");
  const std::int64_t cases = wanted != nullptr ? std::atol(wanted) : 3000;
  std::int64_t taken = 0;
  const auto failure = run_cases(GetParam(), {20'240, 0, cases, 1},
                                 [&](std::int64_t, std::int64_t count) { taken = count; });
  set_num_threads(threads);
  ASSERT_FALSE(failure) << failure->text(GetParam(), 20'240);
  // A generator that is always or never refused proves nothing.
  EXPECT_GT(taken, cases / 20);
}

INSTANTIATE_TEST_SUITE_P(Targets, Fuzz, testing::ValuesIn(targets().begin(), targets().end()),
                         [](const auto& test) { return std::string(test.param.name); });

// Fails where a list of at least two numbers has one above 100 behind one above 10.
bool planted(Draw& draw) {
  std::int64_t last = 0;
  for (std::int64_t left = draw.range(0, 20); left > 0; --left) {
    const std::int64_t number = draw.range(0, 1000);
    if (last > 10 && number > 100) throw std::runtime_error("planted");
    last = number;
  }
  return true;
}

TEST(Shrink, FindsTheSimplestCase) {
  const Target target{"planted", planted};
  const auto failure = run_cases(target, {1, 0, 1000, 1}, [](auto, auto) {});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->choices, (Choices{2, 11, 101}));
  EXPECT_EQ(failure->message, "exception: planted");
}

TEST(Shrink, FailedExpectationsAreFailures) {
  const Target target{"expectation", [](Draw& draw) {
                        EXPECT_LT(draw.range(0, 50), 40) << "too large";
                        return true;
                      }};
  const auto failure = run_cases(target, {1, 0, 1000, 1}, [](auto, auto) {});
  ASSERT_TRUE(failure);
  EXPECT_EQ(failure->choices, (Choices{40}));
  EXPECT_NE(failure->message.find("too large"), std::string::npos);
}

TEST(Draw, ReplaysWhatWasMade) {
  Draw first = draw_case(7, 3);
  const std::int64_t a = first.range(-5, 1000);
  const double b = first.uniform();
  const bool c = first.chance(0.5);
  Draw again(first.made());
  EXPECT_EQ(again.range(-5, 1000), a);
  EXPECT_EQ(again.uniform(), b);
  EXPECT_EQ(again.chance(0.5), c);
  EXPECT_EQ(again.range(3, 9), 3);
  EXPECT_FALSE(again.chance(0.99));
}

}  // namespace
}  // namespace tilewright::fuzz
