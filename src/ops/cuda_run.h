// SPDX-License-Identifier: Apache-2.0
// Runs the operators' launches on a GPU.
#pragma once

#include <tilewright/tensor_view.h>

#include "ops/cuda_launches.h"

namespace tilewright {

// Compiles the kernel when it is needed for the first time on a GPU; asynchronous after that.
template <typename Params>
void run_on_cuda(const CudaOpLaunch<Params>& launch, Device device, Stream stream);

}  // namespace tilewright
