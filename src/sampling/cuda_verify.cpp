// SPDX-License-Identifier: Apache-2.0
#include "sampling/cuda_verify.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "base/checks.h"
#include "cuda/device.h"
#include "sampling/chunks.h"
#include "sampling/cuda_sample.h"
#include "sampling/kernel_table.h"

namespace tilewright {
namespace {

struct KernelTraits {
  const char* name;
  const char* header;
  const char* function;  // on the device, of a row's type
  std::int32_t threads;
  std::int32_t blocks;  // that an SM has room for
  std::int32_t shared_bytes;
};
constexpr KernelTraits kTraits[kVerifyKernels] = {
    {"rows", "verify_rows", "verify_rows<{}>", 512, 1, tw::kSampleSharedBytes},
    {"requests", "verify_requests", "verify_requests<{}>", 512, 1, tw::kVerifySharedBytes},
    {"maxima", "verify_chunks", "verify_maxima<{}>", tw::kChunkThreads, 4, tw::kChunkSharedBytes},
    {"masses", "verify_chunks", "verify_masses<{}>", tw::kChunkThreads, 4, tw::kChunkSharedBytes},
    {"cluster_masses", "verify_cluster_masses", "verify_cluster_masses<{}>", tw::kClusterThreads, 3,
     tw::kClusterSharedBytes},
    {"cluster", "verify_cluster", "verify_cluster<{0}, {0}>", tw::kClusterThreads, 3,
     tw::kClusterSharedBytes},
    {"cluster_f32", "verify_cluster", "verify_cluster<float, {}>", tw::kClusterThreads, 3,
     tw::kClusterSharedBytes},
    {"decisions", "verify_decisions", "verify_decisions<{}>", tw::kChunkThreads, 1,
     tw::kSampleSharedBytes},
    {"draws", "verify_draws", "verify_draws<{}>", tw::kChunkThreads, 2, tw::kVerifySharedBytes},
};

const KernelTraits& traits_of(VerifyKernel kernel) {
  return kTraits[static_cast<int>(kernel)];
}

bool is_cluster(VerifyKernel kernel) {
  return kernel == VerifyKernel::cluster_masses || kernel == VerifyKernel::cluster ||
         kernel == VerifyKernel::cluster_f32;
}

const jit::KernelHandle& handle_of(VerifyKernel kernel, DType target) {
  // Never destroyed: threads may verify while the process ends.
  static const auto* const table = new KernelTable(kVerifyKernels, [](int kind, DType dtype) {
    return verify_kernel_source(static_cast<VerifyKernel>(kind), dtype);
  });
  return table->of(static_cast<int>(kernel), target);
}

// Whether target and draft are weighed as they are, which is known without what tensors on the GPU
// hold.
bool is_unfiltered(const VerifyCall& call) {
  if (call.args.input == VerifyInput::probabilities) return true;
  const SamplingArgs& args = call.args.sampling;
  const auto is = [](const PerRow<float>& argument, bool off) {
    return !argument.tensor.defined() && off;
  };
  const bool processed = call.args.allowed.defined() || args.allowed.defined() ||
                         args.bias_ids.defined() || args.output_counts.defined() ||
                         args.prompt_bits.defined();
  return !processed && !args.top_k.tensor.defined() &&
         (args.top_k.value <= 0 || args.top_k.value >= call.vocabulary()) &&
         is(args.top_p, args.top_p.value >= 1) && is(args.min_p, args.min_p.value <= 0) &&
         is(args.typical_p, args.typical_p.value <= 0 || args.typical_p.value >= 1);
}

// Tokens of a chunk where blocks have chunks of a row, up to so many.
std::int32_t chunk_of(std::int64_t vocabulary, std::int64_t chunks = tw::kChunks) {
  const std::int64_t steps = divide_up(vocabulary, chunks * tw::kChunkStep);
  return static_cast<std::int32_t>(steps * tw::kChunkStep);
}

// Chunks of a row that is drawn from: a block takes as long to begin as to sum a few thousand
// tokens, and one warp looks for the token in an eighth of a chunk.
std::int64_t drawn_chunks(std::int64_t requests) {
  constexpr std::int64_t kBlocks = 512;  // of all requests: two and more an SM
  return std::clamp<std::int64_t>(kBlocks / std::max<std::int64_t>(requests, 1), 8, tw::kChunks);
}

tw::NodeRows node_rows(const TensorView& rows) {
  return {rows.data, rows.strides[0], rows.strides[1]};
}

tw::RequestTable request_table(const TensorView& table) {
  return {table.data, table.strides[0], table.rank == 2 ? table.strides[1] : 0,
          table.dtype == DType::i64 ? 1 : 0};
}

}  // namespace

std::int64_t verify_workspace_size(std::int64_t requests, std::int64_t positions) {
  require(requests >= 0, "requests is {}: it must not be negative", requests);
  require(positions >= 0, "positions is {}: it must not be negative", positions);
  return requests * (positions * tw::kNodeWords + tw::kRequestWords);
}

std::span<const VerifyKernel> verify_kernels(const std::string& arch, const VerifyCall& call) {
  using enum VerifyKernel;
  // Of trees, and of chains: of rows by blocks, by chunks, and by clusters.
  static constexpr VerifyKernel kTrees[][2] = {
      {rows, requests}, {cluster, requests}, {cluster_f32, requests}};
  static constexpr VerifyKernel kChains[][3] = {
      {rows, decisions, draws}, {cluster, decisions, draws}, {cluster_f32, decisions, draws}};
  static constexpr VerifyKernel kChunks[] = {maxima, masses, decisions, draws};
  static constexpr VerifyKernel kMasses[] = {cluster_masses, decisions, draws};
  const SamplingArgs& sampling = call.args.sampling;
  if (call.args.input == VerifyInput::logits && has_sample_clusters(arch) &&
      filters_by_logits(sampling)) {
    const bool as_is = !call.args.allowed.defined() && !changes_logits(sampling);
    const DType stored = as_is ? call.target.dtype : DType::f32;
    const int kind = stored == call.target.dtype ? 1 : 2;
    if (fits_sample_cluster(stored, call.vocabulary())) {
      if (!call.is_tree() && is_unfiltered(call)) return kMasses;
      return call.is_tree() ? std::span<const VerifyKernel>(kTrees[kind])
                            : std::span<const VerifyKernel>(kChains[kind]);
    }
  }
  if (call.is_tree()) return kTrees[0];
  if (!is_unfiltered(call)) return kChains[0];
  // Probabilities need no largest one.
  return std::span(kChunks).subspan(call.args.input == VerifyInput::probabilities ? 1 : 0);
}

std::string verify_kernel_name(VerifyKernel kernel, DType target) {
  return fmt::format("verify_{}_{}", traits_of(kernel).name, device_type_name(target));
}

jit::KernelSource verify_kernel_source(VerifyKernel kernel, DType target) {
  const KernelTraits& traits = traits_of(kernel);
  jit::KernelSource source;
  source.name = verify_kernel_name(kernel, target);
  source.entries = {source.name};
  source.budget.max_registers = 65536 / traits.threads / traits.blocks;
  source.shared_bytes = traits.shared_bytes;
  source.large_clusters = is_cluster(kernel);
  source.source = fmt::format(
      "#include \"sampling/{}.h\"\n"
      "using namespace tw;\n"
      "TW_KERNEL TW_LAUNCH_BOUNDS({}, {}) {}(TW_PARAMETER VerifyParams params) {{\n"
      "  {}(params);\n"
      "}}\n",
      traits.header, traits.threads, traits.blocks, source.name,
      fmt::format(fmt::runtime(traits.function), device_type_name(target)));
  return source;
}

std::vector<jit::KernelSource> verify_kernel_sources(const std::string& arch) {
  std::vector<jit::KernelSource> sources;
  for (const DType dtype : kLogitDTypes) {
    for (int i = 0; i < kVerifyKernels; ++i) {
      const auto kernel = static_cast<VerifyKernel>(i);
      if (is_cluster(kernel) && !has_sample_clusters(arch)) continue;
      if (kernel != VerifyKernel::cluster_f32 || dtype != DType::f32)
        sources.push_back(verify_kernel_source(kernel, dtype));
    }
  }
  return sources;
}

CudaLaunch<tw::VerifyParams> verify_launch(VerifyKernel kernel, const VerifyCall& call) {
  const VerifyArgs& args = call.args;
  CudaLaunch<tw::VerifyParams> launch;
  tw::VerifyParams& params = launch.params;
  // Its rows are requests here.
  params.sample = sample_launch(SampleKernel::block, call.target.select(1, 0), args.sampling,
                                call.tokens.select(1, 0))
                      .params;
  params.target = node_rows(call.target);
  params.draft = node_rows(args.draft);
  // Probabilities are used as they are.
  if (args.input == VerifyInput::logits) params.allowed = node_rows(args.allowed);
  params.draft_tokens = request_table(call.draft_tokens);
  params.next_token = request_table(call.next_token);
  params.next_sibling = request_table(call.next_sibling);
  params.coins = request_table(args.coins);
  params.final_coins = request_table(args.final_coins);
  params.tokens = request_table(call.tokens);
  params.on_path = request_table(call.nodes);
  params.counts = request_table(call.counts);
  params.emitted = request_table(call.emitted);
  params.accepted = request_table(call.accepted);
  params.status = request_table(args.status);
  params.workspace = args.workspace.data;
  params.threshold_single = args.threshold_single;
  params.threshold_acc = args.threshold_acc;
  params.probabilities = args.input == VerifyInput::probabilities ? 1 : 0;
  params.requests = cuda_count(call.requests(), "requests");
  params.nodes = cuda_count(call.num_nodes(), "positions");
  params.drafts = args.draft.defined() ? cuda_count(args.draft.shape[1], "positions") : 0;
  params.first_token = static_cast<std::int32_t>(call.first_token());
  params.length = cuda_count(call.tokens.shape[1], "tokens");
  params.target_aligned = has_aligned_runs(call.target) ? 1 : 0;
  params.draft_aligned = args.draft.defined() && has_aligned_runs(args.draft) ? 1 : 0;
  const std::int64_t rows = call.requests() * (call.num_nodes() + params.drafts);
  params.chunk = kernel == VerifyKernel::draws
                     ? chunk_of(call.vocabulary(), drawn_chunks(call.requests()))
                     : chunk_of(call.vocabulary());
  const std::int64_t chunks = divide_up(call.vocabulary(), std::int64_t{params.chunk});
  const KernelTraits& traits = traits_of(kernel);
  launch.block = traits.threads;
  launch.shared_bytes = traits.shared_bytes;
  switch (kernel) {
    case VerifyKernel::rows:
      launch.grid = cuda_count(rows, "rows");
      break;
    case VerifyKernel::cluster_masses:
    case VerifyKernel::cluster:
    case VerifyKernel::cluster_f32: {
      const DType stored = kernel == VerifyKernel::cluster_f32 ? DType::f32 : call.target.dtype;
      launch.cluster = sample_cluster_size(stored, rows, call.vocabulary());
      params.sample.warp_logits = cluster_warp_logits(launch.cluster, call.vocabulary());
      launch.grid = cuda_count(rows * launch.cluster, "blocks of threads");
      break;
    }
    case VerifyKernel::requests:
    case VerifyKernel::decisions:
      launch.grid = params.requests;
      break;
    case VerifyKernel::maxima:
    case VerifyKernel::masses:
      launch.grid = cuda_count(rows * chunks, "chunks of rows");
      break;
    case VerifyKernel::draws:
      launch.grid = cuda_count(call.requests() * chunks, "chunks of rows");
      break;
  }
  return launch;
}

namespace {

cuda::LaunchShape shape_of(VerifyKernel kernel, const CudaLaunch<tw::VerifyParams>& launch) {
  cuda::LaunchShape shape = launch_shape(launch, is_cluster(kernel));
  const bool waits = kernel == VerifyKernel::requests || kernel == VerifyKernel::decisions ||
                     kernel == VerifyKernel::draws;
  if (waits) shape.start = cuda::KernelStart::early;
  return shape;
}

// Clusters of a launch that a GPU holds. It is asked once for each size.
std::int32_t resident_clusters(const cuda::Kernel& kernel, DType target,
                               const cuda::LaunchShape& shape) {
  static std::mutex mutex;
  static std::map<std::tuple<int, DType, unsigned>, std::int32_t> known;
  const std::lock_guard lock(mutex);
  std::int32_t& clusters = known[{kernel.device().index, target, shape.cluster}];
  if (clusters == 0) clusters = std::max(kernel.resident_clusters(shape), 1);
  return clusters;
}

}  // namespace

void verify_on_cuda(const VerifyCall& call) {
  const std::int32_t device = call.target.device.index;
  for (const VerifyKernel kernel : verify_kernels(cuda::device(device).arch, call)) {
    CudaLaunch<tw::VerifyParams> launch = verify_launch(kernel, call);
    if (launch.grid == 0) return;
    const cuda::Kernel& on_gpu = handle_of(kernel, call.target.dtype).on(device);
    if (kernel == VerifyKernel::cluster_masses) {
      const std::int32_t clusters =
          resident_clusters(on_gpu, call.target.dtype, shape_of(kernel, launch));
      launch.grid = std::min(launch.grid, clusters * launch.cluster);
    }
    on_gpu.launch(shape_of(kernel, launch), call.args.sampling.stream, launch.params);
  }
}

}  // namespace tilewright
