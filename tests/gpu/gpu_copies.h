// SPDX-License-Identifier: Apache-2.0
// Copies of a call's tensors on GPU 0.
#pragma once

#include <cstdint>
#include <deque>
#include <vector>

#include "cuda/device.h"
#include "cuda/memory.h"
#include "gpu/gpu_tensor.h"
#include "support/call_copies.h"

namespace tilewright::test {

class GpuCopies : public CallCopies<GpuCopies> {
 public:
  GpuCopies() : context_(0) {}

  // The tensor on the GPU, at an address of the same alignment.
  TensorView operator()(const TensorView& host) { return copy(host, 0).view; }
  // The same for a tensor of the tests (support/tensor.h) that is written: with its guards.
  TensorView written(const TensorView& host) {
    const Copy& copied = copy(host, kGuard);
    written_.push_back(&copied);
    return copied.view;
  }
  // What kernels wrote, back into the host's tensors; waits for them.
  void download() {
    for (const Copy* copied : written_) {
      cuda::copy_to_host(copied->host, copied->device, copied->bytes, {});
    }
    cuda::synchronize({});
  }

 private:
  static constexpr std::size_t kGuard = 256;

  struct Copy {
    TensorView view;
    std::uint8_t* host = nullptr;
    std::uint8_t* device = nullptr;
    std::size_t bytes = 0;
    cuda::DeviceBuffer buffer;
  };

  const Copy& copy(const TensorView& host, std::size_t guard) {
    Copy& made = copies_.emplace_back();
    made.view = host;
    if (!host.defined()) return made;
    const std::size_t body = body_bytes(host);
    const std::size_t shift = reinterpret_cast<std::uintptr_t>(host.data) % 256;
    made.buffer = cuda::DeviceBuffer(cuda::device(0), body + shift + 2 * guard + 256);
    made.bytes = body + 2 * guard;
    made.host = static_cast<std::uint8_t*>(host.data) - guard;
    made.device = static_cast<std::uint8_t*>(made.buffer.data()) + shift;
    if (made.bytes > 0) cuda::copy_to_device(made.device, made.host, made.bytes, {});
    made.view.data = made.device + guard;
    made.view.device = kGpu;
    return made;
  }

  cuda::ContextScope context_;
  std::deque<Copy> copies_;
  std::vector<const Copy*> written_;
};

}  // namespace tilewright::test
