// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda_run.h"

namespace tilewright {

template <typename Params>
void run_on_cuda(const CudaOpLaunch<Params>& launch, Device device, Stream stream) {
  (void)launch; (void)device; (void)stream;
  raise(ErrorCode::not_supported, "later");
}

template void run_on_cuda(const CudaOpLaunch<tw::RmsNormParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::ActivationParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::MergeParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::RopeParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::CacheWriteParams>&, Device, Stream);

}  // namespace tilewright
