// SPDX-License-Identifier: Apache-2.0
// What plans on a GPU tell of themselves, and plans with block structures.
#include <algorithm>

#include "attention/plan_impl.h"
#include "gpu/gpu_batch.h"
#include "support/block_lists.h"
#include "support/expect_error.h"
#include "support/plan_pieces.h"
#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

using PlanOnGpu = GpuTest;

const Lengths kLengths = {{150, 700}, {1, 9000}, {40, 333}, {0, 5}, {1, 64}, {700, 2700}, {3, 1}};

TEST_F(PlanOnGpu, StatsAndPieces) {
  for (const Variant& variant :
       {variants::causal(), variants::causal(100), variants::prefix_lm()}) {
    const Dims dims{8, 2, 128, 128};
    SimpleBatch batch(dims, DType::bf16, kLengths, 16, 3);
    const Attention attention(make_spec(dims, DType::bf16, variant), kGpu);
    const bool has_params = !variant.params().empty();
    const Tensor prefix = int_tensor(Extents(kLengths.size(), 40));
    std::vector<ParamValue> params;
    if (has_params) params.emplace_back(variant.params()[0].name(), prefix.view());
    Limits limits = batch.limits();
    limits.workers = 9;
    Plan plan({attention}, limits);
    expect_error_of(ErrorCode::invalid_state, {"plan has no batch"},
                    [&] { plan.stats(attention); });
    GpuCopies copies;
    plan.update(copies.batch(batch.batch()),
                {PlanInput(attention, copies.levels({KvLevel{batch.table.table, {}, {}, {}, {}}}),
                           copies.params(params))});
    const PlanStats stats = plan.stats(attention);
    EXPECT_GT(stats.blocks, 0);
    EXPECT_GT(stats.full_blocks, 0);
    EXPECT_GT(stats.skipped_blocks, 0);
    EXPECT_GT(stats.balance, 0.3);
    expect_whole(plan.pieces(attention), stats, 9);
  }
}

TEST_F(PlanOnGpu, StatsAreRefusedUnderCapture) {
  const Dims dims{8, 2, 128, 128};
  SimpleBatch batch(dims, DType::bf16, {{1, 200}}, 16, 3);
  const Attention attention(make_spec(dims, DType::bf16, variants::causal()), kGpu);
  Plan plan({attention}, batch.limits());
  plan.prepare();
  const cuda::ContextScope scope(cuda::device(0));
  GpuCopies copies;
  const Batch own = copies.batch(batch.batch());
  const auto levels = copies.levels({KvLevel{batch.table.table, {}, {}, {}, {}}});
  const cuda::OwnedStream stream(cuda::device(0));
  cuda::synchronize({});
  const cuda::Graph graph(cuda::device(0), stream.get(), [&] {
    plan.update(own, {PlanInput(attention, levels)}, stream.get());
    expect_error_of(ErrorCode::invalid_state, {"plan.stats()", "captured into a graph"},
                    [&] { plan.stats(attention); });
    expect_error_of(ErrorCode::invalid_state, {"plan.pieces()", "captured into a graph"},
                    [&] { plan.pieces(attention); });
  });
  graph.launch(stream.get());
  const int block = plan.impl().cuda->part(attention).view.schedule.config.block_tokens;
  EXPECT_EQ(plan.stats(attention).blocks, dims.kv_heads * ((200 + block - 1) / block));
}

// What a plan tells of an update while its tensors are there.
struct Told {
  std::vector<std::int32_t> status;
  PlanStats stats;
};

// An update and a run with a structure.
Told run_with(Plan& plan, SimpleBatch& batch, const BlockStructure& blocks) {
  const Attention& attention = plan.attentions()[0];
  batch.tensors.out.refill();
  batch.tensors.lse.refill();
  GpuCopies copies;
  PlanInput input(attention, copies.levels({KvLevel{batch.table.table, {}, {}, {}, {}}}));
  input.blocks = copies.blocks(blocks);
  const Batch own = copies.batch(batch.batch());
  const TensorView q = copies(batch.tensors.q.view());
  const KvCache kv = copies.cache(batch.cache.view());
  const RunArgs args = copies.args(batch.tensors.args());
  plan.update(own, {input});
  attention.run(plan, q, kv, args);
  copies.download();
  return {plan.status(), plan.stats(attention)};
}

class BlocksOnGpu : public PlanOnGpu, public testing::WithParamInterface<std::pair<int, int>> {};
TEST_P(BlocksOnGpu, SameOutputsLessWork) {
  const auto [q_block, kv_block] = GetParam();
  Random random(1);
  const Dims dims{8, 2, 128, 128};
  const VariantCase striped = make_variant(VariantKind::striped, dims, 1, random);
  SimpleBatch batch(dims, DType::bf16, kLengths, 16, 5);
  const Attention attention(make_spec(dims, DType::bf16, striped.variant), kGpu);
  Limits limits = batch.limits();
  limits.block_structures = true;
  for (const int workers : {0, 7}) {
    limits.workers = workers;
    Plan plan({attention}, limits);
    const std::vector<std::int32_t> well(kLengths.size(), 0);
    const Told without = run_with(plan, batch, {});
    EXPECT_EQ(without.status, well);
    batch.tensors.expect(batch.requests, striped.semantics);
    BlockListCopy lists(block_structure(striped.variant, batch.batch(), {}, q_block, kv_block));
    const Told with = run_with(plan, batch, lists.view());
    EXPECT_EQ(with.status, well);
    batch.tensors.expect(batch.requests, striped.semantics);
    EXPECT_EQ(with.stats.blocks + with.stats.skipped_blocks,
              without.stats.blocks + without.stats.skipped_blocks);
    if (kv_block <= 64) {
      EXPECT_LT(with.stats.blocks, without.stats.blocks);
    }
    lists.indices[static_cast<std::size_t>(
        lists.indptr[static_cast<std::size_t>(lists.request_rows[1])])] = -1;
    std::vector<std::int32_t> wrong = well;
    wrong[1] = static_cast<std::int32_t>(RequestStatus::blocks);
    EXPECT_EQ(run_with(plan, batch, lists.view()).status, wrong);
    EXPECT_EQ(batch.tensors.lse.get({150, 0}), -INFINITY);
  }
}
INSTANTIATE_TEST_SUITE_P(All, BlocksOnGpu,
                         testing::Values(std::pair(64, 64), std::pair(16, 16), std::pair(50, 24),
                                         std::pair(1000, 1000)));

}  // namespace
}  // namespace tilewright::test
