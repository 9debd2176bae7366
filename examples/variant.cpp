// SPDX-License-Identifier: Apache-2.0
// A variant of one's own: attention sinks with a sliding window whose width each head chooses
// (arXiv 2309.17453), and a soft cap on the logits. Which tiles exist follows from the mask.
#include <tilewright/tilewright.h>

#include <cstdint>
#include <cstdio>
#include <vector>

namespace tw = tilewright;
using tw::expr::kv_pos, tw::expr::logit, tw::expr::q_head, tw::expr::q_pos;

int main() {
  constexpr int kHeads = 2, kDim = 64, kTokens = 1024;

  const tw::Param window =
      tw::Param::integer("window", 1);  // [num_qo_heads], known when the plan is made
  tw::Variant variant;
  variant.logits = 30.0 * tanh(logit() / 30.0);
  variant.mask = kv_pos() <= q_pos() && (kv_pos() < 4 || q_pos() - kv_pos() < window(q_head()));

  tw::AttentionSpec spec;
  spec.num_qo_heads = spec.num_kv_heads = kHeads;
  spec.head_dim = kDim;
  spec.q_dtype = spec.kv_dtype = tw::DType::f32;
  spec.variant = variant;
  const tw::Attention attention(spec);

  tw::Limits limits;
  limits.requests = 1;
  limits.q_tokens = limits.q_len = limits.kv_len = kTokens;
  tw::Plan plan({attention}, limits);
  const std::vector<std::int32_t> indptr{0, kTokens};
  const std::vector<std::int32_t> windows{128, 512};
  const tw::TensorView indptr_view(indptr.data(), tw::DType::i32, {2});
  tw::Batch batch;
  batch.qo_indptr = indptr_view;
  const tw::TensorView window_view(windows.data(), tw::DType::i32, {kHeads});
  plan.update(batch, {{attention, tw::PageTable::ragged(indptr_view), {{"window", window_view}}}});

  const std::vector<float> x(static_cast<std::size_t>(kTokens) * kHeads * kDim, 0.1F);
  std::vector<float> out(x.size());
  const tw::TensorView tokens(x.data(), tw::DType::f32, {kTokens, kHeads, kDim});
  tw::RunArgs args;
  args.out = tw::TensorView(out.data(), tw::DType::f32, {kTokens, kHeads, kDim});
  attention.run(plan, tokens, tw::KvCache::separate(tokens, tokens), args);

  const tw::PlanStats stats = plan.stats(attention);
  std::printf("%lld KV blocks computed, %lld of them without masking, %lld proven empty\n",
              static_cast<long long>(stats.blocks), static_cast<long long>(stats.full_blocks),
              static_cast<long long>(stats.skipped_blocks));
}
