// SPDX-License-Identifier: Apache-2.0
// The plan kernel as the library writes it for a GPU, masks and their parameters included.
#include <gtest/gtest.h>

#include "device_plan/emulated_plan.h"
#include "device_plan/generated_variants.h"
#include "device_plan/update_kernels.h"
#include "fuzz/batch_case.h"
#include "support/batch.h"
#include "support/tensor.h"

namespace tilewright::test {
namespace {

void launch_generated(const UpdateLaunch& launch, int threads, std::uint64_t seed) {
  launch_update(tilewright_update_plan, launch, threads, seed, [](auto&) {});
}

TEST(GeneratedPlanKernel, MakesThePlansOfItsAttentions) {
  const Limits limits{12, 300, 200, 900, 2, Determinism::repeatable, 12};
  const Dims dims{4, 2, 16, 16};
  std::vector<Attention> attentions;
  for (const Variant& variant : generated_variants()) {
    attentions.emplace_back(make_spec(dims, DType::f32, variant));
  }
  plan::Config config;
  config.tile_rows = 16;
  config.block_tokens = 16;
  config.workers = 12;
  config.cost = {20, 8, 1, 2};
  EmulatedPlan plan(attentions, limits, config, launch_generated);
  for (std::uint64_t seed = 0; seed < 100 && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    fuzz::Draw draw(seed);
    const fuzz::BatchCase batch = fuzz::draw_batch(draw, limits);
    std::vector<std::int64_t> windows;
    for (std::int64_t i = 0; i < limits.requests; ++i) windows.push_back(draw.range(1, 300));
    const Tensor window = int_tensor(windows);
    std::vector<KvLevel> levels;
    for (const fuzz::LevelCase& level : batch.levels) levels.push_back(level.view());
    plan.update(batch.view(),
                {PlanInput(attentions[0], levels),
                 PlanInput(attentions[1], levels, {ParamValue("window", window.view())}),
                 PlanInput(attentions[2], levels)},
                64, seed);
    plan.expect_equal();
  }
}

}  // namespace
}  // namespace tilewright::test
