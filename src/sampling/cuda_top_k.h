// SPDX-License-Identifier: Apache-2.0
// top_k() on CUDA: two kernels for each dtype, as sampling has.
#pragma once

#include <tilewright/sampling.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/cuda_launch.h"
#include "jit/kernel_source.h"
#include "sampling/cuda_sample.h"
#include "sampling/params.h"

namespace tilewright {

// "top_k_bf16", "top_k_cluster_bf16": the entry point, and the name in reports.
jit::KernelSource top_k_kernel_source(SampleKernel kernel, DType logits);
// Those that an architecture ("sm_90a") has.
std::vector<jit::KernelSource> top_k_kernel_sources(const std::string& arch);

// Of arguments that have been checked.
CudaLaunch<tw::TopKParams> top_k_launch(SampleKernel kernel, const TensorView& logits,
                                        const TensorView& values, const TensorView& indices);

void top_k_on_cuda(const TensorView& logits, const TensorView& values, const TensorView& indices,
                   Stream stream);

}  // namespace tilewright
