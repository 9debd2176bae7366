// SPDX-License-Identifier: Apache-2.0
// `tilewright compile`: fills the kernel cache, or writes a pack.
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <tilewright/jit.h>
#include <unistd.h>

#include <memory>
#include <utility>

#include "engine/checks.h"
#include "engine/cli/options.h"
#include "engine/cli/spec_reader.h"

namespace tilewright::engine::cli {
namespace {

struct Options {
  std::vector<std::string> archs;
  std::vector<std::string> specs;
  std::vector<std::string> models;
  std::string kv_dtype = "bf16";
  bool all = false;
  bool no_ops = false;
  bool block_structures = false;
  int jobs = 0;
  std::string pack;
  bool json = false;
};

// `plans`: of models with several kinds of layers, whose attentions share a plan.
std::vector<AttentionSpec> specs_of(const Options& options,
                                    std::vector<std::vector<AttentionSpec>>& plans) {
  std::vector<AttentionSpec> specs;
  const auto add = [&](std::vector<AttentionSpec> more) {
    specs.insert(specs.end(), std::make_move_iterator(more.begin()),
                 std::make_move_iterator(more.end()));
  };
  for (const std::string& file : options.specs) add(read_spec_file(file));
  for (const std::string& model : options.models) {
    const std::vector<AttentionSpec> layers =
        model_attention_specs(model, read_dtype("--kv-dtype", options.kv_dtype));
    if (layers.size() > 1) plans.push_back(layers);
    add(layers);
  }
  if (options.all) add(common_attention_specs());
  return specs;
}

// A line on the terminal that is drawn again and again; nothing where standard error is a file.
class ProgressBar {
 public:
  explicit ProgressBar(bool wanted) : on_(wanted && isatty(STDERR_FILENO) != 0) {}
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  ~ProgressBar() { clear(); }

  void draw(std::size_t done, std::size_t total, const std::string& kernel) {
    if (!on_) return;
    winsize window{};
    const std::size_t columns =
        ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0 ? window.ws_col : 80;
    constexpr std::size_t kWidth = 30;
    const std::size_t full = total == 0 ? kWidth : done * kWidth / total;
    std::string line =
        fmt::format("[{:=<{}}{: <{}}] {}/{} {}", "", full, "", kWidth - full, done, total, kernel);
    line.resize(std::min(line.size(), columns - 1));
    fmt::print(stderr, "\r\033[K{}", line);
    std::fflush(stderr);
  }
  void clear() const {
    if (on_) fmt::print(stderr, "\r\033[K");
  }

 private:
  bool on_;
};

void print_report(const KernelReport& report) {
  print_line(stdout, {{"kernel", report.kernel},
                      {"arch", report.arch},
                      {"seconds", report.seconds},
                      {"registers", report.registers},
                      {"spill_bytes", report.spill_bytes},
                      {"shared_bytes", report.shared_bytes},
                      {"from_cache", report.from_cache}});
}

void print_table(const std::vector<KernelReport>& reports) {
  std::size_t width = 6;
  for (const KernelReport& report : reports) width = std::max(width, report.kernel.size());
  fmt::print("{:<{}}  {:<7}  {:>7}  {:>9}  {:>6}  {:>7}\n", "kernel", width, "arch", "seconds",
             "registers", "spills", "shared");
  double seconds = 0;
  int cached = 0, compiled = 0, failed = 0;
  for (const KernelReport& report : reports) {
    if (!report.error.empty()) {
      fmt::print("{:<{}}  {:<7}  failed\n", report.kernel, width, report.arch);
      ++failed;
      continue;
    }
    fmt::print("{:<{}}  {:<7}  {:>7}  {:>9}  {:>6}  {:>7}\n", report.kernel, width, report.arch,
               report.from_cache ? "cached" : fmt::format("{:.2f}", report.seconds),
               report.registers, report.spill_bytes, report.shared_bytes);
    seconds += report.from_cache ? 0 : report.seconds;
    ++(report.from_cache ? cached : compiled);
  }
  fmt::print("{} compiled in {:.2f} s (sum of all), {} from the cache, {} failed\n", compiled,
             seconds, cached, failed);
}

int compile(const Options& options) {
  ProgressBar bar(!options.json);
  CompileOptions compile;
  compile.archs = options.archs;
  compile.jobs = options.jobs;
  compile.ops = !options.no_ops;
  compile.block_structures = options.block_structures;
  compile.pack = options.pack;
  const std::vector<AttentionSpec> specs = specs_of(options, compile.plans);
  compile.progress = [&](const KernelReport& report, std::size_t done, std::size_t total) {
    bar.draw(done, total, report.kernel);
    if (options.json && report.error.empty()) print_report(report);
    if (!report.error.empty()) {
      bar.clear();
      fmt::print(stderr, "tilewright: {}\n", report.error);
    }
  };
  set_warning_handler(
      [](const std::string& message) { fmt::print(stderr, "tilewright: warning: {}\n", message); });
  const std::vector<KernelReport> reports = compile_kernels(specs, compile);
  bar.clear();
  if (!options.json) print_table(reports);
  for (const KernelReport& report : reports) {
    if (!report.error.empty()) return kSomeFailed;
  }
  return kAnswered;
}

}  // namespace

void add_compile(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "compile", "Compile CUDA kernels ahead, into the cache or a pack; needs no GPU");
  command
      ->add_option("--arch", options->archs,
                   "sm_80, sm_90a, ...; default: those of this machine's GPUs")
      ->delimiter(',');
  command->add_option("--spec", options->specs,
                      "A JSON file with an attention spec, or a list of them");
  command->add_option("--model", options->models, "llama-3.1-8b, ...: a model's attention")
      ->delimiter(',')
      ->check(CLI::IsMember(model_names()));
  command->add_option("--kv-dtype", options->kv_dtype, "Of the models' KV caches")
      ->capture_default_str()
      ->check(CLI::IsMember({"bf16", "f16", "f8e4m3", "f8e5m2"}));
  command->add_flag("--all", options->all, "What users meet first: docs/jit.md lists it");
  command->add_flag("--no-ops", options->no_ops, "Without the kernels of operators and sampling");
  command->add_flag("--block-structures", options->block_structures,
                    "Also for plans that take block structures");
  command->add_option("--jobs", options->jobs, "Kernels at a time; default: all cores")
      ->check(CLI::Range(1, 1024));
  command->add_option("--pack", options->pack, "Also write them to this file");
  command->add_flag("--json", options->json, "One JSON object a kernel, when it is done");
  command->callback([options, &status] {
    if (options->specs.empty() && options->models.empty() && !options->all) {
      throw CLI::ValidationError("compile", "give --spec, --model or --all");
    }
    status = compile(*options);
  });
}

}  // namespace tilewright::engine::cli
