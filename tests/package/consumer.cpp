// SPDX-License-Identifier: Apache-2.0
// What another project does first: attention of one query token over two keys, through the
// installed headers only.
#include <tilewright/tilewright.h>

#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

static_assert(__cplusplus < 202002L, "this file is here to be compiled as C++17");

namespace {

// Two equal keys: the output is the mean of the two values, and lse is logit + log(2).
bool attention_works() {
  constexpr std::int64_t kDim = 8;
  namespace tw = tilewright;

  tw::AttentionSpec spec;
  spec.num_qo_heads = 1;
  spec.num_kv_heads = 1;
  spec.head_dim = kDim;
  spec.q_dtype = tw::DType::f32;
  spec.kv_dtype = tw::DType::f32;
  spec.variant = tw::variants::full();
  const tw::Attention attention(spec);

  tw::Limits limits;
  limits.requests = 1;
  limits.q_tokens = 1;
  limits.q_len = 1;
  limits.kv_len = 2;
  tw::Plan plan({attention}, limits);

  const std::array<std::int32_t, 2> qo_indptr{0, 1};
  const std::array<std::int32_t, 2> kv_indptr{0, 2};
  tw::Batch batch;
  batch.qo_indptr = tw::TensorView(qo_indptr.data(), tw::DType::i32, {2});
  const tw::TensorView kv_rows(kv_indptr.data(), tw::DType::i32, {2});
  plan.update(batch, {tw::PlanInput(attention, tw::PageTable::ragged(kv_rows))});

  std::array<float, kDim> q{};
  std::array<float, 2 * kDim> k{};
  std::array<float, 2 * kDim> v{};
  std::array<float, kDim> out{};
  float lse = 0;
  q.fill(1.0F);
  k.fill(0.5F);
  for (std::int64_t i = 0; i < 2 * kDim; ++i) {
    v[i] = i < kDim ? 1.0F : 3.0F;
  }

  tw::RunArgs args;
  args.out = tw::TensorView(out.data(), tw::DType::f32, {1, 1, kDim});
  args.lse = tw::TensorView(&lse, tw::DType::f32, {1, 1});
  args.sm_scale = 1.0F;
  const tw::KvCache kv =
      tw::KvCache::separate(tw::TensorView(k.data(), tw::DType::f32, {2, 1, kDim}),
                            tw::TensorView(v.data(), tw::DType::f32, {2, 1, kDim}));
  attention.run(plan, tw::TensorView(q.data(), tw::DType::f32, {1, 1, kDim}), kv, args);

  bool good = std::abs(lse - (4.0F + std::log(2.0F))) < 1e-5F;
  for (const float value : out) {
    good = good && std::abs(value - 2.0F) < 1e-5F;
  }
  return good;
}

// An exception crosses the library's boundary with its type and message.
bool errors_arrive() {
  tilewright::AttentionSpec spec;
  spec.num_qo_heads = 3;
  spec.num_kv_heads = 2;
  spec.head_dim = 64;
  try {
    const tilewright::Attention attention(spec);
  } catch (const tilewright::Error& error) {
    return error.code() == tilewright::ErrorCode::invalid_argument && error.what()[0] != '\0';
  }
  return false;
}

}  // namespace

int main() {
  const bool version = std::strcmp(tilewright::version(), TILEWRIGHT_VERSION) == 0;
  const bool attention = attention_works();
  const bool errors = errors_arrive();
  std::printf("version %d attention %d errors %d\n", version, attention, errors);
  return version && attention && errors ? 0 : 1;
}
