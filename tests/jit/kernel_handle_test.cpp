// SPDX-License-Identifier: Apache-2.0
// From a source to a launch, against the test double of libcuda: loading, parameters, GPUs.
#include "jit/kernel_handle.h"

#include <chrono>
#include <cstring>
#include <thread>

#include "jit/test_kernels.h"
#include "support/expect_error.h"
#include "support/use_fake_cuda.h"
#include "support/use_nvrtc.h"

namespace tilewright {
namespace {

using test::expect_error_of;
using test::fake_cuda;
using test::scale_kernel;
using test::ScaleParams;

class KernelHandle : public test::NvrtcFixture {
 protected:
  KernelHandle() { fake_cuda(); }
};

TEST_F(KernelHandle, LaunchesWithItsParameters) {
  const jit::KernelHandle handle(scale_kernel());
  const cuda::Kernel& kernel = handle.on(1);
  float x = 0;
  const ScaleParams params{&x, &x, 12345, 0.5F};
  int stream = 0;
  kernel.launch({.grid = 97, .block = 128, .shared_bytes = 64, .start = cuda::KernelStart::early},
                Stream{&stream}, params);
  ASSERT_EQ(fake_cuda().launches.size(), 1U);
  const test::FakeLaunch& launch = fake_cuda().launches[0];
  EXPECT_EQ(launch.kernel, "scale");
  EXPECT_EQ(launch.device, 1);
  EXPECT_EQ(launch.grid, 97U);
  EXPECT_EQ(launch.block, 128U);
  EXPECT_EQ(launch.shared_bytes, 64U);
  EXPECT_EQ(launch.stream, &stream);
  EXPECT_TRUE(launch.programmatic);
  // As many bytes as the compiled kernel takes.
  ASSERT_EQ(launch.params.size(), sizeof params);
  ScaleParams seen;
  std::memcpy(&seen, launch.params.data(), sizeof seen);
  EXPECT_EQ(seen.x, &x);
  EXPECT_EQ(seen.n, 12345);
  EXPECT_EQ(seen.factor, 0.5F);
  EXPECT_EQ(fake_cuda().contexts_on_stack, 0);
}

TEST_F(KernelHandle, OverlapIsNotAskedOfGpusWithoutIt) {
  fake_cuda().major = 8;
  const jit::KernelHandle handle(scale_kernel());
  handle.on(0).launch({.grid = 1, .block = 32, .start = cuda::KernelStart::early}, {},
                      ScaleParams{});
  EXPECT_FALSE(fake_cuda().launches.at(0).programmatic);
}

TEST_F(KernelHandle, ParametersOfAnotherSizeAreADefect) {
  const jit::KernelHandle handle(scale_kernel());
  struct Short {
    const float* x;
  };
  expect_error_of(ErrorCode::internal, {"kernel scale takes 32 bytes of parameters: 8 were given"},
                  [&] { handle.on(0).launch({}, {}, Short{}); });
}

TEST_F(KernelHandle, NoBlocksIsNoLaunch) {
  const jit::KernelHandle handle(scale_kernel());
  handle.on(0).launch({.grid = 0}, {}, ScaleParams{});
  EXPECT_TRUE(fake_cuda().launches.empty());
}

TEST_F(KernelHandle, RefusedLaunchesSayWhatWasLaunched) {
  const jit::KernelHandle handle(scale_kernel());
  expect_error_of(
      ErrorCode::device_error,
      {"cuLaunchKernelEx of scale (3 blocks of 2048 threads, 0 bytes of shared memory) on cuda:1",
       "CUDA_ERROR_INVALID_VALUE"},
      [&] { handle.on(1).launch({.grid = 3, .block = 2048}, {}, ScaleParams{}); });
}

TEST_F(KernelHandle, SharedMemoryAbove48KiBIsAllowedOnce) {
  jit::KernelSource source = scale_kernel();
  source.shared_bytes = 200 << 10;
  const jit::KernelHandle handle(source);
  handle.on(0).launch({.grid = 1, .block = 32, .shared_bytes = 200 << 10}, {}, ScaleParams{});
  handle.on(0).launch({.grid = 1, .block = 32, .shared_bytes = 200 << 10}, {}, ScaleParams{});
  EXPECT_EQ(fake_cuda().calls["cuFuncSetAttribute"], 1);
  source.shared_bytes = 300 << 10;
  const jit::KernelHandle too_much(source);
  expect_error_of(ErrorCode::device_error,
                  {"307200 bytes of shared memory for scale, of at most 232448"},
                  [&] { too_much.on(0); });
}

TEST_F(KernelHandle, IsLoadedOnceAGpuWhateverTheThreadsAndHandles) {
  const jit::KernelHandle first(scale_kernel()), second(scale_kernel());
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] { (i % 2 == 0 ? first : second).on(i / 2 % 2); });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(fake_cuda().modules, 2);
  EXPECT_EQ(&first.on(0), &second.on(0));
  EXPECT_NE(&first.on(0), &first.on(1));
  EXPECT_EQ(&first.on(1).device(), &cuda::device(1));
}

TEST_F(KernelHandle, ImagesThatTheDriverRefusesAreErrors) {
  fake_cuda().failures["cuModuleLoadData"] = 209;
  const jit::KernelHandle handle(scale_kernel());
  expect_error_of(ErrorCode::device_error,
                  {"kernel scale for sm_90a on cuda:0", "CUDA_ERROR_NO_BINARY_FOR_GPU"},
                  [&] { handle.on(0); });
  fake_cuda().failures.clear();
  EXPECT_TRUE(handle.on(0));  // not remembered
}

TEST_F(KernelHandle, GpusThatAreNotThereAreErrors) {
  const jit::KernelHandle handle(scale_kernel());
  expect_error_of(ErrorCode::invalid_argument, {"device is cuda:7"}, [&] { handle.on(7); });
  expect_error_of(ErrorCode::invalid_argument, {"device is cuda:64"}, [&] { handle.on(64); });
  expect_error_of(ErrorCode::invalid_argument, {"device is cuda:-1"}, [&] { handle.on(-1); });
}

TEST_F(KernelHandle, WarmLookUpsTakeLessThanAMicrosecond) {
  const jit::KernelHandle handle(scale_kernel());
  handle.on(0);
  constexpr int kTimes = 10000;
  double best = 1;
  for (int round = 0; round < 5; ++round) {
    const auto start = std::chrono::steady_clock::now();
    int found = 0;
    for (int i = 0; i < kTimes; ++i) found += handle.on(0) ? 1 : 0;
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    EXPECT_EQ(found, kTimes);
    best = std::min(best, seconds.count() / kTimes);
  }
  EXPECT_LT(best, 1e-6);
}

TEST_F(KernelHandle, TellsWhatTheDriverKnowsOfIt) {
  const jit::KernelHandle handle(scale_kernel());
  const cuda::Kernel& kernel = handle.on(0);
  EXPECT_STREQ(kernel.name(), "scale");
  EXPECT_EQ(kernel.registers(), 7);  // the test double's numbers
  EXPECT_EQ(kernel.local_bytes(), 7);
  EXPECT_EQ(kernel.shared_bytes(), 7);
  EXPECT_EQ(kernel.blocks_per_sm(256, 0), 8);
  EXPECT_EQ(kernel.resident_clusters({.block = 256, .cluster = 4}), 2);
}

}  // namespace
}  // namespace tilewright
