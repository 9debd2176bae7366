// SPDX-License-Identifier: Apache-2.0
// Sampling on a GPU: the same tokens as on the CPU, both through the public API.
#include <tilewright/sampling.h>

#include "gpu/gpu_tensor.h"
#include "sampling/process_support.h"

namespace tilewright::test {
namespace {

using SamplingOnGpu = GpuTest;

constexpr DType kDTypes[] = {DType::f32, DType::f16, DType::bf16};

TEST_F(SamplingOnGpu, SameTokensAsTheCpu) {
  Random random(1);
  const std::int64_t rows = 6;
  for (int kind = 0; kind < static_cast<int>(RowKind::count); ++kind) {
    for (const std::int64_t vocabulary : {3, 1000, 32003, 128256}) {
      const DType dtype = kDTypes[static_cast<std::size_t>((kind + vocabulary) % 3)];
      Tensor logits(dtype, {rows, vocabulary});
      for (std::int64_t r = 0; r < rows; ++r) {
        const Row row = make_row(random, static_cast<RowKind>(kind), vocabulary);
        for (std::int64_t i = 0; i < vocabulary; ++i) {
          store_element(logits.data(), dtype, r * vocabulary + i, row[static_cast<std::size_t>(i)]);
        }
      }
      Tensor temperature = float_tensor({0, 1, 0.6, 1, 1.5, 0.9});
      Tensor top_k = int_tensor({0, 0, 50, 0, 1000, 2});
      Tensor top_p = float_tensor({1, 1, 0.9, 0.95, 0.8, 0.5});
      Tensor min_p = float_tensor({0, 0, 0, 0.02, 0.001, 0});
      Tensor seeds(DType::i64, {rows});
      for (std::int64_t r = 0; r < rows; ++r) seeds.set({r}, static_cast<double>(r * 1000003));
      const OnGpu gpu_logits(logits);
      const OnGpu gpu_temperature(temperature);
      const OnGpu gpu_top_k(top_k);
      const OnGpu gpu_top_p(top_p);
      const OnGpu gpu_min_p(min_p);
      const OnGpu gpu_seeds(seeds);
      for (std::int64_t step = 0; step < 8; ++step) {
        SamplingArgs args;
        args.temperature = temperature.view();
        args.top_k = top_k.view();
        args.top_p = top_p.view();
        args.min_p = min_p.view();
        args.seeds = seeds.view();
        args.steps = step;
        SamplingArgs gpu_args;
        gpu_args.temperature = gpu_temperature.view();
        gpu_args.top_k = gpu_top_k.view();
        gpu_args.top_p = gpu_top_p.view();
        gpu_args.min_p = gpu_min_p.view();
        gpu_args.seeds = gpu_seeds.view();
        gpu_args.steps = step;
        Tensor got(DType::i32, {rows});
        Tensor expected(DType::i32, {rows});
        OnGpu gpu_got(got);
        sample(logits.view(), args, expected.view());
        sample(gpu_logits.view(), gpu_args, gpu_got.view());
        gpu_got.download();
        EXPECT_EQ(got.snapshot(), expected.snapshot())
            << "kind " << kind << " vocabulary " << vocabulary << " step " << step;
      }
    }
  }
}

// Masks, biases, penalties, orders of filters, typical-p and slots, with a status of each row.
TEST_F(SamplingOnGpu, EverythingElseIsTheSameToo) {
  Random random(2);
  const std::int64_t rows = 6;
  for (int round = 0; round < 24; ++round) {
    const std::int64_t vocabulary = random.pick<std::int64_t>({33, 1000, 32003});
    const DType dtype = random.pick({DType::f32, DType::f16, DType::bf16});
    Tensor logits(dtype, {rows, vocabulary});
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto kind = random.range(0, static_cast<std::int64_t>(RowKind::count) - 1);
      const Row row = make_row(random, static_cast<RowKind>(kind), vocabulary);
      for (std::int64_t i = 0; i < vocabulary; ++i) {
        store_element(logits.data(), dtype, r * vocabulary + i, row[static_cast<std::size_t>(i)]);
      }
    }
    ProcessTables tables(random, 4, vocabulary, 5);
    Tensor slots = int_tensor({3, 0, 1, 1, 2, 0});
    Tensor got(DType::i32, {rows});
    Tensor expected(DType::i32, {rows});
    Tensor got_status(DType::i32, {rows});
    Tensor expected_status(DType::i32, {rows});
    SamplingArgs args;
    tables.give(random, args);
    args.slots = slots.view();
    args.status = expected_status.view();
    args.temperature = random.pick({0.3F, 1.0F, 2.0F});
    args.top_k = random.pick({0, 50, 500});
    args.top_p = random.pick({1.0F, 0.9F});
    args.min_p = random.pick({0.0F, 0.01F});
    args.typical_p = random.pick({1.0F, 0.8F});
    args.order = random.pick(
        {FilterOrder::hf, FilterOrder::joint, FilterOrder::vllm, FilterOrder::llamacpp});
    args.seeds = static_cast<std::int64_t>(random.bits());
    sample(logits.view(), args, expected.view());

    const OnGpu gpu_logits(logits);
    const OnGpu allowed(tables.allowed);
    const OnGpu prompt(tables.prompt);
    const OnGpu counts(tables.counts);
    const OnGpu bias_ids(tables.bias_ids);
    const OnGpu bias_values(tables.bias_values);
    const OnGpu repetition(tables.repetition);
    const OnGpu frequency(tables.frequency);
    const OnGpu presence(tables.presence);
    const OnGpu gpu_slots(slots);
    OnGpu gpu_got(got);
    OnGpu gpu_status(got_status);
    if (args.allowed.defined()) args.allowed = allowed.view();
    if (args.prompt_bits.defined()) args.prompt_bits = prompt.view();
    if (args.output_counts.defined()) args.output_counts = counts.view();
    if (args.bias_ids.defined()) args.bias_ids = bias_ids.view();
    if (args.bias_values.defined()) args.bias_values = bias_values.view();
    if (args.repetition_penalty.tensor.defined()) args.repetition_penalty = repetition.view();
    if (args.frequency_penalty.tensor.defined()) args.frequency_penalty = frequency.view();
    if (args.presence_penalty.tensor.defined()) args.presence_penalty = presence.view();
    args.slots = gpu_slots.view();
    args.status = gpu_status.view();
    sample(gpu_logits.view(), args, gpu_got.view());
    gpu_got.download();
    gpu_status.download();
    EXPECT_EQ(got.snapshot(), expected.snapshot()) << "round " << round;
    EXPECT_EQ(got_status.snapshot(), expected_status.snapshot()) << "round " << round;
  }
}

}  // namespace
}  // namespace tilewright::test
