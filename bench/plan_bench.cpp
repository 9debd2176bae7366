// SPDX-License-Identifier: Apache-2.0
// Time of Plan::update on one core: what an engine pays before each step.
#include <benchmark/benchmark.h>
#include <tilewright/tilewright.h>

#include <cstdint>
#include <numeric>
#include <vector>

namespace {

using tilewright::DType;
using tilewright::TensorView;

TensorView view(std::vector<std::int32_t>& values) {
  return TensorView(values.data(), DType::i32, {static_cast<std::int64_t>(values.size())});
}

// `requests` requests of `q_len` query tokens each, KV lengths about `kv_len`, pages of 16.
void update(benchmark::State& state, std::int64_t requests, std::int32_t q_len,
            std::int32_t kv_len) {
  tilewright::AttentionSpec spec;
  spec.num_qo_heads = 32;
  spec.num_kv_heads = 8;
  spec.head_dim = 128;
  const tilewright::Attention attention(spec);
  const auto count = static_cast<std::size_t>(requests);
  const std::int64_t columns = (q_len + 2 * kv_len + 15) / 16;
  std::vector<std::int32_t> qo_indptr(count + 1), kv_lens(count),
      pages(count * static_cast<std::size_t>(columns));
  for (std::size_t r = 0; r < count; ++r) {
    qo_indptr[r + 1] = qo_indptr[r] + q_len;
    kv_lens[r] = q_len + kv_len / 2 + static_cast<std::int32_t>(r * 7919 % kv_len);
  }
  std::iota(pages.begin(), pages.end(), 0);
  tilewright::Limits limits;
  limits.requests = requests;
  limits.q_tokens = requests * q_len;
  limits.q_len = q_len;
  limits.kv_len = columns * 16;
  tilewright::Plan plan({attention}, limits);
  tilewright::Batch batch;
  batch.qo_indptr = view(qo_indptr);
  batch.kv_lens = view(kv_lens);
  const std::vector<tilewright::PlanInput> inputs = {
      {attention, tilewright::PageTable::padded(
                      TensorView(pages.data(), DType::i32, {requests, columns}), 16)}};
  for (auto _ : state) plan.update(batch, inputs);
}

void decode(benchmark::State& state) {
  update(state, state.range(0), 1, 2048);
}
BENCHMARK(decode)->Arg(16)->Arg(64)->Arg(256)->Arg(1024)->Unit(benchmark::kMicrosecond);

void prefill(benchmark::State& state) {
  update(state, 1, static_cast<std::int32_t>(state.range(0)), 16);
}
BENCHMARK(prefill)->Arg(1024)->Arg(16384)->Unit(benchmark::kMicrosecond);

}  // namespace
