// SPDX-License-Identifier: Apache-2.0
// Batch-invariant mode: a query token's bits are the same alone, beside any neighbours, in any
// chunk of its prefill, on any pages, behind a prefix that is its own or shared, for any number of
// workers. Thousands of random batches against each conversation computed alone in one piece.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include "support/conversations.h"

namespace tilewright::test {
namespace {

void check(DType dtype, const Variant& variant, int batches) {
  Conversations conversations({4, 2, 32, 32}, dtype, variant, 71);
  for (int i = 0; i < batches && !testing::Test::HasFatalFailure(); ++i) {
    SCOPED_TRACE(i);
    conversations.check_random_batch();
  }
}

TEST(BatchInvariantBatches, F32) {
  check(DType::f32, variants::causal(), 700);
}
TEST(BatchInvariantBatches, Bf16) {
  check(DType::bf16, variants::causal(), 700);
}
TEST(BatchInvariantBatches, Bf16WithSoftCapAndWindow) {
  check(DType::bf16, variants::causal(70, 20.0), 500);
}
TEST(BatchInvariantBatches, F16WithSoftCapAndWindow) {
  check(DType::f16, variants::causal(70, 20.0), 300);
}
TEST(BatchInvariantBatches, Fp8) {
  check(DType::f8e4m3, variants::causal(), 300);
}

}  // namespace
}  // namespace tilewright::test
