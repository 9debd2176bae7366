// SPDX-License-Identifier: Apache-2.0
// `tilewright score`, `tokenize` and `doctor`.
#include <fmt/format.h>
#include <omp.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <sstream>

#include "engine/checks.h"
#include "engine/cli/options.h"
#include "engine/scorer.h"

namespace tilewright::engine::cli {
namespace {

void print_json(const Json& line) {
  fmt::print("{}\n", line.dump(-1, ' ', false, Json::error_handler_t::replace));
  std::fflush(stdout);
}

struct ScoreOptions {
  CommonOptions common;
  std::string input;
  int top = 0;
  bool json = false;
};

int score_requests(const ScoreOptions& options) {
  LoadedModel loaded(options.common);
  const int failed = read_requests(
      options.input,
      [&](const Json& id, const Json& request) {
        const Score scored = score(*loaded.model, loaded.tokens_of(request), options.top);
        if (!options.json) {
          fmt::print("{}  perplexity {:.4f} over {} tokens\n", id.dump(), scored.perplexity,
                     scored.nll.size());
          return;
        }
        Json line{{"id", id},
                  {"nll", scored.nll},
                  {"perplexity", scored.perplexity},
                  {"top", Json::array()}};
        for (const auto& position : scored.top) {
          Json& tokens = line["top"].emplace_back(Json::array());
          for (const auto& [token, logit] : position) tokens.push_back(Json::array({token, logit}));
        }
        print_json(line);
      },
      [&](const Json& id, const std::string& message, int line) {
        if (options.json) {
          print_json({{"id", id}, {"error", message}, {"line", line}});
        } else {
          fmt::print(stderr, "tilewright: line {}: {}\n", line, message);
        }
      });
  return failed == 0 ? kAnswered : kSomeFailed;
}

struct TokenizeOptions {
  std::string model = "smollm2";
  std::string text;
  std::vector<std::int32_t> ids;
  bool no_control = false;
  bool json = false;
};

int tokenize(const TokenizeOptions& options) {
  const GgufFile file(model_path(options.model));
  const Tokenizer tokenizer(file);
  if (!options.ids.empty()) {
    const std::string text = tokenizer.decode(options.ids);
    options.json ? print_json({{"text", text}}) : fmt::print("{}\n", text);
    return kAnswered;
  }
  std::string text = options.text;
  if (text == "-") text.assign(std::istreambuf_iterator<char>(std::cin), {});
  const std::vector<std::int32_t> ids =
      tokenizer.encode(text, options.no_control ? ControlTokens::as_text : ControlTokens::parse);
  options.json ? print_json({{"tokens", ids}}) : fmt::print("{}\n", fmt::join(ids, " "));
  return kAnswered;
}

int doctor(bool json) {
  const dnnl_version_t* onednn = dnnl_version();
  const double gib = static_cast<double>(sysconf(_SC_PHYS_PAGES)) *
                     static_cast<double>(sysconf(_SC_PAGE_SIZE)) / (1 << 30);
  const std::filesystem::path model =
      std::filesystem::path(cache_folder()) / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  const Json report{
      {"tilewright", version()},
      {"simd", cpu_features()},
      {"bf16_matmul", has_bf16_matmul()},
      {"cores", omp_get_num_procs()},
      {"memory_gib", gib},
      {"onednn", fmt::format("{}.{}.{}", onednn->major, onednn->minor, onednn->patch)},
      {"cuda", "not in this build"},
      {"cache", cache_folder()},
      {"smollm2", std::filesystem::exists(model)
                      ? model.string()
                      : "not fetched: run `make demo` or scripts/get_model.py"}};
  if (json) {
    print_json(report);
  } else {
    for (const auto& [key, value] : report.items()) {
      fmt::print("{:<12} {}\n", key,
                 value.is_string()         ? value.get<std::string>()
                 : value.is_number_float() ? fmt::format("{:.1f}", value.get<double>())
                                           : value.dump());
    }
  }
  return kAnswered;
}

}  // namespace

void add_score(CLI::App& app, int& status) {
  auto options = std::make_shared<ScoreOptions>();
  CLI::App* command =
      app.add_subcommand("score", "How likely the model finds given texts (teacher-forced)");
  options->common.add_to(*command);
  command
      ->add_option("--input", options->input,
                   "JSON lines: {id, prompt | messages | tokens}; - is standard input")
      ->required();
  command->add_option("--top", options->top, "Also the K likeliest tokens at each position")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000));
  command->add_flag("--json", options->json, "One JSON object a line");
  command->callback([options, &status] { status = score_requests(*options); });
}

void add_tokenize(CLI::App& app, int& status) {
  auto options = std::make_shared<TokenizeOptions>();
  CLI::App* command = app.add_subcommand("tokenize", "Text to token ids, and back");
  command->add_option("--model", options->model, "A GGUF file, or smollm2")->capture_default_str();
  auto* text = command->add_option("text", options->text, "Text; - is standard input");
  auto* ids = command->add_option("--ids", options->ids, "Token ids to turn into text");
  text->excludes(ids);
  command->add_flag("--no-control", options->no_control,
                    "Texts of control tokens are ordinary text");
  command->add_flag("--json", options->json, "A JSON object");
  command->callback([command, options, &status] {
    if (command->count("text") + command->count("--ids") == 0) {
      throw CLI::ValidationError("tokenize", "give a text or --ids");
    }
    status = tokenize(*options);
  });
}

void add_doctor(CLI::App& app, int& status) {
  auto json = std::make_shared<bool>(false);
  CLI::App* command =
      app.add_subcommand("doctor", "CPU features, memory, libraries, cache folders, versions");
  command->add_flag("--json", *json, "A JSON object");
  command->callback([json, &status] { status = doctor(*json); });
}

}  // namespace tilewright::engine::cli
