// SPDX-License-Identifier: Apache-2.0
// Speculative verification on CUDA: kernels that filter and sum rows of target and draft, then
// kernels that test draft tokens and draw. Rows of chains on
// which no filter acts are read by chunks, others have a block each; on Hopper a cluster has a row
// of logits.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/cuda_launch.h"
#include "jit/kernel_source.h"
#include "sampling/verify_call.h"
#include "sampling/verify_params.h"

namespace tilewright {

enum class VerifyKernel : std::uint8_t {
  rows,
  requests,
  maxima,
  masses,
  cluster_masses,
  cluster,
  cluster_f32,
  decisions,
  draws
};
inline constexpr int kVerifyKernels = 9;

// Those of a call on an architecture, in their order.
std::span<const VerifyKernel> verify_kernels(const std::string& arch, const VerifyCall& call);

// "verify_rows_bf16": the entry point, and the name in reports.
std::string verify_kernel_name(VerifyKernel kernel, DType target);
jit::KernelSource verify_kernel_source(VerifyKernel kernel, DType target);
// Those that an architecture has.
std::vector<jit::KernelSource> verify_kernel_sources(const std::string& arch);

// Of a call that has been checked, with a cluster for each row. cluster_masses, whose clusters take
// one row after the other, may be launched with fewer.
CudaLaunch<tw::VerifyParams> verify_launch(VerifyKernel kernel, const VerifyCall& call);

void verify_on_cuda(const VerifyCall& call);

}  // namespace tilewright
