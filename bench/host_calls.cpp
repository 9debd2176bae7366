// SPDX-License-Identifier: Apache-2.0
// What Plan::update and Attention::run cost the host. On a test double of the driver, so that no
// GPU is needed, or with --gpu on the real one; a launch alone tells how much of a figure is the
// driver's. Kernels are compiled by the first call.
#include <benchmark/benchmark.h>
#include <tilewright/attention.h>
#include <tilewright/plan.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

#include "cuda/device.h"
#include "cuda/memory.h"
#include "jit/kernel_handle.h"
#include "support/use_fake_cuda.h"

namespace tilewright {
namespace {

constexpr Device kGpu{DeviceType::cuda, 0};
constexpr std::int64_t kRequests = 64;
constexpr std::int64_t kPages = 64;  // of a layer; tables have as many entries a request
constexpr std::int64_t kPageSize = 16;
constexpr std::int64_t kHeads = 32;
constexpr std::int64_t kKvHeads = 8;
constexpr std::int64_t kDim = 128;
constexpr std::int64_t kCacheBytes = kPages * 2 * kPageSize * kKvHeads * kDim * 2;

bool on_gpu = false;

// Requests of a model whose layers have a cache each, over one level of KV or several. `q_len`: the
// plan's limit; with 1 it is one of decode alone.
class Layers {
 public:
  Layers(int layers, int levels, int q_len)
      : device_(cuda::device(0)),
        scope_(device_),
        zeros_(device_, kRequests * kHeads * kDim * 2),
        caches_memory_(device_, static_cast<std::size_t>(layers * kCacheBytes)),
        attention_(spec(), kGpu),
        plan_({attention_}, {kRequests, kRequests, q_len, kPages * kPageSize, levels}) {
    // No request has a query token: kernels have next to nothing to do.
    cuda::fill_bytes(zeros_.data(), 0, zeros_.bytes(), {});
    for (int layer = 0; layer < layers; ++layer) {
      char* const data = static_cast<char*>(caches_memory_.data()) + layer * kCacheBytes;
      const TensorView both(data, DType::bf16, {kPages, 2, kPageSize, kKvHeads, kDim}, kGpu);
      caches_.emplace_back(static_cast<std::size_t>(levels),
                           KvCache::separate(both.select(1, 0), both.select(1, 1)));
    }
    const TensorView pages(zeros_.data(), DType::i32, {kRequests, kPages}, kGpu);
    const TensorView lens(zeros_.data(), DType::i32, {kRequests}, kGpu);
    batch_.qo_indptr = TensorView(zeros_.data(), DType::i32, {kRequests + 1}, kGpu);
    batch_.kv_lens = lens;
    std::vector<KvLevel> list;
    for (int level = 0; level < levels; ++level) {
      const bool last = level + 1 == levels;
      list.push_back({PageTable::padded(pages, kPageSize),
                      lens,
                      last ? TensorView() : batch_.qo_indptr,
                      {},
                      {}});
    }
    inputs_.emplace_back(attention_, list);
    q_ = TensorView(zeros_.data(), DType::bf16, {kRequests, kHeads, kDim}, kGpu);
    args_.out = q_;
    plan_.prepare();
    update();
  }

  void update() { plan_.update(batch_, inputs_); }
  void run(std::size_t call) {
    const std::vector<KvCache>& levels = caches_[call % caches_.size()];
    if (levels.size() == 1) {
      attention_.run(plan_, q_, levels[0], args_);
    } else {
      attention_.run(plan_, q_, levels, args_);
    }
  }

 private:
  static AttentionSpec spec() {
    AttentionSpec spec;
    spec.num_qo_heads = kHeads;
    spec.num_kv_heads = kKvHeads;
    spec.head_dim = kDim;
    return spec;
  }

  const cuda::Device& device_;
  const cuda::ContextScope scope_;
  cuda::DeviceBuffer zeros_;
  cuda::DeviceBuffer caches_memory_;
  Attention attention_;
  Plan plan_;
  std::vector<std::vector<KvCache>> caches_;
  TensorView q_;
  RunArgs args_;
  Batch batch_;
  std::vector<PlanInput> inputs_;
};

template <typename Call>
void measure(benchmark::State& state, const Call& call) {
  std::size_t i = 0;
  for (auto _ : state) {
    call(i++);
    if (!on_gpu) {
      test::fake_cuda().launches.clear();  // the double writes down all of them
    } else if (i % 64 == 0) {              // the device's queue never fills
      state.PauseTiming();
      cuda::synchronize({});
      state.ResumeTiming();
    }
  }
}

// Arguments: bytes of parameters, KiB of shared memory, blocks of threads.
void launch(benchmark::State& state) {
  const auto bytes = static_cast<std::size_t>(state.range(0));
  const auto shared = static_cast<unsigned>(state.range(1)) << 10;
  const cuda::ContextScope scope(cuda::device(0));
  jit::KernelSource source;
  source.name = "nothing_" + std::to_string(bytes);
  source.source = "struct Params { char bytes[" + std::to_string(bytes) +
                  "]; };\nextern \"C\" __global__ void nothing(Params) {}\n";
  source.entries = {"nothing"};
  source.shared_bytes = static_cast<int>(shared);
  const jit::KernelHandle handle(source);
  const std::vector<char> params(bytes);
  measure(state, [&](std::size_t) {
    handle.on(0).launch_bytes({static_cast<unsigned>(state.range(2)), 128, shared, true}, {},
                              params.data(), params.size());
  });
}
BENCHMARK(launch)
    ->Args({64, 0, 1})
    ->Args({1024, 0, 1})
    ->Args({2640, 0, 1})
    ->Args({3776, 0, 1})
    ->Args({2640, 100, 264})
    ->Args({3776, 220, 132});

// Arguments: those of Layers.
void run(benchmark::State& state) {
  Layers layers(static_cast<int>(state.range(0)), static_cast<int>(state.range(1)),
                static_cast<int>(state.range(2)));
  measure(state, [&](std::size_t call) { layers.run(call); });
}
BENCHMARK(run)->Args({32, 1, 1})->Args({32, 1, 64})->Args({32, 4, 64});

// Argument: levels.
void update(benchmark::State& state) {
  Layers layers(1, static_cast<int>(state.range(0)), 1);
  measure(state, [&](std::size_t) { layers.update(); });
}
BENCHMARK(update)->Arg(1)->Arg(4);

}  // namespace
}  // namespace tilewright

int main(int argc, char** argv) try {
  if (argc > 1 && std::strcmp(argv[1], "--gpu") == 0) {
    tilewright::on_gpu = true;
    argv[1] = argv[0];
    --argc;
    ++argv;
  } else {
    tilewright::test::fake_cuda();  // before the library looks for a driver
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 1;
}
