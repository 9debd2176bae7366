// SPDX-License-Identifier: Apache-2.0
// Runs launches of the operators' kernels in the emulator.
#pragma once

#include <array>
#include <string>
#include <utility>
#include <vector>

#include "ops/cuda_launches.h"
#include "ops_cuda/cases.h"
#include "runtime/launch.h"

namespace tilewright::test {

template <DType dtype>
struct DeviceTypeOf;
template <>
struct DeviceTypeOf<DType::f32> {
  using Type = float;
};
template <>
struct DeviceTypeOf<DType::f16> {
  using Type = tw::f16;
};
template <>
struct DeviceTypeOf<DType::bf16> {
  using Type = tw::bf16;
};
template <>
struct DeviceTypeOf<DType::f8e4m3> {
  using Type = tw::f8e4m3;
};
template <>
struct DeviceTypeOf<DType::f8e5m2> {
  using Type = tw::f8e5m2;
};
template <DType dtype>
using DeviceElement = typename DeviceTypeOf<dtype>::Type;

// Kernels that a test compiled, by what the launch code calls them.
template <typename Params>
struct CompiledKernel {
  CudaOpKernel kernel;
  void (*function)(Params);
};

// One for each mix, made by make.template operator()<mix>().
template <typename Params, typename Make>
std::vector<CompiledKernel<Params>> compile_mixes(const Make& make) {
  return [&]<int... mix>(std::integer_sequence<int, mix...>) {
    return std::vector<CompiledKernel<Params>>{make.template operator()<mix>()...};
  }
  (std::make_integer_sequence<int, kNumMixes>());
}

// Errors of the kernel (a Failure) fail the test that runs it.
template <typename Params>
void emulate(const std::vector<CompiledKernel<Params>>& compiled,
             const CudaOpLaunch<Params>& launch, std::uint64_t seed = 1) {
  if (launch.grid == 0) return;
  for (const CompiledKernel<Params>& each : compiled) {
    if (!(each.kernel == launch.kernel)) continue;
    tw::emulator::launch(each.function,
                         {.grid = launch.grid,
                          .block = launch.block,
                          .shared_bytes = launch.shared_bytes,
                          .seed = seed},
                         launch.params);
    return;
  }
  FAIL() << "no test compiled " << kernel_name(launch.kernel);
}

}  // namespace tilewright::test
