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

// The words are in one array or the other, by turns; those behind the batch's requests are left.
TEST(GeneratedPlanKernel, CopiesTheStatusWordsOfTheLastUpdate) {
  const Limits limits{5, 300, 200, 900, 1, Determinism::repeatable, 12};
  std::vector<Attention> attentions;
  std::vector<PlanInput> inputs;
  const Tensor pages = int_tensor(std::vector<std::int64_t>(60, 0));
  TensorView table = pages.view().unsqueeze(0);
  table.shape[0] = 4;  // one row for all of them
  table.strides[0] = 0;
  const Tensor window = int_tensor({9, 9, 9, 9});
  for (const Variant& variant : generated_variants()) {
    attentions.emplace_back(make_spec({4, 2, 16, 16}, DType::f32, variant));
    inputs.emplace_back(attentions.back(), PageTable::padded(table, 16));
  }
  inputs[1].params = {ParamValue("window", window.view())};
  plan::Config config;
  config.tile_rows = config.block_tokens = 16;
  config.workers = 12;
  config.cost = {20, 8, 1, 2};
  EmulatedPlan plan(attentions, limits, config, launch_generated);
  const Tensor indptr = int_tensor({0, 1, 40, 41, 42});
  for (std::uint64_t seed = 0; seed < 8; ++seed) {
    // Sometimes two updates from one copy to the next.
    for (std::uint64_t update = 0; update <= seed % 3; ++update) {
      std::vector<std::int64_t> lens = {10, 850, 1, 30};
      lens[(seed + update) % 4] = 901;
      const Tensor kv_lens = int_tensor(lens);
      Batch batch;
      batch.qo_indptr = indptr.view();
      batch.kv_lens = kv_lens.view();
      plan.update_device(batch, inputs, 64, seed);
    }
    plan::StatusCopy copy = plan.device().status_copy(4);
    tw::emulator::GuardedBuffer words("words", 5 * sizeof(std::int32_t));
    copy.to = reinterpret_cast<std::int32_t*>(words.data());
    copy.to[4] = 77;
    tw::emulator::launch(tilewright_copy_status, {.block = 32, .seed = seed}, copy);
    for (std::int64_t r = 0; r < 4; ++r) {
      const bool is_long = r == static_cast<std::int64_t>((seed + seed % 3) % 4);
      EXPECT_EQ(copy.to[r], is_long ? static_cast<std::int32_t>(RequestStatus::kv_len) : 0)
          << seed << " " << r;
    }
    EXPECT_EQ(copy.to[4], 77);
    EXPECT_TRUE(words.intact());
  }
}

}  // namespace
}  // namespace tilewright::test
