// SPDX-License-Identifier: Apache-2.0
// `tilewright trace`, `replay` and `plan`: from a made-up trace to figures and a picture.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

#include "cli/cli_fixture.h"

namespace tilewright {
namespace {

using test::contents;
using test::Outcome;
using test::TemporaryFile;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Words = std::vector<std::string>;

class ReplayCli : public test::CliFixture {
 protected:
  // Small enough for a second: 24 requests that share beginnings.
  void make_trace(const std::string& path, const std::string& format = "mooncake") {
    Words arguments{"trace", "--format",        format, "--requests",
                    "24",    "--seed",          "3",    "--rate",
                    "50",    "--input-median",  "300",  "--longest-input",
                    "1500",  "--output-median", "4",    "--longest-output",
                    "10",    "--out",           path};
    const Outcome made = run(arguments);
    ASSERT_EQ(made.status, 0) << made.err;
  }

  Outcome replay(Words more, const std::string& format = "mooncake") {
    Words arguments{"replay",  "--trace",    trace_.path(), "--format", format,
                    "--heads", "4/2",        "--head-dim",  "16",       "--step-ms",
                    "20",      "--kv-pages", "400"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(arguments);
  }

  const TemporaryFile trace_{""};
};

TEST_F(ReplayCli, EverySampledOutputIsRight) {
  make_trace(trace_.path());
  for (const char* dtype : {"f32", "bf16"}) {
    const Outcome outcome = replay({"--verify", "200", "--json", "--dtype", dtype});
    ASSERT_EQ(outcome.status, 0) << outcome.err;
    const auto report = outcome.lines().at(0);
    EXPECT_EQ(report["requests"], 24);
    EXPECT_EQ(report["verified"]["checked"], 200);
    EXPECT_EQ(report["verified"]["wrong"], 0);
    EXPECT_GT(report["shared_tokens"], 0);
    EXPECT_GT(report["kv_pages"]["shared_peak"], 0);
    EXPECT_GE(report["kv_bytes_unshared"], report["kv_bytes_read"]);
    EXPECT_EQ(report["dtype"], dtype);
    for (const char* name :
         {"step_ms", "attention_ms", "plan_us", "schedule_us", "write_us", "first_token_ms"}) {
      const auto& q = report[name];
      EXPECT_TRUE(q["p50"] <= q["p90"] && q["p90"] <= q["p99"] && q["p99"] <= q["max"]) << name;
      EXPECT_GT(q["max"], 0) << name;
    }
  }
}

TEST_F(ReplayCli, WrongOutputsAreFoundAndStatus1) {
  make_trace(trace_.path());
  const Outcome outcome = replay({"--verify", "10", "--spoil"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_THAT(outcome.out, HasSubstr("10 outputs against float64: 10 wrong"));
  EXPECT_THAT(outcome.err, AllOf(HasSubstr("tilewright: wrong output: step "), HasSubstr("head")));
}

TEST_F(ReplayCli, SharingIsSwitchedOff) {
  make_trace(trace_.path());
  const Outcome shared = replay({"--json"});
  const Outcome alone = replay({"--json", "--no-share"});
  ASSERT_EQ(alone.status, 0) << alone.err;
  const auto report = alone.lines().at(0);
  EXPECT_EQ(report["shared_tokens"], 0);
  EXPECT_EQ(report["kv_pages"]["shared_peak"], 0);
  EXPECT_GT(report["kv_pages"]["peak"], shared.lines().at(0)["kv_pages"]["peak"]);
}

TEST_F(ReplayCli, AzureAndText) {
  make_trace(trace_.path(), "azure");
  const Outcome outcome = replay({"--verify", "20", "--speed", "inf"}, "azure");
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  for (const char* line : {"requests           24: ", "\nstep ", "\n  attention ", "\n  planning ",
                           "\nbalance ", "\nKV pages ", "\nKV bytes read ",
                           "verified           20 outputs against float64: 0 wrong"}) {
    EXPECT_THAT(outcome.out, HasSubstr(line));
  }
}

TEST_F(ReplayCli, WrongUseIsStatus2) {
  for (const Words& arguments :
       std::vector<Words>{{"trace"},
                          {"trace", "--format", "azure"},
                          {"trace", "--format", "csv", "--requests", "3"},
                          {"trace", "--format", "azure", "--requests", "0"},
                          {"trace", "--format", "azure", "--requests", "3", "--rate", "0"},
                          {"trace", "--format", "azure", "--requests", "3", "--input-sigma", "-1"},
                          {"trace", "--format", "azure", "--requests", "3", "--continued", "0.5"},
                          {"trace", "--format", "mooncake", "--requests", "3", "--continued", "2"},
                          {"replay"},
                          {"replay", "--trace", "x"},
                          {"replay", "--format", "azure"},
                          {"replay", "--trace", "x", "--format", "vllm"},
                          {"replay", "--trace", "x", "--format", "azure", "--requests", "-1"},
                          {"replay", "--trace", "x", "--format", "azure", "--speed", "0"},
                          {"replay", "--trace", "x", "--format", "azure", "--speed", "fast"},
                          {"replay", "--trace", "x", "--format", "azure", "--speed", "nan"},
                          {"replay", "--trace", "x", "--format", "azure", "--heads", "32"},
                          {"replay", "--trace", "x", "--format", "azure", "--heads", "32/5"},
                          {"replay", "--trace", "x", "--format", "azure", "--heads", "0/0"},
                          {"replay", "--trace", "x", "--format", "azure", "--heads", "8/2x"},
                          {"replay", "--trace", "x", "--format", "azure", "--head-dim", "4"},
                          {"replay", "--trace", "x", "--format", "azure", "--dtype", "f64"},
                          {"replay", "--trace", "x", "--format", "azure", "--verify", "-1"},
                          {"replay", "--trace", "x", "--format", "azure", "--step-ms", "-1"},
                          {"replay", "--trace", "x", "--format", "azure", "--seed", "one"},
                          {"plan"},
                          {"plan", "--trace", "x"},
                          {"plan", "--lens", "x", "--trace", "x", "--format", "azure"},
                          {"plan", "--lens", "x", "--step", "3"},
                          {"plan", "--lens", "x", "--workers", "0"},
                          {"plan", "--trace", "x", "--format", "azure", "--step-ms", "0"},
                          {"plan", "--trace", "x", "--format", "azure", "--step", "-1"}}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 2) << ::testing::PrintToString(arguments);
    EXPECT_FALSE(outcome.err.empty()) << ::testing::PrintToString(arguments);
    EXPECT_THAT(outcome.out, IsEmpty()) << ::testing::PrintToString(arguments);
  }
}

TEST_F(ReplayCli, FilesThatCannotBeUsedAreStatus1AndNamed) {
  const TemporaryFile broken("TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n");
  const TemporaryFile lens("1,2\n\n# a comment\n3,2\n");
  const TemporaryFile good("1,2\n");
  make_trace(trace_.path());
  struct Case {
    Words arguments;
    std::string message;
  };
  for (const Case& c : std::vector<Case>{
           {{"replay", "--trace", "/nowhere", "--format", "azure"}, "/nowhere: it cannot be read"},
           {{"replay", "--trace", broken.path(), "--format", "azure"}, ":2: TIMESTAMP is 'now'"},
           {{"replay", "--trace", broken.path(), "--format", "mooncake"},
            ":1: the line is no JSON"},
           {{"replay", "--trace", trace_.path(), "--format", "mooncake", "--kv-pages", "3"},
            "KV pages: there are 3"},
           {{"replay", "--trace", trace_.path(), "--format", "mooncake", "--head-dim", "20"},
            "head_dim is 20"},
           {{"trace", "--format", "azure", "--requests", "1", "--out", "/nowhere/x"},
            "--out is /nowhere/x"},
           {{"plan", "--lens", "/nowhere"}, "--lens is /nowhere"},
           {{"plan", "--lens", lens.path()}, ":4: kv_len is 2: it must be in [q_len"},
           {{"plan", "--lens", broken.path()}, ":1: the line is 'TIMESTAMP"},
           {{"plan", "--lens", good.path(), "--picture", "/nowhere/x"}, "--picture is /nowhere/x"},
           {{"plan", "--trace", trace_.path(), "--format", "mooncake", "--step", "100000"},
            "--step is 100000: the trace is served in"}}) {
    const Outcome outcome = run(c.arguments);
    EXPECT_EQ(outcome.status, 1) << ::testing::PrintToString(c.arguments);
    EXPECT_THAT(outcome.err, AllOf(HasSubstr("tilewright: "), HasSubstr(c.message)));
  }
}

TEST_F(ReplayCli, TracesGoToStandardOutputAndDependOnTheSeed) {
  const Words arguments{"trace", "--format", "azure", "--requests", "5", "--seed"};
  const auto with = [&](const std::string& seed) {
    Words all = arguments;
    all.push_back(seed);
    return run(all).out;
  };
  EXPECT_THAT(with("1"), HasSubstr("TIMESTAMP,ContextTokens,GeneratedTokens\n2024-01-01 "));
  EXPECT_EQ(with("1"), with("1"));
  EXPECT_NE(with("1"), with("2"));
}

TEST_F(ReplayCli, PlanOfLengths) {
  const TemporaryFile lens("# q_len,kv_len\n1,9000\n1,200\r\n300,700\n");
  const TemporaryFile picture("");
  const Outcome outcome = run({"plan", "--lens", lens.path(), "--workers", "6", "--heads", "8/2",
                               "--head-dim", "32", "--picture", picture.path(), "--json"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const auto report = outcome.lines().at(0);
  EXPECT_EQ(report["requests"], 3);
  EXPECT_EQ(report["q_tokens"], 302);
  EXPECT_EQ(report["kv_tokens"], 9900);
  EXPECT_EQ(report["worker_costs"].size(), 6U);
  const std::vector<std::int64_t> costs = report["worker_costs"];
  EXPECT_EQ(std::accumulate(costs.begin(), costs.end(), std::int64_t{0}), report["cost"]);
  EXPECT_GT(report["balance"], 0.9);
  const std::string svg = contents(picture.path());
  EXPECT_THAT(svg, AllOf(HasSubstr("<svg"), HasSubstr("request 2: 300 of 700 tokens"),
                         HasSubstr("</svg>")));
  const Outcome text = run({"plan", "--lens", lens.path()});
  EXPECT_THAT(text.out, AllOf(HasSubstr("requests   3 with 302 query tokens"),
                              HasSubstr("balance    "), HasSubstr("planning   ")));
}

TEST_F(ReplayCli, PlanOfAStepOfATrace) {
  make_trace(trace_.path());
  const auto plan = [&](const char* step) {
    return run({"plan", "--trace", trace_.path(), "--format", "mooncake", "--step", step, "--heads",
                "4/2", "--head-dim", "16", "--json"});
  };
  const Outcome first = plan("0");
  ASSERT_EQ(first.status, 0) << first.err;
  EXPECT_EQ(first.lines().at(0)["requests"], 1);
  const Outcome later = plan("12");
  ASSERT_EQ(later.status, 0) << later.err;
  EXPECT_GT(later.lines().at(0)["requests"], 1);
}

}  // namespace
}  // namespace tilewright
