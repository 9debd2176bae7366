// SPDX-License-Identifier: Apache-2.0
// Which CUDA kernel plans take, by spec, limits and architecture: no GPU needed.
#include <tilewright/tilewright.h>

#include <functional>

#include "attention/cuda_sources.h"
#include "support/expect_error.h"

namespace tilewright::test {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

AttentionSpec spec_of(int head_dim = 128, int group = 4, Variant variant = variants::causal()) {
  AttentionSpec spec;
  spec.num_kv_heads = 8;
  spec.num_qo_heads = 8 * group;
  spec.head_dim = head_dim;
  spec.variant = std::move(variant);
  return spec;
}

Limits limits_of_length(std::int64_t q_len) {
  return {64, 64 * q_len, q_len, 32768};
}

KernelChoice choose(const AttentionSpec& spec, const Limits& limits, const std::string& arch) {
  return choose_kernels(spec, limits, arch).requests;
}

TEST(KernelChoice, ByLimitsAndArchitecture) {
  const AttentionSpec spec = spec_of();
  struct Row {
    const char* arch;
    std::int64_t q_len;
    const char* kernel;
  };
  // With a group of 4 tiles of 16 rows have 4 query tokens.
  for (const Row& row : std::vector<Row>{{"sm_80", 1, "decode"},
                                         {"sm_80", 5, "portable"},
                                         {"sm_86", 4096, "portable"},
                                         {"sm_90a", 1, "decode"},
                                         {"sm_90a", 4, "decode"},
                                         {"sm_90a", 5, "hopper"},
                                         {"sm_90", 4096, "hopper"},
                                         {"sm_100", 1, "decode"},
                                         {"sm_100a", 4096, "portable"},
                                         {"sm_120", 4096, "portable"}}) {
    const KernelChoices choices = choose_kernels(spec, limits_of_length(row.q_len), row.arch);
    EXPECT_EQ(choices.requests.kernel, row.kernel) << row.arch << ", " << row.q_len;
    // Rows of levels may have any number of query tokens.
    EXPECT_NE(choices.rows.kernel, "decode");
  }
}

TEST(KernelChoice, IsWhatIsCompiledAndLaunched) {
  for (const char* arch : {"sm_80", "sm_90a", "sm_100"}) {
    const CudaTarget target = CudaTarget::of_arch(arch);
    for (const int head_dim : {64, 72, 96, 128, 192}) {
      for (const std::int64_t q_len : {1, 100}) {
        const AttentionSpec spec = spec_of(head_dim);
        const KernelChoices choices = choose_kernels(spec, limits_of_length(q_len), arch);
        const PlanUses uses = plan_uses(spec, limits_of_length(q_len));
        for (const auto& [choice, use] :
             {std::pair{&choices.requests, uses.requests}, std::pair{&choices.rows, uses.rows}}) {
          const jit::KernelSource source = attention_source(spec, target, use);
          EXPECT_EQ(choice->name, source.name);
          EXPECT_EQ(choice->arch, arch);
          EXPECT_EQ(choice->shared_bytes, source.shared_bytes);
          EXPECT_THAT(source.source, HasSubstr("kBlock = " + std::to_string(choice->block_tokens)));
          EXPECT_THAT(source.source,
                      HasSubstr(choice->kernel == "hopper" ? "\"attention/hopper.h\""
                                                           : "\"attention/attention.h\""));
          EXPECT_THAT(source.source, HasSubstr(std::string("kDecodeOnly = ") +
                                               (choice->kernel == "decode" ? "true" : "false")));
          EXPECT_EQ(choice->tile_rows, choice->kernel == "decode" ? 16 : 128);
          EXPECT_EQ(choice->key_stages, choice->kernel == "decode" ? 0 : 2);
          EXPECT_GE(choice->value_stages, choice->key_stages);
          EXPECT_EQ(choice->decode_stages > 0, choice->kernel != "hopper");
          EXPECT_EQ(choice->heads_together, choice->kernel == "decode" ? 8 : 1);
          EXPECT_EQ(choice->threads % 32, 0);
          EXPECT_GE(choice->blocks_per_sm, 1);
        }
      }
    }
  }
}

// Queries of f32 have one kernel, whatever the limits.
TEST(KernelChoice, OfF32) {
  AttentionSpec spec = spec_of();
  spec.q_dtype = DType::f32;
  for (const DType kv : {DType::f32, DType::bf16, DType::f8e4m3}) {
    spec.kv_dtype = kv;
    for (const std::int64_t q_len : {1, 100}) {
      for (const char* arch : {"sm_80", "sm_90a", "sm_120"}) {
        const KernelChoices choices = choose_kernels(spec, limits_of_length(q_len), arch);
        EXPECT_EQ(choices.requests.kernel, "scalar");
        EXPECT_EQ(choices.rows.kernel, "scalar");
        EXPECT_THAT(choices.requests.not_decode, Contains(HasSubstr("q_dtype is float32")));
        EXPECT_EQ(choices.requests.key_stages, 0);
        const jit::KernelSource source =
            attention_source(spec, CudaTarget::of_arch(arch), KernelUse::any_batch);
        EXPECT_EQ(choices.requests.name, source.name);
        EXPECT_THAT(source.source, HasSubstr("\"attention/scalar.h\""));
      }
    }
  }
  spec.q_dtype = DType::bf16;
  spec.kv_dtype = DType::f32;
  expect_error_of(ErrorCode::not_supported, {"kv_dtype is float32"},
                  [&] { choose_kernels(spec, limits_of_length(1), "sm_80"); });
}

// Decode computes as many KV heads side by side as a power of two up to 8 divides.
TEST(KernelChoice, HeadsOfDecodeSideBySide) {
  for (const auto& [heads, together] :
       {std::pair{1, 1}, {2, 2}, {5, 1}, {8, 8}, {12, 4}, {16, 8}, {32, 8}, {40, 8}, {64, 8}}) {
    AttentionSpec spec = spec_of();
    spec.num_qo_heads = spec.num_kv_heads = heads;
    EXPECT_EQ(choose(spec, limits_of_length(1), "sm_90a").heads_together, together) << heads;
  }
}

// Caches that take half as much have one block of threads more, where nothing is rotated.
TEST(KernelChoice, BlocksOfDecodeOnAnSm) {
  AttentionSpec spec = spec_of();
  const auto blocks = [&] { return choose(spec, limits_of_length(1), "sm_90a").blocks_per_sm; };
  EXPECT_EQ(blocks(), 2);
  spec.kv_dtype = DType::f8e4m3;
  EXPECT_EQ(blocks(), 3);
  spec.v_dtype = DType::bf16;
  EXPECT_EQ(blocks(), 2);
  spec.v_dtype.reset();
  spec.variant.rope = RopeSpec{};
  EXPECT_EQ(blocks(), 2);
}

// Each feature that Hopper's kernel does not have, by itself: the reason names the argument.
TEST(KernelChoice, WhatFallsBackOnHopperSaysWhy) {
  struct Row {
    const char* reason;
    std::function<void(AttentionSpec&, Limits&)> change;
  };
  const std::vector<Row> rows = {
      {"kv_dtype is float8_e4m3fn", [](auto& s, auto&) { s.kv_dtype = DType::f8e4m3; }},
      {"v_dtype float8_e5m2", [](auto& s, auto&) { s.v_dtype = DType::f8e5m2; }},
      {"variant.rope is given", [](auto& s, auto&) { s.variant.rope = RopeSpec{}; }},
      {"variant.mask is not known to leave each query one interval",
       [](auto& s, auto&) { s.variant = variants::attention_sink(4, 1000); }},
      {"head_dim is 72: it must be a multiple of 16",
       [](auto& s, auto&) {
         s.head_dim = 72;
         s.head_dim_vo = 64;
       }},
      {"head_dim_vo is 48: it must be one of 64, 80, 96, 128, 160, 192, 256",
       [](auto& s, auto&) { s.head_dim_vo = 48; }},
      {"head_dim is 112: it must be one of 64", [](auto& s, auto&) { s.head_dim = 112; }},
      {"head_dim is 64, head_dim_vo 192: results of few rows",
       [](auto& s, auto&) {
         s.head_dim = 64;
         s.head_dim_vo = 192;
       }},
      {"limits.block_structures is true",
       [](auto&, auto& limits) { limits.block_structures = true; }},
  };
  for (const Row& row : rows) {
    AttentionSpec spec = spec_of();
    Limits limits = limits_of_length(1024);
    row.change(spec, limits);
    const KernelChoice choice = choose(spec, limits, "sm_90a");
    EXPECT_EQ(choice.kernel, "portable") << row.reason;
    EXPECT_THAT(choice.not_hopper, ElementsAre(HasSubstr(row.reason)));
    EXPECT_EQ(choice.lists_blocks, limits.block_structures);
  }
  // All of them together.
  AttentionSpec spec = spec_of(72);
  spec.variant.rope = RopeSpec{};
  EXPECT_EQ(choose(spec, limits_of_length(1024), "sm_90a").not_hopper.size(), 3U);
  EXPECT_THAT(choose(spec_of(), limits_of_length(1024), "sm_80").not_hopper,
              ElementsAre("arch is sm_80: the GPU is not a Hopper"));
}

TEST(KernelChoice, HopperTakesAllOfItsWidths) {
  for (const auto& [head_dim, value_dim] : std::vector<std::pair<int, int>>{
           {64, 64}, {80, 80}, {96, 96}, {128, 128}, {192, 128}, {256, 256}, {16, 64}}) {
    AttentionSpec spec = spec_of(head_dim);
    spec.head_dim_vo = value_dim;
    for (const Variant& variant :
         {variants::full(), variants::causal(100, 30), variants::alibi(), variants::prefix_lm()}) {
      spec.variant = variant;
      const KernelChoice choice = choose(spec, limits_of_length(1024), "sm_90a");
      EXPECT_EQ(choice.kernel, "hopper") << head_dim << ", " << value_dim;
      EXPECT_THAT(choice.not_hopper, IsEmpty());
      EXPECT_LE(choice.shared_bytes, 227 * 1024);
    }
  }
}

TEST(KernelChoice, WhatKeepsAPlanFromDecodeSaysWhy) {
  const auto reasons = [](const std::function<void(Limits&)>& change) {
    Limits limits = limits_of_length(1);
    change(limits);
    return choose(spec_of(), limits, "sm_90a").not_decode;
  };
  EXPECT_THAT(reasons([](Limits&) {}), IsEmpty());
  EXPECT_THAT(reasons([](Limits& l) { l.q_len = 5; }),
              ElementsAre(HasSubstr("limits.q_len is 5: with a group size of 4")));
  EXPECT_THAT(reasons([](Limits& l) { l.levels = 2; }),
              ElementsAre(HasSubstr("limits.levels is 2")));
  EXPECT_THAT(reasons([](Limits& l) { l.determinism = Determinism::batch_invariant; }),
              ElementsAre(HasSubstr("limits.determinism is batch_invariant")));
  EXPECT_THAT(reasons([](Limits& l) { l.block_structures = true; }),
              ElementsAre(HasSubstr("limits.block_structures is true")));
  // Without a mask there is nothing that lists could say.
  Limits limits = limits_of_length(1);
  limits.block_structures = true;
  const KernelChoice choice = choose(spec_of(128, 4, variants::full()), limits, "sm_90a");
  EXPECT_EQ(choice.kernel, "decode");
  EXPECT_FALSE(choice.lists_blocks);
}

TEST(KernelChoice, WrongArguments) {
  const Limits limits = limits_of_length(1);
  expect_error_of(ErrorCode::invalid_argument, {"arch is volta: it must be like sm_80 or sm_90a"},
                  [&] { choose_kernels(spec_of(), limits, "volta"); });
  expect_error_of(ErrorCode::invalid_argument, {"limits.requests is 0"},
                  [&] { choose_kernels(spec_of(), Limits{}, "sm_80"); });
  AttentionSpec spec = spec_of();
  spec.num_kv_heads = 5;
  expect_error_of(ErrorCode::invalid_argument, {"num_kv_heads is 5"},
                  [&] { choose_kernels(spec, limits, "sm_80"); });
  spec = spec_of();
  spec.q_dtype = spec.kv_dtype = DType::f8e4m3;
  expect_error_of(ErrorCode::not_supported, {"sm_80: q_dtype is float8_e4m3fn"},
                  [&] { choose_kernels(spec, limits, "sm_80"); });
}

}  // namespace
}  // namespace tilewright::test
