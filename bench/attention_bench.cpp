// SPDX-License-Identifier: Apache-2.0
// Attention on the threads of set_num_threads(): prefill, decode, windows and skewed batches.
#include <benchmark/benchmark.h>

#include <string>

#include "workload.h"

namespace tilewright::bench {
namespace {

using Requests = std::vector<std::pair<int, int>>;

void run(benchmark::State& state, DType dtype, const Variant& variant, const Requests& requests) {
  Workload work({}, dtype, variant, requests);
  work.run();
  for (auto _ : state) work.run();
  const auto runs = static_cast<double>(state.iterations());
  state.counters["GFLOP/s"] =
      benchmark::Counter(work.flops() * runs * 1e-9, benchmark::Counter::kIsRate);
  state.counters["KV GB/s"] =
      benchmark::Counter(work.kv_bytes() * runs * 1e-9, benchmark::Counter::kIsRate);
}

void add(const std::string& name, const Variant& variant, const Requests& requests) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::string full_name = name + (dtype == DType::f32 ? "/f32" : "/bf16");
    benchmark::RegisterBenchmark(
        full_name.c_str(), [=](benchmark::State& state) { run(state, dtype, variant, requests); })
        ->Unit(benchmark::kMillisecond)
        ->UseRealTime()
        ->MeasureProcessCPUTime();
  }
}

[[maybe_unused]] const bool registered = [] {
  const Variant causal = variants::causal();
  add("prefill/1x4096", causal, Requests(1, {4096, 4096}));
  add("prefill/8x1024", causal, Requests(8, {1024, 1024}));

  add("prefill/soft_cap_1x1024", variants::causal(-1, 30), Requests(1, {1024, 1024}));
  add("decode/16x2048", causal, Requests(16, {1, 2048}));
  add("window/full_1x16384", causal, Requests(1, {512, 16384}));
  add("window/512_of_16384", variants::causal(511), Requests(1, {512, 16384}));
  Requests skewed(31, {1, 256});
  skewed.insert(skewed.begin(), {1, 32768});
  add("batch/skewed", causal, skewed);
  add("batch/even", causal, Requests(32, {1, 1272}));
  return true;
}();

}  // namespace
}  // namespace tilewright::bench
