// SPDX-License-Identifier: Apache-2.0
// The same bits for the same call: over thread counts, repeated runs, workspaces of the caller; a
// request's bits alone and in company (batch invariance); and no allocation once a plan is
// prepared.
#define TILEWRIGHT_TEST_COUNT_ALLOCATIONS
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cpu/tile_bf16.h"
#include "support/allocation_counter.h"
#include "support/shared_prefix.h"
#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

const Lengths kMixed = {{1, 1500}, {1, 17}, {40, 200}, {0, 30}, {1, 0}, {129, 129}, {2, 700}};

// Gives the thread count back.
class WithThreads : public testing::Test {
 protected:
  ~WithThreads() override { set_num_threads(before_); }

 private:
  int before_ = num_threads();
};

class Threads : public WithThreads, public testing::WithParamInterface<VariantKind> {};

TEST_P(Threads, ResultsDoNotDependOnThem) {
  const Dims dims{6, 2, 64, 64};
  SimpleBatch b(dims, DType::bf16, kMixed, 16, 41);
  Random random(42);
  const VariantCase c =
      make_variant(GetParam(), dims, static_cast<std::int64_t>(kMixed.size()), random);
  const Attention attention(make_spec(dims, DType::bf16, c.variant));
  for (const int workers : {0, 5}) {
    Limits limits = b.limits();
    limits.workers = workers;
    std::optional<std::vector<std::uint8_t>> expected;
    for (const int made_with : {1, 2, 3, 8}) {
      set_num_threads(made_with);
      Plan plan({attention}, limits);
      for (const int run_with : {made_with, 1, 8, 2}) {
        set_num_threads(run_with);
        const auto bits = b.bits(plan, attention, c.plan_params, c.run_params);
        if (!expected) expected = bits;
        ASSERT_TRUE(bits == *expected) << "plan made with " << made_with << " threads, run with "
                                       << run_with << ", workers " << workers;
      }
    }
  }
  b.tensors.expect(b.requests, c.semantics);
}
INSTANTIATE_TEST_SUITE_P(Variants, Threads,
                         testing::Values(VariantKind::causal, VariantKind::full,
                                         VariantKind::causal_window, VariantKind::alibi,
                                         VariantKind::modulo),
                         [](const testing::TestParamInfo<VariantKind>& value) {
                           return std::string(variant_name(value.param));
                         });

TEST(ThreadCount, AtLeastOne) {
  EXPECT_GE(num_threads(), 1);
  EXPECT_THROW(set_num_threads(0), Error);
  EXPECT_THROW(set_num_threads(-3), Error);
}

TEST(Repeated, RunsUnderOneUpdateGiveTheSameBits) {
  const Dims dims{8, 2, 64, 64};
  SimpleBatch b(dims, DType::f16, kMixed, 16, 43);
  const Attention attention(make_spec(dims, DType::f16, variants::causal()));
  Plan plan({attention}, b.limits());
  const auto first = b.bits(plan, attention);
  for (int i = 0; i < 5; ++i) {
    b.tensors.out.refill();
    b.tensors.lse.refill();
    b.run(plan, attention, b.tensors.args());
    auto again = b.tensors.out.snapshot();
    const auto logs = b.tensors.lse.snapshot();
    again.insert(again.end(), logs.begin(), logs.end());
    ASSERT_TRUE(again == first);
  }
  // Without lse the output is the same.
  const auto out = b.tensors.out.snapshot();
  b.tensors.out.refill();
  RunArgs args = b.tensors.args();
  args.lse = {};
  b.run(plan, attention, args);
  EXPECT_TRUE(b.tensors.out.snapshot() == out);
}

TEST(Repeated, InputsAreOnlyRead) {
  const Dims dims{4, 2, 32, 32};
  SimpleBatch b(dims, DType::f32, {{5, 90}, {1, 33}}, 16, 44);
  const Attention attention(make_spec(dims, DType::f32, variants::causal()));
  Plan plan({attention}, b.limits());
  const auto q = b.tensors.q.snapshot();
  const auto k = b.cache.k().snapshot();
  const auto v = b.cache.v().snapshot();
  const auto pages = b.table.indices.snapshot();
  b.bits(plan, attention);
  EXPECT_TRUE(b.tensors.q.snapshot() == q);
  EXPECT_TRUE(b.cache.k().snapshot() == k);
  EXPECT_TRUE(b.cache.v().snapshot() == v);
  EXPECT_TRUE(b.table.indices.snapshot() == pages);
}

// The plan's own memory and the caller's, whatever stood in it, give the same bits; nothing is
// written outside of what workspace_bytes() says.
TEST(Workspace, OfTheCaller) {
  const Dims dims{6, 2, 64, 64};
  SimpleBatch b(dims, DType::bf16, kMixed, 16, 45);
  const Attention attention(make_spec(dims, DType::bf16, variants::causal()));
  Plan own({attention}, b.limits());
  const auto expected = b.bits(own, attention);
  const auto bytes = static_cast<std::int64_t>(Plan::workspace_bytes({attention}, b.limits()));
  for (const std::uint8_t garbage : {std::uint8_t{0}, std::uint8_t{0x7F}, kPoison}) {
    Tensor space(DType::u8, {bytes}, {1}, garbage);
    Plan plan({attention}, b.limits(), space.view());
    plan.prepare();
    ASSERT_TRUE(b.bits(plan, attention) == expected) << static_cast<int>(garbage);
    EXPECT_TRUE(space.guards_intact());
    // A plan that moves takes its state with it.
    Plan moved(std::move(plan));
    ASSERT_TRUE(b.bits(moved, attention) == expected);
    EXPECT_TRUE(space.guards_intact());
  }
}

TEST(Workspace, GrowsWithTheLimitsOnly) {
  const Dims dims{8, 2, 128, 128};
  const Attention attention(make_spec(dims, DType::bf16, variants::causal()));
  const Limits small{1, 16, 16, 128};
  Limits large = small;
  large.requests = 64;
  large.q_tokens = 4096;
  large.q_len = 4096;
  large.kv_len = 32768;
  EXPECT_LE(Plan::workspace_bytes({attention}, small), Plan::workspace_bytes({attention}, large));
  // Partial results are bounded by the workers, not by the lengths: far below one partial a token.
  EXPECT_LT(Plan::workspace_bytes({attention}, large), std::size_t{256} << 20);
}

// Calls of operator new in an update and two runs.
std::int64_t allocations(Plan& plan, const Batch& batch, const std::vector<PlanInput>& inputs,
                         const TensorView& q, const std::vector<KvCache>& kv, const RunArgs& args) {
  const Attention& attention = inputs[0].attention;
  const AllocationCounter counter;
  plan.update(batch, inputs);
  attention.run(plan, q, kv, args);
  attention.run(plan, q, kv, args);
  return counter.count();
}

TEST_F(WithThreads, NothingIsAllocatedInRunsAndUpdates) {
  const Dims dims{6, 2, 64, 64};
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    SimpleBatch b(dims, dtype, kMixed, 16, 46);
    Random random(47);
    for (const VariantKind kind :
         {VariantKind::causal, VariantKind::alibi, VariantKind::modulo, VariantKind::soft_cap,
          VariantKind::window_by_request, VariantKind::bias_table, VariantKind::documents}) {
      const VariantCase c =
          make_variant(kind, dims, static_cast<std::int64_t>(kMixed.size()), random);
      const Attention attention(make_spec(dims, dtype, c.variant));
      const std::vector<PlanInput> inputs = b.inputs(attention, c.plan_params);
      RunArgs args = b.tensors.args();
      args.params = c.run_params;
      for (const Determinism mode : {Determinism::repeatable, Determinism::batch_invariant}) {
        for (const int threads : {1, 2}) {
          set_num_threads(threads);
          Limits limits = b.limits();
          limits.determinism = mode;
          Plan plan({attention}, limits);
          plan.prepare();
          EXPECT_EQ(
              allocations(plan, b.batch(), inputs, b.tensors.q.view(), {b.cache.view()}, args), 0)
              << variant_name(kind) << " " << dtype_name(dtype) << " threads " << threads
              << " mode " << static_cast<int>(mode);
        }
      }
    }
  }
}

// Prefixes that are read once for all, and those that are folded; every kind of bf16 kernel.
TEST_F(WithThreads, NothingIsAllocatedWithLevels) {
  const Dims dims{8, 2, 64, 64};
  for (const cpu::Bf16Choice choice :
       {cpu::Bf16Choice::none, cpu::Bf16Choice::avx512, cpu::Bf16Choice::best}) {
    cpu::choose_bf16_kernels(choice);
    for (const DType dtype : {DType::f32, DType::bf16}) {
      for (const std::int64_t prefix : {3, 1500}) {
        const SharedPrefix b(dims, dtype, prefix, Lengths(16, {2, 40}), 50);
        const BatchTensors tensors(b.requests, dims, dtype);
        const Attention attention(make_spec(dims, dtype, variants::causal()));
        for (const Determinism mode : {Determinism::repeatable, Determinism::batch_invariant}) {
          set_num_threads(2);
          Limits limits = b.limits();
          limits.determinism = mode;
          Plan plan({attention}, limits);
          plan.prepare();
          const std::vector<PlanInput> inputs = {PlanInput(attention, b.levels())};
          EXPECT_EQ(
              allocations(plan, b.batch(), inputs, tensors.q.view(), b.caches(), tensors.args()), 0)
              << dtype_name(dtype) << " prefix " << prefix << " mode " << static_cast<int>(mode);
          const bool folds = mode == Determinism::batch_invariant || prefix == 3;
          EXPECT_EQ(plan.stats(attention).folded_rows, folds ? 1 : 0);
          tensors.expect(b.requests, causal_semantics());
        }
      }
    }
  }
}

// Caches that come as one tensor are taken apart at every call.
TEST(AllocationCounter, ViewsOfViewsAreMadeWithoutText) {
  std::array<float, 24> values{};
  const TensorView view(values.data(), DType::f32, {2, 3, 4});
  const AllocationCounter counter;
  EXPECT_EQ(view.select(1, 2).shape[1], 4);
  EXPECT_EQ(view.slice(0, 1, 2).shape[0], 1);
  EXPECT_EQ(view.transpose(0, 2).shape[0], 4);
  EXPECT_EQ(view.unsqueeze(0).rank, 4);
  EXPECT_EQ(counter.count(), 0);
}

TEST(AllocationCounter, Counts) {
  AllocationCounter counter;
  auto memory = std::make_unique<std::vector<int>>(1000);
  EXPECT_EQ(memory->size(), 1000);
  EXPECT_EQ(counter.count(), 2);
}

// Bits of out and lse of one request.
std::vector<double> values_of(const SimpleBatch& b, std::size_t request, std::int64_t skip = 0) {
  std::vector<double> values;
  std::int64_t first = 0;
  for (std::size_t r = 0; r < request; ++r) first += b.requests[r].q_len();
  for (std::int64_t i = skip; i < b.requests[request].q_len(); ++i) {
    for (std::int64_t head = 0; head < b.dims.qo_heads; ++head) {
      values.push_back(b.tensors.lse.get({first + i, head}));
      for (std::int64_t d = 0; d < b.dims.value_dim; ++d) {
        values.push_back(b.tensors.out.get({first + i, head, d}));
      }
    }
  }
  return values;
}

TEST(BatchInvariant, ARequestsBitsAreItsOwn) {
  const Dims dims{6, 2, 64, 64};
  constexpr DType kDType = DType::f32;
  const Attention attention(make_spec(dims, kDType, variants::causal()));
  SimpleBatch together(dims, kDType, {{1, 900}, {33, 400}, {1, 20}, {130, 130}}, 16, 48);
  Limits limits = together.limits();
  limits.determinism = Determinism::batch_invariant;
  Plan plan({attention}, limits);
  together.bits(plan, attention);
  together.tensors.expect(together.requests, causal_semantics());
  for (std::size_t r = 0; r < together.requests.size(); ++r) {
    SCOPED_TRACE(r);
    // Alone, on other pages of another size, in a smaller plan.
    SimpleBatch alone(dims, kDType, {together.requests[r]}, 5, 49);
    Limits own = alone.limits();
    own.determinism = Determinism::batch_invariant;
    Plan small({attention}, own);
    alone.bits(small, attention);
    EXPECT_TRUE(values_of(alone, 0) == values_of(together, r)) << "alone";
    // The last chunk of a chunked prefill.
    Request chunk = together.requests[r];
    const std::int64_t skip = chunk.q_len() / 2;
    chunk.q_pos.erase(chunk.q_pos.begin(), chunk.q_pos.begin() + skip);
    chunk.q.erase(chunk.q.begin(), chunk.q.begin() + skip * dims.qo_heads * dims.head_dim);
    SimpleBatch chunked(dims, kDType, {chunk}, 16, 50);
    chunked.bits(plan, attention);
    EXPECT_TRUE(values_of(chunked, 0) == values_of(together, r, skip)) << "chunked";
  }
}

}  // namespace
}  // namespace tilewright::test
