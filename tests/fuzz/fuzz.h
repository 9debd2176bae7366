// SPDX-License-Identifier: Apache-2.0
// Runs the cases of a target and makes the first that fails as simple as it gets.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>

#include "fuzz/draw.h"

namespace tilewright::fuzz {

// A case fails by an exception or by a failed expectation of GoogleTest.
struct Target {
  const char* name;
  // Whether the input was taken, rather than refused with a clear error.
  bool (*run)(Draw&);
};

std::span<const Target> targets();
const Target* find_target(const std::string& name);  // nullptr: there is none

struct Failure {
  std::int64_t index = 0;
  std::string message;
  Choices choices;  // of the shrunk case
  std::string notes;
  std::string text(const Target& target, std::uint64_t seed) const;
};

// The choices of case `index` do not depend on which process runs it.
Draw draw_case(std::uint64_t seed, std::int64_t index);

// What is wrong with a case, or nothing; `taken` as Target::run says.
std::optional<std::string> failure_of(const Target& target, Draw& draw, bool& taken);

// Removes spans of choices, then makes them smaller, for as long as the case still fails.
Failure shrink(const Target& target, std::int64_t index, Choices choices);

struct Cases {
  std::uint64_t seed = 0;
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::int64_t step = 1;  // cases first, first + step, ... below first + count
};

// Calls `before(index, taken so far)` ahead of each case. Stops at the first failure, which is
// shrunk.
std::optional<Failure> run_cases(
    const Target& target, const Cases& cases,
    const std::function<void(std::int64_t index, std::int64_t taken)>& before);

}  // namespace tilewright::fuzz
