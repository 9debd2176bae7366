// SPDX-License-Identifier: Apache-2.0
// Decode behind a shared prefix: as one flat page table, and as a level of its own. Compare "flat"
// with "levels" of one name; --benchmark_enable_random_interleaving=true makes that fair.
#include <benchmark/benchmark.h>

#include <cstdlib>
#include <memory>
#include <string>

#include "workload.h"

namespace tilewright::bench {
namespace {

constexpr std::int32_t kPage = 16;

TensorView ints(std::vector<std::int32_t>& values) {
  return {values.data(), DType::i32, {static_cast<std::int64_t>(values.size())}};
}

constexpr int kMaxRequests = 32;
constexpr int kMaxPrefix = 4096;
constexpr int kOwn = 128;

// What all cases of a dtype use: where memory lies decides about 8% of a short run, more than what
// is compared here.
struct Memory {
  explicit Memory(DType dtype)
      : k(dtype, {kPages, kPage, 8, 128}, 2),
        v(dtype, {kPages, kPage, 8, 128}, 3),
        q(dtype, {kMaxRequests, 32, 128}, 4),
        out(dtype, {kMaxRequests, 32, 128}, 5) {}

  static Memory& of(DType dtype) {
    static Memory f32(DType::f32);
    static Memory bf16(DType::bf16);
    return dtype == DType::f32 ? f32 : bf16;
  }

  static constexpr std::int64_t kPages = (kMaxPrefix + kMaxRequests * kOwn) / kPage;
  Buffer k, v, q, out;
};

// For one plan at a time.
TensorView workspace() {
  constexpr std::int64_t kBytes = 64 << 20;
  constexpr std::size_t kAlignment = 4096;
  static const std::unique_ptr<void, decltype(&std::free)> memory(
      std::aligned_alloc(kAlignment, kBytes), &std::free);
  return {memory.get(), DType::u8, {kBytes}};
}

// `requests` decode a token each behind `prefix` shared tokens and kOwn of their own.
class SharedPrefix {
 public:
  SharedPrefix(DType dtype, int requests, int prefix, bool levels,
               const TensorView& memory = workspace())
      : attention_(spec(dtype)), plan_({attention_}, limits(requests, prefix + kOwn), memory) {
    const int prefix_pages = prefix / kPage;
    const int own_pages = kOwn / kPage;
    const int pages = prefix_pages + requests * own_pages;
    std::vector<std::int32_t> ids(static_cast<std::size_t>(pages));
    std::iota(ids.begin(), ids.end(), 0);
    std::shuffle(ids.begin(), ids.end(), std::minstd_rand(1));
    prefix_ids_.assign(ids.begin(), ids.begin() + prefix_pages);
    for (int r = 0; r < requests; ++r) {
      const auto first = ids.begin() + prefix_pages + r * own_pages;
      own_ids_.insert(own_ids_.end(), first, first + own_pages);
      flat_ids_.insert(flat_ids_.end(), prefix_ids_.begin(), prefix_ids_.end());
      flat_ids_.insert(flat_ids_.end(), first, first + own_pages);
      qo_indptr_.push_back(r + 1);
      flat_lens_.push_back(prefix + kOwn);
      own_lens_.push_back(kOwn);
    }
    all_ = {0, requests};
    prefix_len_ = {prefix};
    const Memory& tensors = Memory::of(dtype);
    q_ = tensors.q.view();
    out_ = tensors.out.view();
    q_.shape[0] = out_.shape[0] = requests;
    Batch batch;
    batch.qo_indptr = ints(qo_indptr_);
    if (!levels) {
      batch.kv_lens = ints(flat_lens_);
      plan_.update(batch, {PlanInput(attention_, table(flat_ids_, requests))});
      caches_.resize(1);
    } else {
      plan_.update(
          batch, {PlanInput(attention_,
                            {KvLevel{table(prefix_ids_, 1), ints(prefix_len_), ints(all_), {}, {}},
                             KvLevel{table(own_ids_, requests), ints(own_lens_), {}, {}, {}}})});
      caches_.resize(2);
    }
    for (KvCache& cache : caches_) cache = KvCache::separate(tensors.k.view(), tensors.v.view());
  }

  void run() {
    RunArgs args;
    args.out = out_;
    attention_.run(plan_, q_, caches_, args);
  }

  PlanStats stats() const { return plan_.stats(attention_); }

 private:
  static AttentionSpec spec(DType dtype) {
    AttentionSpec spec;
    spec.num_qo_heads = 32;
    spec.num_kv_heads = 8;
    spec.head_dim = 128;
    spec.q_dtype = spec.kv_dtype = dtype;
    return spec;
  }

  static Limits limits(int requests, int kv_len) {
    Limits limits;
    limits.requests = limits.q_tokens = requests;
    limits.q_len = 1;
    limits.kv_len = kv_len;
    limits.levels = 2;
    return limits;
  }

  static PageTable table(std::vector<std::int32_t>& ids, std::int64_t rows) {
    return PageTable::padded(
        {ids.data(), DType::i32, {rows, static_cast<std::int64_t>(ids.size()) / rows}}, kPage);
  }

  Attention attention_;
  Plan plan_;
  std::vector<std::int32_t> prefix_ids_, own_ids_, flat_ids_, qo_indptr_{0}, flat_lens_, own_lens_,
      all_, prefix_len_;
  TensorView q_, out_;
  std::vector<KvCache> caches_;
};

void run(benchmark::State& state, DType dtype, bool levels) {
  SharedPrefix work(dtype, static_cast<int>(state.range(0)), static_cast<int>(state.range(1)),
                    levels);
  work.run();
  for (auto _ : state) work.run();
  const PlanStats stats = work.stats();
  state.counters["KV MB"] = static_cast<double>(stats.kv_bytes) * 1e-6;
  state.counters["folded"] = static_cast<double>(stats.folded_rows);
}

[[maybe_unused]] const bool registered = [] {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    for (const bool levels : {false, true}) {
      const std::string name = std::string(levels ? "levels/" : "flat/") +
                               (dtype == DType::f32 ? "f32" : "bf16") + "/requests/prefix";
      benchmark::RegisterBenchmark(name.c_str(),
                                   [=](benchmark::State& state) { run(state, dtype, levels); })
          ->ArgsProduct(
              {{2, 3, 4, 8, 16, kMaxRequests}, {16, 64, 128, 256, 384, 512, 1024, kMaxPrefix}})
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
    }
  }
  return true;
}();

}  // namespace
}  // namespace tilewright::bench
