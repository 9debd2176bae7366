// SPDX-License-Identifier: Apache-2.0
// Tensors of the tests on a GPU.
#pragma once

#include <gtest/gtest.h>
#include <tilewright/jit.h>

#include <string>
#include <utility>

#include "cuda/device.h"
#include "cuda/memory.h"
#include "support/tensor.h"

namespace tilewright::test {

inline constexpr Device kGpu{DeviceType::cuda, 0};

// As the process began; tests of the cache itself choose others.
inline const std::string first_cache_folder = kernel_cache_path();

// Skips tests where there is no GPU, and says why.
class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (cuda::find_driver(&why) == nullptr) GTEST_SKIP() << "no GPU here: " << why;
    set_kernel_cache_path(first_cache_folder);
  }
};

// A host tensor's memory, guards and all, on GPU 0, at addresses of the same alignment.
class OnGpu {
 public:
  explicit OnGpu(Tensor& host)
      : host_(host), context_(0), buffer_(cuda::device(0), host.storage_bytes()) {
    upload({});
  }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;

  // An undefined tensor gives "no tensor".
  TensorView view() const {
    TensorView view = host_.view();
    if (!host_.defined()) return view;
    view.data = static_cast<std::uint8_t*>(buffer_.data()) + (host_.data() - host_.storage());
    view.device = kGpu;
    return view;
  }

  // What the host tensor holds by now.
  void upload(Stream stream) {
    if (host_.defined()) {
      cuda::copy_to_device(buffer_.data(), host_.storage(), buffer_.bytes(), stream);
    }
  }

  // What kernels wrote, back into the host tensor.
  void download(Stream stream = {}) {
    cuda::copy_to_host(host_.storage(), buffer_.data(), buffer_.bytes(), stream);
    cuda::synchronize(stream);
  }

 private:
  Tensor& host_;
  cuda::ContextScope context_;
  cuda::DeviceBuffer buffer_;
};

// A tensor on the host and on GPU 0.
struct Mirror {
  Tensor host;
  OnGpu gpu;

  explicit Mirror(Tensor tensor) : host(std::move(tensor)), gpu(host) {}
};

}  // namespace tilewright::test
