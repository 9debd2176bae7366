// SPDX-License-Identifier: Apache-2.0
// Made-up traces that look like the published ones, for those who have none.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/trace.h"

namespace tilewright::engine {

// What a trace looks like. Lengths are lognormal: half of them are under the median, and two thirds
// between median / e^sigma and median * e^sigma; cut at the longest.
struct TraceShape {
  double rate = 5;  // requests a second, of a Poisson process
  double input_median = 800;
  double input_sigma = 1;
  double output_median = 150;
  double output_sigma = 0.9;
  std::int64_t longest_input = 16384;
  std::int64_t longest_output = 2048;
  // Mooncake only. This share of the requests goes on from an earlier one: its input, its answer
  // and a new turn. The others begin with the same prefix_tokens tokens.
  double continued = 0;
  double turn_median = 1;  // tokens of a new turn
  double turn_sigma = 1;
  std::int64_t prefix_tokens = 0;
};

// Near the statistics of the Azure conversation trace of 2023 and of Mooncake's conversation trace.
TraceShape default_shape(TraceFormat format);

// The same trace for the same arguments. Error for a shape out of range.
std::vector<TraceRequest> generate_trace(TraceFormat format, std::int64_t requests,
                                         std::uint64_t seed, const TraceShape& shape);

}  // namespace tilewright::engine
