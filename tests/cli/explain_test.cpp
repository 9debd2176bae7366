// SPDX-License-Identifier: Apache-2.0
// `tilewright explain`.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/cache_fixture.h"
#include "engine/cli/length_reader.h"
#include "support/expect_error.h"

namespace tilewright {
namespace {

using Json = nlohmann::ordered_json;
using engine::cli::read_lengths;
using test::expect_error_of;
using test::Outcome;
using test::TemporaryFile;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

class CliExplain : public test::CliCacheFixture {
 protected:
  // Of one attention, without compiling.
  Json explain(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "explain");
    arguments.insert(arguments.end(), {"--no-compile", "--json"});
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 0) << outcome.err;
    const std::vector<Json> lines = outcome.lines();
    EXPECT_EQ(lines.size(), 1U);
    return lines.empty() ? Json() : lines[0];
  }
};

TEST_F(CliExplain, AMixedBatchInWords) {
  const Outcome outcome = run({"explain", "--model", "llama-3.1-8b", "--lens",
                               "64x1:4096,2048:8192", "--gpu", "h200", "--no-compile"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  // What other changes of kernels and costs leave alone.
  for (const char* line :
       {"attention   32 query heads, 8 KV heads, head_dim 128, bfloat16 queries, bfloat16 KV\n",
        "GPU         h200, sm_90a: 132 SMs, 4800 GB/s, 989 TFLOP/s\n",
        "kernel      hopper (attention_bf16_bf16_d128_g4)\n",
        "  not decode: limits.q_len is 2048: with a group size of 4 tiles may have more than 16 "
        "rows\n",
        "  compiled    not compiled: --no-compile is given\n",
        "batch       65 requests with 2112 query tokens, 270336 KV tokens\n",
        "  copies      boxes of 16 tokens\n",
        "  memory      1107 MB of KV, 34.6 MB of queries and outputs: 237.9 us\n",
        "  compute     244.8 GFLOP: 247.6 us\n", "  bound       247.6 us, by compute\n"}) {
    EXPECT_THAT(outcome.out, HasSubstr(line));
  }
  EXPECT_THAT(outcome.out, AllOf(HasSubstr("  section A "), HasSubstr("  section B "),
                                 HasSubstr("  balance "), Not(HasSubstr("of levels"))));
}

TEST_F(CliExplain, JsonHasAllOfIt) {
  const Json report = explain({"--model", "llama-3.1-8b", "--lens", "64x1:4096"});
  const auto keys = [](const Json& object) {
    std::vector<std::string> names;
    for (const auto& [name, value] : object.items()) names.push_back(name);
    return names;
  };
  EXPECT_THAT(keys(report),
              ::testing::ElementsAre("attention", "gpu", "kernel", "kernel_of_levels", "batch"));
  EXPECT_THAT(keys(report["kernel"]),
              ::testing::ElementsAre("kernel", "name", "lists_blocks", "tile_rows", "block_tokens",
                                     "key_stages", "value_stages", "decode_stages", "threads",
                                     "blocks_per_sm", "heads_together", "shared_bytes",
                                     "not_decode", "not_hopper", "compiled"));
  EXPECT_THAT(
      keys(report["batch"]),
      ::testing::ElementsAre("requests", "q_tokens", "kv_tokens", "tiles", "blocks", "full_blocks",
                             "skipped_blocks", "split_tiles", "folded_rows", "workers", "a_items",
                             "a_share", "b_items", "b_share", "b_workers", "balance", "box_tokens",
                             "kv_bytes", "kv_bytes_by_tiles", "qo_bytes", "pairs", "operations",
                             "memory_us", "compute_us", "bound", "bound_us"));
  EXPECT_EQ(report["gpu"]["name"], "h100");
  EXPECT_EQ(report["kernel"]["kernel"], "decode");
  EXPECT_EQ(report["kernel_of_levels"]["kernel"], "hopper");
  EXPECT_EQ(report["batch"]["bound"], "memory");
  EXPECT_EQ(report["batch"]["kv_bytes"], std::int64_t{64} * 4096 * 8 * 512);
}

TEST_F(CliExplain, LimitsAndArchitecturesDecide) {
  const auto kernel = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"--model", "llama-3.1-8b", "--lens", "1:4096"});
    return explain(more)["kernel"];
  };
  EXPECT_EQ(kernel({})["kernel"], "decode");
  EXPECT_EQ(kernel({"--q-len", "512"})["kernel"], "hopper");
  EXPECT_EQ(kernel({"--levels", "2"})["kernel"], "hopper");
  EXPECT_EQ(kernel({"--batch-invariant"})["kernel"], "hopper");
  EXPECT_EQ(kernel({"--q-len", "512", "--arch", "sm_80"})["kernel"], "portable");
  const Json fp8 = kernel({"--q-len", "512", "--kv-dtype", "f8e4m3"});
  EXPECT_EQ(fp8["kernel"], "portable");
  EXPECT_THAT(fp8["not_hopper"][0].get<std::string>(), HasSubstr("kv_dtype is float8_e4m3fn"));
  const Json listed = kernel({"--block-structures", "--arch", "sm_90"});
  EXPECT_EQ(listed["kernel"], "portable");
  EXPECT_TRUE(listed["lists_blocks"].get<bool>());
}

TEST_F(CliExplain, FiguresOfTheGpuAreFlags) {
  const Json report =
      explain({"--model", "phi-4", "--lens", "1:4096", "--arch", "sm_89", "--sms", "142",
               "--bandwidth", "864", "--compute", "181", "--page-size", "0", "--workers", "7"});
  EXPECT_EQ(report["gpu"]["arch"], "sm_89");
  EXPECT_EQ(report["gpu"]["num_sms"], 142);
  EXPECT_EQ(report["gpu"]["bytes_per_second"], 864e9);
  EXPECT_EQ(report["gpu"]["operations_per_second"], 181e12);
  const Json faster = explain({"--model", "phi-4", "--lens", "1:4096", "--bandwidth", "6700"});
  const Json usual = explain({"--model", "phi-4", "--lens", "1:4096"});
  EXPECT_DOUBLE_EQ(2 * faster["batch"]["memory_us"].get<double>(),
                   usual["batch"]["memory_us"].get<double>());
}

TEST_F(CliExplain, SharedKeysAreALevel) {
  const Json report = explain({"--model", "llama-3.1-8b", "--lens", "64x1:8192+256"});
  EXPECT_EQ(report["kernel"]["kernel"], "hopper");
  EXPECT_THAT(report["kernel"]["not_decode"][0].get<std::string>(), HasSubstr("limits.levels"));
  EXPECT_EQ(report["batch"]["kv_tokens"], 8192 + 64 * 256);
  EXPECT_EQ(report["batch"]["folded_rows"], 0);
  EXPECT_EQ(explain({"--model", "llama-3.1-8b", "--lens", "2x1:64+16"})["batch"]["folded_rows"], 1);
}

TEST_F(CliExplain, SpecsOfAFileOneAfterTheOther) {
  const TemporaryFile spec(R"([
      {"num_qo_heads": 32, "num_kv_heads": 8, "head_dim": 72},
      {"num_qo_heads": 32, "num_kv_heads": 8, "head_dim": 128, "variant": "document"}])");
  const Outcome outcome =
      run({"explain", "--spec", spec.path(), "--lens", "100:100", "--json", "--no-compile"});
  ASSERT_EQ(outcome.status, 0) << outcome.err;
  const std::vector<Json> lines = outcome.lines();
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_EQ(lines[0]["kernel"]["not_hopper"].size(), 2U);
  EXPECT_EQ(lines[0]["batch"]["q_tokens"], 100);
  // Only an update knows documents.
  EXPECT_THAT(lines[1]["batch"]["error"].get<std::string>(),
              HasSubstr("only known when a plan is updated"));
  EXPECT_THAT(run({"explain", "--spec", spec.path(), "--lens", "100:100", "--no-compile"}).out,
              HasSubstr("batch       not planned: the mask's parameter"));
}

TEST_F(CliExplain, RegistersAreThoseOfTheCompiler) {
  const TemporaryFile spec(R"({"num_qo_heads": 2, "num_kv_heads": 1, "head_dim": 64})");
  const std::vector<std::string> arguments = {"explain", "--spec", spec.path(), "--lens",
                                              "100:100", "--arch", "sm_80",     "--json"};
  const Outcome first = run(arguments);
  ASSERT_EQ(first.status, 0) << first.err;
  const Json compiled = first.lines().at(0)["kernel"]["compiled"];
  EXPECT_GT(compiled["registers"], 0);
  EXPECT_EQ(compiled["spill_bytes"], 0);
  EXPECT_FALSE(compiled["from_cache"].get<bool>());
  EXPECT_TRUE(run(arguments).lines().at(0)["kernel"]["compiled"]["from_cache"].get<bool>());
}

TEST_F(CliExplain, WithoutACompilerItSaysSo) {
  environment = "env -u VIRTUAL_ENV -u CONDA_PREFIX -u CUDA_HOME -u CUDA_PATH XDG_CACHE_HOME=" +
                cache_.path().string() + " TILEWRIGHT_NVRTC=/nowhere/libnvrtc.so.13 ";
  const Outcome outcome = run({"explain", "--model", "phi-4", "--lens", "1:64"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  // Unless the system has one.
  if (outcome.out.find("registers a thread") == std::string::npos) {
    EXPECT_THAT(outcome.out, HasSubstr("  compiled    not compiled: "));
  }
}

TEST_F(CliExplain, WrongUse) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"explain"},
           {"explain", "--lens", "1:1"},
           {"explain", "--model", "phi-4"},
           {"explain", "--model", "gpt-9", "--lens", "1:1"},
           {"explain", "--model", "phi-4", "--lens", "1:1", "--gpu", "tpu"},
           {"explain", "--model", "phi-4", "--lens", "1:1", "--bandwidth", "-1"},
           {"explain", "--model", "phi-4", "--lens", "1:1", "--levels", "9"}}) {
    EXPECT_EQ(run(arguments).status, 2) << ::testing::PrintToString(arguments);
  }
  const auto fails = [&](std::vector<std::string> more, const std::string& words) {
    more.insert(more.begin(), {"explain", "--model", "phi-4", "--no-compile"});
    const Outcome outcome = run(more);
    EXPECT_EQ(outcome.status, 1) << outcome.out;
    EXPECT_THAT(outcome.err, HasSubstr(words));
  };
  fails({"--lens", "64"}, "--lens has '64': it must be like 64x1:4096");
  fails({"--lens", "1:0,0:5"}, "batch[1].q_len is 0");
  fails({"--lens", "1:1", "--arch", "volta"}, "--arch is 'volta': there are no figures");
  fails({"--lens", "1:1", "--arch", "volta", "--gpu", "h100"}, "arch is volta: it must be like");
  fails({"--lens", "64:64", "--q-len", "8"},
        "--q-len is 8: a request of --lens has 64 query tokens");
}

void expect_lengths(const std::string& text, const std::vector<RequestLengths>& expected) {
  SCOPED_TRACE(text);
  const std::vector<RequestLengths> batch = read_lengths("--lens", text);
  ASSERT_EQ(batch.size(), expected.size());
  for (std::size_t i = 0; i < batch.size(); ++i) {
    EXPECT_EQ(batch[i].requests, expected[i].requests);
    EXPECT_EQ(batch[i].q_len, expected[i].q_len);
    EXPECT_EQ(batch[i].kv_len, expected[i].kv_len);
    EXPECT_EQ(batch[i].shared_len, expected[i].shared_len);
  }
}

TEST(LengthReader, ReadsRequests) {
  expect_lengths("64x1:4096,2048:8192", {{64, 1, 4096, 0}, {1, 2048, 8192, 0}});
}

TEST(LengthReader, ReadsSharedKeys) {
  expect_lengths("64x1:8192+256,2:0+5", {{64, 1, 8448, 8192}, {1, 2, 5, 0}});
}

TEST(LengthReader, ErrorsNameThePart) {
  for (const char* part :
       {"", "1", "x1:2", "1x:2", "1:", ":1", "1:2x3", "axb:c", "1x1x1:1", "1:1:1", "1.5:3", " 1:2",
        "1:+2", "1:2+", "1+1:2", "1:1+2+3", "1:9223372036854775807+1", "99999999999999999999:1"}) {
    expect_error_of(ErrorCode::invalid_argument,
                    {"--lens has '" + std::string(part) + "': it must be like 64x1:4096"},
                    [&] { read_lengths("--lens", "1:1," + std::string(part)); });
  }
}

}  // namespace
}  // namespace tilewright
