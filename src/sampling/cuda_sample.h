// SPDX-License-Identifier: Apache-2.0
// Sampling on CUDA: two kernels for each dtype of logits. One runs everywhere, and a block has a
// row; in the other one a cluster of blocks holds a row in its shared memory.
#pragma once

#include <tilewright/sampling.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/cuda_launch.h"
#include "jit/kernel_source.h"
#include "sampling/params.h"

namespace tilewright {

enum class SampleKernel : std::uint8_t { block, cluster };

// Whether an architecture has clusters, and as much shared memory as they are made for.
bool has_clusters(const std::string& arch);

// "sample_bf16", "sample_cluster_bf16": the entry point, and the name in reports.
std::string sample_kernel_name(SampleKernel kernel, DType logits);
jit::KernelSource sample_kernel_source(SampleKernel kernel, DType logits);
// Those that an architecture ("sm_90a") has.
std::vector<jit::KernelSource> sample_kernel_sources(const std::string& arch);

// The kernel for a call on an architecture.
SampleKernel choose_sample_kernel(const std::string& arch, std::int64_t vocabulary,
                                  const SamplingArgs& args);

// Of arguments that have been checked.
CudaLaunch<tw::SampleParams> sample_launch(SampleKernel kernel, const TensorView& logits,
                                           const SamplingArgs& args, const TensorView& tokens);

void sample_on_cuda(const TensorView& logits, const SamplingArgs& args, const TensorView& tokens);

}  // namespace tilewright
