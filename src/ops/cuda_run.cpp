// SPDX-License-Identifier: Apache-2.0
#include "ops/cuda_run.h"

#include <memory>
#include <mutex>
#include <shared_mutex>
#include <unordered_map>

#include "jit/kernel_handle.h"

namespace tilewright {
namespace {

std::uint64_t key_of(const CudaOpKernel& kernel) {
  std::uint64_t key =
      static_cast<std::uint64_t>(kernel.op) << 8 | static_cast<std::uint64_t>(kernel.activation);
  for (const DType dtype : kernel.dtypes) key = key << 8 | static_cast<std::uint64_t>(dtype);
  return key;
}

const jit::KernelHandle& handle_of(const CudaOpKernel& kernel) {
  struct Handles {
    std::shared_mutex mutex;
    std::unordered_map<std::uint64_t, std::unique_ptr<const jit::KernelHandle>> by_key;
  };
  static Handles* const handles = new Handles;  // never destroyed: threads may outlive it
  const std::uint64_t key = key_of(kernel);
  {
    const std::shared_lock lock(handles->mutex);
    const auto found = handles->by_key.find(key);
    if (found != handles->by_key.end()) return *found->second;
  }
  auto made = std::make_unique<const jit::KernelHandle>(kernel_source(kernel));
  const std::unique_lock lock(handles->mutex);
  return *handles->by_key.try_emplace(key, std::move(made)).first->second;
}

}  // namespace

const cuda::Kernel& op_kernel(const CudaOpKernel& kernel, int device) {
  return handle_of(kernel).on(device);
}

template <typename Params>
void run_on_cuda(const CudaOpLaunch<Params>& launch, Device device, Stream stream) {
  if (launch.grid == 0) return;
  op_kernel(launch.kernel, device.index)
      .launch({static_cast<unsigned>(launch.grid), static_cast<unsigned>(launch.block),
               static_cast<unsigned>(launch.shared_bytes)},
              stream, launch.params);
}

template void run_on_cuda(const CudaOpLaunch<tw::RmsNormParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::LayerNormParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::ActivationParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::GatherRowsParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::PackBitsParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::SegmentPackBitsParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::MergeParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::RopeParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::CacheWriteParams>&, Device, Stream);
template void run_on_cuda(const CudaOpLaunch<tw::RopeAndCacheParams>&, Device, Stream);

}  // namespace tilewright
