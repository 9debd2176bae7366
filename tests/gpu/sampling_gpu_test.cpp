// SPDX-License-Identifier: Apache-2.0
// Sampling on a GPU: the same tokens as on the CPU, both through the public API.
#include <tilewright/sampling.h>

#include "gpu/gpu_tensor.h"
#include "sampling/sampling_support.h"

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

}  // namespace
}  // namespace tilewright::test
