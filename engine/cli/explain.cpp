// SPDX-License-Identifier: Apache-2.0
// `tilewright explain`: which CUDA kernel a batch takes and why, what it is made of, and what the
// batch costs at least.
#include <fmt/format.h>
#include <tilewright/jit.h>
#include <tilewright/kernel_choice.h>

#include <algorithm>
#include <memory>

#include "engine/checks.h"
#include "engine/cli/length_reader.h"
#include "engine/cli/options.h"
#include "engine/cli/spec_reader.h"

namespace tilewright::engine::cli {
namespace {

struct Options {
  std::vector<std::string> specs;
  std::string model;
  std::string kv_dtype = "bf16";
  std::string lens;
  std::string arch, gpu;
  int num_sms = 0;
  double bandwidth = 0, compute = 0;  // GB/s, TFLOP/s; 0: the GPU's
  std::int64_t q_len = 0;             // of the limits; 0: the batch's
  int levels = 1, workers = 0;
  bool batch_invariant = false, block_structures = false;
  std::int64_t page_size = 16;
  bool no_compile = false;
  bool json = false;
};

std::vector<AttentionSpec> specs_of(const Options& options) {
  std::vector<AttentionSpec> specs;
  for (const std::string& file : options.specs) {
    for (AttentionSpec& spec : read_spec_file(file)) specs.push_back(std::move(spec));
  }
  if (options.model.empty()) return specs;
  for (AttentionSpec& spec :
       model_attention_specs(options.model, read_dtype("--kv-dtype", options.kv_dtype))) {
    specs.push_back(std::move(spec));
  }
  return specs;
}

GpuModel gpu_of(const Options& options) {
  GpuModel gpu;
  if (!options.gpu.empty()) {
    gpu = gpu_model(options.gpu);
  } else {
    const std::string arch = options.arch == "sm_90" ? "sm_90a" : options.arch;
    for (const GpuModel& model : gpu_models()) {
      if (gpu.name.empty() && model.arch == (arch.empty() ? "sm_90a" : arch)) gpu = model;
    }
    require(
        !gpu.name.empty() || (options.num_sms > 0 && options.bandwidth > 0 && options.compute > 0),
        "--arch is {}: there are no figures of such a GPU; give --sms, --bandwidth and "
        "--compute",
        engine::quoted(options.arch));
    if (gpu.name.empty()) gpu.l2_bytes = std::int64_t{32} << 20;
  }
  if (!options.arch.empty()) gpu.arch = options.arch;
  if (options.num_sms > 0) gpu.num_sms = options.num_sms;
  if (options.bandwidth > 0) gpu.bytes_per_second = options.bandwidth * 1e9;
  if (options.compute > 0) gpu.operations_per_second = options.compute * 1e12;
  return gpu;
}

Limits limits_for(const Options& options, const std::vector<RequestLengths>& batch) {
  Limits limits = limits_of(batch);
  require(options.q_len == 0 || options.q_len >= limits.q_len,
          "--q-len is {}: a request of --lens has {} query tokens", options.q_len, limits.q_len);
  limits.q_len = std::max(limits.q_len, options.q_len);
  limits.q_tokens = std::max(limits.q_tokens, limits.q_len);
  limits.levels = std::max(limits.levels, options.levels);
  limits.workers = options.workers;
  limits.block_structures = options.block_structures;
  if (options.batch_invariant) limits.determinism = Determinism::batch_invariant;
  return limits;
}

// Reports of the kernels that plans of these limits launch, or why there are none.
struct Compiled {
  std::vector<KernelReport> reports;
  std::string error;
};

Compiled compile(const AttentionSpec& spec, const Limits& limits, const std::string& arch) {
  CompileOptions options;
  options.archs = {arch};
  options.ops = false;
  options.limits = limits;
  try {
    return {compile_kernels({spec}, options), ""};
  } catch (const Error& error) {
    if (error.code() != ErrorCode::not_supported) throw;
    return {{}, error.what()};
  }
}

Json compiled_as_json(const Compiled& compiled, const std::string& kernel) {
  for (const KernelReport& report : compiled.reports) {
    if (report.kernel != kernel) continue;
    if (!report.error.empty()) return {{"error", report.error}};
    return {{"registers", report.registers},
            {"spill_bytes", report.spill_bytes},
            {"seconds", report.seconds},
            {"from_cache", report.from_cache}};
  }
  return {{"error", compiled.error}};
}

Json kernel_as_json(const KernelChoice& choice) {
  return {{"kernel", choice.kernel},
          {"name", choice.name},
          {"lists_blocks", choice.lists_blocks},
          {"tile_rows", choice.tile_rows},
          {"block_tokens", choice.block_tokens},
          {"key_stages", choice.key_stages},
          {"value_stages", choice.value_stages},
          {"decode_stages", choice.decode_stages},
          {"threads", choice.threads},
          {"blocks_per_sm", choice.blocks_per_sm},
          {"heads_together", choice.heads_together},
          {"shared_bytes", choice.shared_bytes},
          {"not_decode", choice.not_decode},
          {"not_hopper", choice.not_hopper}};
}

Json batch_as_json(const BatchWork& work) {
  return {{"requests", work.requests},
          {"q_tokens", work.q_tokens},
          {"kv_tokens", work.kv_tokens},
          {"tiles", work.stats.tiles},
          {"blocks", work.stats.blocks},
          {"full_blocks", work.stats.full_blocks},
          {"skipped_blocks", work.stats.skipped_blocks},
          {"split_tiles", work.stats.split_tiles},
          {"folded_rows", work.stats.folded_rows},
          {"workers", work.workers},
          {"a_items", work.a_items},
          {"a_share", work.a_share},
          {"b_items", work.b_items},
          {"b_share", work.b_share},
          {"b_workers", work.b_workers},
          {"balance", work.balance},
          {"box_tokens", work.box_tokens},
          {"kv_bytes", work.kv_bytes},
          {"kv_bytes_by_tiles", work.stats.kv_bytes},
          {"qo_bytes", work.qo_bytes},
          {"pairs", work.pairs},
          {"operations", work.operations},
          {"memory_us", work.memory_us},
          {"compute_us", work.compute_us},
          {"bound", work.memory_us > work.compute_us ? "memory" : "compute"},
          {"bound_us", work.bound_us()}};
}

// A mask whose parameters only tensors can give tells nothing of a batch without them.
std::string missing_params(const AttentionSpec& spec) {
  for (const Param& param : spec.variant.params()) {
    if (param.bind() == Bind::plan && !param.default_value().has_value()) {
      return fmt::format("the mask's parameter {} is only known when a plan is updated",
                         param.name());
    }
  }
  return "";
}

Json explain(const AttentionSpec& spec, const std::vector<RequestLengths>& batch,
             const GpuModel& gpu, const Options& options) {
  const Limits limits = limits_for(options, batch);
  const KernelChoices choices = choose_kernels(spec, limits, gpu.arch);
  Json report{{"attention",
               {{"num_qo_heads", spec.num_qo_heads},
                {"num_kv_heads", spec.num_kv_heads},
                {"head_dim", spec.head_dim},
                {"head_dim_vo", spec.value_dim()},
                {"q_dtype", dtype_name(spec.q_dtype)},
                {"kv_dtype", dtype_name(spec.kv_dtype)},
                {"v_dtype", dtype_name(spec.value_dtype())},
                {"out_dtype", dtype_name(spec.output_dtype())},
                {"variant", spec.variant.serialize()}}},
              {"gpu",
               {{"name", gpu.name.empty() ? gpu.arch : gpu.name},
                {"arch", choices.requests.arch},
                {"num_sms", gpu.num_sms},
                {"bytes_per_second", gpu.bytes_per_second},
                {"operations_per_second", gpu.operations_per_second}}},
              {"kernel", kernel_as_json(choices.requests)},
              {"kernel_of_levels", kernel_as_json(choices.rows)}};
  const Compiled compiled = options.no_compile ? Compiled{{}, "--no-compile is given"}
                                               : compile(spec, limits, choices.requests.arch);
  for (const char* kernel : {"kernel", "kernel_of_levels"}) {
    report[kernel]["compiled"] =
        compiled_as_json(compiled, report[kernel]["name"].get<std::string>());
  }
  const std::string missing = missing_params(spec);
  report["batch"] =
      missing.empty()
          ? batch_as_json(explain_batch(spec, limits, batch, gpu, {}, options.page_size))
          : Json{{"error", missing}};
  return report;
}

void print_kernel(const char* title, const Json& kernel) {
  const auto number = [&](const char* name) { return kernel[name].get<int>(); };
  fmt::print("{:<12}{}{} ({})\n", title, kernel["kernel"].get<std::string>(),
             kernel["lists_blocks"].get<bool>() ? ", reads block structures" : "",
             kernel["name"].get<std::string>());
  for (const auto& [field, words] :
       {std::pair{"not_decode", "not decode"}, std::pair{"not_hopper", "not hopper"}}) {
    for (const Json& reason : kernel[field]) {
      fmt::print("  {}: {}\n", words, reason.get<std::string>());
    }
  }
  fmt::print("  tile        {} rows x {} keys", number("tile_rows"), number("block_tokens"));
  if (number("key_stages") > 0) {
    fmt::print(", stages: {} of keys, {} of values", number("key_stages"), number("value_stages"));
  }
  if (number("decode_stages") > 0) {
    fmt::print(", {} of 16 keys a warp in decode", number("decode_stages"));
  }
  fmt::print("\n  block       {} threads, {} bytes of shared memory, {} an SM", number("threads"),
             number("shared_bytes"), number("blocks_per_sm"));
  if (number("heads_together") > 1) {
    fmt::print("; {} KV heads together", number("heads_together"));
  }
  const Json& compiled = kernel["compiled"];
  if (compiled.contains("error")) {
    fmt::print("\n  compiled    not compiled: {}\n", compiled["error"].get<std::string>());
    return;
  }
  fmt::print("\n  compiled    {} registers a thread, {} bytes spilled ({})\n",
             compiled["registers"].get<int>(), compiled["spill_bytes"].get<int>(),
             compiled["from_cache"].get<bool>()
                 ? "from the cache"
                 : fmt::format("in {:.2f} s", compiled["seconds"].get<double>()));
}

void print_batch(const Json& batch) {
  if (batch.contains("error")) {
    fmt::print("batch       not planned: {}\n", batch["error"].get<std::string>());
    return;
  }
  const auto count = [&](const char* name) { return batch[name].get<std::int64_t>(); };
  const auto real = [&](const char* name) { return batch[name].get<double>(); };
  fmt::print("batch       {} requests with {} query tokens, {} KV tokens\n", count("requests"),
             count("q_tokens"), count("kv_tokens"));
  fmt::print("  work        {} tiles of {} blocks in all, {} of them full; {} skipped\n",
             count("tiles"), count("blocks"), count("full_blocks"), count("skipped_blocks"));
  if (count("folded_rows") > 0) {
    fmt::print("  levels      {} shared rows are read by each request: that costs less\n",
               count("folded_rows"));
  }
  fmt::print("  section A   {} items, {:.1f} % of the work, taken in turn by {} workers\n",
             count("a_items"), 100 * real("a_share"), count("workers"));
  fmt::print("  section B   {} items, {:.1f} % of the work, in {} shares; {} tiles split\n",
             count("b_items"), 100 * real("b_share"), count("b_workers"), count("split_tiles"));
  fmt::print("  balance     {:.3f}\n", real("balance"));
  fmt::print("  copies      {}\n", count("box_tokens") > 0
                                       ? fmt::format("boxes of {} tokens", count("box_tokens"))
                                       : "row by row");
  fmt::print("  memory      {:.4g} MB of KV, {:.4g} MB of queries and outputs: {:.1f} us\n",
             real("kv_bytes") / 1e6, real("qo_bytes") / 1e6, real("memory_us"));
  fmt::print("  compute     {:.4g} GFLOP: {:.1f} us\n", real("operations") / 1e9,
             real("compute_us"));
  fmt::print("  bound       {:.1f} us, by {}\n", real("bound_us"),
             batch["bound"].get<std::string>());
}

void print_text(const Json& report) {
  const Json& a = report["attention"];
  const Json& gpu = report["gpu"];
  fmt::print("attention   {} query heads, {} KV heads, head_dim {}{}, {} queries, {} KV\n",
             a["num_qo_heads"].get<int>(), a["num_kv_heads"].get<int>(), a["head_dim"].get<int>(),
             a["head_dim_vo"] == a["head_dim"]
                 ? ""
                 : fmt::format(" (values {})", a["head_dim_vo"].get<int>()),
             a["q_dtype"].get<std::string>(), a["kv_dtype"].get<std::string>());
  fmt::print("GPU         {}, {}: {} SMs, {:.0f} GB/s, {:.0f} TFLOP/s\n",
             gpu["name"].get<std::string>(), gpu["arch"].get<std::string>(),
             gpu["num_sms"].get<int>(), gpu["bytes_per_second"].get<double>() / 1e9,
             gpu["operations_per_second"].get<double>() / 1e12);
  print_kernel("kernel", report["kernel"]);
  if (report["kernel_of_levels"]["name"] != report["kernel"]["name"]) {
    print_kernel("of levels", report["kernel_of_levels"]);
  }
  print_batch(report["batch"]);
}

int explain_all(const Options& options) {
  set_warning_handler(
      [](const std::string& message) { fmt::print(stderr, "tilewright: warning: {}\n", message); });
  const std::vector<RequestLengths> batch = read_lengths("--lens", options.lens);
  const GpuModel gpu = gpu_of(options);
  bool first = true;
  for (const AttentionSpec& spec : specs_of(options)) {
    const Json report = explain(spec, batch, gpu, options);
    if (options.json) {
      print_line(stdout, report);
      continue;
    }
    if (!first) fmt::print("\n");
    first = false;
    print_text(report);
  }
  return kAnswered;
}

void add_figures(CLI::App& command, Options& options) {
  std::vector<std::string> names;
  for (const GpuModel& model : gpu_models()) names.push_back(model.name);
  command.add_option("--arch", options.arch, "sm_80, sm_90a, ...; default: that of --gpu");
  command
      .add_option("--gpu", options.gpu,
                  "Whose figures bounds are computed from; default: the first one of --arch, h100 "
                  "without either")
      ->check(CLI::IsMember(names));
  command.add_option("--sms", options.num_sms, "Its multiprocessors")->check(CLI::Range(1, 4096));
  command.add_option("--bandwidth", options.bandwidth, "Of its memory, in GB/s")
      ->check(CLI::PositiveNumber);
  command.add_option("--compute", options.compute, "Dense products of 16-bit elements, in TFLOP/s")
      ->check(CLI::PositiveNumber);
}

void add_limits(CLI::App& command, Options& options) {
  command
      .add_option("--q-len", options.q_len,
                  "The plan's limit of query tokens of a request; default: the longest of --lens")
      ->check(CLI::Range(1, 1 << 30));
  command.add_option("--levels", options.levels, "The plan's limit of levels")
      ->capture_default_str()
      ->check(CLI::Range(1, 8));
  command.add_option("--workers", options.workers, "Of the plan; default: what suits the GPU")
      ->check(CLI::Range(1, 4096));
  command.add_flag("--batch-invariant", options.batch_invariant, "A plan of batch-invariant mode");
  command.add_flag("--block-structures", options.block_structures,
                   "A plan that takes block structures");
}

}  // namespace

void add_explain(CLI::App& app, int& status) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "explain", "Show which CUDA kernel a batch takes, why, and its bounds; needs no GPU");
  command->add_option("--spec", options->specs,
                      "A JSON file with an attention spec, or a list of them");
  command->add_option("--model", options->model, "llama-3.1-8b, ...: a model's attention")
      ->check(CLI::IsMember(model_names()));
  command->add_option("--kv-dtype", options->kv_dtype, "Of the model's KV cache")
      ->capture_default_str()
      ->check(CLI::IsMember({"bf16", "f16", "f8e4m3", "f8e5m2"}));
  command
      ->add_option("--lens", options->lens,
                   "The batch, such as 64x1:4096,1x2048:8192: so many requests x query tokens : "
                   "keys of each, the queries' own among them; 64x1:8192+256 share 8192 keys")
      ->required();
  command->add_option("--page-size", options->page_size, "Tokens of a page; 0: no table of pages")
      ->capture_default_str()
      ->check(CLI::Range(0, 1 << 20));
  add_figures(*command, *options);
  add_limits(*command, *options);
  command->add_flag("--no-compile", options->no_compile,
                    "Without registers and spills, which compiling tells");
  command->add_flag("--json", options->json, "One JSON object an attention");
  command->callback([options, &status] {
    if (options->specs.empty() && options->model.empty()) {
      throw CLI::ValidationError("explain", "give --spec or --model");
    }
    status = explain_all(*options);
  });
}

}  // namespace tilewright::engine::cli
