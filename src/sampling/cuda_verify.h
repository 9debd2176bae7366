// SPDX-License-Identifier: Apache-2.0
// Speculative verification on CUDA: one kernel filters all rows of target and draft, a block a row;
// behind it another one walks along the draft tokens, a block a request.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/cuda_launch.h"
#include "jit/kernel_source.h"
#include "sampling/verify_call.h"
#include "sampling/verify_params.h"

namespace tilewright {

enum class VerifyKernel : std::uint8_t { rows, requests };

// "verify_rows_bf16": the entry point, and the name in reports.
std::string verify_kernel_name(VerifyKernel kernel, DType target);
jit::KernelSource verify_kernel_source(VerifyKernel kernel, DType target);
std::vector<jit::KernelSource> verify_kernel_sources();

// Of a call that has been checked.
CudaLaunch<tw::VerifyParams> verify_launch(VerifyKernel kernel, const VerifyCall& call);

void verify_on_cuda(const VerifyCall& call);

}  // namespace tilewright
