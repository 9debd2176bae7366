// SPDX-License-Identifier: Apache-2.0
// What the subcommands share: options, the model they load, and requests read from JSON lines.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/chat_template.h"
#include "engine/engine.h"
#include "engine/model.h"
#include "engine/tokenizer.h"

namespace tilewright::engine::cli {

using Json = nlohmann::ordered_json;

// Exit statuses of the program.
enum ExitStatus : int { kAnswered = 0, kSomeFailed = 1, kBadUsage = 2 };

struct CommonOptions {
  std::string model = "smollm2";
  std::string device = "auto";
  std::string dtype = "f32";
  int threads = 0;

  void add_to(CLI::App& app);
};

// The file of --model: a path, or smollm2 in the cache folder.
std::string model_path(const std::string& model);
std::string cache_folder();

// A model ready to run, with what belongs to it.
struct LoadedModel {
  explicit LoadedModel(const CommonOptions& options);

  GgufFile file;
  Tokenizer tokenizer;
  std::unique_ptr<Model> model;

  // `prompt` (raw), `messages` (chat template) or `tokens` of a request.
  std::vector<std::int32_t> tokens_of(const Json& request) const;
};

// Calls handle(id, request) for each line of a JSON lines file ("-": standard input). A line that
// is no JSON object, or that `handle` raises an Error for, goes to fail(id, message, line), and the
// others go on. Returns how many failed.
int read_requests(const std::string& path,
                  const std::function<void(const Json&, const Json&)>& handle,
                  const std::function<void(const Json&, const std::string&, int)>& fail);

// Adds the subcommands; their callbacks set `status`.
void add_generate(CLI::App& app, int& status);
void add_score(CLI::App& app, int& status);
void add_tokenize(CLI::App& app, int& status);
void add_doctor(CLI::App& app, int& status);

}  // namespace tilewright::engine::cli
