// SPDX-License-Identifier: Apache-2.0
// A first program: four requests decode a token each over a paged KV cache.
#include <tilewright/tilewright.h>

#include <cstdint>
#include <cstdio>
#include <numeric>
#include <vector>

namespace tw = tilewright;

int main() {
  constexpr int kHeads = 8, kKvHeads = 2, kDim = 64, kPage = 16, kPages = 64;

  // A cache of 64 pages, K and V of 16 tokens each, and four requests of these lengths.
  std::vector<float> memory(kPages * 2 * kPage * kKvHeads * kDim, 0.01F);
  const auto cache = tw::KvCache::combined(
      tw::TensorView(memory.data(), tw::DType::f32, {kPages, 2, kPage, kKvHeads, kDim}));
  const std::vector<std::int32_t> kv_lens{5, 16, 100, 41};
  const std::vector<std::int32_t> qo_indptr{0, 1, 2, 3, 4};  // one query token each
  std::vector<std::int32_t> block_table(kPages);             // request r has the pages of row r
  std::iota(block_table.begin(), block_table.end(), 0);

  // What is computed.
  tw::AttentionSpec spec;
  spec.num_qo_heads = kHeads;
  spec.num_kv_heads = kKvHeads;
  spec.head_dim = kDim;
  spec.q_dtype = spec.kv_dtype = tw::DType::f32;
  spec.variant = tw::variants::causal();
  const tw::Attention attention(spec);

  // Who computes which part of it: made for limits once, updated once a step.
  tw::Limits limits;
  limits.requests = 4;
  limits.q_tokens = 4;
  limits.q_len = 1;
  limits.kv_len = 256;
  tw::Plan plan({attention}, limits);
  plan.prepare();
  tw::Batch batch;
  batch.qo_indptr = tw::TensorView(qo_indptr.data(), tw::DType::i32, {5});
  batch.kv_lens = tw::TensorView(kv_lens.data(), tw::DType::i32, {4});
  plan.update(batch, {{attention,
                       tw::PageTable::padded(
                           tw::TensorView(block_table.data(), tw::DType::i32, {4, 16}), kPage)}});

  // Once a layer.
  const std::vector<float> q(4 * kHeads * kDim, 0.5F);
  std::vector<float> out(q.size()), lse(4 * kHeads);
  tw::RunArgs args;
  args.out = tw::TensorView(out.data(), tw::DType::f32, {4, kHeads, kDim});
  args.lse = tw::TensorView(lse.data(), tw::DType::f32, {4, kHeads});
  attention.run(plan, tw::TensorView(q.data(), tw::DType::f32, {4, kHeads, kDim}), cache, args);

  for (int r = 0; r < 4; ++r) {
    std::printf("request %d: out %.4f lse %.4f\n", r, out[r * kHeads * kDim], lse[r * kHeads]);
  }
}
