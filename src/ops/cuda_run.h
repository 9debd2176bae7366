// SPDX-License-Identifier: Apache-2.0
// Runs the operators' launches on a GPU.
#pragma once

#include <tilewright/tensor_view.h>

#include "cuda/kernel.h"
#include "ops/cuda_launches.h"

namespace tilewright {

// The kernel on a GPU: compiled and loaded at the first call there, found by a small key later.
const cuda::Kernel& op_kernel(const CudaOpKernel& kernel, int device);

// Compiles the kernel when it is needed for the first time on a GPU; asynchronous after that.
template <typename Params>
void run_on_cuda(const CudaOpLaunch<Params>& launch, Device device, Stream stream);

}  // namespace tilewright
