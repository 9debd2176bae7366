// SPDX-License-Identifier: Apache-2.0
// Sampling one token from a row of 128256 logits, on one thread. Rows: normal logits times a spread
// (1: hardly any peaks, 3: about as peaked as a language model's), logits rounded to eighths
// (ties), and a constant.
#include <benchmark/benchmark.h>
#include <tilewright/sampling.h>
#include <tilewright/threads.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

namespace {

constexpr std::int64_t kVocabulary = 128256;

std::vector<float> make_row(const std::string& kind) {
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> row(kVocabulary, 1.5F);
  if (kind == "constant") return row;
  for (float& x : row) {
    x = (kind == "spread1" ? 1.0F : 3.0F) * normal(engine);
    if (kind == "ties") x = std::round(8 * x) / 8;
  }
  return row;
}

void sample_row(benchmark::State& state, const std::string& kind,
                const tilewright::SamplingArgs& base) {
  tilewright::set_num_threads(1);
  const std::vector<float> row = make_row(kind);
  std::int64_t token = 0;
  const tilewright::TensorView logits(row.data(), tilewright::DType::f32, {1, kVocabulary});
  const tilewright::TensorView tokens(&token, tilewright::DType::i64, {1});
  tilewright::SamplingArgs args = base;
  args.seeds = 7;
  for (auto _ : state) {
    args.steps.value += 1;
    tilewright::sample(logits, args, tokens);
    benchmark::DoNotOptimize(token);
  }
}

struct Filters {
  const char* name;
  float temperature;
  std::int32_t top_k;
  float top_p;
  float min_p;
  float typical_p = 1;
  tilewright::FilterOrder order = tilewright::FilterOrder::hf;
};

constexpr Filters kFilters[] = {
    {"greedy", 0, 0, 1, 0},
    {"none", 1, 0, 1, 0},
    {"min_p=0.05", 1, 0, 1, 0.05F},
    {"top_k=50", 1, 50, 1, 0},
    {"top_k=5000", 1, 5000, 1, 0},
    {"top_p=0.9", 1, 0, 0.9F, 0},
    {"top_p=0.5", 1, 0, 0.5F, 0},
    {"top_p=0.9/min_p=0.01", 0.8F, 0, 0.9F, 0.01F},
    {"top_k=50/top_p=0.9/min_p=0.05", 0.8F, 50, 0.9F, 0.05F},
    {"top_k=5000/top_p=0.9/min_p=0.01", 0.8F, 5000, 0.9F, 0.01F},
    {"top_k=60000/top_p=0.9/min_p=0.01", 0.8F, 60000, 0.9F, 0.01F},
    {"joint/top_k=50/top_p=0.9/min_p=0.05", 0.8F, 50, 0.9F, 0.05F, 1,
     tilewright::FilterOrder::joint},
    {"vllm/top_k=50/top_p=0.9/min_p=0.05", 0.8F, 50, 0.9F, 0.05F, 1, tilewright::FilterOrder::vllm},
    {"llamacpp/top_k=50/top_p=0.9/min_p=0.05", 0.8F, 50, 0.9F, 0.05F, 1,
     tilewright::FilterOrder::llamacpp},
    {"typical_p=0.9", 1, 0, 1, 0, 0.9F},
    {"top_k=50/top_p=0.9/min_p=0.05/typical_p=0.9", 0.8F, 50, 0.9F, 0.05F, 0.9F},
};

// Greedy, after masks and penalties: what these add to finding the largest logit.
void process_row(benchmark::State& state, bool mask, bool penalties) {
  tilewright::set_num_threads(1);
  const std::vector<float> row = make_row("spread3");
  const std::vector<std::int32_t> bits(kVocabulary / 32, 0x6DB6DB6D);
  std::vector<std::int32_t> counts(kVocabulary);
  for (std::size_t i = 0; i < counts.size(); i += 50) counts[i] = 1;
  std::int64_t token = 0;
  const tilewright::TensorView logits(row.data(), tilewright::DType::f32, {1, kVocabulary});
  tilewright::SamplingArgs args;
  args.temperature = 0.0F;
  const tilewright::TensorView words(bits.data(), tilewright::DType::i32, {1, kVocabulary / 32});
  if (mask) args.allowed = words;
  if (penalties) {
    args.output_counts =
        tilewright::TensorView(counts.data(), tilewright::DType::i32, {1, kVocabulary});
    args.prompt_bits = words;
    args.repetition_penalty = 1.1F;
    args.frequency_penalty = 0.1F;
    args.presence_penalty = 0.1F;
  }
  for (auto _ : state) {
    tilewright::sample(logits, args, {&token, tilewright::DType::i64, {1}});
    benchmark::DoNotOptimize(token);
  }
}
BENCHMARK_CAPTURE(process_row, mask, true, false)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(process_row, penalties, false, true)->Unit(benchmark::kMicrosecond);
BENCHMARK_CAPTURE(process_row, both, true, true)->Unit(benchmark::kMicrosecond);

const int kRegistered = [] {
  for (const char* kind : {"spread1", "spread3", "ties", "constant"}) {
    for (const Filters& filters : kFilters) {
      tilewright::SamplingArgs args;
      args.temperature = filters.temperature;
      args.top_k = filters.top_k;
      args.top_p = filters.top_p;
      args.min_p = filters.min_p;
      args.typical_p = filters.typical_p;
      args.order = filters.order;
      benchmark::RegisterBenchmark((std::string("sample/") + kind + "/" + filters.name).c_str(),
                                   sample_row, std::string(kind), args)
          ->Unit(benchmark::kMicrosecond);
    }
  }
  return 0;
}();

}  // namespace
