// SPDX-License-Identifier: Apache-2.0
// NaN and infinities in the emulator: what a row does not attend to never reaches it, also where
// its neighbours in a tile do.
#include "support/not_finite.h"

#include <limits>

#include "attention_cuda/compiled_cases.h"
#include "attention_cuda/emulated_attention.h"
#include "support/growing_scores.h"

namespace tilewright::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

class EmulatedNotFinite : public testing::TestWithParam<int> {
 protected:
  // Of a case, with few workers, so that long rows are split.
  static auto runner(const CompiledCase& compiled) {
    return [&compiled](const AttentionSpec& spec, SimpleBatch& b, const Batch& view,
                       const std::vector<ParamValue>& plan_params, const RunArgs& args) {
      Limits limits = b.limits();
      limits.workers = 7;
      EmulatedAttention attention(spec, compiled.target, limits);
      GuardedCopies copies;
      const Batch own_batch = copies.batch(view);
      const auto levels = copies.levels({KvLevel{b.table.table, {}, {}, {}, {}}});
      attention.update(own_batch, levels, copies.params(plan_params), 5);
      const TensorView q = copies(b.tensors.q.view());
      const std::vector<KvCache> kv = {copies.cache(b.cache.view())};
      attention.run(q, kv, copies.args(args), 6);
      copies.download();
    };
  }
  static double arithmetic_of(const CompiledCase& compiled) {
    return gpu_arithmetic(compiled.attention.q_dtype);
  }
};

TEST_P(EmulatedNotFinite, KeysThatNobodySees) {
  constexpr CompiledCase (*kCases[])() = {causal_128,   causal_128_ampere, sink_window_64,
                                          documents_64, sigmoid_64,        scalar_causal_64};
  const CompiledCase compiled = kCases[GetParam()]();
  const Case& c = compiled.attention;
  for (const double value : {kNan, kInfinity}) {
    check_unseen_keys(c.variant, c.dims(), c.q_dtype, value, arithmetic_of(compiled),
                      runner(compiled));
  }
}
INSTANTIATE_TEST_SUITE_P(All, EmulatedNotFinite, testing::Range(0, 6));

using EmulatedNotFiniteCausal = EmulatedNotFinite;
TEST_P(EmulatedNotFiniteCausal, KeysThatSomeSee) {
  constexpr CompiledCase (*kCases[])() = {causal_128, causal_128_ampere, causal_192_128,
                                          scalar_causal_64};
  const CompiledCase compiled = kCases[GetParam()]();
  const Dims dims = compiled.attention.dims();
  const DType dtype = compiled.attention.q_dtype;
  check_seen_by_some(dims, dtype, kNan, kNan, arithmetic_of(compiled), runner(compiled));
  check_seen_by_some(dims, dtype, 0, kNan, arithmetic_of(compiled), runner(compiled));
  check_seen_by_some(dims, dtype, 0, -kInfinity, arithmetic_of(compiled), runner(compiled));
}
TEST_P(EmulatedNotFiniteCausal, BytesThatAreNobodys) {
  constexpr CompiledCase (*kCases[])() = {causal_128, causal_128_ampere, causal_192_128,
                                          scalar_causal_64};
  const CompiledCase compiled = kCases[GetParam()]();
  for (const double value : {kNan, kInfinity}) {
    check_unused_bytes(compiled.attention.dims(), compiled.attention.q_dtype, value,
                       arithmetic_of(compiled), runner(compiled));
  }
}
// Weights that are made with the reference of earlier keys are too large, or infinite.
using EmulatedGrowingScores = EmulatedNotFinite;
TEST_P(EmulatedGrowingScores, MatchTheReference) {
  constexpr CompiledCase (*kCases[])() = {causal_128, causal_128_ampere, causal_192_128};
  const CompiledCase compiled = kCases[GetParam()]();
  for (const double slope : {4.0, 64.0, -64.0}) {
    SCOPED_TRACE(slope);
    check_growing_scores(compiled.attention.dims(), compiled.attention.q_dtype, slope,
                         arithmetic_of(compiled), runner(compiled));
  }
}
INSTANTIATE_TEST_SUITE_P(All, EmulatedGrowingScores, testing::Range(0, 3));

using EmulatedNotFiniteFp8 = EmulatedNotFinite;
TEST_F(EmulatedNotFiniteFp8, KeysThatSomeSee) {
  const CompiledCase compiled = fp8_128();
  const Dims dims = compiled.attention.dims();
  for (const double k : {0.0, kNan}) {
    check_seen_by_some(dims, DType::bf16, k, kNan, arithmetic_of(compiled), runner(compiled),
                       {.kv_dtype = DType::f8e4m3});
  }
}
TEST_F(EmulatedNotFiniteFp8, KeysThatSomeSeeAreRotated) {
  const CompiledCase compiled = rope_of_fp8_80();
  Random random(1);
  const Dims dims = compiled.attention.dims();
  const SeenBySome more{
      .kv_dtype = DType::f8e4m3,
      .rope = make_variant(compiled.attention.variant, dims, 4, random).variant.rope};
  check_seen_by_some(dims, DType::f16, 0, kNan, arithmetic_of(compiled), runner(compiled), more);
}
INSTANTIATE_TEST_SUITE_P(All, EmulatedNotFiniteCausal, testing::Range(0, 4));

}  // namespace
}  // namespace tilewright::test
