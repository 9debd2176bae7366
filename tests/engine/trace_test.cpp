// SPDX-License-Identifier: Apache-2.0
// Traces: what is read, what is refused and how, what is written, and what the generator makes.
#include "engine/trace.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <sstream>

#include "engine/expect_error.h"
#include "engine/trace_generator.h"

namespace tilewright::engine {
namespace {

using test::expect_error;
using ::testing::ElementsAre;

const std::string kHeader = "TIMESTAMP,ContextTokens,GeneratedTokens\n";

std::vector<TraceRequest> read(const std::string& text, TraceFormat format,
                               std::int64_t most = 1000) {
  std::istringstream stream(text);
  return read_trace(stream, "trace", format, most);
}

std::vector<TraceRequest> azure(const std::string& text) {
  return read(text, TraceFormat::azure);
}
std::vector<TraceRequest> mooncake(const std::string& text) {
  return read(text, TraceFormat::mooncake);
}

TEST(Trace, AzureAsPublished) {
  // With CR LF, no end of the last line, a day's end between the requests.
  const auto trace = azure(
      "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-12-31 23:59:59.9799600,4808,10\r\n"
      "2024-01-01 00:00:01.0000000,3180,0");
  ASSERT_EQ(trace.size(), 2U);
  EXPECT_EQ(trace[0].arrival, 0);
  EXPECT_EQ(trace[0].input_tokens, 4808);
  EXPECT_EQ(trace[0].output_tokens, 10);
  EXPECT_NEAR(trace[1].arrival, 1.02004, 1e-9);
  EXPECT_EQ(trace[1].output_tokens, 0);
  EXPECT_TRUE(trace[1].blocks.empty());
  // As the trace of 2024 writes times; leap days; blank lines; an offset that changes.
  const auto later = azure(kHeader +
                           "2024-02-28 23:59:59+00:00,1,1\n\n2024-02-29 00:00:00.5+00:00,1,1\n"
                           "2024-03-01 01:00:00+01:00,1,1\n");
  ASSERT_EQ(later.size(), 3U);
  EXPECT_EQ(later[1].arrival, 1.5);
  EXPECT_EQ(later[2].arrival, 86401);
}

TEST(Trace, MooncakeAsPublished) {
  const auto trace = mooncake(
      "{\"timestamp\": 1000, \"input_length\": 513, \"output_length\": 5, \"hash_ids\": [0, 7]}\n"
      "{\"timestamp\": 1250.5, \"input_length\": 512, \"output_length\": 0, \"hash_ids\": "
      "[9223372036854775807], \"else\": {}}\n");
  ASSERT_EQ(trace.size(), 2U);
  EXPECT_EQ(trace[0].arrival, 0);
  EXPECT_THAT(trace[0].blocks, ElementsAre(0, 7));
  EXPECT_EQ(trace[1].arrival, 0.2505);
  EXPECT_THAT(trace[1].blocks, ElementsAre(9223372036854775807));
}

TEST(Trace, StopsReadingWhereItHasEnough) {
  EXPECT_EQ(read(kHeader + "2024-02-28 23:59:59,1,1\nbroken", TraceFormat::azure, 1).size(), 1U);
  expect_error([] { read(kHeader, TraceFormat::azure, 0); }, {"requests is 0"});
}

TEST(Trace, EveryAzureErrorNamesLineFieldAndValue) {
  const std::string good = "2023-11-16 18:17:04.0319600,3180,8\n";
  struct Case {
    std::string lines;
    std::vector<std::string> message;
  };
  for (const Case& c : std::vector<Case>{
           {"", {"trace: it has no requests"}},
           {kHeader, {"trace: it has no requests"}},
           {good, {"trace:1: ", "2023-11-16", "TIMESTAMP,ContextTokens,GeneratedTokens"}},
           {kHeader + good + "1,2\n", {"trace:3: ", "'1,2'", "three fields"}},
           {kHeader + "\n" + good + "a,b,c,d\n", {"trace:4: ", "three fields"}},
           {kHeader + "2023-11-16T18:17:04,1,1\n", {"trace:2: TIMESTAMP is '2023-11-16T"}},
           {kHeader + "2023-13-16 18:17:04,1,1\n", {"TIMESTAMP is '2023-13"}},
           {kHeader + "2023-02-29 18:17:04,1,1\n", {"TIMESTAMP"}},
           {kHeader + "2023-02-28 24:17:04,1,1\n", {"TIMESTAMP"}},
           {kHeader + "2023-02-28 23:60:04,1,1\n", {"TIMESTAMP"}},
           {kHeader + "2023-02-28 23:00:61,1,1\n", {"TIMESTAMP"}},
           {kHeader + "2023-02-28 23:00:00.,1,1\n", {"TIMESTAMP"}},
           {kHeader + "2023-02-28 23:00:00.-1,1,1\n", {"TIMESTAMP"}},
           {kHeader + "2023-02-28 23:00:00.0123456789,1,1\n", {"TIMESTAMP"}},
           {kHeader + "2023-02-28 23:00:00x,1,1\n", {"TIMESTAMP"}},
           {kHeader + "2023-02-28 23:00:00.0+24:00,1,1\n", {"TIMESTAMP"}},
           {kHeader + ",1,1\n", {"TIMESTAMP is ''"}},
           {kHeader + "2023-02-28 23:00:00,0,1\n", {"ContextTokens is '0'", "[1, 16777216]"}},
           {kHeader + "2023-02-28 23:00:00,-5,1\n", {"ContextTokens is '-5'"}},
           {kHeader + "2023-02-28 23:00:00, 5,1\n", {"ContextTokens is ' 5'"}},
           {kHeader + "2023-02-28 23:00:00,1.5,1\n", {"ContextTokens is '1.5'"}},
           {kHeader + "2023-02-28 23:00:00,99999999999999999999,1\n", {"ContextTokens is '9999"}},
           {kHeader + "2023-02-28 23:00:00,1,\n", {"GeneratedTokens is ''", "[0, 16777216]"}},
           {kHeader + "2023-02-28 23:00:00,1,16777217\n", {"GeneratedTokens is '16777217'"}},
           {kHeader + good + "2023-11-16 18:17:03.0319600,1,1\n",
            {"trace:3: ", "1.000 s before the one ahead", "in order"}},
           {kHeader + std::string("\x01\xff\0,", 4), {"trace:2: ", "\\x01\\xff\\x00"}}}) {
    for (const std::string& part : c.message) {
      expect_error([&] { azure(c.lines); }, {part});
    }
  }
}

TEST(Trace, EveryMooncakeErrorNamesLineFieldAndValue) {
  const auto line = [](const std::string& time, const std::string& input, const std::string& output,
                       const std::string& blocks) {
    return "{\"timestamp\": " + time + ", \"input_length\": " + input +
           ", \"output_length\": " + output + ", \"hash_ids\": " + blocks + "}\n";
  };
  struct Case {
    std::string lines;
    std::vector<std::string> message;
  };
  for (const Case& c :
       std::vector<Case>{{"\n", {"trace: it has no requests"}},
                         {"no\n", {"trace:1: the line is no JSON"}},
                         {"[1]\n", {"trace:1: the line is '[1]'", "JSON object"}},
                         {"{\"a\": 1e999}", {"trace:1: the line is no JSON"}},
                         {"{}", {"trace:1: timestamp is missing"}},
                         {std::string(100'000, '['), {"deeper"}},
                         {line("1", "1", "1", "[0]") + line("-1", "1", "1", "[0]"),
                          {"trace:2: timestamp is '-1'"}},
                         {line("\"1\"", "1", "1", "[0]"), {"timestamp is '\"1\"'"}},
                         {line("1e300", "1", "1", "[0]"), {"timestamp is '1e+300'"}},
                         {line("0", "0", "1", "[]"), {"input_length is '0'", "[1, 16777216]"}},
                         {line("0", "1.0", "1", "[0]"), {"input_length is '1.0'"}},
                         {line("0", "18446744073709551615", "1", "[0]"), {"input_length is '1844"}},
                         {line("0", "1", "-1", "[0]"), {"output_length is '-1'", "[0, 16777216]"}},
                         {line("0", "1", "null", "[0]"), {"output_length is 'null'"}},
                         {line("0", "1", "1", "0"), {"hash_ids is '0'", "list"}},
                         {line("0", "1", "1", "[]"), {"hash_ids has 0 entries", "1 blocks of 512"}},
                         {line("0", "512", "1", "[0, 1]"), {"hash_ids has 2 entries"}},
                         {line("0", "1", "1", "[-3]"), {"hash_ids has '-3'"}},
                         {line("0", "1", "1", "[18446744073709551615]"), {"hash_ids has '1844"}},
                         {line("0", "1", "1", "[0.5]"), {"hash_ids has '0.5'"}},
                         {line("0", "1", "1", "[[0]]"), {"hash_ids has '[0]'"}},
                         {line("5", "1", "1", "[0]") + line("4", "1", "1", "[0]"),
                          {"trace:2: ", "0.001 s before"}}}) {
    for (const std::string& part : c.message) {
      expect_error([&] { mooncake(c.lines); }, {part});
    }
  }
}

TEST(Trace, FilesThatCannotBeRead) {
  expect_error([] { read_trace("/nowhere.csv", TraceFormat::azure); },
               {"/nowhere.csv: it cannot be read"});
  expect_error([] { read_trace("/tmp", TraceFormat::azure); }, {"/tmp: it cannot be read"});
  EXPECT_EQ(trace_format("azure"), TraceFormat::azure);
  EXPECT_EQ(trace_format("mooncake"), TraceFormat::mooncake);
  expect_error([] { trace_format("csv"); }, {"format is 'csv'", "azure or mooncake"});
}

std::string written(const std::vector<TraceRequest>& trace, TraceFormat format) {
  std::ostringstream stream;
  write_trace(stream, trace, format);
  return stream.str();
}

TEST(Trace, WhatIsGeneratedIsReadAgain) {
  for (const TraceFormat format : {TraceFormat::azure, TraceFormat::mooncake}) {
    for (const std::uint64_t seed : {0, 1, 2}) {
      TraceShape shape = default_shape(format);
      shape.rate = seed == 0 ? 1e-4 : 5;  // over days
      const auto made = generate_trace(format, 300, seed, shape);
      const std::string text = written(made, format);
      const auto back = read(text, format);
      ASSERT_EQ(back.size(), made.size());
      for (std::size_t i = 0; i < made.size(); ++i) {
        EXPECT_NEAR(back[i].arrival, made[i].arrival, 2e-7);
        EXPECT_EQ(back[i].input_tokens, made[i].input_tokens);
        EXPECT_EQ(back[i].output_tokens, made[i].output_tokens);
        EXPECT_EQ(back[i].blocks, made[i].blocks);
      }
      EXPECT_EQ(written(back, format), text);
    }
  }
}

TEST(Trace, WhatCannotBeWritten) {
  TraceRequest request;
  request.input_tokens = 513;
  request.blocks = {1};
  expect_error([&] { written({request}, TraceFormat::mooncake); }, {"blocks has 1 entries"});
  request.arrival = -1;
  expect_error([&] { written({request}, TraceFormat::azure); }, {"arrival is -1"});
}

double median_of(const std::vector<TraceRequest>& trace,
                 const std::function<std::int64_t(const TraceRequest&)>& value) {
  std::vector<double> values;
  for (const TraceRequest& request : trace) values.push_back(static_cast<double>(value(request)));
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2));
  return values[values.size() / 2];
}

TEST(TraceGenerator, SameSeedSameTrace) {
  const TraceShape shape = default_shape(TraceFormat::mooncake);
  const auto trace = generate_trace(TraceFormat::mooncake, 200, 7, shape);
  EXPECT_EQ(generate_trace(TraceFormat::mooncake, 200, 7, shape), trace);
  EXPECT_NE(generate_trace(TraceFormat::mooncake, 200, 8, shape), trace);
  // More requests go on from fewer.
  const auto fewer = generate_trace(TraceFormat::mooncake, 50, 7, shape);
  EXPECT_TRUE(std::equal(fewer.begin(), fewer.end(), trace.begin()));
}

TEST(TraceGenerator, HasTheShapeThatWasAskedFor) {
  TraceShape shape = default_shape(TraceFormat::azure);
  shape.rate = 20;
  shape.input_median = 300;
  shape.input_sigma = 0.7;
  shape.output_median = 50;
  shape.longest_input = 4000;
  shape.longest_output = 60;
  const auto trace = generate_trace(TraceFormat::azure, 20'000, 3, shape);
  // Bounds of about five standard errors.
  EXPECT_NEAR(trace.back().arrival, 1000, 36);
  EXPECT_NEAR(median_of(trace, [](const auto& r) { return r.input_tokens; }), 300, 10);
  EXPECT_NEAR(median_of(trace, [](const auto& r) { return r.output_tokens; }), 50, 3);
  double square = 0;
  for (const TraceRequest& request : trace) {
    EXPECT_GE(request.input_tokens, 1);
    EXPECT_LE(request.input_tokens, 4000);
    EXPECT_LE(request.output_tokens, 60);
    const double log = std::log(static_cast<double>(request.input_tokens) / 300);
    square += log * log;
  }
  EXPECT_NEAR(std::sqrt(square / 20'000), 0.7, 0.02);
}

TEST(TraceGenerator, BlocksAreATreeOfPrefixes) {
  TraceShape shape = default_shape(TraceFormat::mooncake);
  shape.prefix_tokens = 1024;
  const auto trace = generate_trace(TraceFormat::mooncake, 2000, 11, shape);
  std::map<std::int64_t, std::int64_t> parents;  // what stands before a block
  std::set<std::int64_t> seen;
  std::size_t continued = 0;
  for (const TraceRequest& request : trace) {
    EXPECT_EQ(request.blocks.size(), static_cast<std::size_t>((request.input_tokens + 511) / 512));
    std::int64_t before = -1;
    std::size_t known = 0;
    for (std::size_t i = 0; i < request.blocks.size(); ++i) {
      EXPECT_EQ(parents.try_emplace(request.blocks[i], before).first->second, before);
      before = request.blocks[i];
      known += seen.insert(before).second ? 0 : 1;
    }
    if (known > 2) ++continued;
    if (request.input_tokens >= 1024) {
      EXPECT_EQ(request.blocks[0], 0);
      EXPECT_EQ(request.blocks[1], 1);
    }
  }
  EXPECT_NEAR(static_cast<double>(continued) / 2000, 0.35, 0.08);
}

TEST(TraceGenerator, ShapesOutOfRange) {
  const auto with = [](const std::function<void(TraceShape&)>& change) {
    TraceShape shape = default_shape(TraceFormat::mooncake);
    change(shape);
    generate_trace(TraceFormat::mooncake, 1, 0, shape);
  };
  expect_error([&] { with([](TraceShape& s) { s.rate = 0; }); }, {"rate is 0"});
  expect_error([&] { with([](TraceShape& s) { s.rate = std::nan(""); }); }, {"rate is nan"});
  expect_error([&] { with([](TraceShape& s) { s.input_median = 0; }); }, {"input_median is 0"});
  expect_error([&] { with([](TraceShape& s) { s.output_sigma = -1; }); }, {"output_sigma is -1"});
  expect_error([&] { with([](TraceShape& s) { s.longest_input = 0; }); }, {"longest_input is 0"});
  expect_error([&] { with([](TraceShape& s) { s.continued = 1.5; }); }, {"continued is 1.5"});
  expect_error([&] { with([](TraceShape& s) { s.prefix_tokens = 1 << 20; }); },
               {"prefix_tokens is 1048576"});
  expect_error([] { generate_trace(TraceFormat::azure, 0, 0, {}); }, {"requests is 0"});
}

}  // namespace
}  // namespace tilewright::engine
