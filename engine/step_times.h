// SPDX-License-Identifier: Apache-2.0
// Where the time of steps goes.
#pragma once

namespace tilewright::engine {

// Seconds, added up over steps.
struct StepTimes {
  double attention = 0;
  double matmul = 0;
  double sampling = 0;
  double plan = 0;
  double other = 0;
};

}  // namespace tilewright::engine
