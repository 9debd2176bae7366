// SPDX-License-Identifier: Apache-2.0
// `tilewright score`, `tokenize` and `doctor`.
#include <fmt/format.h>
#include <omp.h>
#include <tilewright/jit.h>
#include <unistd.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>
#include <system_error>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "engine/cli/options.h"
#include "engine/scorer.h"

namespace tilewright::engine::cli {
namespace {

struct ScoreOptions {
  CommonOptions common;
  std::string input;
  int top = 0;
  bool json = false;
};

int score_requests(const ScoreOptions& options) {
  const LoadedModel loaded(options.common);
  const auto score_of = [&](const std::vector<std::int32_t>& tokens) {
    return loaded.on_gpu != nullptr ? score(*loaded.on_gpu, tokens, options.top)
                                    : score(*loaded.on_cpu, tokens, options.top);
  };
  const bool all_well =
      read_requests(options.input, options.json, [&](const Json& id, const Json& request) {
        const Score scored = score_of(loaded.tokens_of(request));
        if (options.json) {
          // Pairs become lists of two.
          print_line(stdout, {{"id", id},
                              {"nll", scored.nll},
                              {"perplexity", scored.perplexity},
                              {"top", scored.top}});
        } else {
          fmt::print("{}  perplexity {:.4f} over {} tokens\n", id.dump(), scored.perplexity,
                     scored.nll.size());
        }
      });
  return all_well ? kAnswered : kSomeFailed;
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
    options.json ? print_line(stdout, {{"text", text}}) : fmt::print("{}\n", text);
    return kAnswered;
  }
  std::string text = options.text;
  if (text == "-") text.assign(std::istreambuf_iterator<char>(std::cin), {});
  const std::vector<std::int32_t> ids =
      tokenizer.encode(text, options.no_control ? ControlTokens::as_text : ControlTokens::parse);
  options.json ? print_line(stdout, {{"tokens", ids}}) : fmt::print("{}\n", fmt::join(ids, " "));
  return kAnswered;
}

double gib(std::uintmax_t bytes) {
  return std::round(static_cast<double>(bytes) / (1 << 30) * 100) / 100;
}

// Of the files in a folder and below it; 0 when there is none.
std::uintmax_t folder_bytes(const std::filesystem::path& folder) {
  std::uintmax_t bytes = 0;
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, error)) {
    const std::uintmax_t size = entry.is_regular_file(error) ? entry.file_size(error) : 0;
    bytes += error ? 0 : size;
  }
  return bytes;
}

// The name and version of every library that the program was made with.
Json libraries() {
  const dnnl_version_t* onednn = dnnl_version();
  std::array<char, 64> pcre2{};
  pcre2_config(PCRE2_CONFIG_VERSION, pcre2.data());
  return {{"onednn", fmt::format("{}.{}.{}", onednn->major, onednn->minor, onednn->patch)},
          {"pcre2", pcre2.data()},
          {"highway", TILEWRIGHT_HIGHWAY_VERSION},
          {"openmp", fmt::format("{}", _OPENMP)},
          {"fmt", fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100,
                              FMT_VERSION % 100)},
          {"cli11", CLI11_VERSION},
          {"nlohmann_json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR,
                                        NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH)}};
}

// The GPUs and their driver, the compiler of kernels and what it has compiled; or why there is
// none.
Json cuda() {
  Json report;
  try {
    const CudaInfo info = cuda_info();
    report["driver"] =
        fmt::format("CUDA {}.{} ({})", info.driver_major, info.driver_minor, info.driver_path);
    Json gpus = Json::array();
    for (const CudaDevice& device : info.devices) {
      gpus.push_back(fmt::format("{}, {}, {} SMs, {} GiB", device.name, device.arch, device.num_sms,
                                 gib(device.memory_bytes)));
    }
    report["gpus"] = std::move(gpus);
  } catch (const Error& error) {
    report["driver"] = error.what();
  }
  try {
    const NvrtcInfo info = nvrtc_info();
    report["nvrtc"] = fmt::format("{}.{} ({})", info.major, info.minor, info.path);
  } catch (const Error& error) {
    report["nvrtc"] = error.what();
  }
  std::size_t damaged = 0;
  const std::vector<KernelCacheEntry> entries = kernel_cache_entries();
  for (const KernelCacheEntry& entry : entries) damaged += entry.damage.empty() ? 0 : 1;
  report["kernels"] =
      fmt::format("{} compiled, {} damaged in {}", entries.size() - damaged, damaged,
                  kernel_cache_path().empty() ? "no folder" : kernel_cache_path());
  return report;
}

int doctor(bool json) {
  const auto page = static_cast<std::uintmax_t>(sysconf(_SC_PAGE_SIZE));
  const std::filesystem::path model = smollm2_path();
  const Json report{
      {"tilewright", version()},
      {"simd", cpu_features()},
      {"bf16_matmul", has_bf16_matmul()},
      {"cores", omp_get_num_procs()},
      {"memory_gib", gib(static_cast<std::uintmax_t>(sysconf(_SC_PHYS_PAGES)) * page)},
      {"free_gib", gib(static_cast<std::uintmax_t>(sysconf(_SC_AVPHYS_PAGES)) * page)},
      {"libraries", libraries()},
      {"cuda", cuda()},
      {"cache", cache_folder()},
      {"cache_gib", gib(folder_bytes(cache_folder()))},
      {"smollm2", std::filesystem::exists(model)
                      ? model.string()
                      : "not fetched: run `make demo` or scripts/get_model.py"}};
  if (json) {
    print_line(stdout, report);
    return kAnswered;
  }
  const Json flat = report.flatten();
  for (const auto& [key, value] : flat.items()) {
    fmt::print("{:<24} {}\n", key.substr(1),
               value.is_string() ? value.get<std::string>() : value.dump());
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
  CLI::App* command = app.add_subcommand(
      "doctor", "CPU features, memory, libraries, GPUs, compiler, cache folders, versions");
  command->add_flag("--json", *json, "A JSON object");
  command->callback([json, &status] { status = doctor(*json); });
}

}  // namespace tilewright::engine::cli
