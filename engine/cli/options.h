// SPDX-License-Identifier: Apache-2.0
// What the subcommands share: options, the model they load, and requests read from JSON lines.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "engine/chat_template.h"
#include "engine/cli/request_reader.h"
#include "engine/engine.h"
#include "engine/model.h"
#include "engine/tokenizer.h"

namespace tilewright::engine::cli {

// Exit statuses of the program.
enum ExitStatus : int { kAnswered = 0, kSomeFailed = 1, kBadUsage = 2 };

struct CommonOptions {
  std::string model = "smollm2";
  std::string device = "auto";
  std::string dtype = "f32";
  int threads = 0;

  void add_to(CLI::App& app);
  // The GPU's index; nothing for the CPU.
  std::optional<int> gpu() const;
  DType weights_dtype() const { return dtype == "bf16" ? DType::bf16 : DType::f32; }
};

// The file of --model: a path, or smollm2 in the cache folder.
std::string model_path(const std::string& model);
std::string cache_folder();
std::filesystem::path smollm2_path();  // whether it is there or not

// A model with its file and tokenizer, ready to run on --device.
struct LoadedModel {
  explicit LoadedModel(const CommonOptions& options);
  ~LoadedModel();

  // `prompt` (raw), `messages` (chat template) or `tokens` of a request.
  std::vector<std::int32_t> tokens_of(const Json& request) const;

  GgufFile file;
  Tokenizer tokenizer;
  // One of both.
  std::unique_ptr<Model> on_cpu;
  std::unique_ptr<DeviceModel> on_gpu;
};

// One line, at once. Bytes that are not UTF-8 become U+FFFD. Error when standard output takes
// no more.
void print_line(std::FILE* to, const Json& line);
// An answer that is an error: {"id", "error", "line"} on standard output, or text on standard
// error.
void print_failure(bool json, const Json& id, const std::string& message, int line);

// The requests of a JSON lines file ("-": standard input); failures go to print_failure. Returns
// whether all went well.
bool read_requests(const std::string& path, bool json, const RequestHandler& handle);

// Adds the subcommands; their callbacks set `status`.
void add_generate(CLI::App& app, int& status);
void add_score(CLI::App& app, int& status);
void add_tokenize(CLI::App& app, int& status);
void add_doctor(CLI::App& app, int& status);
void add_replay(CLI::App& app, int& status);
void add_plan(CLI::App& app, int& status);
void add_trace(CLI::App& app, int& status);
void add_compile(CLI::App& app, int& status);
void add_cache(CLI::App& app, int& status);
void add_explain(CLI::App& app, int& status);

}  // namespace tilewright::engine::cli
