// SPDX-License-Identifier: Apache-2.0
// Sampling on CUDA: kernels for each dtype of logits. In one of them a cluster of blocks holds a
// row in its shared memory; the others run everywhere, and a block has a row.
#pragma once

#include <tilewright/sampling.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/cuda_launch.h"
#include "jit/kernel_source.h"
#include "sampling/params.h"

namespace tilewright {

// cluster_f32: rows of 16-bit logits that penalties and such change, as f32; outputs and
// cluster_outputs: with what a call gives beside its tokens, the latter by clusters with rows as
// f32; probabilities: of rows of them, with outputs.
enum class SampleKernel : std::uint8_t {
  block,
  cluster,
  cluster_f32,
  outputs,
  cluster_outputs,
  probabilities
};
inline constexpr int kSampleKernels = 6;

// "sample_bf16", "sample_cluster_bf16", "sample_cluster_f32_bf16", "sample_outputs_bf16",
// "sample_cluster_outputs_bf16", "sample_probabilities_bf16": the entry point, and the name in
// reports.
std::string sample_kernel_name(SampleKernel kernel, DType logits);
jit::KernelSource sample_kernel_source(SampleKernel kernel, DType logits);
// Those that an architecture ("sm_90a") has.
std::vector<jit::KernelSource> sample_kernel_sources(const std::string& arch);

// Whether all filters go by the order of logits, and min-p is the last one: what clusters do.
bool filters_by_logits(const SamplingArgs& args);
// Whether anything may change logits before temperature.
bool changes_logits(const SamplingArgs& args);
// The kernel for a call on an architecture.
SampleKernel choose_sample_kernel(const std::string& arch, DType logits, std::int64_t vocabulary,
                                  const SamplingArgs& args);

// Of kernels that have a cluster for a row: whether an architecture has them; whether a row fits
// one; how many blocks a row has, and how many logits each of their warps has. `stored`: the type
// in which they keep logits.
bool has_sample_clusters(const std::string& arch);
bool fits_sample_cluster(DType stored, std::int64_t vocabulary);
std::int32_t sample_cluster_size(DType stored, std::int64_t rows, std::int64_t vocabulary);
std::int32_t cluster_warp_logits(std::int32_t blocks, std::int64_t vocabulary);

// Of arguments that have been checked.
CudaLaunch<tw::SampleParams> sample_launch(SampleKernel kernel, const TensorView& logits,
                                           const SamplingArgs& args, const TensorView& tokens);

void sample_on_cuda(const TensorView& logits, const SamplingArgs& args, const TensorView& tokens);

}  // namespace tilewright
