// SPDX-License-Identifier: Apache-2.0
// NaN and infinities on a GPU: what a row does not attend to never reaches it, also where its
// neighbours in a tile do.
#include <limits>
#include <string>

#include "gpu/gpu_batch.h"
#include "support/growing_scores.h"
#include "support/not_finite.h"

namespace tilewright::test {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

void run_it(const AttentionSpec& spec, SimpleBatch& b, const Batch& view,
            const std::vector<ParamValue>& plan_params, const RunArgs& args) {
  const Attention attention(spec, kGpu);
  // Decode alone has a kernel of its own.
  Plan plan({attention}, b.limits());
  run_on_gpu(plan, attention, view, {KvLevel{b.table.table, {}, {}, {}, {}}}, plan_params,
             b.tensors.q.view(), {b.cache.view()}, args);
}

class NotFiniteOnGpu : public GpuTest, public testing::WithParamInterface<VariantKind> {};
TEST_P(NotFiniteOnGpu, KeysThatNobodySees) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const double value : {kNan, kInfinity, -kInfinity}) {
      check_unseen_keys(GetParam(), {6, 3, 64, 64}, dtype, value, gpu_arithmetic(dtype), run_it);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(
    Masks, NotFiniteOnGpu,
    testing::Values(VariantKind::causal, VariantKind::causal_window, VariantKind::causal_self,
                    VariantKind::window_both, VariantKind::sink_window, VariantKind::chunked,
                    VariantKind::modulo, VariantKind::not_one_key, VariantKind::window_by_request,
                    VariantKind::run_bound_window, VariantKind::documents, VariantKind::head_mask,
                    VariantKind::sigmoid, VariantKind::nothing),
    [](const testing::TestParamInfo<VariantKind>& value) {
      return std::string(variant_name(value.param));
    });

using NotFiniteInTilesOnGpu = GpuTest;
TEST_F(NotFiniteInTilesOnGpu, KeysThatSomeSee) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const Dims& dims :
         {Dims{8, 2, 128, 128}, Dims{2, 2, 64, 64}, Dims{4, 1, 192, 128}, Dims{5, 1, 256, 256}}) {
      check_seen_by_some(dims, dtype, kNan, kNan, gpu_arithmetic(dtype), run_it);
      check_seen_by_some(dims, dtype, 0, kNan, gpu_arithmetic(dtype), run_it);
      check_seen_by_some(dims, dtype, 0, -kInfinity, gpu_arithmetic(dtype), run_it);
    }
  }
}
TEST_F(NotFiniteInTilesOnGpu, KeysThatSomeSeeInFp8) {
  for (const DType kv : {DType::f8e4m3, DType::f8e5m2}) {
    for (const DType dtype : {DType::bf16, DType::f16}) {
      for (const double k : {0.0, kNan}) {
        check_seen_by_some({8, 2, 128, 128}, dtype, k, kNan, gpu_arithmetic(dtype), run_it,
                           {.kv_dtype = kv});
      }
    }
  }
}
// Weights that are made with the reference of earlier keys are too large, or infinite.
TEST_F(NotFiniteInTilesOnGpu, ScoresThatGrow) {
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const Dims& dims :
         {Dims{8, 2, 128, 128}, Dims{2, 2, 64, 64}, Dims{4, 1, 192, 128}, Dims{5, 1, 256, 256}}) {
      for (const double slope : {4.0, 8.0, 64.0, -64.0}) {
        SCOPED_TRACE(slope);
        check_growing_scores(dims, dtype, slope, gpu_arithmetic(dtype), run_it);
      }
    }
  }
}
TEST_F(NotFiniteInTilesOnGpu, BytesThatAreNobodys) {
  for (const double value : {kNan, kInfinity}) {
    check_unused_bytes({6, 2, 72, 72}, DType::bf16, value, gpu_arithmetic(DType::bf16), run_it);
    check_unused_bytes({8, 2, 128, 128}, DType::f16, value, gpu_arithmetic(DType::f16), run_it);
  }
}

}  // namespace
}  // namespace tilewright::test
