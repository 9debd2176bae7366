// SPDX-License-Identifier: Apache-2.0
// How long a warm call takes to find its kernel: on a test double of the driver, so that no GPU is
// needed and nothing else is in the figure. The first call of each compiles.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <exception>

#include "jit/kernel_handle.h"
#include "ops/cuda_run.h"
#include "support/use_fake_cuda.h"

namespace tilewright {
namespace {

// What attentions and plans keep: one atomic load.
void by_handle(benchmark::State& state) {
  const jit::KernelHandle handle(kernel_source({CudaOp::rms_norm, {DType::f32}}));
  handle.on(0);
  for (auto _ : state) benchmark::DoNotOptimize(&handle.on(0));
}
BENCHMARK(by_handle);

// Operators, by what decides their kernel, from several threads.
void by_key(benchmark::State& state) {
  const CudaOpKernel kernel{CudaOp::rms_norm, {DType::bf16, DType::bf16, DType::bf16}};
  op_kernel(kernel, 0);
  for (auto _ : state) benchmark::DoNotOptimize(&op_kernel(kernel, 0));
}
BENCHMARK(by_key)->Threads(1)->Threads(2);

}  // namespace
}  // namespace tilewright

int main(int argc, char** argv) try {
  tilewright::test::fake_cuda();  // before the library looks for a driver
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
