// SPDX-License-Identifier: Apache-2.0
// Against the three operators, which have tests of their own.
#include <tilewright/ops.h>

#include "ops/ops_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

constexpr std::int64_t kTokens = 5;
constexpr std::int64_t kQoHeads = 4;
constexpr std::int64_t kKvHeads = 2;
constexpr std::int64_t kDim = 40;

struct Inputs {
  Tensor qkv;  // [tokens, qo_heads + 2 * kv_heads, dim], as a projection leaves it
  Tensor q_weight;
  Tensor k_weight;
  Tensor positions = int_tensor({7, 0, 300, 12, 5});
  Tensor slots = int_tensor({3, -1, 11, 0, 6});

  Inputs(DType dtype, Random& random)
      : qkv(dtype, {kTokens, kQoHeads + 2 * kKvHeads, kDim}),
        q_weight(DType::f32, {kDim}),
        k_weight(DType::f32, {kDim}) {
    fill_normal(qkv, random);
    fill_normal(q_weight, random);
    fill_normal(k_weight, random);
  }

  TensorView q() const { return qkv.view().slice(1, 0, kQoHeads); }
  TensorView k() const { return qkv.view().slice(1, kQoHeads, kQoHeads + kKvHeads); }
  TensorView v() const { return qkv.view().slice(1, kQoHeads + kKvHeads, kQoHeads + 2 * kKvHeads); }
};

TEST(RopeAndWriteKvCache, IsTheThreeOperators) {
  Random random(1);
  for (const DType dtype : kWideFloats) {
    for (const bool normed : {false, true}) {
      for (const DType cache_dtype : {dtype, DType::f8e4m3}) {
        const Inputs in(dtype, random);
        RopeAndCacheArgs args;
        args.rope = {.dim = 32, .theta = 5e5, .interleaved = normed};
        if (normed) args.qk_norm = {in.q_weight.view(), in.k_weight.view(), 1e-5F, 1};
        if (cache_dtype == DType::f8e4m3) args.k_scale = 0.5F;
        const Tensor got_q(dtype, {kTokens, kQoHeads, kDim});
        const Tensor got(cache_dtype, {3, 2, kKvHeads, 4, kDim},
                         row_major({3, 2, kKvHeads, 4, kDim}, 8), kSentinel);
        const Tensor expected = copy_of(got);
        const KvCache cache = KvCache::combined(got.view(), KvLayout::hnd);
        apply_rope_and_write_kv_cache(in.q(), in.k(), in.v(), in.positions.view(), got_q.view(),
                                      cache, in.slots.view(), args);
        Tensor q(dtype, {kTokens, kQoHeads, kDim});
        Tensor k(dtype, {kTokens, kKvHeads, kDim});
        if (normed) {
          rms_norm(in.q(), in.q_weight.view(), q.view(), 1e-5F, 1);
          rms_norm(in.k(), in.k_weight.view(), k.view(), 1e-5F, 1);
        }
        apply_rope(normed ? q.view() : in.q(), in.positions.view(), q.view(), args.rope);
        apply_rope(normed ? k.view() : in.k(), in.positions.view(), k.view(), args.rope);
        write_kv_cache(k.view(), in.v(), KvCache::combined(expected.view(), KvLayout::hnd),
                       in.slots.view(), args.k_scale);
        EXPECT_EQ(got_q.snapshot(), q.snapshot());
        EXPECT_EQ(got.snapshot(), expected.snapshot());
      }
    }
  }
}

TEST(RopeAndWriteKvCache, InPlaceFromATable) {
  Random random(2);
  const Inputs in(DType::bf16, random);
  Tensor table(DType::f32, {400, kDim});
  fill_normal(table, random);
  const Tensor got(DType::bf16, {3, 2, 4, kKvHeads, kDim});
  Tensor q(DType::bf16, {kTokens, kQoHeads, kDim});
  apply_rope_with_cos_sin_cache(in.q(), in.positions.view(), table.view(), q.view());
  RopeAndCacheArgs args;
  args.cos_sin_cache = table.view();
  apply_rope_and_write_kv_cache(in.q(), in.k(), in.v(), in.positions.view(), in.q(),
                                KvCache::combined(got.view()), in.slots.view(), args);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    for (std::int64_t h = 0; h < kQoHeads; ++h) {
      for (std::int64_t i = 0; i < kDim; ++i) ASSERT_EQ(in.qkv.get({t, h, i}), q.get({t, h, i}));
    }
  }
}

// All that is wrong is found before anything is written.
TEST(RopeAndWriteKvCache, Errors) {
  Random random(3);
  const Inputs in(DType::f32, random);
  const Tensor memory(DType::f32, {3, 2, 4, kKvHeads, kDim}, row_major({3, 2, 4, kKvHeads, kDim}),
                      kSentinel);
  const Tensor q_out(DType::f32, {kTokens, kQoHeads, kDim}, row_major({kTokens, kQoHeads, kDim}),
                     kSentinel);
  const auto before = memory.snapshot();
  const auto q_before = q_out.snapshot();
  const KvCache cache = KvCache::combined(memory.view());
  const auto call = [&](const TensorView& q, const TensorView& k, const TensorView& out,
                        const RopeAndCacheArgs& args) {
    apply_rope_and_write_kv_cache(q, k, in.v(), in.positions.view(), out, cache, in.slots.view(),
                                  args);
  };
  const TensorView o = q_out.view();
  expect_invalid([&] { call({}, in.k(), o, {}); }, "q is missing");
  expect_invalid([&] { call(in.q(), in.k().slice(2, 0, 8), o, {}); }, "k is float32[5, 2, 8]");
  expect_invalid([&] { call(in.q(), in.k(), o.slice(1, 0, 2), {}); }, "q_out is float32[5, 2, 40]");
  expect_invalid([&] { call(in.q(), in.k(), in.k(), {}); }, "q_out is");
  RopeAndCacheArgs args;
  args.qk_norm.k_weight = in.k_weight.view().slice(0, 0, 8);
  expect_invalid([&] { call(in.q(), in.k(), o, args); }, "qk_norm.k_weight is float32[8]");
  args.qk_norm = {in.q_weight.view(), {}, -1, 0};
  expect_invalid([&] { call(in.q(), in.k(), o, args); }, "qk_norm.eps is -1");
  const Tensor half(DType::f16, {kDim});
  args.qk_norm = {in.q_weight.view(), half.view()};
  expect_invalid([&] { call(in.q(), in.k(), o, args); }, "its dtype must be that of");
  const Tensor table(DType::f32, {300, kDim});
  RopeAndCacheArgs from_table;
  from_table.cos_sin_cache = table.view();
  expect_invalid([&] { call(in.q(), in.k(), o, from_table); }, "positions has 300 for token 2");
  RopeAndCacheArgs scaled;
  scaled.v_scale = 2.0F;
  expect_invalid([&] { call(in.q(), in.k(), o, scaled); }, "only fp8 caches have scales");
  const Tensor far = int_tensor({3, -1, 12, 0, 6});
  expect_invalid(
      [&] {
        apply_rope_and_write_kv_cache(in.q(), in.k(), in.v(), in.positions.view(), o, cache,
                                      far.view());
      },
      "slot_mapping[2] is 12");
  EXPECT_EQ(memory.snapshot(), before);
  EXPECT_EQ(q_out.snapshot(), q_before);
}

}  // namespace
}  // namespace tilewright
