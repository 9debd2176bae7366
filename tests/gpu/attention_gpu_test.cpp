// SPDX-License-Identifier: Apache-2.0
// Attention on a GPU against the reference in float64, through the public API.
#include "gpu/gpu_batch.h"
#include "support/attention_case.h"

namespace tilewright::test {
namespace {

void run_case(Case c) {
  c.aligned = true;
  c.make_legal();
  SCOPED_TRACE(c.name());
  CaseRun run(c);
  run.run_on(gpu_arithmetic(c.q_dtype),
             [](const AttentionSpec& spec, const Limits& limits, const Batch& batch,
                const std::vector<KvLevel>& levels, const std::vector<ParamValue>& plan_params,
                const TensorView& q, const KvCache& kv, const RunArgs& args) {
               const Attention attention(spec, kGpu);
               Plan plan({attention}, limits);
               GpuCopies copies;
               const Batch gpu_batch = copies.batch(batch);
               const std::vector<KvLevel> gpu_levels = copies.levels(levels);
               const std::vector<ParamValue> gpu_params = copies.params(plan_params);
               const TensorView gpu_q = copies(q);
               const KvCache gpu_kv = copies.cache(kv);
               const RunArgs gpu_args = copies.args(args);
               // Twice: the second time over what the first one left in the plan.
               for (int time = 0; time < 2; ++time) {
                 plan.update(gpu_batch, {PlanInput(attention, gpu_levels, gpu_params)});
                 attention.run(plan, gpu_q, gpu_kv, gpu_args);
               }
               copies.download();
               for (const std::int32_t word : plan.status()) EXPECT_EQ(word, 0);
             });
}

using AttentionOnGpu = GpuTest;

Case base_case(std::uint64_t seed) {
  Case c;
  c.seed = seed;
  c.q_dtype = c.kv_dtype = DType::bf16;
  c.head_dim = c.value_dim = 128;
  c.group = 4;
  return c;
}

TEST_F(AttentionOnGpu, EveryLengthKind) {
  for (int kind = 0; kind < static_cast<int>(LengthKind::count); ++kind) {
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
      Case c = base_case(seed);
      c.lengths = static_cast<LengthKind>(kind);
      run_case(c);
    }
  }
}

TEST_F(AttentionOnGpu, EveryTableAndCacheForm) {
  for (int table = 0; table < static_cast<int>(TableForm::count); ++table) {
    for (int cache = 0; cache < static_cast<int>(CacheForm::count); ++cache) {
      if (static_cast<CacheForm>(cache) == CacheForm::separate_strided) continue;
      Case c = base_case(static_cast<std::uint64_t>(table * 31 + cache));
      c.table = static_cast<TableForm>(table);
      c.cache = static_cast<CacheForm>(cache);
      c.page_size = cache % 2 == 0 ? 16 : 5;
      run_case(c);
    }
  }
}

TEST_F(AttentionOnGpu, ScalesSinksPositionsWorkers) {
  for (int i = 0; i < 24; ++i) {
    Case c = base_case(static_cast<std::uint64_t>(i) + 100);
    c.scales = static_cast<ScaleKind>(i % static_cast<int>(ScaleKind::count));
    c.positions = static_cast<PositionKind>(i % static_cast<int>(PositionKind::count));
    c.sinks = i % 2 == 1;
    c.workers = i % 4 == 0 ? 3 : i % 4 == 1 ? 64 : 0;
    c.lengths = static_cast<LengthKind>(i % static_cast<int>(LengthKind::count));
    run_case(c);
  }
}

// Decode computes up to 32 of them side by side.
TEST_F(AttentionOnGpu, ManyKvHeads) {
  for (const int kv_heads : {16, 32, 40, 64}) {
    Case c = base_case(static_cast<std::uint64_t>(kv_heads));
    c.kv_heads = kv_heads;
    c.group = 1;
    c.lengths = LengthKind::decode;
    run_case(c);
  }
}

class ShapesOnGpu : public AttentionOnGpu, public testing::WithParamInterface<int> {};
TEST_P(ShapesOnGpu, DimsGroupsAndDtypes) {
  struct Shape {
    int head_dim, value_dim, group;
    DType dtype, out;
  };
  static constexpr Shape kShapes[] = {
      {64, 64, 1, DType::f16, DType::f16},     {80, 80, 2, DType::bf16, DType::f32},
      {96, 96, 8, DType::f16, DType::f32},     {128, 128, 16, DType::bf16, DType::bf16},
      {192, 128, 1, DType::bf16, DType::bf16}, {256, 256, 5, DType::f16, DType::f16},
      {72, 40, 3, DType::bf16, DType::bf16},   {8, 16, 32, DType::f16, DType::f16},
      {64, 64, 3, DType::f32, DType::f32},     {256, 256, 1, DType::f32, DType::bf16},
      {40, 72, 8, DType::f32, DType::f32}};
  const Shape& shape = kShapes[GetParam()];
  for (std::uint64_t seed = 1; seed <= 6; ++seed) {
    Case c = base_case(seed);
    c.head_dim = shape.head_dim;
    c.value_dim = shape.value_dim;
    c.group = shape.group;
    c.q_dtype = c.kv_dtype = shape.dtype;
    c.out_dtype = shape.out;
    c.lengths = static_cast<LengthKind>(seed % static_cast<std::uint64_t>(LengthKind::count));
    run_case(c);
  }
}
INSTANTIATE_TEST_SUITE_P(All, ShapesOnGpu, testing::Range(0, 11));

// Caches of fp8, with scales by tensor, request and head.
class Fp8OnGpu : public AttentionOnGpu, public testing::WithParamInterface<int> {};
TEST_P(Fp8OnGpu, DimsAndScales) {
  struct Kind {
    DType q, k, v;
    int head_dim, value_dim, group;
  };
  static constexpr Kind kKinds[] = {{DType::bf16, DType::f8e4m3, DType::f8e4m3, 128, 128, 4},
                                    {DType::f16, DType::f8e4m3, DType::f8e4m3, 128, 128, 8},
                                    {DType::bf16, DType::f8e5m2, DType::f8e5m2, 64, 64, 1},
                                    {DType::f16, DType::f8e5m2, DType::f8e4m3, 80, 48, 3},
                                    {DType::bf16, DType::bf16, DType::f8e4m3, 96, 64, 2},
                                    {DType::bf16, DType::f8e4m3, DType::bf16, 192, 128, 1},
                                    {DType::bf16, DType::f8e4m3, DType::f8e4m3, 256, 256, 5},
                                    {DType::f32, DType::f8e4m3, DType::f8e4m3, 128, 128, 4},
                                    {DType::f32, DType::bf16, DType::f16, 64, 64, 3}};
  const Kind& kind = kKinds[GetParam()];
  for (std::uint64_t seed = 0; seed < 14; ++seed) {
    Case c = base_case(seed);
    c.q_dtype = kind.q;
    c.kv_dtype = kind.k;
    c.v_dtype = kind.v;
    c.head_dim = kind.head_dim;
    c.value_dim = kind.value_dim;
    c.group = kind.group;
    c.scales = static_cast<ScaleKind>(seed % static_cast<std::uint64_t>(ScaleKind::count));
    c.lengths = static_cast<LengthKind>(seed % static_cast<std::uint64_t>(LengthKind::count));
    c.table = seed % 2 == 0 ? TableForm::padded : TableForm::csr;
    c.cache = seed % 3 == 0 ? CacheForm::separate_hnd : CacheForm::separate_nhd;
    c.page_size = seed % 4 == 0 ? 1 : 16;
    run_case(c);
  }
}
INSTANTIATE_TEST_SUITE_P(All, Fp8OnGpu, testing::Range(0, 9));

// Keys and queries that are rotated on their way.
class RopeOnGpu : public AttentionOnGpu, public testing::WithParamInterface<int> {};
TEST_P(RopeOnGpu, DimsAndDtypes) {
  struct Kind {
    DType q, kv;
    int head_dim, group;
    VariantKind variant;
  };
  static constexpr Kind kKinds[] = {
      {DType::bf16, DType::bf16, 128, 4, VariantKind::rope},
      {DType::f16, DType::f16, 64, 1, VariantKind::rope},
      {DType::bf16, DType::f8e4m3, 128, 8, VariantKind::rope_interleaved},
      {DType::f16, DType::f8e4m3, 80, 2, VariantKind::rope_interleaved},
      {DType::f16, DType::f16, 72, 3, VariantKind::rope},
      {DType::bf16, DType::bf16, 256, 2, VariantKind::rope},
      {DType::f32, DType::f32, 128, 4, VariantKind::rope_interleaved}};
  const Kind& kind = kKinds[GetParam()];
  for (std::uint64_t seed = 0; seed < 12; ++seed) {
    Case c = base_case(seed);
    c.q_dtype = kind.q;
    c.kv_dtype = kind.kv;
    c.head_dim = c.value_dim = kind.head_dim;
    c.group = kind.group;
    c.variant = kind.variant;
    c.lengths = static_cast<LengthKind>(seed % static_cast<std::uint64_t>(LengthKind::count));
    c.positions = static_cast<PositionKind>(seed % static_cast<std::uint64_t>(PositionKind::count));
    run_case(c);
  }
}
INSTANTIATE_TEST_SUITE_P(All, RopeOnGpu, testing::Range(0, 7));

class VariantsOnGpu : public AttentionOnGpu, public testing::WithParamInterface<int> {};
TEST_P(VariantsOnGpu, MatchTheReference) {
  const auto kind = static_cast<VariantKind>(GetParam());
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    Case c = base_case(seed);
    c.variant = kind;
    c.head_dim = c.value_dim = 64;
    c.lengths = seed == 1   ? LengthKind::decode
                : seed == 2 ? LengthKind::append
                : seed == 3 ? LengthKind::mixed
                            : LengthKind::prefill;
    run_case(c);
  }
}
INSTANTIATE_TEST_SUITE_P(All, VariantsOnGpu,
                         testing::Range(0, static_cast<int>(VariantKind::count)));

}  // namespace
}  // namespace tilewright::test
