// SPDX-License-Identifier: Apache-2.0
// The driver and compiled kernels on a real GPU; skipped where there is none.
#include <gtest/gtest.h>

#include <cstdlib>
#include <numeric>
#include <thread>
#include <vector>

#include "cuda/memory.h"
#include "jit/kernel_handle.h"
#include "jit/kernel_store.h"
#include "jit/test_kernels.h"
#include "support/expect_error.h"
#include "support/use_nvrtc.h"

namespace tilewright {
namespace {

using test::scale_kernel;
using test::ScaleParams;

class GpuLaunch : public test::NvrtcFixture {
 protected:
  void SetUp() override {
    std::string why;
    if (cuda::find_driver(&why) == nullptr) GTEST_SKIP() << why;
    // Machines without NVRTC run what another one has compiled.
    if (const char* pack = std::getenv("TILEWRIGHT_TEST_PACK")) load_kernel_pack(pack);
  }
};

// Numbers on a GPU, and their product with a factor.
struct Scaling {
  static constexpr int kCount = 100'000;

  explicit Scaling(const cuda::Device& gpu)
      : device(gpu),
        x(gpu, kCount * sizeof(float)),
        out(gpu, kCount * sizeof(float)),
        values(kCount) {
    std::iota(values.begin(), values.end(), 0.0F);
  }

  void upload(Stream stream) {
    cuda::copy_to_device(x.data(), values.data(), kCount * sizeof(float), stream);
    cuda::fill_bytes(out.data(), 0xFF, kCount * sizeof(float), stream);
  }
  void launch(const cuda::Kernel& kernel, Stream stream, float factor,
              cuda::KernelStart start = cuda::KernelStart::in_turn) {
    const ScaleParams params{static_cast<float*>(x.data()), static_cast<float*>(out.data()), kCount,
                             factor};
    kernel.launch({.grid = (kCount + 127) / 128, .block = 128, .start = start}, stream, params);
  }
  void expect_scaled(Stream stream, float factor) {
    std::vector<float> got(kCount);
    cuda::copy_to_host(got.data(), out.data(), kCount * sizeof(float), stream);
    cuda::synchronize(stream);
    for (int i = 0; i < kCount; ++i) ASSERT_EQ(got[i], values[i] * factor) << i;
  }

  const cuda::Device& device;
  cuda::DeviceBuffer x, out;
  std::vector<float> values;
};

TEST_F(GpuLaunch, RunsOnEveryGpu) {
  const jit::KernelHandle handle(scale_kernel());
  for (int index = 0; index < cuda::device_count(); ++index) {
    const cuda::Device& device = cuda::device(index);
    const cuda::ContextScope scope(device);
    const cuda::OwnedStream stream(device);
    Scaling scaling(device);
    scaling.upload(stream.get());
    scaling.launch(handle.on(index), stream.get(), 0.5F, cuda::KernelStart::early);
    scaling.expect_scaled(stream.get(), 0.5F);
    EXPECT_GT(device.num_sms, 0);
    EXPECT_GT(device.l2_bytes, 0);
    EXPECT_GE(device.shared_bytes_per_block, 99 << 10);
  }
}

TEST_F(GpuLaunch, TheNullStreamNeedsNoCurrentContext) {
  const jit::KernelHandle handle(scale_kernel());
  Scaling scaling(cuda::device(0));
  const cuda::Kernel& kernel = handle.on(0);
  {
    const cuda::ContextScope scope(0);
    scaling.upload({});
  }
  scaling.launch(kernel, {}, 3);
  const cuda::ContextScope scope(0);
  scaling.expect_scaled({}, 3);
}

TEST_F(GpuLaunch, IsRecordedIntoAGraph) {
  const jit::KernelHandle handle(scale_kernel());
  const cuda::Device& device = cuda::device(0);
  const cuda::ContextScope scope(device);
  const cuda::OwnedStream stream(device);
  Scaling scaling(device);
  const cuda::Kernel& kernel = handle.on(0);
  const cuda::Graph graph(device, stream.get(), [&] {
    EXPECT_TRUE(cuda::is_capturing(stream.get()));
    scaling.launch(kernel, stream.get(), 2);
  });
  for (int i = 0; i < 3; ++i) {
    scaling.values[5] = static_cast<float>(i);
    scaling.upload(stream.get());
    graph.launch(stream.get());
    scaling.expect_scaled(stream.get(), 2);
  }
}

TEST_F(GpuLaunch, EventsTellTime) {
  const jit::KernelHandle handle(scale_kernel());
  const cuda::Device& device = cuda::device(0);
  const cuda::ContextScope scope(device);
  Scaling scaling(device);
  cuda::Event start(device, cuda::Event::Timing::on), end(device, cuda::Event::Timing::on);
  scaling.upload({});
  scaling.launch(handle.on(0), {}, 1);
  start.record({});
  for (int i = 0; i < 100; ++i) scaling.launch(handle.on(0), {}, 1);
  end.record({});
  end.synchronize();
  EXPECT_TRUE(end.is_done());
  EXPECT_GT(end.milliseconds_since(start), 0);
  RecordProperty("microseconds_a_launch", std::to_string(end.milliseconds_since(start) * 10));
}

TEST_F(GpuLaunch, ManyThreadsLaunchOnTheirStreams) {
  const jit::KernelHandle handle(scale_kernel());
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      const cuda::Device& device = cuda::device(0);
      const cuda::ContextScope scope(device);
      const cuda::OwnedStream stream(device);
      Scaling scaling(device);
      scaling.upload(stream.get());
      for (int k = 0; k < 50; ++k) {
        scaling.launch(handle.on(0), stream.get(), static_cast<float>(i + k));
      }
      scaling.expect_scaled(stream.get(), static_cast<float>(i + 49));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_F(GpuLaunch, TheDriverAgreesWithTheCompilersReport) {
  const jit::KernelHandle handle(scale_kernel());
  const cuda::Kernel& kernel = handle.on(0);
  const auto binary = jit::obtain(scale_kernel(), cuda::device(0).arch).binary;
  EXPECT_EQ(kernel.registers(), binary->max_registers());
  EXPECT_EQ(kernel.local_bytes(), 0);
  EXPECT_GE(kernel.blocks_per_sm(128, 0), 8);
}

TEST_F(GpuLaunch, RefusedLaunchesAreErrors) {
  const jit::KernelHandle handle(scale_kernel());
  test::expect_error_of(ErrorCode::device_error, {"4096 threads", "CUDA_ERROR_INVALID_VALUE"}, [&] {
    handle.on(0).launch({.grid = 1, .block = 4096}, {}, ScaleParams{});
  });
  struct Short {
    long long a;
  };
  if (cuda::driver().func_get_param_info != nullptr) {
    test::expect_error_of(ErrorCode::internal, {"takes 32 bytes", "8 were given"},
                          [&] { handle.on(0).launch({}, {}, Short{}); });
  }
}

}  // namespace
}  // namespace tilewright
