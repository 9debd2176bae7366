// SPDX-License-Identifier: Apache-2.0
// Traces of requests as serving systems publish them: when each arrived, how long it and its answer
// were, and which beginnings it shares with others. Formats: docs/replay.md.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

namespace tilewright::engine {

enum class TraceFormat : std::uint8_t {
  azure,     // CSV: TIMESTAMP,ContextTokens,GeneratedTokens
  mooncake,  // JSON lines: timestamp, input_length, output_length, hash_ids
};

// Tokens that one of Mooncake's hash_ids stands for.
inline constexpr std::int64_t kTraceBlockTokens = 512;
// Of one request's input or output. More is a damaged file rather than a request.
inline constexpr std::int64_t kMostTraceTokens = std::int64_t{1} << 24;

struct TraceRequest {
  double arrival = 0;              // seconds since the first request of the trace
  std::int64_t input_tokens = 0;   // at least 1
  std::int64_t output_tokens = 0;  // not negative
  // Of the input, one for each kTraceBlockTokens tokens begun: equal ids are equal tokens behind
  // equal beginnings. Empty where the format does not tell (azure).
  std::vector<std::int64_t> blocks;

  friend bool operator==(const TraceRequest&, const TraceRequest&) = default;
};

// "azure" or "mooncake"; Error for others.
TraceFormat trace_format(std::string_view name);

// The first `most` requests of a trace, in order of arrival. Error, with the name and the line, for
// what cannot be read: a wrong header, a field that is missing or no number of its range, a request
// before the one ahead of it, a list of blocks that does not fit the length, a trace of nothing.
std::vector<TraceRequest> read_trace(const std::string& path, TraceFormat format,
                                     std::int64_t most = std::numeric_limits<std::int64_t>::max());
std::vector<TraceRequest> read_trace(std::istream& input, const std::string& name,
                                     TraceFormat format,
                                     std::int64_t most = std::numeric_limits<std::int64_t>::max());

// What read_trace reads again; arrivals rounded to what the format holds (100 ns, 1 ms). Mooncake's
// format needs every request's blocks.
void write_trace(std::ostream& output, const std::vector<TraceRequest>& trace, TraceFormat format);

}  // namespace tilewright::engine
