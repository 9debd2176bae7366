// SPDX-License-Identifier: Apache-2.0
// Sampling on CUDA: one kernel for each dtype of logits, a block a row.
#pragma once

#include <tilewright/sampling.h>

#include <string>

#include "base/cuda_launch.h"
#include "jit/kernel_source.h"
#include "sampling/params.h"

namespace tilewright {

// "sample_bf16": the entry point, and the name in reports.
std::string sample_kernel_name(DType logits);
jit::KernelSource sample_kernel_source(DType logits);

// Of arguments that have been checked.
CudaLaunch<tw::SampleParams> sample_launch(const TensorView& logits, const SamplingArgs& args,
                                           const TensorView& tokens);

void sample_on_cuda(const TensorView& logits, const SamplingArgs& args, const TensorView& tokens);

}  // namespace tilewright
