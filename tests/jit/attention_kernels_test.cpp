// SPDX-License-Identifier: Apache-2.0
// The attention kernels compile for every architecture, within their budgets: compile() refuses
// spills, stack frames and performance warnings.
#include <gtest/gtest.h>

#include "attention/cuda_sources.h"
#include "attention/update_kernel.h"
#include "jit/compile.h"
#include "support/use_nvrtc.h"

namespace tilewright::test {
namespace {

AttentionSpec spec_of(int head_dim, int value_dim, int group, DType dtype, Variant variant) {
  AttentionSpec spec;
  spec.num_kv_heads = 2;
  spec.num_qo_heads = 2 * group;
  spec.head_dim = head_dim;
  spec.head_dim_vo = value_dim;
  spec.q_dtype = spec.kv_dtype = dtype;
  spec.variant = std::move(variant);
  return spec;
}

// Of which the compiler has nothing to say.
jit::Binary compiled(const jit::KernelSource& source, const char* arch) {
  jit::Binary binary = jit::compile(source, arch);
  EXPECT_EQ(binary.warnings, "") << source.name;
  return binary;
}

class AttentionKernels : public testing::TestWithParam<const char*> {};

TEST_P(AttentionKernels, CompileWithinTheirBudgets) {
  const CudaTarget target = CudaTarget::of_arch(GetParam());
  const std::vector<AttentionSpec> specs = {
      spec_of(128, 128, 4, DType::bf16, variants::causal()),
      spec_of(64, 64, 1, DType::f16, variants::causal(511, 30.0)),
      spec_of(192, 128, 16, DType::bf16, variants::prefix_lm()),
  };
  for (const AttentionSpec& spec : specs) {
    ASSERT_TRUE(cuda_supports(spec, target)) << cuda_supports(spec, target).reason;
    for (const KernelUse use : {KernelUse::any_batch, KernelUse::decode_only}) {
      const jit::Binary binary = compiled(attention_source(spec, target, use), GetParam());
      EXPECT_EQ(binary.entries.size(), 2U);
      // Hopper's kernel for any batch: a few registers, outside of its loop.
      const int most = cuda_shape(spec, target, use).kind == KernelKind::hopper ? 128 : 0;
      EXPECT_LE(binary.spill_bytes(), most) << binary.name;
    }
  }
}

// Their widening costs the prefill loop a few registers: compile() limits what may spill.
TEST_P(AttentionKernels, OfFp8CachesCompile) {
  const CudaTarget target = CudaTarget::of_arch(GetParam());
  for (const DType dtype : {DType::f8e4m3, DType::f8e5m2}) {
    AttentionSpec spec = spec_of(128, 128, 4, DType::bf16, variants::causal());
    spec.kv_dtype = dtype;
    ASSERT_TRUE(cuda_supports(spec, target)) << cuda_supports(spec, target).reason;
    for (const KernelUse use : {KernelUse::any_batch, KernelUse::decode_only}) {
      const jit::KernelSource source = attention_source(spec, target, use);
      EXPECT_NE(source.name.find(dtype == DType::f8e4m3 ? "bf16_f8e4m3_bf16" : "bf16_f8e5m2_bf16"),
                std::string::npos)
          << source.name;
      EXPECT_LE(compiled(source, GetParam()).max_registers(), 255);
    }
  }
  AttentionSpec odd = spec_of(72, 72, 4, DType::bf16, variants::causal());
  odd.kv_dtype = DType::f8e4m3;
  EXPECT_NE(cuda_supports(odd, target).reason.find("head_dim is 72"), std::string::npos);
}

// Smaller blocks of keys, so that what rotation needs fits.
TEST_P(AttentionKernels, ThatRotateCompile) {
  const CudaTarget target = CudaTarget::of_arch(GetParam());
  Variant rope = variants::causal();
  rope.rope = RopeSpec{};
  const AttentionSpec spec = spec_of(128, 128, 4, DType::bf16, rope);
  ASSERT_TRUE(cuda_supports(spec, target)) << cuda_supports(spec, target).reason;
  EXPECT_EQ(cuda_shape(spec, target, KernelUse::any_batch).block_tokens, 32);
  for (const KernelUse use : {KernelUse::any_batch, KernelUse::decode_only}) {
    const jit::Binary binary = compiled(attention_source(spec, target, use), GetParam());
    EXPECT_EQ(binary.spill_bytes(), 0) << binary.name;
  }
  const Support no = cuda_supports(spec_of(256, 256, 4, DType::bf16, rope), {8, 0});
  EXPECT_NE(no.reason.find("head_dim is 256, variant.rope given"), std::string::npos) << no.reason;
}

TEST_P(AttentionKernels, OfF32QueriesCompile) {
  const CudaTarget target = CudaTarget::of_arch(GetParam());
  AttentionSpec small = spec_of(64, 64, 3, DType::f32, variants::causal());
  small.kv_dtype = DType::f8e4m3;
  for (const AttentionSpec& spec :
       {spec_of(64, 64, 3, DType::f32, variants::causal()), small,
        spec_of(256, 256, 4, DType::f32, variants::causal(511, 30.0))}) {
    ASSERT_TRUE(cuda_supports(spec, target)) << cuda_supports(spec, target).reason;
    const jit::Binary binary =
        compiled(attention_source(spec, target, KernelUse::any_batch), GetParam());
    EXPECT_EQ(binary.spill_bytes(), 0) << binary.name;
  }
}

TEST_P(AttentionKernels, OfPlansWithBlockStructuresCompile) {
  const CudaTarget target = CudaTarget::of_arch(GetParam());
  const AttentionSpec spec = spec_of(128, 128, 4, DType::bf16, variants::block_sparse(64, 64));
  const jit::Binary binary =
      compiled(attention_source(spec, target, KernelUse::listed_blocks), GetParam());
  EXPECT_EQ(binary.name, "listed_bf16_bf16_d128_g4");
  EXPECT_EQ(binary.spill_bytes(), 0);
  EXPECT_EQ(compiled(plan_source({mask_of(spec.variant)}, 1, true), GetParam()).name,
            "plan_1_listed");
}

TEST_P(AttentionKernels, PlansOfSeveralMasksAreOneKernel) {
  const std::vector<Variant> masks = {mask_of(variants::causal()), mask_of(variants::document())};
  const jit::Binary binary = compiled(plan_source(masks, 3), GetParam());
  // The second one copies status words.
  EXPECT_EQ(binary.entries.size(), 2U);
}

INSTANTIATE_TEST_SUITE_P(Archs, AttentionKernels, testing::Values("sm_80", "sm_90a"));

}  // namespace
}  // namespace tilewright::test
