// SPDX-License-Identifier: Apache-2.0
#include "engine/trace.h"

#include <charconv>
#include <chrono>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "engine/checks.h"

namespace tilewright::engine {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kAzureHeader = "TIMESTAMP,ContextTokens,GeneratedTokens";

std::int64_t blocks_of(std::int64_t tokens) {
  return (tokens + kTraceBlockTokens - 1) / kTraceBlockTokens;
}

// All of `text` as a number of digits only.
std::optional<std::int64_t> parse_digits(std::string_view text) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const bool digits = !text.empty() && text[0] >= '0' && text[0] <= '9';
  if (!digits || error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// Seconds behind the point, of at most nine digits: ".98" is 0.98.
std::optional<double> parse_fraction(std::string_view text) {
  if (text.empty()) return 0.0;
  const auto digits = parse_digits(text.substr(1));
  if (text[0] != '.' || text.size() > 10 || !digits) return std::nullopt;
  return static_cast<double>(*digits) * std::pow(10.0, 1.0 - static_cast<double>(text.size()));
}

struct Instant {
  std::int64_t seconds = 0;  // since 1970
  double fraction = 0;
};

// "2023-11-16 18:17:03.9799600", perhaps with an offset behind it: "+00:00".
std::optional<Instant> parse_instant(std::string_view text) {
  namespace ch = std::chrono;
  std::int64_t offset = 0;
  if (text.size() >= 25 && (text[text.size() - 6] == '+' || text[text.size() - 6] == '-')) {
    const std::string_view tail = text.substr(text.size() - 6);
    const auto hours = parse_digits(tail.substr(1, 2));
    const auto minutes = parse_digits(tail.substr(4, 2));
    if (!hours || !minutes || tail[3] != ':' || *hours > 23 || *minutes > 59) return std::nullopt;
    offset = (*hours * 60 + *minutes) * (tail[0] == '-' ? -60 : 60);
    text.remove_suffix(6);
  }
  constexpr std::string_view kForm = "dddd-dd-dd dd:dd:dd";
  if (text.size() < kForm.size()) return std::nullopt;
  for (std::size_t i = 0; i < kForm.size(); ++i) {
    const bool digit = text[i] >= '0' && text[i] <= '9';
    if (kForm[i] == 'd' ? !digit : text[i] != kForm[i]) return std::nullopt;
  }
  const auto field = [&](std::size_t at, std::size_t length) {
    return static_cast<int>(*parse_digits(text.substr(at, length)));
  };
  const ch::year_month_day date{ch::year(field(0, 4)),
                                ch::month(static_cast<unsigned>(field(5, 2))),
                                ch::day(static_cast<unsigned>(field(8, 2)))};
  const int hour = field(11, 2), minute = field(14, 2), second = field(17, 2);
  const auto fraction = parse_fraction(text.substr(kForm.size()));
  if (!date.ok() || hour > 23 || minute > 59 || second > 60 || !fraction) return std::nullopt;
  const std::int64_t days = ch::sys_days(date).time_since_epoch().count();
  return Instant{((days * 24 + hour) * 60 + minute) * 60 + second - offset, *fraction};
}

std::int64_t tokens_of(std::string_view name, std::string_view text, std::int64_t least) {
  const auto value = parse_digits(text);
  require(value && *value >= least && *value <= kMostTraceTokens,
          "{} is {}: it must be an integer in [{}, {}]", name, engine::quoted(text), least,
          kMostTraceTokens);
  return *value;
}

class AzureReader {
 public:
  static bool is_header(std::string_view line) { return line == kAzureHeader; }

  TraceRequest read(std::string_view line) {
    const std::size_t first = line.find(',');
    const std::size_t second = first == line.npos ? line.npos : line.find(',', first + 1);
    require(second != line.npos && line.find(',', second + 1) == line.npos,
            "the line is {}: it must have three fields, {}", engine::quoted(line), kAzureHeader);
    const std::string_view time = line.substr(0, first);
    const auto instant = parse_instant(time);
    require(instant.has_value(),
            "TIMESTAMP is {}: it must be a time like 2023-11-16 18:17:03.9799600",
            engine::quoted(time));
    if (!start_) start_ = instant;
    TraceRequest request;
    request.arrival = static_cast<double>(instant->seconds - start_->seconds) +
                      (instant->fraction - start_->fraction);
    request.input_tokens =
        tokens_of("ContextTokens", line.substr(first + 1, second - first - 1), 1);
    request.output_tokens = tokens_of("GeneratedTokens", line.substr(second + 1), 0);
    return request;
  }

 private:
  std::optional<Instant> start_;
};

std::string shown(const Json& value) {
  return engine::quoted(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

class MooncakeReader {
 public:
  TraceRequest read(const std::string& line) {
    const Json json = parse(line);
    const double time = number(json, "timestamp");
    if (!start_) start_ = time;
    TraceRequest request;
    request.arrival = (time - *start_) / 1e3;
    request.input_tokens = integer(json, "input_length", 1);
    request.output_tokens = integer(json, "output_length", 0);
    const Json& blocks = field(json, "hash_ids");
    require(blocks.is_array(), "hash_ids is {}: it must be a list of integers", shown(blocks));
    require(static_cast<std::int64_t>(blocks.size()) == blocks_of(request.input_tokens),
            "hash_ids has {} entries: an input_length of {} has {} blocks of {} tokens",
            blocks.size(), request.input_tokens, blocks_of(request.input_tokens),
            kTraceBlockTokens);
    for (const Json& block : blocks) {
      require(block.is_number_integer() && block >= 0 &&
                  block <= std::numeric_limits<std::int64_t>::max(),
              "hash_ids has {}: they must be integers, not negative", shown(block));
      request.blocks.push_back(block.get<std::int64_t>());
    }
    return request;
  }

 private:
  static Json parse(const std::string& line) {
    try {
      // A list in an object: whatever is deeper is something else, and could be too deep to walk.
      Json json = Json::parse(line, [](int depth, Json::parse_event_t, Json&) {
        require(depth <= 4, "the line nests deeper than 4");
        return true;
      });
      require(json.is_object(), "the line is {}: it must be a JSON object", engine::quoted(line));
      return json;
    } catch (const Json::parse_error& error) {
      raise(ErrorCode::invalid_argument, "the line is no JSON: byte {} is wrong", error.byte);
    } catch (const Json::exception&) {  // a number beyond double
      raise(ErrorCode::invalid_argument, "the line is no JSON that can be read: {}",
            engine::quoted(line));
    }
  }

  static const Json& field(const Json& json, const char* name) {
    const auto found = json.find(name);
    require(found != json.end(), "{} is missing", name);
    return *found;
  }

  static double number(const Json& json, const char* name) {
    const Json& value = field(json, name);
    // Milliseconds that double counts exactly.
    require(value.is_number() && value >= 0 && value <= 1e15,
            "{} is {}: it must be a number of milliseconds in [0, 1e15]", name, shown(value));
    return value.get<double>();
  }

  static std::int64_t integer(const Json& json, const char* name, std::int64_t least) {
    const Json& value = field(json, name);
    require(value.is_number_integer() && value >= least && value <= kMostTraceTokens,
            "{} is {}: it must be an integer in [{}, {}]", name, shown(value), least,
            kMostTraceTokens);
    return value.get<std::int64_t>();
  }

  std::optional<double> start_;
};

// Calls read(line) for each line that is not blank, until there are `most` requests.
template <typename Read>
void read_lines(std::istream& input, const std::string& name, std::int64_t most, const Read& read) {
  int number = 0;
  std::int64_t count = 0;
  double last = 0;
  for (std::string line; count < most && std::getline(input, line);) {
    ++number;
    if (line.ends_with('\r')) line.pop_back();
    if (line.find_first_not_of(" \t") == std::string::npos) continue;
    try {
      const std::optional<double> arrival = read(line);
      if (!arrival) continue;
      require(*arrival >= last,
              "the request is {:.3f} s before the one ahead of it: requests must "
              "be in order of time",
              last - *arrival);
      last = *arrival;
      ++count;
    } catch (const Error& error) {
      raise(error.code(), "{}:{}: {}", name, number, error.what());
    }
  }
  require(!input.bad(), "{}: it cannot be read", name);
  require(count > 0, "{}: it has no requests", name);
}

}  // namespace

TraceFormat trace_format(std::string_view name) {
  require(name == "azure" || name == "mooncake", "format is {}: it must be azure or mooncake",
          engine::quoted(name));
  return name == "azure" ? TraceFormat::azure : TraceFormat::mooncake;
}

std::vector<TraceRequest> read_trace(std::istream& input, const std::string& name,
                                     TraceFormat format, std::int64_t most) {
  require(most >= 1, "requests is {}: it must be at least 1", most);
  std::vector<TraceRequest> trace;
  AzureReader azure;
  MooncakeReader mooncake;
  bool header = format == TraceFormat::azure;
  read_lines(input, name, most, [&](const std::string& line) -> std::optional<double> {
    if (header) {
      header = false;
      require(AzureReader::is_header(line), "the line is {}: it must be {}", engine::quoted(line),
              kAzureHeader);
      return std::nullopt;
    }
    trace.push_back(format == TraceFormat::azure ? azure.read(line) : mooncake.read(line));
    return trace.back().arrival;
  });
  return trace;
}

std::vector<TraceRequest> read_trace(const std::string& path, TraceFormat format,
                                     std::int64_t most) {
  std::ifstream file(path);
  // A folder opens, but cannot be read.
  require(file.is_open() && (file.peek(), !file.bad()), "{}: it cannot be read", path);
  file.clear();
  return read_trace(file, path, format, most);
}

void write_trace(std::ostream& output, const std::vector<TraceRequest>& trace, TraceFormat format) {
  if (format == TraceFormat::azure) output << kAzureHeader << "\n";
  for (const TraceRequest& request : trace) {
    require(request.arrival >= 0 && std::isfinite(request.arrival),
            "arrival is {}: it must not be negative", request.arrival);
    if (format == TraceFormat::azure) {
      const auto ticks = static_cast<std::int64_t>(std::llround(request.arrival * 1e7));
      const auto since = std::chrono::sys_days(std::chrono::year(2024) / 1 / 1).time_since_epoch() +
                         std::chrono::seconds(ticks / 10'000'000);
      const auto days = std::chrono::floor<std::chrono::days>(since);
      const std::chrono::year_month_day date{std::chrono::sys_days(days)};
      const std::chrono::hh_mm_ss time(since - days);
      output << fmt::format("{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:07},{},{}\n",
                            static_cast<int>(date.year()), static_cast<unsigned>(date.month()),
                            static_cast<unsigned>(date.day()), time.hours().count(),
                            time.minutes().count(), time.seconds().count(), ticks % 10'000'000,
                            request.input_tokens, request.output_tokens);
    } else {
      require(static_cast<std::int64_t>(request.blocks.size()) == blocks_of(request.input_tokens),
              "blocks has {} entries: an input of {} tokens has {}", request.blocks.size(),
              request.input_tokens, blocks_of(request.input_tokens));
      output << fmt::format(
          "{{\"timestamp\": {}, \"input_length\": {}, \"output_length\": {}, \"hash_ids\": "
          "[{}]}}\n",
          std::llround(request.arrival * 1e3), request.input_tokens, request.output_tokens,
          fmt::join(request.blocks, ", "));
    }
  }
}

}  // namespace tilewright::engine
