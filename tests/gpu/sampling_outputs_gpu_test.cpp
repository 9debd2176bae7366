// SPDX-License-Identifier: Apache-2.0
// Outputs of sampling, sampling from probabilities and top_k() on a GPU: the bits of the CPU.
#include <tilewright/sampling.h>

#include <optional>

#include "gpu/gpu_tensor.h"
#include "sampling/outputs_support.h"
#include "sampling/process_support.h"

namespace tilewright::test {
namespace {

using SamplingOutputsOnGpu = GpuTest;

Tensor make_logits(Random& random, RowKind kind, std::int64_t rows, std::int64_t vocabulary,
                   DType dtype) {
  Tensor logits(dtype, {rows, vocabulary});
  for (std::int64_t r = 0; r < rows; ++r) {
    const Row row = make_row(random, kind, vocabulary);
    for (std::int64_t i = 0; i < vocabulary; ++i) {
      logits.set({r, i}, static_cast<double>(row[static_cast<std::size_t>(i)]));
    }
  }
  return logits;
}

struct LogProbsOnGpu {
  OnGpu chosen, ranks, best, best_ids;

  explicit LogProbsOnGpu(LogProbTensors& host)
      : chosen(host.chosen), ranks(host.ranks), best(host.best), best_ids(host.best_ids) {}
  LogProbs views() const { return {chosen.view(), ranks.view(), best.view(), best_ids.view()}; }
  void download() {
    for (OnGpu* tensor : {&chosen, &ranks, &best, &best_ids}) tensor->download();
  }
};

void expect_same(const LogProbTensors& got, const LogProbTensors& expected) {
  EXPECT_EQ(got.chosen.snapshot(), expected.chosen.snapshot());
  EXPECT_EQ(got.ranks.snapshot(), expected.ranks.snapshot());
  EXPECT_EQ(got.best.snapshot(), expected.best.snapshot());
  EXPECT_EQ(got.best_ids.snapshot(), expected.best_ids.snapshot());
}

// What processing reads, on both sides.
struct ProcessOnGpu {
  OnGpu allowed, prompt, counts, bias_ids, bias_values, repetition, frequency, presence;

  explicit ProcessOnGpu(ProcessTables& tables)
      : allowed(tables.allowed),
        prompt(tables.prompt),
        counts(tables.counts),
        bias_ids(tables.bias_ids),
        bias_values(tables.bias_values),
        repetition(tables.repetition),
        frequency(tables.frequency),
        presence(tables.presence) {}
  // In the places of those that are given on the CPU.
  void give(SamplingArgs& args) const {
    if (args.allowed.defined()) args.allowed = allowed.view();
    if (args.prompt_bits.defined()) args.prompt_bits = prompt.view();
    if (args.output_counts.defined()) args.output_counts = counts.view();
    if (args.bias_ids.defined()) {
      args.bias_ids = bias_ids.view();
      args.bias_values = bias_values.view();
    }
    if (args.repetition_penalty.tensor.defined()) args.repetition_penalty = repetition.view();
    if (args.frequency_penalty.tensor.defined()) args.frequency_penalty = frequency.view();
    if (args.presence_penalty.tensor.defined()) args.presence_penalty = presence.view();
  }
};

// `tables`: of what `args` have of processing, or null.
void expect_same_outputs(Tensor& logits, SamplingArgs args, std::int64_t n,
                         DType masked_dtype = DType::f32, ProcessTables* tables = nullptr) {
  const std::int64_t rows = logits.shape()[0];
  const std::int64_t vocabulary = logits.shape()[1];
  OutputTensors got(rows, vocabulary, n, masked_dtype);
  OutputTensors expected(rows, vocabulary, n, masked_dtype);
  Tensor tokens(DType::i32, {rows});
  Tensor expected_tokens(DType::i32, {rows});
  const bool probabilities = args.input == SamplingInput::probabilities;
  expected.give(args);
  if (probabilities) args.outputs.masked_logits = {};
  sample(logits.view(), args, expected_tokens.view());
  std::optional<ProcessOnGpu> process;
  if (tables != nullptr) process.emplace(*tables).give(args);
  const OnGpu gpu_logits(logits);
  OnGpu gpu_tokens(tokens);
  OnGpu kept(got.kept);
  OnGpu of_draw(got.probabilities);
  OnGpu masked(got.masked);
  LogProbsOnGpu raw(got.raw);
  LogProbsOnGpu processed(got.processed);
  args.outputs = {kept.view(), of_draw.view(), masked.view(), raw.views(), processed.views()};
  if (probabilities) args.outputs.masked_logits = {};
  sample(gpu_logits.view(), args, gpu_tokens.view());
  for (OnGpu* tensor : {&gpu_tokens, &kept, &of_draw, &masked}) tensor->download();
  raw.download();
  processed.download();
  EXPECT_EQ(tokens.snapshot(), expected_tokens.snapshot());
  EXPECT_EQ(got.kept.snapshot(), expected.kept.snapshot());
  EXPECT_EQ(got.probabilities.snapshot(), expected.probabilities.snapshot());
  EXPECT_EQ(got.masked.snapshot(), expected.masked.snapshot());
  expect_same(got.raw, expected.raw);
  expect_same(got.processed, expected.processed);
}

TEST_F(SamplingOutputsOnGpu, SameAsTheCpu) {
  Random random(1);
  for (int round = 0; round < 40; ++round) {
    const std::int64_t vocabulary = random.pick<std::int64_t>({1, 33, 1000, 32003, 128256});
    const auto kind =
        static_cast<RowKind>(random.range(0, static_cast<std::int64_t>(RowKind::count) - 1));
    const DType dtype = random.pick({DType::f32, DType::f16, DType::bf16});
    Tensor logits = make_logits(random, kind, 3, vocabulary, dtype);
    SamplingArgs args;
    args.order = random.pick(
        {FilterOrder::hf, FilterOrder::joint, FilterOrder::vllm, FilterOrder::llamacpp});
    args.temperature = random.pick({0.0F, 0.7F, 1.0F, 3.0F});
    args.top_k = random.pick({0, 1, 50, 2000});
    args.top_p = random.pick({1.0F, 0.5F, 0.9F});
    args.min_p = random.pick({0.0F, 0.05F});
    args.typical_p = random.pick({1.0F, 0.9F});
    args.seeds = static_cast<std::int64_t>(random.bits());
    SCOPED_TRACE(testing::Message() << "round " << round << " kind " << static_cast<int>(kind));
    expect_same_outputs(logits, args, random.pick<std::int64_t>({1, 5, 2048}));
  }
}

// Filters that go by the logits' order: on Hopper clusters have the rows. More rows than run at the
// same time, long lists of the best, infinities, and rows whose ends are anywhere.
TEST_F(SamplingOutputsOnGpu, FiltersByLogits) {
  Random random(4);
  for (int kind = 0; kind < static_cast<int>(RowKind::count); ++kind) {
    for (const std::int64_t vocabulary : {random.pick<std::int64_t>({100, 5003}),
                                          random.pick<std::int64_t>({50000, 128256, 151643})}) {
      const DType dtype = random.pick({DType::f32, DType::f16, DType::bf16});
      const std::int64_t rows = vocabulary < 10000 ? 300 : random.pick<std::int64_t>({1, 5, 70});
      Tensor logits = make_logits(random, static_cast<RowKind>(kind), rows, vocabulary, dtype);
      if (random.chance(0.3)) logits.set({rows - 1, vocabulary / 2}, INFINITY);
      std::optional<ProcessTables> tables;
      if (rows < 70 && random.chance(0.5)) tables.emplace(random, rows, vocabulary, 3);
      for (const std::int64_t n : {20, 150, 2000}) {
        SamplingArgs args;
        args.order = random.pick({FilterOrder::hf, FilterOrder::joint});
        args.temperature = random.pick({0.0F, 0.7F, 1.0F, 1.0F});
        args.top_k = random.pick({0, 1, 50, 2000});
        args.top_p = random.pick({1.0F, 0.5F, 0.9F});
        args.min_p = random.pick({0.0F, 0.05F});
        args.seeds = static_cast<std::int64_t>(random.bits());
        if (tables) tables->give(random, args);
        SCOPED_TRACE(testing::Message()
                     << "kind " << kind << " vocabulary " << vocabulary << " n " << n);
        expect_same_outputs(logits, args, n, random.chance(0.5) ? DType::f32 : dtype,
                            tables ? &*tables : nullptr);
      }
    }
  }
}

TEST_F(SamplingOutputsOnGpu, Probabilities) {
  Random random(2);
  for (int round = 0; round < 20; ++round) {
    const std::int64_t vocabulary = random.pick<std::int64_t>({33, 32003});
    const DType dtype = random.pick({DType::f32, DType::f16, DType::bf16});
    Tensor p = make_logits(random, random.pick({RowKind::normal, RowKind::quantised}), 3,
                           vocabulary, dtype);
    SamplingArgs args;
    args.input = SamplingInput::probabilities;
    args.top_k = random.pick({0, 50});
    args.top_p = random.pick({1.0F, 0.9F});
    args.min_p = random.pick({0.0F, 0.05F});
    args.typical_p = random.pick({1.0F, 0.9F});
    args.seeds = static_cast<std::int64_t>(random.bits());
    SCOPED_TRACE(round);
    expect_same_outputs(p, args, 5);
  }
}

TEST_F(SamplingOutputsOnGpu, TopK) {
  Random random(3);
  for (int kind = 0; kind < static_cast<int>(RowKind::count); ++kind) {
    for (const std::int64_t vocabulary : {3, 1000, 128256, 300001}) {
      const DType dtype = random.pick({DType::f32, DType::f16, DType::bf16});
      const std::int64_t rows = vocabulary > 100000 ? 2 : 70;
      Tensor logits = make_logits(random, static_cast<RowKind>(kind), rows, vocabulary, dtype);
      if (random.chance(0.3)) logits.set({1, 1}, INFINITY);
      const OnGpu gpu_logits(logits);
      for (const std::int64_t k : {1, 40, 300, 2048}) {
        Tensor values(dtype, {rows, k});
        Tensor indices(DType::i32, {rows, k});
        Tensor expected(dtype, {rows, k});
        Tensor expected_indices(DType::i32, {rows, k});
        OnGpu gpu_values(values);
        OnGpu gpu_indices(indices);
        top_k(gpu_logits.view(), gpu_values.view(), gpu_indices.view());
        gpu_values.download();
        gpu_indices.download();
        top_k(logits.view(), expected.view(), expected_indices.view());
        EXPECT_EQ(indices.snapshot(), expected_indices.snapshot())
            << kind << " " << vocabulary << " " << k;
        EXPECT_EQ(values.snapshot(), expected.snapshot()) << kind << " " << vocabulary << " " << k;
      }
    }
  }
}

}  // namespace
}  // namespace tilewright::test
