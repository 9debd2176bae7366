// SPDX-License-Identifier: Apache-2.0
// The program `tilewright` where files, disks and memory fail it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cli/cli_fixture.h"
#include "engine/tiny_model.h"

namespace tilewright {
namespace {

using Json = nlohmann::ordered_json;
using test::contents;
using test::Outcome;
using test::TemporaryFile;
using test::TinyModel;
using ::testing::HasSubstr;

class CliTroubles : public test::CliFixture {
 protected:
  // `generate` over JSON lines on standard input.
  Outcome generate(const std::string& input, std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"generate", "--model", model_.path(), "--input", "-"});
    return run(more, input);
  }

  const TemporaryFile model_{TinyModel{}.write().bytes()};
};

TEST_F(CliTroubles, FilesThatCannotBeUsedAreStatus1) {
  const Outcome missing = run({"generate", "--model", model_.path(), "--input", "/nowhere.jsonl"});
  EXPECT_EQ(missing.status, 1);
  EXPECT_THAT(missing.err, HasSubstr("--input is /nowhere.jsonl"));
  const Outcome folder = run({"score", "--model", model_.path(), "--input", "/tmp"});
  EXPECT_EQ(folder.status, 1);
  EXPECT_THAT(folder.err, HasSubstr("--input is /tmp"));
  const Outcome stats = generate("{\"prompt\": \"x\"}\n", {"--stats", "/nowhere/stats.json"});
  EXPECT_EQ(stats.status, 1);
  EXPECT_THAT(stats.err, HasSubstr("--stats is /nowhere/stats.json"));
}

TEST_F(CliTroubles, FullDisksAreSaid) {
  const TemporaryFile input("{\"prompt\": \"x\"}\n{\"prompt\": \"y\"}\n");
  const std::vector<std::string> base{"generate",   "--model",      model_.path(),      "--input",
                                      input.path(), "--ignore-eos", "--max-new-tokens", "2"};
  redirect = " >/dev/full";
  for (const char* flag : {"--json", "--progress"}) {  // the latter: answers as text
    auto arguments = base;
    arguments.push_back(flag);
    const Outcome full = run(arguments);
    EXPECT_EQ(full.status, 1) << flag;
    EXPECT_THAT(full.err, HasSubstr("tilewright: standard output cannot be written")) << flag;
  }
  EXPECT_EQ(run({"tokenize", "--model", model_.path(), "x"}).status, 1);
  redirect = "";
  auto arguments = base;
  arguments.insert(arguments.end(), {"--stats", "/dev/full"});
  const Outcome stats = run(arguments);
  EXPECT_EQ(stats.status, 1);
  EXPECT_THAT(stats.err, HasSubstr("--stats is /dev/full: it cannot be written"));
}

TEST_F(CliTroubles, ScarceMemoryIsSaid) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer reserves more than that for itself";
#endif
  environment = "; ulimit -v 4000000; ";
  const Outcome scarce = generate("{\"prompt\": \"x\", \"max_new_tokens\": 250, \"n\": 200}\n",
                                  {"--kv-pages", "10000000", "--page-size", "64"});
  EXPECT_EQ(scarce.status, 1);
  EXPECT_THAT(scarce.err, HasSubstr("10000000 KV pages of 64 tokens need"));
}

// A run that was killed leaves nothing that a later one would stumble over.
TEST_F(CliTroubles, ViolentEndsLeaveNothingBehind) {
  const std::string input = "{\"prompt\": \"x\", \"max_new_tokens\": 250, \"n\": 200}\n";
  environment = "timeout -s KILL 0.2 ";
  const TemporaryFile stats("");
  EXPECT_NE(generate(input, {"--stats", stats.path(), "--ignore-eos"}).status, 0);
  environment = "";
  EXPECT_EQ(generate(input, {"--stats", stats.path(), "--max-new-tokens", "2"}).status, 0);
  EXPECT_EQ(Json::parse(contents(stats.path()))["generated_tokens"].get<int>() > 0, true);
}

}  // namespace
}  // namespace tilewright
