// SPDX-License-Identifier: Apache-2.0
// Sampling with outputs and top_k() in the emulator: the bits of the CPU.
#include "sampling/sample_outputs.h"

#include <gtest/gtest.h>
#include <tilewright/sampling.h>

#include "runtime/launch.h"
#include "sampling/cluster_outputs.h"
#include "sampling/cluster_top_k.h"
#include "sampling/cuda_sample.h"
#include "sampling/cuda_top_k.h"
#include "sampling/outputs.h"
#include "sampling/outputs_support.h"
#include "sampling/process_support.h"
#include "sampling/top_k.h"
#include "support/tensor.h"

namespace tilewright::test {
namespace {

using SampleFunction = void (*)(tw::SampleParams);

template <typename T>
SampleFunction outputs_kernel(SampleKernel kernel) {
  switch (kernel) {
    case SampleKernel::cluster_outputs:
      return [](tw::SampleParams p) { tw::cluster_outputs<T>(p); };
    case SampleKernel::probabilities:
      return [](tw::SampleParams p) { tw::sample_with_outputs<T, tw::ProbabilityScale>(p); };
    default:
      return [](tw::SampleParams p) { tw::sample_with_outputs<T, tw::WeightScale>(p); };
  }
}

template <typename Params>
void emulate(void (*kernel)(Params), const CudaLaunch<Params>& launch, std::uint64_t seed) {
  tw::emulator::launch(kernel,
                       {.grid = launch.grid,
                        .block = launch.block,
                        .shared_bytes = launch.shared_bytes,
                        .cluster = launch.cluster,
                        .seed = seed},
                       launch.params);
}

void emulate_sample(SampleKernel kernel, const TensorView& logits, const SamplingArgs& args,
                    const TensorView& tokens, std::uint64_t seed) {
  emulate(logits.dtype == DType::f32   ? outputs_kernel<float>(kernel)
          : logits.dtype == DType::f16 ? outputs_kernel<tw::f16>(kernel)
                                       : outputs_kernel<tw::bf16>(kernel),
          sample_launch(kernel, logits, args, tokens), seed);
}

Tensor make_logits(RowKind kind, std::int64_t rows, std::int64_t vocabulary, DType dtype,
                   Random& random) {
  Tensor logits(dtype, {rows, vocabulary}, {vocabulary + 3, 1});
  for (std::int64_t r = 0; r < rows; ++r) {
    const Row row = make_row(random, kind, vocabulary);
    for (std::int64_t i = 0; i < vocabulary; ++i)
      logits.set({r, i}, static_cast<double>(row[static_cast<std::size_t>(i)]));
  }
  return logits;
}

void expect_same(const LogProbTensors& got, const LogProbTensors& expected) {
  ASSERT_EQ(got.chosen.snapshot(), expected.chosen.snapshot());
  ASSERT_EQ(got.ranks.snapshot(), expected.ranks.snapshot());
  ASSERT_EQ(got.best_ids.snapshot(), expected.best_ids.snapshot());
  ASSERT_EQ(got.best.snapshot(), expected.best.snapshot());
}

// Drops some outputs: what is left decides what a kernel does at all.
void drop_some(Random& random, SamplingOutputs& outputs) {
  for (TensorView* output : {&outputs.kept, &outputs.probabilities, &outputs.masked_logits}) {
    if (random.chance(0.5)) *output = {};
  }
  for (LogProbs* log_probs : {&outputs.raw, &outputs.processed}) {
    const bool none = random.chance(0.4);
    if (none || random.chance(0.3)) log_probs->chosen = {};
    if (none || random.chance(0.3)) log_probs->ranks = {};
    if (none || random.chance(0.3)) log_probs->best = log_probs->best_ids = {};
  }
  if (!any_wanted(outputs)) outputs = {};
}

struct Wanted {
  std::int64_t n = 5;  // of the best tokens
  DType masked = DType::f32;
  std::uint64_t drop = 0;  // a seed of what is left out, and 0: nothing
};

void expect_same_outputs(SampleKernel kernel, const Tensor& logits, SamplingArgs args,
                         const Wanted& wanted, std::uint64_t seed) {
  const std::int64_t rows = logits.shape()[0];
  const std::int64_t vocabulary = logits.shape()[1];
  OutputTensors got(rows, vocabulary, wanted.n, wanted.masked);
  OutputTensors expected(rows, vocabulary, wanted.n, wanted.masked);
  Tensor got_tokens(DType::i32, {rows});
  Tensor expected_tokens(DType::i32, {rows});
  Tensor got_status(DType::i32, {rows});
  Tensor expected_status(DType::i32, {rows});
  const auto give = [&](OutputTensors& outputs, Tensor& status) {
    outputs.give(args);
    if (args.input == SamplingInput::probabilities) args.outputs.masked_logits = {};
    Random of_drop(wanted.drop);
    if (wanted.drop != 0) drop_some(of_drop, args.outputs);
    args.status = status.view();
  };
  give(got, got_status);
  emulate_sample(kernel, logits.view(), args, got_tokens.view(), seed);
  give(expected, expected_status);
  sample(logits.view(), args, expected_tokens.view());
  ASSERT_EQ(got_tokens.snapshot(), expected_tokens.snapshot());
  ASSERT_EQ(got_status.snapshot(), expected_status.snapshot());
  ASSERT_EQ(got.kept.snapshot(), expected.kept.snapshot());
  ASSERT_EQ(got.probabilities.snapshot(), expected.probabilities.snapshot());
  ASSERT_EQ(got.masked.snapshot(), expected.masked.snapshot());
  expect_same(got.processed, expected.processed);
  expect_same(got.raw, expected.raw);
  ASSERT_TRUE(got.guards_intact());
}

class OutputsOnCuda : public testing::TestWithParam<SampleKernel> {
 protected:
  bool clusters() const { return GetParam() == SampleKernel::cluster_outputs; }
  // Random filters, of those that the kernel has.
  SamplingArgs random_filters(Random& random) const {
    SamplingArgs args;
    args.order = random.pick({FilterOrder::hf, FilterOrder::joint, FilterOrder::vllm});
    args.temperature = random.pick({0.0F, 0.7F, 1.0F, 3.0F, INFINITY});
    if (random.chance(0.6)) args.top_k = random.pick({1, 50, 2000});
    if (random.chance(0.6)) args.top_p = random.pick({0.0F, 0.5F, 0.9F});
    if (random.chance(0.4) && !(clusters() && args.order == FilterOrder::vllm))
      args.min_p = random.pick({0.05F, 1.0F});
    if (!clusters()) {
      if (random.chance(0.25)) args.order = FilterOrder::llamacpp;
      if (random.chance(0.3)) args.typical_p = random.pick({0.2F, 0.9F});
    }
    args.seeds = static_cast<std::int64_t>(random.bits());
    return args;
  }
  void expect_same_outputs(const Tensor& logits, const SamplingArgs& args, const Wanted& wanted,
                           std::uint64_t seed) {
    ASSERT_TRUE(!clusters() || filters_by_logits(args));
    test::expect_same_outputs(GetParam(), logits, args, wanted, seed);
  }
};

TEST_P(OutputsOnCuda, SameAsTheCpu) {
  Random random(1);
  for (int round = 0; round < 120; ++round) {
    const std::int64_t vocabulary = random.pick<std::int64_t>({1, 33, 300, 1003});
    const auto kind = random.range(0, static_cast<std::int64_t>(RowKind::count) - 1);
    const DType dtype = random.pick({DType::f32, DType::f16, DType::bf16});
    Tensor logits = make_logits(static_cast<RowKind>(kind), 2, vocabulary, dtype, random);
    if (random.chance(0.1)) logits.set({0, random.range(0, vocabulary - 1)}, INFINITY);
    if (random.chance(0.1)) {
      for (std::int64_t i = 0; i < vocabulary; ++i) logits.set({1, i}, -INFINITY);
    }
    const ProcessTables tables(random, 2, vocabulary, 3);
    SamplingArgs args = random_filters(random);
    if (random.chance(0.3)) tables.give(random, args);
    SCOPED_TRACE(testing::Message() << "round " << round << " kind " << kind);
    expect_same_outputs(logits, args,
                        {.n = random.pick<std::int64_t>({1, 5, 200, 700}),
                         .masked = random.chance(0.5) ? DType::f32 : dtype,
                         .drop = random.chance(0.5) ? random.bits() : 0},
                        static_cast<std::uint64_t>(round));
    if (HasFatalFailure()) return;
  }
}

// Clusters of several blocks.
TEST_P(OutputsOnCuda, LongRows) {
  Random random(6);
  for (int kind = 0; kind < static_cast<int>(RowKind::count); ++kind) {
    const DType dtype = random.pick({DType::f32, DType::bf16});
    const std::int64_t vocabulary = random.pick<std::int64_t>({40003, 40008});
    Tensor logits = make_logits(static_cast<RowKind>(kind), 1, vocabulary, dtype, random);
    if (random.chance(0.2)) logits.set({0, 39000}, INFINITY);
    const ProcessTables tables(random, 1, vocabulary, 3);
    for (const std::int64_t n : {20, 2048}) {
      SamplingArgs args = random_filters(random);
      args.temperature = 0.9F;
      if (random.chance(0.3)) tables.give(random, args);
      SCOPED_TRACE(testing::Message() << "kind " << kind << " n " << n);
      expect_same_outputs(logits, args, {.n = n}, static_cast<std::uint64_t>(kind));
      if (HasFatalFailure()) return;
    }
  }
}

// On the CPU an error.
TEST_P(OutputsOnCuda, RowsOfSlotsOutOfRangeKeepToken0) {
  Random random(3);
  const Tensor logits = make_logits(RowKind::normal, 2, 100, DType::f32, random);
  const Tensor slots = int_tensor({0, 7});
  const Tensor top_k = int_tensor({3});
  OutputTensors got(2, 100, 2, DType::f32);
  OutputTensors expected(2, 100, 2, DType::f32);
  Tensor tokens(DType::i32, {2});
  Tensor status(DType::i32, {2});
  SamplingArgs args;
  args.slots = slots.view();
  args.top_k = top_k.view();
  args.status = status.view();
  got.give(args);
  emulate_sample(GetParam(), logits.view(), args, tokens.view(), 1);
  EXPECT_EQ(tokens.get({1}), 0);
  EXPECT_EQ(status.get({0}), 0);
  EXPECT_EQ(status.get({1}), 16);
  EXPECT_EQ(got.kept.get({1, 0}), 1);
  EXPECT_EQ(got.probabilities.get({1, 0}), 1);
  EXPECT_EQ(got.masked.get({1, 0}), logits.get({1, 0}));
  EXPECT_EQ(got.processed.chosen.get({1}), 0);
  EXPECT_EQ(got.processed.ranks.get({1}), 1);
  EXPECT_EQ(got.processed.best_ids.get({1, 0}), 0);
  EXPECT_EQ(got.processed.best_ids.get({1, 1}), -1);
  // The row as it is given has its log-probabilities.
  args = {};
  expected.give(args);
  sample(logits.view(), args, tokens.view());
  for (const std::int64_t i : {0, 1}) {
    EXPECT_EQ(got.raw.best.get({1, i}), expected.raw.best.get({1, i}));
    EXPECT_EQ(got.raw.best_ids.get({1, i}), expected.raw.best_ids.get({1, i}));
  }
}

// On the CPU an error, too: what is replaced is as good.
TEST_P(OutputsOnCuda, BadParameters) {
  Random random(7);
  const Tensor logits = make_logits(RowKind::normal, 2, 500, DType::f32, random);
  const Tensor bad = float_tensor({NAN, -1});
  const Tensor good = float_tensor({0, 0});
  OutputTensors got(2, 500, 3, DType::f32);
  OutputTensors expected(2, 500, 3, DType::f32);
  Tensor tokens(DType::i32, {2});
  Tensor status(DType::i32, {2});
  SamplingArgs args;
  args.temperature = bad.view();
  args.status = status.view();
  got.give(args);
  emulate_sample(GetParam(), logits.view(), args, tokens.view(), 1);
  EXPECT_EQ(status.snapshot(), int_tensor({8, 8}).snapshot());
  args.temperature = good.view();
  expected.give(args);
  sample(logits.view(), args, tokens.view());
  EXPECT_EQ(got.kept.snapshot(), expected.kept.snapshot());
  expect_same(got.processed, expected.processed);
  expect_same(got.raw, expected.raw);
}

TEST_P(OutputsOnCuda, WithoutTokens) {
  Random random(8);
  const Tensor logits = make_logits(RowKind::normal, 2, 300, DType::f32, random);
  for (const std::int32_t top_k : {0, 20}) {
    OutputTensors got(2, 300, 3, DType::f32);
    OutputTensors expected(2, 300, 3, DType::f32);
    SamplingArgs args;
    args.top_k = top_k;
    got.give(args);
    emulate_sample(GetParam(), logits.view(), args, {}, 1);
    expected.give(args);
    sample(logits.view(), args, {});
    EXPECT_EQ(got.probabilities.snapshot(), expected.probabilities.snapshot());
    expect_same(got.raw, expected.raw);
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, OutputsOnCuda,
                         testing::Values(SampleKernel::outputs, SampleKernel::cluster_outputs),
                         [](const auto& kernel) {
                           return kernel.param == SampleKernel::outputs ? "Block" : "Cluster";
                         });

TEST(OutputsOfProbabilities, SameAsTheCpu) {
  Random random(2);
  for (int round = 0; round < 60; ++round) {
    const std::int64_t vocabulary = random.pick<std::int64_t>({1, 33, 300, 1003});
    const auto kind = random.range(0, static_cast<std::int64_t>(RowKind::count) - 1);
    const DType dtype = random.pick({DType::f32, DType::f16, DType::bf16});
    Tensor p = make_logits(static_cast<RowKind>(kind), 2, vocabulary, dtype, random);
    if (random.chance(0.7)) {
      for (std::int64_t i = 0; i < 2 * vocabulary; ++i)
        p.set({i / vocabulary, i % vocabulary}, std::exp(p.get({i / vocabulary, i % vocabulary})));
    }
    SamplingArgs args;
    args.input = SamplingInput::probabilities;
    args.order = random.pick({FilterOrder::hf, FilterOrder::joint, FilterOrder::vllm});
    args.temperature = random.pick({0.0F, 1.0F, 1.0F});
    if (random.chance(0.5)) args.top_k = random.pick({1, 50, 2000});
    if (random.chance(0.5)) args.top_p = random.pick({0.5F, 0.9F});
    if (random.chance(0.4)) args.min_p = random.pick({0.05F, 1.0F});
    if (random.chance(0.3)) args.typical_p = random.pick({0.2F, 0.9F});
    args.seeds = static_cast<std::int64_t>(random.bits());
    SCOPED_TRACE(testing::Message() << "round " << round << " kind " << kind);
    expect_same_outputs(SampleKernel::probabilities, p, args, {},
                        static_cast<std::uint64_t>(round));
    if (HasFatalFailure()) return;
  }
}

template <typename T>
auto* top_k_kernel(SampleKernel kernel) {
  using Kernel = void (*)(tw::TopKParams);
  return kernel == SampleKernel::block
             ? static_cast<Kernel>([](tw::TopKParams p) { tw::top_k<T>(p); })
             : static_cast<Kernel>([](tw::TopKParams p) { tw::cluster_top_k<T>(p); });
}

class TopKOnCuda : public testing::TestWithParam<SampleKernel> {
 protected:
  static void expect_same_entries(const Tensor& logits, DType dtype, std::int64_t k,
                                  std::uint64_t seed) {
    const std::int64_t rows = logits.shape()[0];
    Tensor got(dtype, {rows, k}, {k + 1, 1});
    Tensor got_ids(DType::i64, {rows, k}, {k + 2, 1});
    Tensor expected(dtype, {rows, k}, {k + 1, 1});
    Tensor expected_ids(DType::i64, {rows, k}, {k + 2, 1});
    auto* const kernel = dtype == DType::f32   ? top_k_kernel<float>(GetParam())
                         : dtype == DType::f16 ? top_k_kernel<tw::f16>(GetParam())
                                               : top_k_kernel<tw::bf16>(GetParam());
    emulate(kernel, top_k_launch(GetParam(), logits.view(), got.view(), got_ids.view()), seed);
    top_k(logits.view(), expected.view(), expected_ids.view());
    ASSERT_EQ(got_ids.snapshot(), expected_ids.snapshot());
    ASSERT_EQ(got.snapshot(), expected.snapshot());
  }
};

TEST_P(TopKOnCuda, SameAsTheCpu) {
  Random random(4);
  for (int kind = 0; kind < static_cast<int>(RowKind::count); ++kind) {
    for (const std::int64_t vocabulary : {1, 100, 3003}) {
      const DType dtype = random.pick({DType::f32, DType::f16, DType::bf16});
      Tensor logits = make_logits(static_cast<RowKind>(kind), 2, vocabulary, dtype, random);
      if (random.chance(0.3)) logits.set({1, random.range(0, vocabulary - 1)}, INFINITY);
      for (const std::int64_t k : {1, 7, 300, 2048}) {
        SCOPED_TRACE(testing::Message() << kind << " " << vocabulary << " " << k);
        expect_same_entries(logits, dtype, k, static_cast<std::uint64_t>(kind));
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST_P(TopKOnCuda, RowsOfSeveralBlocks) {
  Random random(5);
  for (const RowKind kind : {RowKind::normal, RowKind::flat, RowKind::quantised, RowKind::masked,
                             RowKind::geometric, RowKind::with_nan}) {
    Tensor logits = make_logits(kind, 1, 40003, DType::f32, random);
    for (const std::int64_t k : {20, 2000}) {
      SCOPED_TRACE(testing::Message() << static_cast<int>(kind) << " " << k);
      expect_same_entries(logits, DType::f32, k, 1);
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, TopKOnCuda,
                         testing::Values(SampleKernel::block, SampleKernel::cluster),
                         [](const auto& kernel) {
                           return kernel.param == SampleKernel::block ? "Block" : "Cluster";
                         });

}  // namespace
}  // namespace tilewright::test
