// SPDX-License-Identifier: Apache-2.0
// Loading the driver, devices and contexts, against the test double of libcuda.
#include "cuda/driver.h"

#include <sys/wait.h>
#include <unistd.h>

#include <thread>

#include "cuda/device.h"
#include "support/expect_error.h"
#include "support/use_fake_cuda.h"

namespace tilewright {
namespace {

using cuda::ContextScope;
using cuda::Device;
using test::expect_error_of;
using test::fake_cuda;

cuda::ContextObject* current_context() {
  cuda::ContextObject* context = nullptr;
  cuda::driver().ctx_get_current(&context);
  return context;
}

TEST(Driver, AMissingDriverIsSaidWithWhatWasTriedAndHowToMendIt) {
  expect_error_of(ErrorCode::not_supported,
                  {"there is no CUDA driver", "libcuda-nowhere.so.1", "/nowhere/libcuda.so.1",
                   "cannot open shared object file", "install NVIDIA's driver", "--gpus all"},
                  [] {
                    cuda::open_driver({"libcuda-nowhere.so.1", "/nowhere/libcuda.so.1"});
                  });
}

TEST(Driver, ALibraryThatIsNoDriverIsRefused) {
  expect_error_of(ErrorCode::not_supported, {"libm.so.6", "has no function cuInit", "update"},
                  [] { cuda::open_driver({"libm.so.6"}); });
}

TEST(Driver, IsOpenedAndInitialisedOnce) {
  test::FakeCuda& fake = fake_cuda();
  std::vector<std::thread> threads;
  threads.reserve(8);
  for (int i = 0; i < 8; ++i) threads.emplace_back([] { cuda::device(1); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(cuda::driver().version, 13000);
  EXPECT_THAT(cuda::driver().path, ::testing::EndsWith("libcuda.so.1"));
  EXPECT_EQ(fake.calls["cuInit"], 1);
  EXPECT_EQ(fake.calls["cuDevicePrimaryCtxRetain"], 1);
}

TEST(Driver, NoGpuIsAnErrorUntilThereIsOne) {
  fake_cuda().devices = 0;
  std::string why;
  EXPECT_EQ(cuda::find_driver(&why), nullptr);
  EXPECT_THAT(why, ::testing::HasSubstr("CUDA_ERROR_NO_DEVICE"));
  EXPECT_THAT(why, ::testing::HasSubstr("CUDA_VISIBLE_DEVICES"));
  EXPECT_EQ(cuda::device_count(), 0);
  EXPECT_EQ(cuda::installed_driver_version(), 13000);  // the driver is there
  fake_cuda().devices = 1;
  EXPECT_EQ(cuda::device_count(), 1);
}

TEST(Driver, FailedCallsHaveTheDriversWords) {
  const cuda::Driver& api = (fake_cuda(), cuda::driver());
  expect_error_of(
      ErrorCode::device_error,
      {"cuStreamSynchronize failed", "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access"},
      [&] { cuda::check(api, 700, "cuStreamSynchronize"); });
  expect_error_of(ErrorCode::out_of_memory, {"CUDA_ERROR_OUT_OF_MEMORY"},
                  [&] { cuda::check(api, 2, "cuMemAlloc"); });
}

// What a child process finds, by its exit status.
template <typename Body>
int in_child(const Body& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Driver, CanBeUsedInAChildThatWasForkedBeforeFirstUse) {
  EXPECT_EQ(in_child([] {
              fake_cuda();
              return cuda::device_count() == 2 ? 0 : 1;
            }),
            0);
}

TEST(Driver, IsAClearErrorInAChildThatWasForkedAfterFirstUse) {
  fake_cuda();
  const Device& device = cuda::device(0);
  EXPECT_EQ(in_child([&] {
              try {
                const ContextScope scope(device);
                return 1;
              } catch (const Error& error) {
                return error.code() == ErrorCode::invalid_state &&
                               std::string(error.what()).find("spawn") != std::string::npos
                           ? 0
                           : 2;
              }
            }),
            0);
  const ContextScope scope(device);  // the parent goes on
}

TEST(Device, IsDescribed) {
  fake_cuda().major = 8;
  fake_cuda().minor = 6;
  const Device device = cuda::describe_device(1);
  EXPECT_EQ(device.index, 1);
  EXPECT_EQ(device.name, "Fake GPU");
  EXPECT_EQ(device.arch, "sm_86");
  EXPECT_EQ(device.num_sms, 132);
  EXPECT_EQ(device.shared_bytes_per_block, 227 << 10);
  EXPECT_FALSE(device.has_programmatic_launch());
  EXPECT_EQ(device.context, nullptr);
  EXPECT_EQ(fake_cuda().calls["cuDevicePrimaryCtxRetain"], 0);
}

TEST(Device, HopperIsCompiledForItsOwnInstructions) {
  fake_cuda();
  EXPECT_EQ(cuda::device(0).arch, "sm_90a");
}

TEST(Device, TheEnvironmentAsksForPortableKernels) {
  fake_cuda();
  setenv("TILEWRIGHT_PORTABLE", "1", 1);
  const std::string portable = cuda::describe_device(0).arch;
  setenv("TILEWRIGHT_PORTABLE", "0", 1);
  const std::string own = cuda::describe_device(0).arch;
  unsetenv("TILEWRIGHT_PORTABLE");
  EXPECT_EQ(portable, "sm_90");
  EXPECT_EQ(own, "sm_90a");
}

TEST(Device, OutOfRangeAndTooOldAreErrors) {
  fake_cuda();
  expect_error_of(ErrorCode::invalid_argument, {"device is cuda:2", "sees 2 GPUs"},
                  [] { cuda::device(2); });
  expect_error_of(ErrorCode::invalid_argument, {"device is cuda:-1"}, [] { cuda::device(-1); });
  expect_error_of(ErrorCode::invalid_argument, {"device is cuda:64"}, [] { cuda::device(64); });
  fake_cuda().major = 7;
  expect_error_of(ErrorCode::not_supported, {"compute capability 7.0", "Ampere"},
                  [] { cuda::device(0); });
}

TEST(ContextScope, RestoresWhatWasCurrent) {
  test::FakeCuda& fake = fake_cuda();
  const Device& first = cuda::device(0);
  const Device& second = cuda::device(1);
  EXPECT_EQ(current_context(), nullptr);
  {
    const ContextScope outer(first);
    EXPECT_EQ(current_context(), first.context);
    {
      const ContextScope inner(second);
      EXPECT_EQ(current_context(), second.context);
      const ContextScope again(second);  // nothing to do
      EXPECT_EQ(fake.contexts_on_stack, 2);
    }
    EXPECT_EQ(current_context(), first.context);
  }
  EXPECT_EQ(current_context(), nullptr);
  EXPECT_EQ(fake.contexts_on_stack, 0);
}

}  // namespace
}  // namespace tilewright
