// SPDX-License-Identifier: Apache-2.0
#include "engine/cli/options.h"

#include <omp.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <limits>

#include "engine/checks.h"

namespace tilewright::engine::cli {
namespace {

GgufFile open_model(const CommonOptions& options) {
  if (options.device.starts_with("cuda")) {
    raise(ErrorCode::not_supported,
          "--device {}: not supported by this build, which has the CPU "
          "backend only",
          options.device);
  }
  if (options.threads > 0) {
    set_num_threads(options.threads);
    omp_set_num_threads(options.threads);
  }
  return GgufFile(model_path(options.model));
}

// Objects in objects beyond any request's need would overflow the stack of whoever walks them.
constexpr int kMaxDepth = 16;

Json parse_line(const std::string& line) {
  try {
    Json request = Json::parse(line, [](int depth, Json::parse_event_t, Json&) {
      require(depth <= kMaxDepth, "the line nests deeper than {}", kMaxDepth);
      return true;
    });
    require(request.is_object(), "the line is {}: it must be a JSON object", engine::quoted(line));
    return request;
  } catch (const Json::parse_error& error) {
    raise(ErrorCode::invalid_argument, "the line is no JSON: byte {} is wrong", error.byte);
  } catch (const Json::exception&) {  // a number beyond double
    raise(ErrorCode::invalid_argument, "the line is no JSON that can be read: {}",
          engine::quoted(line));
  }
}

std::int32_t token_of(const Json& value) {
  require(
      value.is_number_integer() && value >= 0 && value <= std::numeric_limits<std::int32_t>::max(),
      "tokens has {}: they must be token ids", shown(value));
  return value.get<std::int32_t>();
}

}  // namespace

std::string shown(const Json& value) {
  return engine::quoted(value.dump(-1, ' ', true, Json::error_handler_t::replace));
}

void CommonOptions::add_to(CLI::App& app) {
  app.add_option("--model", model, "A GGUF file, or smollm2 as fetched by `make demo`")
      ->capture_default_str();
  app.add_option("--device", device, "auto, cpu, cuda or cuda:N")
      ->capture_default_str()
      ->check([](const std::string& text) {
        const bool cuda =
            text == "cuda" || (text.starts_with("cuda:") && text.size() > 5 &&
                               text.find_first_not_of("0123456789", 5) == std::string::npos);
        return cuda || text == "auto" || text == "cpu"
                   ? ""
                   : text + ": it must be auto, cpu, cuda or cuda:N";
      });
  app.add_option("--dtype", dtype, "Of weights, activations and KV cache")
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "bf16"}));
  app.add_option("--threads", threads, "CPU threads; default: all cores")
      ->check(CLI::Range(1, 1024));
}

std::string cache_folder() {
  namespace fs = std::filesystem;
  const char* cache = std::getenv("XDG_CACHE_HOME");
  const char* home = std::getenv("HOME");
  const fs::path base = cache != nullptr && fs::path(cache).is_absolute()
                            ? fs::path(cache)
                            : fs::path(home != nullptr ? home : "/") / ".cache";
  return base / "tilewright";
}

std::filesystem::path smollm2_path() {
  return std::filesystem::path(cache_folder()) / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf";
}

std::string model_path(const std::string& model) {
  if (model != "smollm2") return model;
  const std::filesystem::path path = smollm2_path();
  require(std::filesystem::exists(path),
          "--model is smollm2: {} does not exist; `make demo` or scripts/get_model.py fetches it",
          path.string());
  return path;
}

LoadedModel::LoadedModel(const CommonOptions& options)
    : file(open_model(options)),
      tokenizer(file),
      model(std::make_unique<Model>(file, options.dtype == "bf16" ? DType::bf16 : DType::f32)) {}

std::vector<std::int32_t> LoadedModel::tokens_of(const Json& request) const {
  const int given = static_cast<int>(request.contains("prompt")) +
                    static_cast<int>(request.contains("messages")) +
                    static_cast<int>(request.contains("tokens"));
  require(given == 1, "a request has {} of prompt, messages and tokens: it must have one", given);
  std::vector<std::int32_t> tokens;
  if (request.contains("tokens")) {
    require(request["tokens"].is_array(), "tokens is {}: it must be a list of token ids",
            shown(request["tokens"]));
    for (const Json& value : request["tokens"]) tokens.push_back(token_of(value));
  } else if (request.contains("prompt")) {
    require(request["prompt"].is_string(), "prompt is {}: it must be a string",
            shown(request["prompt"]));
    tokens = tokenizer.encode(request["prompt"].get<std::string>(), ControlTokens::parse);
    if (tokenizer.adds_bos() && tokenizer.bos()) tokens.insert(tokens.begin(), *tokenizer.bos());
  } else {
    const Json& messages = request["messages"];
    std::vector<ChatMessage> chat;
    require(messages.is_array() && !messages.empty(),
            "messages is {}: it must be a list of messages", shown(messages));
    for (const Json& message : messages) {
      require(message.is_object() && message.contains("role") && message["role"].is_string() &&
                  message.contains("content") && message["content"].is_string(),
              "messages has {}: it must have a role and a content, both strings", shown(message));
      chat.push_back({message["role"], message["content"]});
    }
    tokens = ChatTemplate(file, tokenizer).encode(tokenizer, chat);
  }
  return tokens;
}

void print_line(std::FILE* to, const Json& line) {
  fmt::print(to, "{}\n", line.dump(-1, ' ', false, Json::error_handler_t::replace));
  require(std::fflush(to) == 0 || to == stderr, "standard output cannot be written: {}",
          std::strerror(errno));
}

void print_failure(bool json, const Json& id, const std::string& message, int line) {
  if (json) {
    print_line(stdout, {{"id", id}, {"error", message}, {"line", line}});
  } else {
    fmt::print(stderr, "tilewright: line {}: {}\n", line, message);
  }
}

bool read_requests(const std::string& path, bool json,
                   const std::function<void(const Json&, const Json&)>& handle) {
  std::ifstream file;
  if (path != "-") {
    file.open(path);
    // A folder opens, but cannot be read.
    require(file.is_open() && (file.peek(), !file.bad()), "--input is {}: it cannot be read", path);
    file.clear();
  }
  std::istream& input = path == "-" ? std::cin : file;
  bool all_well = true;
  int number = 0;
  for (std::string line; std::getline(input, line);) {
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    Json id = number;
    try {
      const Json request = parse_line(line);
      if (request.contains("id")) {
        require(request["id"].is_string() || request["id"].is_number(),
                "id is {}: it must be a string or a number", shown(request["id"]));
        id = request["id"];
      }
      handle(id, request);
    } catch (const Error& error) {
      all_well = false;
      print_failure(json, id, error.what(), number);
    }
  }
  require(!input.bad(), "--input is {}: it cannot be read behind line {}", path, number);
  return all_well;
}

}  // namespace tilewright::engine::cli
