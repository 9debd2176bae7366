// SPDX-License-Identifier: Apache-2.0
// `tilewright compile`, `cache`, and what `doctor` says of CUDA.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "cli/cache_fixture.h"
#include "engine/cli/spec_reader.h"
#include "support/expect_error.h"

namespace tilewright {
namespace {

using Json = nlohmann::ordered_json;
using engine::cli::read_specs;
using test::expect_error_of;
using test::Outcome;
using test::TemporaryFile;
using ::testing::AllOf;
using ::testing::HasSubstr;

class CliCompile : public test::CliCacheFixture {
 protected:
  std::filesystem::path kernels() const { return cache_.path() / "tilewright" / "kernels"; }
};

TEST_F(CliCompile, FillsTheCacheOnceAndWritesAPack) {
  const std::string pack = (cache_.path() / "kernels.pack").string();
  const std::vector<std::string> arguments{"compile",      "--arch", "sm_80",   "--model",
                                           "llama-3.1-8b", "--jobs", "2",       "--pack",
                                           pack,           "--json", "--no-ops"};
  const Outcome first = run(arguments);
  ASSERT_EQ(first.status, 0) << first.err;
  EXPECT_FALSE(first.out.empty());
  for (const Json& line : first.lines()) {
    std::vector<std::string> keys;
    for (const auto& [key, value] : line.items()) keys.push_back(key);
    EXPECT_THAT(keys, ::testing::ElementsAre("kernel", "arch", "seconds", "registers",
                                             "spill_bytes", "shared_bytes", "from_cache"));
    EXPECT_EQ(line["arch"], "sm_80");
    EXPECT_GT(line["registers"], 0);
    EXPECT_EQ(line["spill_bytes"], 0);
    EXPECT_FALSE(line["from_cache"].get<bool>());
  }
  const Outcome second = run(arguments);
  EXPECT_EQ(second.lines().size(), first.lines().size());
  for (const Json& line : second.lines()) EXPECT_TRUE(line["from_cache"].get<bool>());
  EXPECT_EQ(load_kernel_pack(pack), first.lines().size());

  const Outcome table = run({"compile", "--arch", "sm_80", "--model", "llama-3.1-8b", "--no-ops"});
  EXPECT_THAT(table.out, AllOf(HasSubstr("kernel"), HasSubstr("registers"), HasSubstr("spills"),
                               HasSubstr("0 compiled"), HasSubstr("0 failed")));
  EXPECT_EQ(table.err, "");  // no bar where standard error is a file

  const Outcome list = run({"cache", "list", "--json"});
  EXPECT_EQ(list.lines().size(), first.lines().size());
  // The kernels, and the file of locks.
  EXPECT_EQ(run({"cache", "clear"}).out,
            std::to_string(first.lines().size() + 1) + " files removed\n");
  EXPECT_TRUE(std::filesystem::is_empty(kernels()));
}

TEST_F(CliCompile, CacheListsVerifiesAndClears) {
  EXPECT_EQ(run({"cache", "path"}).out, kernels().string() + "\n");
  EXPECT_EQ(run({"cache", "verify"}).out, "0 kernels are whole, 0 damaged\n");
  std::filesystem::create_directories(kernels());
  test::write_file(kernels() / "x.kernel", "nonsense");
  const Outcome verify = run({"cache", "verify"});
  EXPECT_EQ(verify.status, 1);
  EXPECT_THAT(verify.out, AllOf(HasSubstr("damaged: " + (kernels() / "x.kernel").string()),
                                HasSubstr("0 kernels are whole, 1 damaged")));
  EXPECT_EQ(run({"cache", "verify", "--json"}).lines().back()["damaged"], 1);
  EXPECT_EQ(run({"cache", "clear", "--damaged"}).out, "1 files removed\n");
  EXPECT_EQ(run({"cache", "clear"}).out, "0 files removed\n");
  environment = "env -u XDG_CACHE_HOME -u HOME ";
  const Outcome homeless = run({"cache", "path"});
  EXPECT_EQ(homeless.status, 1);
  EXPECT_THAT(homeless.err, HasSubstr("neither XDG_CACHE_HOME nor HOME"));
}

TEST_F(CliCompile, WrongUse) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"compile"},
                                             {"compile", "--model", "gpt-9"},
                                             {"compile", "--all", "--jobs", "0"},
                                             {"compile", "--all", "--kv-dtype", "i8"},
                                             {"cache"},
                                             {"cache", "burn"}}) {
    EXPECT_EQ(run(arguments).status, 2) << ::testing::PrintToString(arguments);
  }
  const Outcome arch = run({"compile", "--model", "llama-3.1-8b", "--arch", "ampere"});
  EXPECT_EQ(arch.status, 1);
  EXPECT_THAT(arch.err, HasSubstr("archs has ampere: it must be like sm_80 or sm_90a"));
  const Outcome file = run({"compile", "--spec", "/nowhere.json", "--arch", "sm_80"});
  EXPECT_EQ(file.status, 1);
  EXPECT_THAT(file.err, HasSubstr("--spec is /nowhere.json: it cannot be read"));
  const TemporaryFile broken("{\"num_qo_heads\": ");
  EXPECT_THAT(run({"compile", "--spec", broken.path(), "--arch", "sm_80"}).err,
              HasSubstr("it is no JSON"));
}

TEST_F(CliCompile, DoctorKnowsDriverCompilerAndCache) {
  environment +=
      "LD_LIBRARY_PATH=" + std::filesystem::path(TILEWRIGHT_FAKE_CUDA).parent_path().string() + " ";
  const Json cuda = Json::parse(run({"doctor", "--json"}).out)["cuda"];
  EXPECT_THAT(cuda["driver"].get<std::string>(), HasSubstr("CUDA 13.0 ("));
  ASSERT_EQ(cuda["gpus"].size(), 2U);
  EXPECT_EQ(cuda["gpus"][0], "Fake GPU, sm_90a, 132 SMs, 80 GiB");
  EXPECT_THAT(cuda["nvrtc"].get<std::string>(), HasSubstr("libnvrtc.so"));
  EXPECT_EQ(cuda["kernels"], "0 compiled, 0 damaged in " + kernels().string());
}

TEST(SpecReader, ReadsSpecs) {
  const auto specs = read_specs(Json::parse(R"([
      {"num_qo_heads": 32, "num_kv_heads": 8, "head_dim": 128},
      {"num_qo_heads": 16, "head_dim": 192, "head_dim_vo": 128, "q_dtype": "f16", "v_dtype": "f8e4m3",
       "out_dtype": "bf16", "variant": {"name": "causal", "window_left": 4095, "logits_soft_cap": 30}}])"));
  ASSERT_EQ(specs.size(), 2U);
  EXPECT_EQ(specs[0].group_size(), 4);
  EXPECT_EQ(specs[0].kv_dtype, DType::bf16);
  EXPECT_EQ(specs[0].variant, variants::causal());
  EXPECT_EQ(specs[1].num_kv_heads, 16);
  EXPECT_EQ(specs[1].value_dim(), 128);
  EXPECT_EQ(specs[1].kv_dtype, DType::f16);
  EXPECT_EQ(specs[1].value_dtype(), DType::f8e4m3);
  EXPECT_EQ(specs[1].output_dtype(), DType::bf16);
  EXPECT_EQ(specs[1].variant, variants::causal(4095, 30));
}

TEST(SpecReader, ReadsVariantsByNameAndText) {
  const auto variant = [](const Json& json) {
    return read_specs({{"num_qo_heads", 8}, {"head_dim", 64}, {"variant", json}}).at(0).variant;
  };
  EXPECT_EQ(variant("full"), variants::full());
  EXPECT_EQ(variant("alibi"), variants::alibi());
  EXPECT_EQ(variant("tree"), variants::tree());
  EXPECT_EQ(variant({{"name", "sliding_window"}, {"left", 9}, {"right", 3}}),
            variants::sliding_window(9, 3));
  EXPECT_EQ(variant({{"name", "attention_sink"}, {"window_left", 99}}),
            variants::attention_sink(4, 99));
  EXPECT_EQ(variant({{"name", "chunked_local"}, {"chunk_size", 8192}}),
            variants::chunked_local(8192));
  EXPECT_EQ(variant({{"text", variants::alibi().serialize()}}), variants::alibi());
}

TEST(SpecReader, ErrorsNameTheField) {
  const auto fails = [](const char* json, const std::string& words) {
    expect_error_of(ErrorCode::invalid_argument, {words}, [&] { read_specs(Json::parse(json)); });
  };
  fails("5", "the spec is 5: it must be a JSON object");
  fails("[]", "the list of specs is empty");
  fails(R"({"heads": 8})", "unknown field 'heads'");
  fails(R"({"num_qo_heads": "8"})", "num_qo_heads is \"8\": it must be an integer");
  fails(R"({"num_qo_heads": 1e99})", "num_qo_heads is 1e+99");
  fails(R"({"num_qo_heads": 18446744073709551615})", "it must be an integer of 32 bits");
  fails(R"({"num_qo_heads": 8, "num_kv_heads": 3, "head_dim": 64})", "num_kv_heads is 3");
  fails(R"({"num_qo_heads": 8, "head_dim": 64, "q_dtype": "i8"})", "q_dtype is 'i8'");
  fails(R"({"num_qo_heads": 8, "head_dim": 64, "variant": "casual"})", "variant is 'casual'");
  fails(R"({"num_qo_heads": 8, "head_dim": 64, "variant": {"name": "full", "left": 3}})",
        "variant 'full' has no left");
  fails(R"({"num_qo_heads": 8, "head_dim": 64, "variant": {"text": "x", "left": 3}})",
        "text stands alone");
  fails(R"({"num_qo_heads": 8, "head_dim": 64, "variant": {"text": "nonsense"}})", "line");
}

}  // namespace
}  // namespace tilewright
