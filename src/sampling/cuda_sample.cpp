// SPDX-License-Identifier: Apache-2.0
#include "sampling/cuda_sample.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <limits>

#include "cuda/device.h"
#include "sampling/check_args.h"
#include "sampling/chunks.h"
#include "sampling/kernel_table.h"
#include "sampling/outputs.h"

namespace tilewright {
namespace {

constexpr std::int32_t kThreads = 512;

template <typename To, typename From>
tw::RowValues<To> row_values(const PerRow<From>& argument) {
  return {argument.tensor.data, argument.tensor.strides[0], static_cast<To>(argument.value)};
}

tw::RowTable row_table(const TensorView& table) {
  return {table.data, table.strides[0]};
}

bool is_cluster(SampleKernel kernel) {
  return kernel == SampleKernel::cluster || kernel == SampleKernel::cluster_f32 ||
         kernel == SampleKernel::cluster_outputs;
}

// In which a cluster keeps logits.
DType stored_dtype(SampleKernel kernel, DType logits) {
  return kernel == SampleKernel::cluster ? logits : DType::f32;
}

// `best`: how many log-probabilities a row may be asked for.
std::int32_t sample_shared_bytes(SampleKernel kernel, std::int64_t best) {
  switch (kernel) {
    case SampleKernel::block:
      return tw::kSampleSharedBytes;
    case SampleKernel::cluster:
    case SampleKernel::cluster_f32:
      return tw::kClusterSharedBytes;
    case SampleKernel::cluster_outputs:
      return best > tw::kClusterThreads ? tw::kClusterBestSharedBytes : tw::kClusterSharedBytes;
    default:
      return tw::kBestSharedBytes;
  }
}

tw::LogProbParams log_prob_params(const LogProbs& log_probs) {
  tw::LogProbParams params{};
  params.chosen = static_cast<float*>(log_probs.chosen.data);
  params.chosen_stride = log_probs.chosen.strides[0];
  params.ranks = static_cast<tw::i32*>(log_probs.ranks.data);
  params.ranks_stride = log_probs.ranks.strides[0];
  params.best = static_cast<float*>(log_probs.best.data);
  params.best_stride = log_probs.best.strides[0];
  params.best_ids = static_cast<tw::i32*>(log_probs.best_ids.data);
  params.best_ids_stride = log_probs.best_ids.strides[0];
  params.n = static_cast<std::int32_t>(log_probs.best.shape[1]);
  return params;
}

tw::OutputParams output_params(const SamplingOutputs& outputs) {
  tw::OutputParams params{};
  params.kept = static_cast<tw::u32*>(outputs.kept.data);
  params.kept_stride = outputs.kept.strides[0];
  params.probabilities = static_cast<float*>(outputs.probabilities.data);
  params.probabilities_stride = outputs.probabilities.strides[0];
  params.masked = outputs.masked_logits.data;
  params.masked_stride = outputs.masked_logits.strides[0];
  params.masked_f32 = outputs.masked_logits.dtype == DType::f32 ? 1 : 0;
  params.raw = log_prob_params(outputs.raw);
  params.processed = log_prob_params(outputs.processed);
  return params;
}

const jit::KernelHandle& handle_of(SampleKernel kernel, DType logits) {
  // Never destroyed: threads may sample while the process ends.
  static const auto* const table = new KernelTable(kSampleKernels, [](int kind, DType dtype) {
    return sample_kernel_source(static_cast<SampleKernel>(kind), dtype);
  });
  return table->of(static_cast<int>(kernel), logits);
}

}  // namespace

// Blocks that hold a row: more than it needs where there are few rows, to have more SMs at work,
// but none without two steps of each of its warps.
std::int32_t sample_cluster_size(DType stored, std::int64_t rows, std::int64_t vocabulary) {
  const std::int64_t needed = divide_up(vocabulary, tw::kBlockBytes / dtype_bytes(stored));
  constexpr std::int64_t kResident = 128;  // blocks that run at the same time, one an SM
  const std::int64_t most =
      std::min<std::int64_t>(kResident / std::max<std::int64_t>(rows, 1), tw::kMostBlocks);
  constexpr std::int64_t kUseful = 2 * 128 * (tw::kClusterThreads / tw::kWarpSize);
  const std::int64_t useful = divide_up(vocabulary, kUseful);
  return static_cast<std::int32_t>(std::max(needed, std::min(most, useful)));
}

// sm_90 is Hopper when it runs what all GPUs run; from sm_120 on a block has too little shared
// memory.
bool has_sample_clusters(const std::string& arch) {
  return arch == "sm_90a" || arch.starts_with("sm_10") || arch.starts_with("sm_11");
}

bool fits_sample_cluster(DType stored, std::int64_t vocabulary) {
  return vocabulary <= tw::kBlockBytes / dtype_bytes(stored) * tw::kMostBlocks;
}

std::int32_t cluster_warp_logits(std::int32_t blocks, std::int64_t vocabulary) {
  const std::int64_t warps = std::int64_t{blocks} * (tw::kClusterThreads / tw::kWarpSize);
  return static_cast<std::int32_t>(divide_up(divide_up(vocabulary, warps), 128) * 128);
}

std::string sample_kernel_name(SampleKernel kernel, DType logits) {
  constexpr const char* kNames[kSampleKernels] = {"",         "cluster_",         "cluster_f32_",
                                                  "outputs_", "cluster_outputs_", "probabilities_"};
  return fmt::format("sample_{}{}", kNames[static_cast<int>(kernel)], device_type_name(logits));
}

jit::KernelSource sample_kernel_source(SampleKernel kernel, DType logits) {
  const bool cluster = is_cluster(kernel);
  const int threads = cluster ? tw::kClusterThreads : kThreads;
  const int blocks = cluster ? 3 : 1;  // of an SM
  jit::KernelSource source;
  source.name = sample_kernel_name(kernel, logits);
  source.entries = {source.name};
  source.budget.max_registers = 65536 / threads / blocks;
  source.shared_bytes = sample_shared_bytes(kernel, kMostBest);
  source.large_clusters = cluster;
  const char* const type = device_type_name(logits);
  std::string header;
  std::string call;
  switch (kernel) {
    case SampleKernel::block:
      header = "sample";
      call = fmt::format("sample<{}>", type);
      break;
    case SampleKernel::cluster:
    case SampleKernel::cluster_f32:
      header = "cluster_sample";
      call = fmt::format("cluster_sample<{}, {}>", device_type_name(stored_dtype(kernel, logits)),
                         type);
      break;
    case SampleKernel::cluster_outputs:
      header = "cluster_outputs";
      call = fmt::format("cluster_outputs<{}>", type);
      break;
    case SampleKernel::outputs:
    case SampleKernel::probabilities:
      header = "sample_outputs";
      call = fmt::format("sample_with_outputs<{}, {}>", type,
                         kernel == SampleKernel::outputs ? "WeightScale" : "ProbabilityScale");
      break;
  }
  source.source = fmt::format(
      "#include \"sampling/{}.h\"\n"
      "using namespace tw;\n"
      "TW_KERNEL TW_LAUNCH_BOUNDS({}, {}) {}(TW_PARAMETER SampleParams params) {{\n"
      "  {}(params);\n"
      "}}\n",
      header, threads, blocks, source.name, call);
  return source;
}

std::vector<jit::KernelSource> sample_kernel_sources(const std::string& arch) {
  std::vector<jit::KernelSource> sources;
  for (const DType dtype : kLogitDTypes) {
    for (const SampleKernel kernel :
         {SampleKernel::block, SampleKernel::outputs, SampleKernel::probabilities}) {
      sources.push_back(sample_kernel_source(kernel, dtype));
    }
    if (!has_sample_clusters(arch)) continue;
    sources.push_back(sample_kernel_source(SampleKernel::cluster, dtype));
    sources.push_back(sample_kernel_source(SampleKernel::cluster_outputs, dtype));
    if (dtype != DType::f32)
      sources.push_back(sample_kernel_source(SampleKernel::cluster_f32, dtype));
  }
  return sources;
}

bool filters_by_logits(const SamplingArgs& args) {
  const auto may_be_on = [](const PerRow<float>& argument, bool on) {
    return argument.tensor.defined() || on;
  };
  const float typical_p = args.typical_p.value;
  return args.order != FilterOrder::llamacpp &&
         !may_be_on(args.typical_p, typical_p > 0 && typical_p < 1) &&
         !(args.order == FilterOrder::vllm && may_be_on(args.min_p, args.min_p.value > 0));
}

bool changes_logits(const SamplingArgs& args) {
  const auto may_be = [](const PerRow<float>& argument, float off) {
    return argument.tensor.defined() || argument.value != off;
  };
  return args.allowed.defined() || args.bias_ids.defined() || may_be(args.repetition_penalty, 1) ||
         may_be(args.frequency_penalty, 0) || may_be(args.presence_penalty, 0);
}

SampleKernel choose_sample_kernel(const std::string& arch, DType logits, std::int64_t vocabulary,
                                  const SamplingArgs& args) {
  if (args.input == SamplingInput::probabilities) return SampleKernel::probabilities;
  const bool outputs = any_wanted(args.outputs);
  const SampleKernel cluster = outputs ? SampleKernel::cluster_outputs
                               : logits != DType::f32 && changes_logits(args)
                                   ? SampleKernel::cluster_f32
                                   : SampleKernel::cluster;
  if (has_sample_clusters(arch) && fits_sample_cluster(stored_dtype(cluster, logits), vocabulary) &&
      filters_by_logits(args)) {
    return cluster;
  }
  return outputs ? SampleKernel::outputs : SampleKernel::block;
}

CudaLaunch<tw::SampleParams> sample_launch(SampleKernel kernel, const TensorView& logits,
                                           const SamplingArgs& args, const TensorView& tokens) {
  CudaLaunch<tw::SampleParams> launch;
  if (is_cluster(kernel)) {
    launch.cluster =
        sample_cluster_size(stored_dtype(kernel, logits.dtype), logits.shape[0], logits.shape[1]);
    launch.params.warp_logits = cluster_warp_logits(launch.cluster, logits.shape[1]);
    launch.block = tw::kClusterThreads;
  } else {
    launch.block = kThreads;
  }
  launch.shared_bytes = sample_shared_bytes(
      kernel, std::max(args.outputs.raw.best.shape[1], args.outputs.processed.best.shape[1]));
  launch.grid = cuda_count(logits.shape[0] * launch.cluster, "blocks of threads");
  tw::SampleParams& params = launch.params;
  params.logits = logits.data;
  params.logits_stride = logits.strides[0];
  params.tokens = tokens.data;
  params.tokens_stride = tokens.strides[0];
  params.slots = args.slots.data;
  params.slots_stride = args.slots.strides[0];
  params.entries = static_cast<std::int32_t>(
      std::min<std::int64_t>(sampling_entries(args), std::numeric_limits<std::int32_t>::max()));
  params.status = args.status.data;
  params.status_stride = args.status.strides[0];
  params.temperature = row_values<float>(args.temperature);
  params.top_k = row_values<tw::i32>(args.top_k);
  params.top_p = row_values<float>(args.top_p);
  params.min_p = row_values<float>(args.min_p);
  params.typical_p = row_values<float>(args.typical_p);
  params.seeds = row_values<tw::i64>(args.seeds);
  params.steps = row_values<tw::i64>(args.steps);
  params.order = static_cast<tw::Order>(args.order);
  params.process.allowed = row_table(args.allowed);
  if (args.bias_ids.defined() && args.bias_ids.shape[1] > 0) {
    params.process.bias_ids = row_table(args.bias_ids);
    params.process.bias_values = row_table(args.bias_values);
    params.process.biases = cuda_count(args.bias_ids.shape[1], "biases");
  }
  params.process.output_counts = row_table(args.output_counts);
  params.process.prompt_bits = row_table(args.prompt_bits);
  params.process.repetition = row_values<float>(args.repetition_penalty);
  params.process.frequency = row_values<float>(args.frequency_penalty);
  params.process.presence = row_values<float>(args.presence_penalty);
  params.tokens_64 = tokens.dtype == DType::i64 ? 1 : 0;
  params.vocabulary = static_cast<std::int32_t>(logits.shape[1]);
  params.aligned = has_aligned_runs(logits) ? 1 : 0;
  params.outputs = output_params(args.outputs);
  return launch;
}

void sample_on_cuda(const TensorView& logits, const SamplingArgs& args, const TensorView& tokens) {
  const SampleKernel kernel = choose_sample_kernel(cuda::device(logits.device.index).arch,
                                                   logits.dtype, logits.shape[1], args);
  const CudaLaunch<tw::SampleParams> launch = sample_launch(kernel, logits, args, tokens);
  if (launch.grid == 0) return;
  handle_of(kernel, logits.dtype)
      .on(logits.device.index)
      .launch(launch_shape(launch, is_cluster(kernel)), args.stream, launch.params);
}

}  // namespace tilewright
