// SPDX-License-Identifier: Apache-2.0
#include "engine/cli/options.h"

#include <omp.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>

#include "engine/checks.h"
#include "engine/device_model.h"

namespace tilewright::engine::cli {
namespace {

GgufFile open_model(const CommonOptions& options) {
  if (options.threads > 0) {
    set_num_threads(options.threads);
    omp_set_num_threads(options.threads);
  }
  return GgufFile(model_path(options.model));
}

}  // namespace

void CommonOptions::add_to(CLI::App& app) {
  app.add_option("--model", model, "A GGUF file, or smollm2 as fetched by `make demo`")
      ->capture_default_str();
  app.add_option("--device", device, "auto (the CPU), cpu, cuda or cuda:N")
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

std::optional<int> CommonOptions::gpu() const {
  if (!device.starts_with("cuda")) return std::nullopt;
  constexpr std::string_view kIndexed = "cuda:";
  if (!device.starts_with(kIndexed)) return 0;
  int index = 0;
  const char* const end = device.data() + device.size();
  const auto [rest, error] = std::from_chars(device.data() + kIndexed.size(), end, index);
  require(error == std::errc() && rest == end, "--device is {}: there is no such GPU", device);
  return index;
}

LoadedModel::LoadedModel(const CommonOptions& options)
    : file(open_model(options)), tokenizer(file) {
  if (const std::optional<int> gpu = options.gpu()) {
    on_gpu = std::make_unique<DeviceModel>(file, options.weights_dtype(), *gpu);
  } else {
    on_cpu = std::make_unique<Model>(file, options.weights_dtype());
  }
}

LoadedModel::~LoadedModel() = default;

std::vector<std::int32_t> LoadedModel::tokens_of(const Json& request) const {
  return read_prompt(request, file, tokenizer);
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

bool read_requests(const std::string& path, bool json, const RequestHandler& handle) {
  std::ifstream file;
  if (path != "-") {
    file.open(path);
    // A folder opens, but cannot be read.
    require(file.is_open() && (file.peek(), !file.bad()), "--input is {}: it cannot be read", path);
    file.clear();
  }
  bool all_well = true;
  std::istream& input = path == "-" ? std::cin : file;
  const int last =
      read_requests(input, handle, [&](const Json& id, const std::string& message, int line) {
        all_well = false;
        print_failure(json, id, message, line);
      });
  require(!input.bad(), "--input is {}: it cannot be read behind line {}", path, last);
  return all_well;
}

}  // namespace tilewright::engine::cli
