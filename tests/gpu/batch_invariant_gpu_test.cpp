// SPDX-License-Identifier: Apache-2.0
// Batch-invariant mode on a GPU: a query token's bits are the same alone, beside any neighbours, in
// any chunk of its prefill, on any pages, behind a prefix that is its own or shared, for any number
// of workers.
#include "gpu/gpu_batch.h"
#include "support/conversations.h"

namespace tilewright::test {
namespace {

using BatchInvariantOnGpu = GpuTest;

void check(const Dims& dims, DType dtype, const Variant& variant, int batches) {
  Conversations conversations(dims, dtype, variant, 71, kGpu,
                              [](Plan& plan, const Attention& attention, const Batch& batch,
                                 const std::vector<KvLevel>& levels, const TensorView& q,
                                 const std::vector<KvCache>& caches, const RunArgs& args) {
                                for (const std::int32_t word : run_on_gpu(
                                         plan, attention, batch, levels, {}, q, caches, args)) {
                                  EXPECT_EQ(word, 0);
                                }
                              });
  for (int i = 0; i < batches && !testing::Test::HasFailure(); ++i) {
    SCOPED_TRACE(i);
    conversations.check_random_batch();
  }
}

TEST_F(BatchInvariantOnGpu, Bf16) {
  check({4, 2, 64, 64}, DType::bf16, variants::causal(), 150);
}
TEST_F(BatchInvariantOnGpu, Bf16OfManyHeadsAGroup) {
  check({16, 2, 128, 128}, DType::bf16, variants::causal(), 80);
}
TEST_F(BatchInvariantOnGpu, F16WithSoftCapAndWindow) {
  check({6, 2, 64, 64}, DType::f16, variants::causal(70, 20.0), 150);
}
TEST_F(BatchInvariantOnGpu, F16OfLargeHeads) {
  check({2, 1, 256, 256}, DType::f16, variants::causal(), 50);
}
TEST_F(BatchInvariantOnGpu, F32) {
  check({6, 2, 64, 64}, DType::f32, variants::causal(), 80);
}

}  // namespace
}  // namespace tilewright::test
