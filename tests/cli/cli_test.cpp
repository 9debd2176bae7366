// SPDX-License-Identifier: Apache-2.0
// The program `tilewright` as a user runs it, on a tiny random model.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cli/cli_fixture.h"
#include "engine/tiny_model.h"

namespace tilewright {
namespace {

using Json = nlohmann::ordered_json;
using test::contents;
using test::Outcome;
using test::TemporaryFile;
using test::TinyModel;
using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class Cli : public test::CliFixture {
 protected:
  // `generate` over JSON lines on standard input.
  Outcome generate(const std::string& input, std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"generate", "--model", model_.path(), "--input", "-"});
    return run(more, input);
  }

  const TemporaryFile model_{TinyModel{}.write().bytes()};
};

constexpr std::array kCommands = {"generate", "score",  "tokenize", "doctor", "compile",
                                  "cache",    "replay", "plan",     "trace"};

TEST_F(Cli, HelpAndVersion) {
  const Outcome help = run({"--help"});
  EXPECT_EQ(help.status, 0);
  for (const char* command : kCommands) {
    EXPECT_THAT(help.out, HasSubstr(command));
    for (const char* flag : {"--help", "--version"}) {
      const Outcome own = run({command, flag});
      EXPECT_EQ(own.status, 0) << command << flag << own.err;
      EXPECT_FALSE(own.out.empty());
    }
  }
  EXPECT_EQ(run({"--version"}).out, "0.1.0\n");
  EXPECT_EQ(run({"score", "--version"}).out, "0.1.0\n");
}

TEST_F(Cli, WrongUseOfTheCommandLineIsStatus2) {
  const std::string model = model_.path();
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {},
           {"answer"},
           {"generate"},
           {"generate", "question", "--input", "-"},
           {"generate", "--input", "-", "--unknown"},
           {"generate", "--input", "-", "--max-new-tokens", "0"},
           {"generate", "--input", "-", "--max-new-tokens", "many"},
           {"generate", "--input", "-", "--n", "0"},
           {"generate", "--input", "-", "--temperature", "-1"},
           {"generate", "--input", "-", "--top-p", "2"},
           {"generate", "--input", "-", "--min-p", "-0.1"},
           {"generate", "--input", "-", "--dtype", "f16"},
           {"generate", "--input", "-", "--device", "gpu"},
           {"generate", "--input", "-", "--device", "cuda:x"},
           {"generate", "--input", "-", "--threads", "0"},
           {"generate", "--input", "-", "--max-batch", "0"},
           {"generate", "--input", "-", "--kv-pages", "0"},
           {"generate", "--input", "-", "--page-size", "1025"},
           {"generate", "--input", "-", "--share", "maybe"},
           {"generate", "--input", "-", "--share-attention", "maybe"},
           {"generate", "--input", "-", "--stop", ""},
           {"score", "--model", model},
           {"score", "--input", "-", "--top", "-1"},
           {"tokenize", "--model", model},
           {"tokenize", "--model", model, "text", "--ids", "5"},
           {"tokenize", "--model", model, "--ids", "five"},
           {"doctor", "again"}}) {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.status, 2) << ::testing::PrintToString(arguments);
    EXPECT_FALSE(outcome.err.empty()) << ::testing::PrintToString(arguments);
  }
}

TEST_F(Cli, ModelsThatCannotBeUsedAreStatus1AndNamed) {
  const std::string whole = TinyModel{}.write().bytes();
  test::GgufWriter foreign;
  foreign.set("general.architecture", std::string("gpt2"));
  TinyModel{}.words.write(foreign);
  struct Case {
    std::string name, contents, message;
  };
  for (const Case& c : {Case{"truncated", whole.substr(0, whole.size() / 2), "truncated"},
                        {"cut in the header", whole.substr(0, 50), "bytes that remain"},
                        {"empty", "", "truncated"},
                        {"no GGUF", "PK\3\4 and more", "GGUF"},
                        {"another architecture", foreign.bytes(), "'gpt2'"}}) {
    const TemporaryFile file(c.contents);
    const TemporaryFile input("{\"prompt\": \"x\"}\n");
    for (const char* command : {"generate", "score"}) {
      const Outcome outcome = run({command, "--model", file.path(), "--input", input.path()});
      EXPECT_EQ(outcome.status, 1) << c.name;
      EXPECT_THAT(outcome.err,
                  AllOf(HasSubstr("tilewright: "), HasSubstr(file.path()), HasSubstr(c.message)))
          << c.name;
      EXPECT_THAT(outcome.out, IsEmpty());
    }
  }
  const Outcome missing = run({"tokenize", "--model", "/nowhere.gguf", "x"});
  EXPECT_EQ(missing.status, 1);
  EXPECT_THAT(missing.err, HasSubstr("/nowhere.gguf: cannot be opened"));
  environment = "XDG_CACHE_HOME=/nowhere";
  const Outcome unfetched = run({"generate", "Hello?"});
  EXPECT_EQ(unfetched.status, 1);
  EXPECT_THAT(unfetched.err, AllOf(HasSubstr("/nowhere/tilewright"), HasSubstr("make demo")));
}

// Here there is no driver, no such GPU, or no cuBLASLt for it.
TEST_F(Cli, AGpuThatIsNotThere) {
  for (const char* device : {"cuda:99", "cuda:99999999999"}) {
    for (const char* command : {"generate", "score"}) {
      const Outcome outcome =
          run({command, "--model", model_.path(), "--input", "-", "--device", device},
              "{\"prompt\": \"x\"}\n");
      EXPECT_EQ(outcome.status, 1);
      EXPECT_THAT(outcome.err, AnyOf(HasSubstr("cuda"), HasSubstr("CUDA")));
    }
  }
  EXPECT_EQ(generate("{\"prompt\": \"x\"}\n", {"--device", "cpu"}).status, 0);
}

std::vector<std::string> keys(const Json& object) {
  std::vector<std::string> names;
  for (const auto& [key, value] : object.items()) names.push_back(key);
  return names;
}

TEST_F(Cli, AnswersAreJsonLinesInOrderOfFinishing) {
  const Outcome outcome = generate(
      "{\"id\": \"long\", \"prompt\": \"the one\", \"max_new_tokens\": 20}\n"
      "\n"
      "{\"id\": 7, \"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}], \"max_new_tokens\": "
      "2}\n"
      "{\"tokens\": [5, 6, 7], \"max_new_tokens\": 5}\n",
      {"--json", "--ignore-eos"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  const auto lines = outcome.lines();
  ASSERT_EQ(lines.size(), 3U);
  for (const Json& line : lines) {
    EXPECT_EQ(keys(line),
              (std::vector<std::string>{"id", "index", "tokens", "text", "finish_reason", "ttft_ms",
                                        "itl_ms_p50", "prompt_tokens", "shared_tokens"}));
    EXPECT_EQ(line["finish_reason"], "length");
    EXPECT_GT(line["ttft_ms"], 0);
  }
  EXPECT_EQ(lines[0]["id"], 7);
  EXPECT_EQ(lines[0]["tokens"].size(), 2U);
  EXPECT_EQ(lines[1]["id"], 4);  // the line of the one without
  EXPECT_EQ(lines[1]["prompt_tokens"], 3);
  EXPECT_EQ(lines[2]["id"], "long");
  EXPECT_EQ(lines[2]["tokens"].size(), 20U);
  EXPECT_THAT(outcome.err, IsEmpty());
}

TEST_F(Cli, WrongLinesAreNamedAndTheOthersAnswered) {
  const std::string too_long(300, 'x');
  std::string deep(200, '[');
  const std::string input =
      "{\"id\": \"good\", \"prompt\": \"a\"}\n"                  // 1
      "{\"id\": \"cut\", \"prompt\n"                             // 2
      "\n"                                                       // 3
      "[1, 2]\n"                                                 // 4
      "{\"id\": \"none\"}\n"                                     // 5
      "{\"id\": \"two\", \"prompt\": \"a\", \"tokens\": [1]}\n"  // 6
      "{\"id\": \"big\", \"prompt\": \"" +
      too_long +
      "\"}\n"                                                        // 7
      "{\"id\": \"type\", \"prompt\": \"a\", \"top_k\": \"x\"}\n"    // 8
      "{\"id\": \"id\", \"tokens\": [1, 999]}\n"                     // 9
      "{\"id\": \"word\", \"tokens\": [1, \"a\"]}\n"                 // 10
      "{\"id\": \"hot\", \"prompt\": \"a\", \"temperature\": -1}\n"  // 11
      "{\"id\": \"chat\", \"messages\": [{\"role\": \"user\"}]}\n"   // 12
      "{\"id\": \"huge\", \"prompt\": \"a\", \"top_p\": 1e999}\n"    // 13
      "{\"id\": [1], \"prompt\": \"a\"}\n" +                         // 14
      deep +
      "\n"                                                      // 15
      "{\"id\": \"stop\", \"prompt\": \"a\", \"stop\": [1]}\n"  // 16
      "{\"id\": \"\xff\", \"prompt\": \"a\"}\n"                 // 17
      "{\"id\": \"last\", \"prompt\": \"b\"}";                  // 18
  const Outcome outcome = generate(input, {"--json", "--max-new-tokens", "2", "--ignore-eos"});
  EXPECT_EQ(outcome.status, 1) << outcome.err;
  std::map<int, std::string> errors;
  std::vector<Json> answered;
  for (const Json& line : outcome.lines()) {
    if (!line.contains("error")) {
      answered.push_back(line["id"]);
      continue;
    }
    EXPECT_EQ(keys(line), (std::vector<std::string>{"id", "error", "line"}));
    errors[line["line"]] = line["error"];
    if (line["line"] == 7) {
      EXPECT_EQ(line["id"], "big");
    }
  }
  EXPECT_EQ(answered, (std::vector<Json>{"good", "last"}));
  const std::map<int, std::string> expected{{2, "no JSON"},
                                            {4, "JSON object"},
                                            {5, "0 of prompt, messages and tokens"},
                                            {6, "2 of prompt, messages and tokens"},
                                            {7, "300 tokens: the context of the model is 256"},
                                            {8, "top_k"},
                                            {9, "token is 999"},
                                            {10, "token ids"},
                                            {11, "temperature is -1"},
                                            {12, "a role and a content"},
                                            {13, "no JSON that can be read"},
                                            {14, "id is '[1]'"},
                                            {15, "nests deeper"},
                                            {16, "stop is"},
                                            {17, "no JSON"}};
  ASSERT_EQ(errors.size(), expected.size());
  for (const auto& [line, message] : expected) {
    EXPECT_THAT(errors[line], HasSubstr(message)) << line;
  }
  const Outcome plain = generate(input, {"--max-new-tokens", "2"});
  EXPECT_EQ(plain.status, 1);
  EXPECT_THAT(plain.err, HasSubstr("tilewright: line 7: prompt has 300 tokens"));
  EXPECT_THAT(plain.out, AllOf(HasSubstr("== \"good\"\n"), HasSubstr("== \"last\"\n")));
}

TEST_F(Cli, FieldsOfARequestOverrideFlags) {
  const auto tokens = [&](const std::string& fields, const std::vector<std::string>& flags) {
    std::vector<std::string> all{"--json"};
    all.insert(all.end(), flags.begin(), flags.end());
    const auto lines = generate("{\"prompt\": \"ab\"" + fields + "}", all).lines();
    return lines.size() == 1 ? lines[0].value("tokens", Json()).dump() : "no answer";
  };
  const std::vector<std::string> base{"--max-new-tokens", "12", "--ignore-eos"};
  const auto with = [&](std::vector<std::string> more) {
    more.insert(more.end(), base.begin(), base.end());
    return more;
  };
  const std::string greedy = tokens("", base);
  const std::string sampled = tokens("", with({"--temperature", "2", "--seed", "3"}));
  EXPECT_NE(greedy, sampled);
  EXPECT_EQ(tokens(", \"temperature\": 2, \"seed\": 3", base), sampled);
  EXPECT_EQ(tokens(", \"temperature\": 2, \"seed\": 3", with({"--seed", "4"})), sampled);
  EXPECT_EQ(tokens(", \"temperature\": 0", with({"--temperature", "2"})), greedy);
  EXPECT_EQ(tokens(", \"top_k\": 1", with({"--temperature", "2"})), greedy);
  EXPECT_EQ(tokens("", with({"--temperature", "2", "--top-k", "1"})), greedy);
  EXPECT_EQ(tokens(", \"min_p\": 1", with({"--temperature", "2"})), greedy);
  EXPECT_EQ(tokens(", \"top_p\": 1e-9", with({"--temperature", "2"})), greedy);
  EXPECT_EQ(tokens(", \"max_new_tokens\": 12, \"ignore_eos\": true", {"--max-new-tokens", "3"}),
            greedy);
  EXPECT_EQ(Json::parse(tokens("", {"--max-new-tokens", "3", "--ignore-eos"})).size(), 3U);
}

TEST_F(Cli, StopTextsFromFlagAndRequest) {
  const auto answer = [&](const std::string& fields, const std::vector<std::string>& flags) {
    std::vector<std::string> all{"--json", "--ignore-eos", "--max-new-tokens", "30"};
    all.insert(all.end(), flags.begin(), flags.end());
    return generate("{\"prompt\": \"ab\"" + fields + "}", all).lines().at(0);
  };
  const std::string whole = answer("", {})["text"];
  // A character of the answer that a shell and JSON can carry.
  const std::size_t at = whole.find_first_of(
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&()*+,-./:;<=>?@^_`{|}~");
  ASSERT_NE(at, whole.npos) << whole;
  const std::string stop(1, whole[at]);
  for (const Json& stopped :
       {answer("", {"--stop", "zzzz", "--stop", stop}), answer(", \"stop\": \"" + stop + "\"", {}),
        answer(", \"stop\": [\"zzzz\", \"" + stop + "\"]", {"--stop", "qqq"})}) {
    EXPECT_EQ(stopped["text"], whole.substr(0, at));
    EXPECT_EQ(stopped["finish_reason"], "stop");
  }
}

TEST_F(Cli, TokensDoNotDependOnTheFlagsOfTheEngine) {
  std::string input;
  for (int i = 0; i < 5; ++i) {
    input +=
        Json{{"id", i}, {"prompt", "the same beginning of all " + std::to_string(i * i)}}.dump();
    input += "\n";
  }
  const auto answers = [&](std::vector<std::string> flags) {
    flags.insert(flags.end(), {"--json", "--ignore-eos", "--max-new-tokens", "8"});
    std::map<int, std::string> out;
    for (const Json& line : generate(input, flags).lines()) out[line["id"]] = line["tokens"].dump();
    return out;
  };
  const auto expected = answers({});
  EXPECT_EQ(expected.size(), 5U);
  EXPECT_EQ(answers({"--max-batch", "1", "--threads", "1"}), expected);
  EXPECT_EQ(answers({"--share-attention", "off"}), expected);
  EXPECT_EQ(answers({"--share", "off", "--page-size", "3", "--token-budget", "5"}), expected);
  EXPECT_EQ(answers({"--kv-pages", "10", "--page-size", "4"}), expected);
}

TEST_F(Cli, StatsHoldWhatTheDemoShows) {
  const TemporaryFile stats("");
  EXPECT_EQ(generate("{\"prompt\": \"abc\"}\n{\"prompt\": \"xyz\"}\n",
                     {"--stats", stats.path(), "--max-new-tokens", "4", "--ignore-eos", "--threads",
                      "1", "--page-size", "8"})
                .status,
            0);
  const Json json = Json::parse(contents(stats.path()));
  EXPECT_EQ(keys(json), (std::vector<std::string>{"seconds",
                                                  "requests",
                                                  "prompt_tokens",
                                                  "shared_tokens",
                                                  "generated_tokens",
                                                  "tokens_per_s",
                                                  "ttft_ms",
                                                  "itl_ms",
                                                  "kv_pages_peak",
                                                  "page_copies",
                                                  "kv_bytes_read",
                                                  "kv_bytes_unshared",
                                                  "steps",
                                                  "preemptions",
                                                  "time_s",
                                                  "device",
                                                  "device_busy_s",
                                                  "device_idle_s",
                                                  "threads",
                                                  "dtype",
                                                  "max_batch",
                                                  "page_size"}));
  EXPECT_EQ(json["requests"], 2);
  EXPECT_EQ(json["prompt_tokens"], 6);
  EXPECT_EQ(json["generated_tokens"], 8);
  EXPECT_EQ(json["kv_pages_peak"], 2);
  EXPECT_EQ(json["steps"], 4);
  EXPECT_EQ(json["preemptions"], 0);
  EXPECT_EQ(json["threads"], 1);
  EXPECT_EQ(json["dtype"], "f32");
  EXPECT_EQ(json["page_size"], 8);
  // K and V of 2 layers, 2 heads of 16, f32: (3 + 4 + 5 + 6) tokens of both requests.
  EXPECT_GE(json["kv_bytes_read"], 2 * 18 * 2 * 2 * 2 * 16 * 4);
  EXPECT_EQ(keys(json["time_s"]),
            (std::vector<std::string>{"attention", "matmul", "sampling", "plan", "other"}));
  EXPECT_EQ(keys(json["ttft_ms"]), (std::vector<std::string>{"p50", "p99"}));
  double sum = 0;
  for (const auto& [part, seconds] : json["time_s"].items()) sum += seconds.get<double>();
  EXPECT_LE(sum, json["seconds"].get<double>() * 1.001);
  EXPECT_GT(sum, json["seconds"].get<double>() * 0.8);

  // Also when there is nothing to measure.
  EXPECT_EQ(generate("nonsense\n", {"--stats", stats.path()}).status, 1);
  EXPECT_EQ(Json::parse(contents(stats.path()))["requests"], 0);
  EXPECT_EQ(generate("", {"--stats", stats.path()}).status, 0);
  EXPECT_EQ(Json::parse(contents(stats.path()))["tokens_per_s"], 0);
}

TEST_F(Cli, ProgressTellsOfEveryToken) {
  const Outcome outcome = generate("{\"id\": \"a\", \"prompt\": \"abc\", \"max_new_tokens\": 6}\n",
                                   {"--progress", "--json", "--ignore-eos"});
  EXPECT_EQ(outcome.status, 0);
  const auto events = outcome.events();
  ASSERT_EQ(events.size(), 8U);
  std::string text;
  for (std::size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i]["event"], i == 0 ? "admitted" : i == 7 ? "finished" : "token");
    EXPECT_EQ(events[i]["id"], "a");
    EXPECT_EQ(events[i]["generated"], std::min<std::size_t>(i, 6));
    text += events[i].value("text", "");
  }
  EXPECT_EQ(outcome.lines().at(0)["text"], text);
}

TEST_F(Cli, SamplesOfARequestAreNumbered) {
  const std::string request = "{\"id\": \"a\", \"prompt\": \"abc\", \"seed\": 5";
  const std::vector<std::string> flags{"--json", "--temperature", "1.5", "--max-new-tokens", "6"};
  std::map<int, Json> samples;
  for (const Json& line : generate(request + ", \"n\": 3}\n", flags).lines()) {
    EXPECT_EQ(line["id"], "a");
    samples[line["index"]] = line["tokens"];
  }
  ASSERT_EQ(samples.size(), 3U);
  auto seeded = flags;
  seeded.insert(seeded.end(), {"--seed", "7"});
  EXPECT_EQ(generate("{\"prompt\": \"abc\"}\n", seeded).lines().at(0)["tokens"], samples[2]);
  EXPECT_THAT(generate(request + ", \"n\": 0}\n", flags).lines().at(0)["error"].dump(),
              HasSubstr("n is 0: it must be in [1, 1024]"));
  const Outcome plain = run({"generate", "--model", model_.path(), "--n", "2", "--progress",
                             "--max-new-tokens", "2", "--ignore-eos", "What?"});
  EXPECT_EQ(plain.status, 0) << plain.err;
  EXPECT_THAT(plain.out, AllOf(HasSubstr("== \"question\"\n"), HasSubstr("== \"question\" 1\n")));
  EXPECT_THAT(plain.err, HasSubstr("\"index\":1"));
}

TEST_F(Cli, AQuestionStreamsItsAnswer) {
  const std::vector<std::string> flags{"--model", model_.path(), "--max-new-tokens", "8",
                                       "--ignore-eos"};
  const auto ask = [&](std::vector<std::string> more) {
    more.insert(more.end(), flags.begin(), flags.end());
    return run(more);
  };
  const Outcome plain = ask({"generate", "What is it?"});
  EXPECT_EQ(plain.status, 0) << plain.err;
  const auto json = ask({"generate", "What is it?", "--json"}).lines();
  ASSERT_EQ(json.size(), 1U);
  EXPECT_EQ(json[0]["text"].get<std::string>() + "\n", plain.out);
  const Outcome too_long = ask({"generate", std::string(300, 'x')});
  EXPECT_EQ(too_long.status, 1);
  EXPECT_THAT(too_long.err, HasSubstr("the context of the model is 256"));
}

TEST_F(Cli, ScoreSaysHowLikelyTokensAre) {
  const auto score = [&](const std::string& input, std::vector<std::string> more) {
    more.insert(more.begin(), {"score", "--model", model_.path(), "--input", "-"});
    return run(more, input);
  };
  const std::string input = "{\"id\": \"a\", \"tokens\": [20, 30, 40, 50]}\n";
  const Outcome outcome = score(input, {"--json", "--top", "3"});
  EXPECT_EQ(outcome.status, 0) << outcome.err;
  const Json line = outcome.lines().at(0);
  EXPECT_EQ(keys(line), (std::vector<std::string>{"id", "nll", "perplexity", "top"}));
  ASSERT_EQ(line["nll"].size(), 3U);
  double sum = 0;
  for (const Json& nll : line["nll"]) sum += nll.get<double>();
  EXPECT_NEAR(line["perplexity"].get<double>(), std::exp(sum / 3), 1e-6);
  ASSERT_EQ(line["top"].size(), 4U);
  for (const Json& position : line["top"]) {
    ASSERT_EQ(position.size(), 3U);
    EXPECT_TRUE(position[0][0].is_number_integer());
    EXPECT_GE(position[0][1], position[1][1]);
    EXPECT_GE(position[1][1], position[2][1]);
  }
  // The likeliest token after the prompt is the one that greedy generation takes.
  const Json generated = generate(input, {"--json", "--max-new-tokens", "1"}).lines().at(0);
  EXPECT_EQ(line["top"][3][0][0], generated["tokens"][0]);

  const Outcome plain = score(input + "broken\n", {});
  EXPECT_EQ(plain.status, 1);
  EXPECT_THAT(plain.out, HasSubstr("\"a\"  perplexity "));
  EXPECT_THAT(plain.err, HasSubstr("line 2"));
  EXPECT_EQ(score(input, {"--dtype", "bf16", "--json"}).lines().at(0)["nll"].size(), 3U);
}

TEST_F(Cli, TokenizeGoesThereAndBack) {
  const std::string text = "the <|im_start|> caf\u00e9 \u4e2d";
  const auto tokenize = [&](std::vector<std::string> more, const std::string& input = "") {
    more.insert(more.begin(), {"tokenize", "--model", model_.path()});
    return run(more, input);
  };
  const Outcome ids = tokenize({text});
  EXPECT_EQ(ids.status, 0) << ids.err;
  EXPECT_THAT(" " + ids.out, HasSubstr(" 1 "));  // the control token
  std::vector<std::string> back{"--ids"};
  std::istringstream stream(ids.out);
  for (std::string id; stream >> id;) back.push_back(id);
  EXPECT_EQ(tokenize(back).out, text + "\n");
  EXPECT_EQ(tokenize({"-"}, text).out, ids.out);
  const Json json = Json::parse(tokenize({text, "--json"}).out);
  EXPECT_EQ(json["tokens"].size(), back.size() - 1);
  back.push_back("--json");
  EXPECT_EQ(Json::parse(tokenize(back).out)["text"], text);
  EXPECT_GT(Json::parse(tokenize({text, "--json", "--no-control"}).out)["tokens"].size(),
            json["tokens"].size());
  const Outcome foreign = tokenize({"--ids", "999"});
  EXPECT_EQ(foreign.status, 1);
  EXPECT_THAT(foreign.err, HasSubstr("999"));
}

TEST_F(Cli, DoctorKnowsTheMachine) {
  const Outcome plain = run({"doctor"});
  EXPECT_EQ(plain.status, 0) << plain.err;
  const Json json = Json::parse(run({"doctor", "--json"}).out);
  for (const char* key : {"tilewright", "simd", "bf16_matmul", "cores", "memory_gib", "free_gib",
                          "libraries", "cuda", "cache", "cache_gib", "smollm2"}) {
    EXPECT_TRUE(json.contains(key)) << key;
    EXPECT_THAT(plain.out, HasSubstr(key));
  }
  for (const char* library :
       {"onednn", "pcre2", "highway", "openmp", "fmt", "cli11", "nlohmann_json"}) {
    EXPECT_FALSE(json["libraries"].value(library, "").empty()) << library;
  }
  EXPECT_GE(json["memory_gib"], json["free_gib"]);
  environment = "XDG_CACHE_HOME=/nowhere";
  EXPECT_THAT(run({"doctor"}).out,
              AllOf(HasSubstr("/nowhere/tilewright"), HasSubstr("not fetched")));
}

}  // namespace
}  // namespace tilewright
