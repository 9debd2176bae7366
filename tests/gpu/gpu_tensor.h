// SPDX-License-Identifier: Apache-2.0
// Tensors of the tests on a GPU.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "cuda/device.h"
#include "cuda/memory.h"
#include "support/tensor.h"

namespace tilewright::test {

// Skips tests where there is no GPU, and says why.
class GpuTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string why;
    if (cuda::find_driver(&why) == nullptr) GTEST_SKIP() << "no GPU here: " << why;
  }
};

// A host tensor's memory, guards and all, on GPU 0, at addresses of the same alignment.
class OnGpu {
 public:
  explicit OnGpu(Tensor& host)
      : host_(host), context_(0), buffer_(cuda::device(0), host.storage_bytes()) {
    if (host.defined()) cuda::copy_to_device(buffer_.data(), host.storage(), buffer_.bytes(), {});
  }
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;

  // An undefined tensor gives "no tensor".
  TensorView view() const {
    TensorView view = host_.view();
    if (!host_.defined()) return view;
    view.data = static_cast<std::uint8_t*>(buffer_.data()) + (host_.data() - host_.storage());
    view.device = {DeviceType::cuda, 0};
    return view;
  }

  // What kernels wrote, back into the host tensor.
  void download() {
    cuda::copy_to_host(host_.storage(), buffer_.data(), buffer_.bytes(), {});
    cuda::synchronize({});
  }

 private:
  Tensor& host_;
  cuda::ContextScope context_;
  cuda::DeviceBuffer buffer_;
};

}  // namespace tilewright::test
