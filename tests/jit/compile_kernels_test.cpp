// SPDX-License-Identifier: Apache-2.0
// Compiling ahead: what is asked for, and the table of models.
#include <tilewright/jit.h>
#include <tilewright/variants.h>

#include "catalog/kernels_of.h"
#include "support/expect_error.h"
#include "support/use_nvrtc.h"

namespace tilewright {
namespace {

using test::expect_error_of;

TEST(CompileKernels, ArgumentsAreChecked) {
  CompileOptions options;
  options.archs = {"sm_80", "compute_80"};
  expect_error_of(ErrorCode::invalid_argument, {"archs has compute_80", "sm_80 or sm_90a"},
                  [&] { compile_kernels({}, options); });
  options.archs = {"sm_75"};
  expect_error_of(ErrorCode::invalid_argument, {"archs has sm_75", "oldest"},
                  [&] { compile_kernels({}, options); });
  options.archs = {"sm_80"};
  options.jobs = -1;
  expect_error_of(ErrorCode::invalid_argument, {"jobs is -1"},
                  [&] { compile_kernels({}, options); });
}

TEST(CompileKernels, OfLimitsAreWhatTheirPlansLaunch) {
  AttentionSpec spec;
  spec.num_qo_heads = spec.num_kv_heads = 2;
  spec.head_dim = 64;
  const auto names = [&](const Limits& most) {
    std::vector<std::string> list;
    for (const jit::KernelSource& source : kernels_of(spec, "sm_90a", most)) {
      list.push_back(source.name);
    }
    return list;
  };
  Limits limits = {4, 4, 1, 1024};
  EXPECT_THAT(names(limits), testing::ElementsAre("decode_bf16_bf16_d64_g1",
                                                  "attention_bf16_bf16_d64_g1", "plan_1"));
  limits.q_tokens = limits.q_len = 100;
  EXPECT_THAT(names(limits), testing::ElementsAre("attention_bf16_bf16_d64_g1", "plan_1"));
  limits.block_structures = true;
  EXPECT_THAT(names(limits), testing::ElementsAre("listed_bf16_bf16_d64_g1", "plan_1_listed"));
  CompileOptions options;
  options.archs = {"sm_80"};
  options.limits = Limits{};
  expect_error_of(ErrorCode::invalid_argument, {"limits.requests is 0"},
                  [&] { compile_kernels({spec}, options); });
}

TEST(Models, AreKnownByName) {
  const auto specs = model_attention_specs("gemma-3-12b");
  ASSERT_EQ(specs.size(), 2U);
  EXPECT_EQ(specs[0].variant, variants::causal());
  EXPECT_EQ(specs[1].variant, variants::causal(1023));
  EXPECT_EQ(model_attention_specs("llama-3.1-8b", DType::f8e4m3).at(0).kv_dtype, DType::f8e4m3);
  for (const std::string& name : model_names()) {
    for (const AttentionSpec& spec : model_attention_specs(name)) {
      EXPECT_TRUE(supports({}, spec)) << name;
    }
  }
  expect_error_of(ErrorCode::invalid_argument, {"model is llama-9", "llama-3.1-8b"},
                  [] { model_attention_specs("llama-9"); });
  EXPECT_GE(common_attention_specs().size(), 20U);
}

}  // namespace
}  // namespace tilewright
