// SPDX-License-Identifier: Apache-2.0
#include "engine/trace_generator.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "engine/checks.h"
#include "engine/random.h"

namespace tilewright::engine {
namespace {

double exponential(Random& random) {
  return -std::log1p(-random.uniform());
}

double normal(Random& random) {
  const double radius = std::sqrt(2 * exponential(random));
  return radius * std::cos(2 * std::numbers::pi * random.uniform());
}

// Lognormal, at least 1.
std::int64_t length(Random& random, double median, double sigma, std::int64_t longest) {
  const double value = std::round(median * std::exp(sigma * normal(random)));
  return static_cast<std::int64_t>(std::clamp(value, 1.0, static_cast<double>(longest)));
}

void require_shape(TraceFormat format, const TraceShape& shape) {
  const auto in_range = [](std::string_view name, double value, double least, double most) {
    require(value >= least && value <= most, "{} is {}: it must be in [{}, {}]", name, value, least,
            most);
  };
  constexpr double kMost = kMostTraceTokens;
  in_range("rate", shape.rate, 1e-6, 1e6);
  in_range("input_median", shape.input_median, 1, kMost);
  in_range("input_sigma", shape.input_sigma, 0, 10);
  in_range("output_median", shape.output_median, 1, kMost);
  in_range("output_sigma", shape.output_sigma, 0, 10);
  in_range("longest_input", static_cast<double>(shape.longest_input), 1, kMost);
  in_range("longest_output", static_cast<double>(shape.longest_output), 1, kMost);
  if (format == TraceFormat::azure) return;
  in_range("continued", shape.continued, 0, 1);
  in_range("turn_median", shape.turn_median, 1, kMost);
  in_range("turn_sigma", shape.turn_sigma, 0, 10);
  in_range("prefix_tokens", static_cast<double>(shape.prefix_tokens), 0,
           static_cast<double>(shape.longest_input));
}

class BlockTree {
 public:
  explicit BlockTree(std::int64_t prefix_tokens) {
    for (std::int64_t i = 0; i < prefix_tokens / kTraceBlockTokens; ++i) prefix_.push_back(next_++);
  }

  // Begins with the whole blocks of `parent`, or with the common prefix.
  void number(TraceRequest& request, const TraceRequest* parent) {
    const auto count = static_cast<std::size_t>((request.input_tokens + kTraceBlockTokens - 1) /
                                                kTraceBlockTokens);
    // The last block is the request's own unless it is whole.
    const auto whole = static_cast<std::size_t>(request.input_tokens / kTraceBlockTokens);
    if (parent != nullptr) {
      request.blocks = parent->blocks;
      request.blocks.resize(static_cast<std::size_t>(parent->input_tokens / kTraceBlockTokens));
    } else {
      request.blocks = prefix_;
    }
    request.blocks.resize(std::min(request.blocks.size(), whole));
    while (request.blocks.size() < count) request.blocks.push_back(next_++);
  }

 private:
  std::vector<std::int64_t> prefix_;
  std::int64_t next_ = 0;
};

}  // namespace

TraceShape default_shape(TraceFormat format) {
  TraceShape shape;
  if (format == TraceFormat::azure) return shape;
  shape.rate = 3.5;
  shape.input_median = 5000;
  shape.input_sigma = 1.25;
  shape.output_median = 200;
  shape.output_sigma = 1.35;
  shape.longest_input = 131072;
  shape.continued = 0.4;
  shape.turn_median = 900;
  shape.turn_sigma = 1.3;
  shape.prefix_tokens = kTraceBlockTokens;
  return shape;
}

std::vector<TraceRequest> generate_trace(TraceFormat format, std::int64_t requests,
                                         std::uint64_t seed, const TraceShape& shape) {
  require(requests >= 1 && requests <= 100'000'000, "requests is {}: it must be in [1, 100000000]",
          requests);
  require_shape(format, shape);
  const bool tree = format == TraceFormat::mooncake;
  Random random(seed);
  BlockTree blocks(tree ? shape.prefix_tokens : 0);
  std::vector<TraceRequest> trace;
  double now = 0;
  for (std::int64_t i = 0; i < requests; ++i) {
    TraceRequest request;
    // As the formats hold it, so that what is written is what is read.
    const double ticks = tree ? 1e3 : 1e7;
    request.arrival = std::floor(now * ticks) / ticks;
    now += exponential(random) / shape.rate;
    request.input_tokens =
        length(random, shape.input_median, shape.input_sigma, shape.longest_input);
    request.output_tokens =
        length(random, shape.output_median, shape.output_sigma, shape.longest_output);
    if (tree) {
      const bool continued = random.uniform() < shape.continued && i > 0;
      const TraceRequest* parent = nullptr;
      if (continued) {
        parent = &trace[static_cast<std::size_t>(random.uniform() * static_cast<double>(i))];
        const std::int64_t with_turn =
            parent->input_tokens + parent->output_tokens +
            length(random, shape.turn_median, shape.turn_sigma, shape.longest_input);
        if (with_turn <= shape.longest_input) {
          request.input_tokens = with_turn;
        } else {
          parent = nullptr;
        }
      }
      if (parent == nullptr) {
        request.input_tokens =
            std::min(request.input_tokens + shape.prefix_tokens, shape.longest_input);
      }
      blocks.number(request, parent);
    }
    trace.push_back(std::move(request));
  }
  return trace;
}

}  // namespace tilewright::engine
