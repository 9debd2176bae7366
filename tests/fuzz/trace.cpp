// SPDX-License-Identifier: Apache-2.0
// Trace files, whole and damaged: read as they were written, or an error that names the line; what
// was read can be written and read again.
#include "engine/trace.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <sstream>

#include "fuzz/mutate.h"
#include "fuzz/targets.h"

namespace tilewright::fuzz {
namespace {

using engine::TraceFormat;
using engine::TraceRequest;
using Trace = std::vector<TraceRequest>;

constexpr std::array<std::string_view, 26> kWords = {"TIMESTAMP",
                                                     ",",
                                                     "\n",
                                                     "\r\n",
                                                     "+00:00",
                                                     "-23:59",
                                                     "2024-02-30 00:00:00",
                                                     "9999-12-31 23:59:60.999999999",
                                                     "0000-01-01 00:00:00",
                                                     ".",
                                                     "-",
                                                     "9223372036854775808",
                                                     "16777217",
                                                     "1e400",
                                                     "1e15",
                                                     "-0.0",
                                                     "null",
                                                     "[",
                                                     "]",
                                                     "{",
                                                     "}",
                                                     "\"hash_ids\"",
                                                     "\"timestamp\": ",
                                                     "\"input_length\": ",
                                                     "\\ud800",
                                                     "[[[[[[[["};

Trace draw_trace(Draw& draw, TraceFormat format) {
  Trace trace;
  std::int64_t tick = 0;  // of what the format holds
  for (std::int64_t left = draw.range(1, 6); left > 0; --left) {
    TraceRequest request;
    request.arrival = static_cast<double>(tick) * (format == TraceFormat::azure ? 1e-7 : 1e-3);
    request.input_tokens = draw.chance(0.8) ? draw.range(1, 2000) : draw.range(1, 100'000);
    request.output_tokens = draw.range(0, 500);
    if (format == TraceFormat::mooncake) {
      const std::int64_t blocks = (request.input_tokens + 511) / 512;
      for (std::int64_t i = 0; i < blocks; ++i) {
        request.blocks.push_back(draw.chance(0.9) ? draw.range(0, 50)
                                                  : std::abs(draw.extreme() / 2));
      }
    }
    tick += draw.range(0, draw.chance(0.8) ? 100'000 : 100'000'000'000);
    trace.push_back(std::move(request));
  }
  return trace;
}

std::string written(const Trace& trace, TraceFormat format) {
  std::ostringstream text;
  engine::write_trace(text, trace, format);
  return text.str();
}

Trace read(const std::string& text, TraceFormat format) {
  std::istringstream input(text);
  return engine::read_trace(input, "trace", format);
}

void expect_same(const Trace& trace, const Trace& again, double step) {
  check(trace.size() == again.size(), "another number of requests");
  for (std::size_t i = 0; i < trace.size(); ++i) {
    const TraceRequest& a = trace[i];
    const TraceRequest& b = again[i];
    check(a.input_tokens == b.input_tokens && a.output_tokens == b.output_tokens &&
              a.blocks == b.blocks,
          fmt::format("request {} is another", i));
    // Both arrivals, and the first one's, are rounded to the format's step.
    const double rounding = step + 1e-15 * std::fabs(a.arrival);
    check(std::fabs(a.arrival - b.arrival) <= rounding,
          fmt::format("request {} arrives at {} instead of {}", i, b.arrival, a.arrival));
  }
}

void check_invariants(const Trace& trace, TraceFormat format) {
  check(!trace.empty() && trace[0].arrival == 0, "the first request is not at 0");
  for (std::size_t i = 0; i < trace.size(); ++i) {
    const TraceRequest& request = trace[i];
    check(i == 0 || request.arrival >= trace[i - 1].arrival, "requests are not in order");
    check(request.input_tokens >= 1 && request.input_tokens <= engine::kMostTraceTokens &&
              request.output_tokens >= 0 && request.output_tokens <= engine::kMostTraceTokens,
          "lengths out of range");
    const std::int64_t blocks =
        format == TraceFormat::mooncake ? (request.input_tokens + 511) / 512 : 0;
    check(std::ssize(request.blocks) == blocks, "blocks do not fit the length");
    for (const std::int64_t block : request.blocks) check(block >= 0, "a negative block");
  }
}

}  // namespace

bool fuzz_trace(Draw& draw) {
  const TraceFormat format = draw.chance(0.5) ? TraceFormat::mooncake : TraceFormat::azure;
  const double step = format == TraceFormat::azure ? 1e-7 : 1e-3;
  const Trace trace = draw_trace(draw, format);
  std::string text = written(trace, format);
  if (!mutate(text, draw, kWords)) {
    expect_same(trace, read(text, format), 1.01 * step);
    return true;
  }
  draw.note([&] { return text; });
  Trace found;
  if (!taken([&] { found = read(text, format); })) return false;
  check_invariants(found, format);
  expect_same(found, read(written(found, format), format), 1.01 * step);
  return true;
}

}  // namespace tilewright::fuzz
