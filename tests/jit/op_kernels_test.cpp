// SPDX-License-Identifier: Apache-2.0
// The operators' and the sampler's kernels compile for every architecture, within their budgets:
// compile() refuses spills, stack frames and performance warnings.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <tuple>
#include <vector>

#include "catalog/kernels_of.h"
#include "jit/compile.h"
#include "jit/disk_cache.h"
#include "ops/cuda_kernels.h"
#include "support/use_nvrtc.h"

namespace tilewright::test {
namespace {

class OpKernelsFixture : public NvrtcFixture {
 protected:
  static std::vector<jit::Binary> compile_all(const std::vector<jit::KernelSource>& sources,
                                              const std::string& arch) {
    std::vector<jit::Binary> binaries;
    for (const jit::KernelSource& source : sources) {
      binaries.push_back(jit::compile(source, arch));
      const jit::Binary& binary = binaries.back();
      EXPECT_EQ(binary.warnings, "") << source.name;
      EXPECT_EQ(binary.entries.size(), 1U) << source.name;
      for (const jit::EntryReport& entry : binary.entries) {
        EXPECT_EQ(entry.name, source.name);
        EXPECT_EQ(entry.stack_bytes, 0) << source.name;
        EXPECT_EQ(entry.shared_bytes, 0) << source.name;
      }
    }
    return binaries;
  }
};

// An architecture, and every how many-th kernel: all of them at once take one core minutes.
constexpr int kParts = 4;
class CommonOpKernels : public OpKernelsFixture,
                        public testing::WithParamInterface<std::tuple<std::string, int>> {};

TEST_P(CommonOpKernels, CompileWithinTheirBudgets) {
  const auto& [arch, part] = GetParam();
  const std::vector<jit::KernelSource> sources = kernels_of_ops(arch);
  EXPECT_GE(sources.size(), 20U);
  std::vector<jit::KernelSource> own;
  for (auto i = static_cast<std::size_t>(part); i < sources.size(); i += kParts) {
    own.push_back(sources[i]);
  }
  const std::vector<jit::Binary> binaries = compile_all(own, arch);
  // `make test` names a folder where test_sass.py finds them compiled.
  if (const char* folder = std::getenv("TILEWRIGHT_TEST_KERNELS")) {
    const std::filesystem::path kernels = std::filesystem::path(folder) / arch;
    std::filesystem::create_directories(kernels);
    set_kernel_cache_path(kernels.string());
    for (const jit::Binary& binary : binaries) jit::store_entry(binary);
  }
}
INSTANTIATE_TEST_SUITE_P(Archs, CommonOpKernels,
                         testing::Combine(testing::Values<std::string>("sm_80", "sm_90a"),
                                          testing::Range(0, kParts)));

class OpKernels : public OpKernelsFixture, public testing::WithParamInterface<const char*> {};

// The dtypes that need most registers, and conversions that the common ones lack.
TEST_P(OpKernels, OthersCompileWithinTheirBudgets) {
  constexpr DType kF32 = DType::f32;
  const std::vector<CudaOpKernel> kernels = {
      {CudaOp::rms_norm, {kF32, kF32, kF32}},
      {CudaOp::fused_add_rms_norm, {kF32, DType::bf16, DType::f16, kF32}},
      {CudaOp::fused_add_rms_norm, {kF32, kF32, kF32, kF32}},
      {CudaOp::fused_add_rms_norm, {kF32, kF32, DType::bf16, DType::f8e4m3}},
      {CudaOp::layer_norm, {kF32, kF32, kF32}},
      {CudaOp::layer_norm_with_bias, {kF32, kF32, kF32, DType::f8e4m3}},
      {CudaOp::layer_norm_with_bias, {kF32, DType::bf16, DType::bf16, kF32}},
      {CudaOp::act_and_mul, {kF32, kF32}, Activation::gelu},
      {CudaOp::apply_rope, {kF32, kF32}},
      {CudaOp::apply_rope_with_table, {kF32, kF32, kF32}},
      {CudaOp::merge_states, {kF32, kF32}},
      {CudaOp::rope_and_cache, {kF32, kF32, kF32, kF32, kF32}},
      {CudaOp::rope_and_cache, {kF32, DType::f8e4m3, DType::f8e5m2, DType::bf16, DType::f16}},
      {CudaOp::write_kv_cache, {kF32, kF32, kF32, kF32}},
      {CudaOp::write_kv_cache, {kF32, DType::f8e5m2, kF32, DType::f8e4m3}},
      {CudaOp::write_kv_cache, {DType::f8e4m3, DType::f8e4m3, DType::f8e5m2, DType::f8e5m2}},
      {CudaOp::write_kv_cache, {kF32, DType::bf16, DType::f16, kF32}},
  };
  std::vector<jit::KernelSource> sources;
  sources.reserve(kernels.size());
  for (const CudaOpKernel& kernel : kernels) sources.push_back(kernel_source(kernel));
  compile_all(sources, GetParam());
}

TEST(OpKernelSource, NamesTellTheDTypes) {
  const jit::KernelSource source =
      kernel_source({CudaOp::act_and_mul, {DType::bf16, DType::f16}, Activation::gelu_tanh});
  EXPECT_EQ(source.name, "act_and_mul_gelu_tanh_bf16_f16");
  EXPECT_THAT(source.source, testing::HasSubstr("act_and_mul<Gate::gelu_tanh, bf16, f16>(params)"));
}

INSTANTIATE_TEST_SUITE_P(Archs, OpKernels, testing::Values("sm_80", "sm_90a"));

}  // namespace
}  // namespace tilewright::test
