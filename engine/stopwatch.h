// SPDX-License-Identifier: Apache-2.0
// Wall-clock time, split among what it was spent on.
#pragma once

#include <chrono>

namespace tilewright::engine {

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }
  // Adds the time since the start, or since the last lap, to `sum`.
  void lap(double& sum) {
    sum += seconds();
    start_ = std::chrono::steady_clock::now();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace tilewright::engine
