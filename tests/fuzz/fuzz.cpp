// SPDX-License-Identifier: Apache-2.0
#include "fuzz/fuzz.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <exception>

namespace tilewright::fuzz {
namespace {

// Enough for hundreds of choices; a case that takes long does not take hours.
constexpr int kMostAttempts = 3000;

class Shrinker {
 public:
  Shrinker(const Target& target, Choices choices) : target_(target) { attempt(std::move(choices)); }

  const Choices& best() const { return best_; }

  void run() {
    for (bool simpler = true; simpler && attempts_ < kMostAttempts;) {
      simpler = false;
      for (std::size_t span = best_.size(); span > 0; span /= 2) simpler |= remove(span);
      simpler |= make_smaller();
    }
  }

 private:
  // Keeps what the case made of the choices when it fails and is simpler.
  bool attempt(Choices choices) {
    if (++attempts_ > kMostAttempts) return false;
    Draw draw(std::move(choices));
    bool taken = false;
    if (!failure_of(target_, draw, taken)) return false;
    if (attempts_ > 1 && !(draw.made().size() < best_.size() ||
                           (draw.made().size() == best_.size() && draw.made() < best_))) {
      return false;
    }
    best_ = draw.made();
    return true;
  }

  bool remove(std::size_t span) {
    bool simpler = false;
    for (std::size_t end = best_.size(); end >= span; end = std::min(end - 1, best_.size())) {
      Choices fewer = best_;
      const auto last = fewer.begin() + static_cast<std::ptrdiff_t>(end);
      fewer.erase(last - static_cast<std::ptrdiff_t>(span), last);
      simpler |= attempt(std::move(fewer));
      if (end == 0 || attempts_ > kMostAttempts) break;
    }
    return simpler;
  }

  bool make_smaller() {
    bool simpler = false;
    for (std::size_t i = 0; i < best_.size(); ++i) {
      // 0, else a half, again and again, else one less.
      for (bool again = true; again && i < best_.size() && best_[i] > 0;) {
        again = false;
        for (const std::uint64_t value : {std::uint64_t{0}, best_[i] / 2, best_[i] - 1}) {
          Choices smaller = best_;
          smaller[i] = value;
          if (!attempt(std::move(smaller))) continue;
          again = simpler = true;
          break;
        }
      }
    }
    return simpler;
  }

  const Target& target_;
  Choices best_;
  int attempts_ = 0;
};

}  // namespace

std::string Failure::text(const Target& target, std::uint64_t seed) const {
  return fmt::format("{}: case {} of seed {} fails: {}\n{}\nreplay: --target {} --replay {}",
                     target.name, index, seed, message, notes, target.name,
                     choices.empty() ? "0" : fmt::format("{}", fmt::join(choices, ",")));
}

Draw draw_case(std::uint64_t seed, std::int64_t index) {
  test::Random mixed(seed ^ test::Random(static_cast<std::uint64_t>(index)).bits());
  return Draw(mixed.bits());
}

const Target* find_target(const std::string& name) {
  for (const Target& target : targets()) {
    if (target.name == name) return &target;
  }
  return nullptr;
}

std::optional<std::string> failure_of(const Target& target, Draw& draw, bool& taken) {
  testing::TestPartResultArray results;
  try {
    using Reporter = testing::ScopedFakeTestPartResultReporter;
    const Reporter reporter(Reporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
    taken = target.run(draw);
  } catch (const std::exception& error) {
    return fmt::format("exception: {}", error.what());
  }
  for (int i = 0; i < results.size(); ++i) {
    const testing::TestPartResult& result = results.GetTestPartResult(i);
    if (!result.failed()) continue;
    return fmt::format("{}:{}: {}", result.file_name() != nullptr ? result.file_name() : "",
                       result.line_number(), result.message());
  }
  return std::nullopt;
}

Failure shrink(const Target& target, std::int64_t index, Choices choices) {
  Shrinker shrinker(target, std::move(choices));
  shrinker.run();
  Draw draw(shrinker.best());
  bool taken = false;
  const auto message = failure_of(target, draw, taken);
  return {index, message.value_or("nothing when it is replayed"), draw.made(), draw.notes()};
}

std::optional<Failure> run_cases(
    const Target& target, const Cases& cases,
    const std::function<void(std::int64_t index, std::int64_t taken)>& before) {
  std::int64_t taken_count = 0;
  for (std::int64_t i = cases.first; i < cases.first + cases.count; i += cases.step) {
    before(i, taken_count);
    Draw draw = draw_case(cases.seed, i);
    bool taken = false;
    if (failure_of(target, draw, taken)) return shrink(target, i, draw.made());
    taken_count += taken ? 1 : 0;
  }
  before(cases.first + cases.count, taken_count);
  return std::nullopt;
}

}  // namespace tilewright::fuzz
