// SPDX-License-Identifier: Apache-2.0
// Small kernels to be compiled by the tests.
#pragma once

#include <string>

#include "jit/kernel_source.h"

namespace tilewright::test {

// The parameters of `scale`.
struct ScaleParams {
  const float* x = nullptr;
  float* out = nullptr;
  long long n = 0;
  float factor = 1;
};

// out = x * factor. Includes device code, and a header of the scheduler with its <cstdint>.
inline jit::KernelSource scale_kernel(const std::string& salt = "") {
  jit::KernelSource source;
  source.name = "scale";
  source.source = R"(
#include "arch/thread.h"
#include "plan/records.h"
struct Params { const float* x; float* out; std::int64_t n; float factor; };
TW_KERNEL TW_LAUNCH_BOUNDS(128, 1) scale(TW_PARAMETER Params p) {
  const std::int64_t i = std::int64_t{tw::block_id()} * 128 + tw::thread_id();
  if (i < p.n) p.out[i] = p.x[i] * p.factor;
}
)";
  source.source += "// " + salt + "\n";
  source.entries = {"scale"};
  source.budget.max_registers = 32;
  return source;
}

// Indexes an array by a value that is not known: it lands on the stack.
inline jit::KernelSource stack_kernel() {
  jit::KernelSource source;
  source.name = "stacked";
  source.source = R"(
#include "arch/types.h"
TW_KERNEL stacked(float* x, int i) {
  float a[64];
  for (int k = 0; k < 64; ++k) a[k] = x[k * k];
  a[i] = 1;
  for (int k = 0; k < 64; ++k) x[k] = a[(k * i) % 64];
}
)";
  source.entries = {"stacked"};
  return source;
}

// Needs more registers than its launch bounds leave.
inline jit::KernelSource spilling_kernel() {
  jit::KernelSource source;
  source.name = "spilling";
  source.source = R"(
#include "arch/types.h"
TW_KERNEL TW_LAUNCH_BOUNDS(1024, 2) spilling(const float* x, float* out) {
  float a[96];
#pragma unroll
  for (int k = 0; k < 96; ++k) a[k] = x[k * 1024 + threadIdx.x];
  __syncthreads();
#pragma unroll
  for (int k = 0; k < 96; ++k) out[k * 1024 + threadIdx.x] = a[k] * a[95 - k] + a[(k * 7) % 96];
}
)";
  source.entries = {"spilling"};
  return source;
}

}  // namespace tilewright::test
