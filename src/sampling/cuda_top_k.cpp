// SPDX-License-Identifier: Apache-2.0
#include "sampling/cuda_top_k.h"

#include <fmt/format.h>

#include "cuda/device.h"
#include "sampling/kernel_table.h"

namespace tilewright {
namespace {

constexpr std::int32_t kThreads = 512;

const jit::KernelHandle& handle_of(SampleKernel kernel, DType logits) {
  // Never destroyed: threads may call while the process ends.
  static const auto* const table = new KernelTable(2, [](int kind, DType dtype) {
    return top_k_kernel_source(static_cast<SampleKernel>(kind), dtype);
  });
  static_assert(static_cast<int>(SampleKernel::block) == 0);
  static_assert(static_cast<int>(SampleKernel::cluster) == 1);
  return table->of(static_cast<int>(kernel), logits);
}

}  // namespace

jit::KernelSource top_k_kernel_source(SampleKernel kernel, DType logits) {
  const bool cluster = kernel == SampleKernel::cluster;
  const int threads = cluster ? tw::kClusterThreads : kThreads;
  const int blocks = cluster ? 2 : 1;  // of an SM
  jit::KernelSource source;
  source.name = fmt::format("top_k_{}{}", cluster ? "cluster_" : "", device_type_name(logits));
  source.entries = {source.name};
  source.budget.max_registers = 65536 / threads / blocks;
  source.shared_bytes = cluster ? tw::kClusterBestSharedBytes : tw::kBestSharedBytes;
  source.large_clusters = cluster;
  source.source = fmt::format(
      "#include \"sampling/{0}top_k.h\"\n"
      "using namespace tw;\n"
      "TW_KERNEL TW_LAUNCH_BOUNDS({1}, {2}) {3}(TW_PARAMETER TopKParams params) {{\n"
      "  {0}top_k<{4}>(params);\n"
      "}}\n",
      cluster ? "cluster_" : "", threads, blocks, source.name, device_type_name(logits));
  return source;
}

std::vector<jit::KernelSource> top_k_kernel_sources(const std::string& arch) {
  std::vector<jit::KernelSource> sources;
  for (const DType dtype : kLogitDTypes) {
    sources.push_back(top_k_kernel_source(SampleKernel::block, dtype));
    if (has_sample_clusters(arch)) {
      sources.push_back(top_k_kernel_source(SampleKernel::cluster, dtype));
    }
  }
  return sources;
}

CudaLaunch<tw::TopKParams> top_k_launch(SampleKernel kernel, const TensorView& logits,
                                        const TensorView& values, const TensorView& indices) {
  CudaLaunch<tw::TopKParams> launch;
  if (kernel == SampleKernel::cluster) {
    launch.cluster = sample_cluster_size(logits.dtype, logits.shape[0], logits.shape[1]);
    launch.params.warp_logits = cluster_warp_logits(launch.cluster, logits.shape[1]);
    launch.block = tw::kClusterThreads;
    launch.shared_bytes = tw::kClusterBestSharedBytes;
  } else {
    launch.block = kThreads;
    launch.shared_bytes = tw::kBestSharedBytes;
  }
  launch.grid = cuda_count(logits.shape[0] * launch.cluster, "blocks of threads");
  tw::TopKParams& params = launch.params;
  params.logits = logits.data;
  params.logits_stride = logits.strides[0];
  params.values = values.data;
  params.values_stride = values.strides[0];
  params.indices = indices.data;
  params.indices_stride = indices.strides[0];
  params.indices_64 = indices.dtype == DType::i64 ? 1 : 0;
  params.k = static_cast<std::int32_t>(values.shape[1]);
  params.vocabulary = static_cast<std::int32_t>(logits.shape[1]);
  params.aligned = has_aligned_runs(logits) ? 1 : 0;
  return launch;
}

void top_k_on_cuda(const TensorView& logits, const TensorView& values, const TensorView& indices,
                   Stream stream) {
  const bool clusters = has_sample_clusters(cuda::device(logits.device.index).arch) &&
                        fits_sample_cluster(logits.dtype, logits.shape[1]);
  const SampleKernel kernel = clusters ? SampleKernel::cluster : SampleKernel::block;
  const CudaLaunch<tw::TopKParams> launch = top_k_launch(kernel, logits, values, indices);
  if (launch.grid == 0) return;
  handle_of(kernel, logits.dtype)
      .on(logits.device.index)
      .launch(launch_shape(launch, clusters), stream, launch.params);
}

}  // namespace tilewright
