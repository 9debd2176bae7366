// SPDX-License-Identifier: Apache-2.0
// Block-sparse attention on a GPU: masks of random blocks with and without the structure that lets
// a plan skip what they leave out, against the reference and against the CPU backend.
#include <algorithm>
#include <cmath>
#include <vector>

#include "gpu/gpu_batch.h"
#include "support/block_lists.h"
#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

const Lengths kLengths = {{150, 700}, {1, 900}, {40, 333}, {0, 5}, {1, 64}, {70, 70}, {3, 1}};
constexpr std::int64_t kMostQueries = 150;
constexpr std::int64_t kMostKeys = 900;

struct Blocks {
  std::int64_t q_block, kv_block;
  double share;  // of the blocks that attend
};

class BlockSparseOnGpu : public GpuTest, public testing::WithParamInterface<Blocks> {};

TEST_P(BlockSparseOnGpu, IsTheCpus) {
  const auto [q_block, kv_block, share] = GetParam();
  const std::int64_t rows = (kMostQueries + q_block - 1) / q_block;
  const std::int64_t columns = (kMostKeys + kv_block - 1) / kv_block;
  for (const DType dtype : {DType::bf16, DType::f16}) {
    for (const int dim : {64, 128}) {
      SCOPED_TRACE(testing::Message() << dtype_name(dtype) << " head_dim " << dim);
      const Dims dims{8, 2, dim, dim};
      SimpleBatch batch(dims, dtype, kLengths, 16, 3);
      Random random(static_cast<std::uint64_t>(q_block + kv_block + dim));
      Tensor mask(DType::u8, {std::ssize(kLengths), rows, columns});
      for (std::int64_t i = 0; i < std::ssize(kLengths) * rows * columns; ++i) {
        mask.set({i / (rows * columns), i / columns % rows, i % columns}, random.chance(share));
      }
      Semantics semantics;
      semantics.mask = [&, q = q_block, kv = kv_block](const Element& at) {
        return mask.get({at.batch, at.q_index / q, at.kv_pos / kv}) != 0;
      };
      const AttentionSpec spec = make_spec(dims, dtype, variants::block_sparse(q_block, kv_block));
      const std::vector<ParamValue> params = {{"block_mask", mask.view()}};
      const std::vector<KvLevel> levels = {{batch.table.table, {}, {}, {}, {}}};
      BlockListCopy lists(block_structure(spec.variant, batch.batch(), params, q_block, kv_block));
      Limits limits = batch.limits();
      limits.block_structures = true;

      const Attention on_cpu(spec);
      Plan cpu_plan({on_cpu}, batch.limits());
      cpu_plan.update(batch.batch(), {PlanInput(on_cpu, levels, params)});
      on_cpu.run(cpu_plan, batch.tensors.q.view(), batch.cache.view(), batch.tensors.args());
      batch.tensors.expect(batch.requests, semantics);
      const auto outputs = [&] {
        std::vector<double> all;
        for (std::int64_t t = 0; t < batch.tensors.out.shape()[0]; ++t) {
          for (std::int64_t h = 0; h < dims.qo_heads; ++h) {
            for (std::int64_t i = 0; i < dim; ++i) all.push_back(batch.tensors.out.get({t, h, i}));
          }
        }
        return all;
      };
      const std::vector<double> from_cpu = outputs();

      const Attention attention(spec, kGpu);
      Plan plan({attention}, limits);
      std::int64_t without = 0;
      for (const bool listed : {false, true}) {
        batch.tensors.out.refill();
        batch.tensors.lse.refill();
        GpuCopies copies;
        PlanInput input(attention, copies.levels(levels), copies.params(params));
        if (listed) input.blocks = copies.blocks(lists.view());
        const Batch own = copies.batch(batch.batch());
        const TensorView q = copies(batch.tensors.q.view());
        const KvCache kv = copies.cache(batch.cache.view());
        const RunArgs args = copies.args(batch.tensors.args());
        plan.update(own, {input});
        attention.run(plan, q, kv, args);
        copies.download();
        for (const std::int32_t word : plan.status()) EXPECT_EQ(word, 0);
        batch.tensors.expect(batch.requests, semantics, {}, gpu_arithmetic(dtype));
        const std::vector<double> found = outputs();
        ASSERT_EQ(found.size(), from_cpu.size());
        double most = 0;
        for (std::size_t i = 0; i < found.size(); ++i) {
          most = std::max(most, std::abs(found[i] - from_cpu[i]));
        }
        EXPECT_LT(most, dtype == DType::bf16 ? 0.05 : 0.01);
        const std::int64_t blocks = plan.stats(attention).blocks;
        if (!listed) {
          without = blocks;
        } else if (kv_block >= 64) {
          EXPECT_LT(blocks, without);
        }
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(All, BlockSparseOnGpu,
                         testing::Values(Blocks{64, 64, 0.3}, Blocks{128, 128, 0.3},
                                         Blocks{16, 16, 0.1}, Blocks{50, 24, 0.5}));

}  // namespace
}  // namespace tilewright::test
