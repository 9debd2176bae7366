// SPDX-License-Identifier: Apache-2.0
// Small random batches, one after the other through the same plan, against the reference. How many
// of them in all is up to TILEWRIGHT_GPU_CASES.
#include <cstdlib>
#include <string>

#include "gpu/gpu_batch.h"
#include "support/attention_case.h"

namespace tilewright::test {
namespace {

constexpr VariantKind kKinds[] = {
    VariantKind::full,
    VariantKind::causal,
    VariantKind::causal_window,
    VariantKind::window_both,
    VariantKind::soft_cap_at_run,
    VariantKind::alibi,
    VariantKind::chunked,
    VariantKind::sink_window,
    VariantKind::modulo,
    VariantKind::documents,
    VariantKind::window_by_head,
    VariantKind::bias_table,
    VariantKind::sigmoid,
    VariantKind::output_gate,
    VariantKind::rope,
    VariantKind::rope_interleaved,
};

int cases_a_kind() {
  constexpr int kDefault = 300;
  const char* given = std::getenv("TILEWRIGHT_GPU_CASES");
  const int all = given != nullptr ? std::atoi(given) : kDefault;
  const auto kinds = static_cast<int>(std::size(kKinds));
  return (all + kinds - 1) / kinds;
}

template <typename Enum>
Enum any(Random& random) {
  return static_cast<Enum>(random.range(0, static_cast<int>(Enum::count) - 1));
}

class RandomOnGpu : public GpuTest, public testing::WithParamInterface<VariantKind> {
 protected:
  // By the kernels for this dtype.
  void run_batches(DType dtype);
};

void RandomOnGpu::run_batches(DType dtype) {
  const auto kind = static_cast<std::uint64_t>(GetParam());
  Random random(9000 + kind);
  Case base;
  base.variant = GetParam();
  base.aligned = true;
  base.lengths = LengthKind::tiny;
  base.kv_heads = 2;
  base.group = static_cast<int>(kind % 4) + 1;
  base.head_dim = base.value_dim = kind % 3 == 0 ? 128 : kind % 3 == 1 ? 64 : 40;
  base.q_dtype = base.kv_dtype = dtype;
  const Attention attention(CaseRun(base).spec(), kGpu);
  Limits limits = kTinyLimits;
  limits.workers = kind % 2 == 0 ? 0 : 5;
  limits.q_tokens += 2;  // padding
  Plan plan({attention}, limits);
  plan.prepare();
  for (int i = cases_a_kind(); i > 0 && !HasFailure(); --i) {
    Case c = base;
    c.seed = random.bits() % 1'000'000'000;
    c.table = any<TableForm>(random);
    c.cache = any<CacheForm>(random);
    // Strides that are no multiples of 16 bytes are refused.
    if (c.cache == CacheForm::separate_strided) c.cache = CacheForm::combined_nhd;
    c.positions = any<PositionKind>(random);
    if (random.chance(0.2)) c.scales = any<ScaleKind>(random);
    c.page_size = random.range(1, 9);
    c.sinks = random.chance(0.2);
    c.make_legal();
    SCOPED_TRACE(c.name());
    CaseRun run(c);
    run.run_on(gpu_arithmetic(c.q_dtype),
               [&](const AttentionSpec&, const Limits&, const Batch& batch,
                   const std::vector<KvLevel>& levels, const std::vector<ParamValue>& params,
                   const TensorView& q, const KvCache& kv, const RunArgs& args) {
                 const auto status =
                     run_on_gpu(plan, attention, batch, levels, params, q, {kv}, args);
                 for (const std::int32_t word : status) EXPECT_EQ(word, 0);
               });
  }
}

TEST_P(RandomOnGpu, BatchesBackToBack) {
  run_batches(static_cast<int>(GetParam()) % 2 == 0 ? DType::bf16 : DType::f16);
}
TEST_P(RandomOnGpu, BatchesOfF32) {
  run_batches(DType::f32);
}

INSTANTIATE_TEST_SUITE_P(Variants, RandomOnGpu, testing::ValuesIn(kKinds),
                         [](const testing::TestParamInfo<VariantKind>& value) {
                           return std::string(variant_name(value.param));
                         });

}  // namespace
}  // namespace tilewright::test
