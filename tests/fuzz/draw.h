// SPDX-License-Identifier: Apache-2.0
// Where a fuzzed case comes from: a stream of choices, drawn from a seed or replayed, as in
// Hypothesis (MacIver, Hatfield-Dodds, JOSS 2019). A shorter stream of smaller numbers is a simpler
// case.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "support/random.h"

namespace tilewright::fuzz {

using Choices = std::vector<std::uint64_t>;

// A Random, so that the tests' generators draw from the stream too. What is only data, and no part
// of what a case is, belongs to data().
class Draw final : public test::Random {
 public:
  explicit Draw(std::uint64_t seed) : Random(seed) {}
  explicit Draw(Choices choices) : Random(0), replays_(true), given_(std::move(choices)) {}

  std::uint64_t below(std::uint64_t bound) override {
    std::uint64_t choice = 0;  // behind the end of what is replayed
    if (!replays_) {
      choice = Random::below(bound);
    } else if (made_.size() < given_.size()) {
      choice = given_[made_.size()];
    }
    if (bound > 0) choice = std::min(choice, bound - 1);
    made_.push_back(choice);
    return choice;
  }

  // False is simpler.
  bool chance(double probability) {
    return static_cast<double>(below(1000)) >= 1000 * (1 - probability);
  }
  Random data() { return Random(below(1U << 16)); }

  // The ends of 32 and 64 bits, powers of two and their neighbours, small numbers.
  std::int64_t extreme() {
    using Int = std::numeric_limits<std::int32_t>;
    using Long = std::numeric_limits<std::int64_t>;
    const std::array<std::int64_t, 4> ends = {Int::max(), Int::min(), Long::max(), Long::min()};
    switch (below(4)) {
      case 0:
        return range(-2, 8);
      case 1:
        return ends[below(ends.size())];
      case 2:
        return (std::int64_t{1} << range(0, 62)) - range(0, 2);
      default:
        return -(std::int64_t{1} << range(0, 62)) + range(0, 2);
    }
  }
  std::int32_t extreme32() {
    return static_cast<std::int32_t>(
        std::clamp<std::int64_t>(extreme(), std::numeric_limits<std::int32_t>::min(),
                                 std::numeric_limits<std::int32_t>::max()));
  }

  // What a reader of a failure wants to see of the case; made only when one is replayed.
  template <typename Describe>
  void note(const Describe& describe) {
    if (replays_) notes_ += describe();
  }

  const Choices& made() const { return made_; }
  const std::string& notes() const { return notes_; }

 private:
  bool replays_ = false;
  Choices given_;
  Choices made_;
  std::string notes_;
};

}  // namespace tilewright::fuzz
