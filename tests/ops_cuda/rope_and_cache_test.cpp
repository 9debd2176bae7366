// SPDX-License-Identifier: Apache-2.0
// Against the kernels of the three operators: the same bits.
#include "ops/rope_and_cache.h"

#include "base/rope.h"
#include "ops/rms_norm.h"
#include "ops_cuda/emulate.h"

namespace tilewright::test {
namespace {

using tw::RopeAndCacheParams;

constexpr std::int64_t kTokens = 6;
constexpr std::int64_t kPages = 3;
constexpr std::int64_t kPageSize = 4;

// Kernels by the dtypes of a call: of queries, of both caches, of weights and of the table.
template <DType x, DType k, DType v, DType weight, DType table>
struct Kernels {
  using X = DeviceElement<x>;
  using Weight = DeviceElement<weight>;
  using Table = DeviceElement<table>;

  const std::vector<CompiledKernel<RopeAndCacheParams>> fused = {
      {{CudaOp::rope_and_cache, {x, k, v, weight, table}}, [](RopeAndCacheParams p) {
         tw::rope_and_cache<X, DeviceElement<k>, DeviceElement<v>, Weight, Table>(p);
       }}};
  const std::vector<CompiledKernel<tw::RmsNormParams>> norm = {
      {{CudaOp::rms_norm, {x, weight, x}},
       [](tw::RmsNormParams p) { tw::rms_norm<X, tw::NoResidual, Weight, X>(p); }}};
  const std::vector<CompiledKernel<tw::RopeParams>> rope = {
      {{CudaOp::apply_rope, {x, x}},
       [](tw::RopeParams p) { tw::apply_rope<X, X, tw::NoTable>(p); }},
      {{CudaOp::apply_rope_with_table, {x, x, table}},
       [](tw::RopeParams p) { tw::apply_rope<X, X, Table>(p); }}};
  const std::vector<CompiledKernel<tw::CacheWriteParams>> write = {
      {{CudaOp::write_kv_cache, {x, k, x, v}}, [](tw::CacheWriteParams p) {
         tw::write_kv_cache<X, DeviceElement<k>, X, DeviceElement<v>>(p);
       }}};
};

struct Form {
  std::int64_t qo_heads;
  std::int64_t kv_heads;
  std::int64_t head_dim;
  int rope_dim;
  bool interleaved = false;
  bool q_normed = false;
  bool k_normed = false;
  bool from_table = false;
  std::int64_t gap = 0;  // behind a token's heads
};

template <DType x, DType k, DType v, DType weight, DType table>
void check(const Form& form, std::int32_t block_tokens, Random& random, std::uint64_t seed) {
  const Kernels<x, k, v, weight, table> kernels;
  const std::int64_t heads = form.qo_heads + 2 * form.kv_heads;
  Tensor qkv(x, {kTokens, heads, form.head_dim},
             {heads * form.head_dim + form.gap, form.head_dim, 1});
  Tensor q_weight(weight, {form.head_dim});
  Tensor k_weight(weight, {form.head_dim});
  Tensor cosines(table, {400, form.rope_dim});
  fill_normal(qkv, random);
  fill_normal(q_weight, random);
  fill_normal(k_weight, random);
  fill_normal(cosines, random);
  const TensorView q = qkv.view().slice(1, 0, form.qo_heads);
  const TensorView keys = qkv.view().slice(1, form.qo_heads, form.qo_heads + form.kv_heads);
  const TensorView values = qkv.view().slice(1, form.qo_heads + form.kv_heads, heads);
  const Tensor positions = int_tensor({7, 0, 300, 12, 5, 399});
  const Tensor slots = int_tensor({3, -1, 11, 0, 6, 77});  // the last one is outside
  const Tensor indptr = int_tensor({0, 2, 6});
  Tensor scale(DType::f32, {2, form.kv_heads});
  for (std::int64_t r = 0; r < 2; ++r) {
    for (std::int64_t h = 0; h < form.kv_heads; ++h) scale.set({r, h}, 0.3 + random.uniform());
  }
  const auto is_fp8 = [](DType dtype) { return dtype == DType::f8e4m3 || dtype == DType::f8e5m2; };
  RopeAndCacheArgs args;
  args.rope.dim = form.rope_dim;
  args.rope.interleaved = form.interleaved;
  args.qk_norm.eps = 1e-5F;
  args.qk_norm.weight_offset = 0.5F;
  if (form.q_normed) args.qk_norm.q_weight = q_weight.view();
  if (form.k_normed) args.qk_norm.k_weight = k_weight.view();
  if (is_fp8(k)) args.k_scale = scale.view();
  if (is_fp8(v)) args.v_scale = 0.25F;
  args.token_indptr = indptr.view();

  const RopeFrequencies frequencies = rope_frequencies(args.rope, form.rope_dim);
  const std::vector<std::uint8_t> axes(static_cast<std::size_t>(form.rope_dim / 2), 0);
  RopeTurns turns{frequencies.values, frequencies.amplitude, {}, axes, form.interleaved};
  if (form.from_table) turns.table = cosines.view();
  const TensorView of_axes = positions.view().unsqueeze(0);

  const Tensor got_q(x, {kTokens, form.qo_heads, form.head_dim});
  const Tensor k_got(k, {kPages, kPageSize, form.kv_heads, form.head_dim},
                     row_major({kPages, kPageSize, form.kv_heads, form.head_dim}), kSentinel);
  const Tensor v_got(v, {kPages, form.kv_heads, kPageSize, form.head_dim},
                     row_major({kPages, form.kv_heads, kPageSize, form.head_dim}), kSentinel);
  const Tensor k_expected = copy_of(k_got);
  const Tensor v_expected = copy_of(v_got);
  const KvCache cache{k_got.view(), v_got.view().transpose(1, 2)};
  CudaOpLaunch<RopeAndCacheParams> launch = rope_and_cache_launch(
      q, keys, values, of_axes, got_q.view(), cache, slots.view(), turns, args, block_tokens);
  launch.kernel.dtypes[3] = weight;  // also where there is no weight
  launch.kernel.dtypes[4] = table;
  emulate(kernels.fused, launch, seed);

  Tensor q_now(x, {kTokens, form.qo_heads, form.head_dim});
  Tensor k_now(x, {kTokens, form.kv_heads, form.head_dim});
  const auto rotate = [&](const TensorView& from, const TensorView& weights, const Tensor& to) {
    if (weights.defined()) {
      emulate(kernels.norm, rms_norm_launch(from, {}, weights, to.view(), 1e-5F, 0.5F, {}));
    }
    emulate(kernels.rope,
            rope_launch(weights.defined() ? to.view() : from, of_axes, to.view(), turns));
  };
  rotate(q, args.qk_norm.q_weight, q_now);
  rotate(keys, args.qk_norm.k_weight, k_now);
  emulate(kernels.write,
          cache_write_launch(k_now.view(), values,
                             {k_expected.view(), v_expected.view().transpose(1, 2)}, slots.view(),
                             args.k_scale, args.v_scale, args.token_indptr));
  EXPECT_EQ(got_q.snapshot(), q_now.snapshot());
  EXPECT_EQ(k_got.snapshot(), k_expected.snapshot());
  EXPECT_EQ(v_got.snapshot(), v_expected.snapshot());
}

const std::vector<Form> kForms = {
    {4, 2, 128, 128},
    {4, 2, 128, 128, false, true, true},
    {4, 2, 128, 128, true, true, true, true},
    {3, 1, 64, 32, false, true, false, true},
    {3, 1, 64, 32, true, false, true},
    {2, 2, 40, 16, false, true, true},
    {2, 2, 40, 40, true, true, true, false, 3},
    {1, 1, 256, 64, false, true, true},
    {70, 8, 64, 64, false, true, true},
    {70, 8, 64, 64, true, false, false, true, 1},
};

template <DType x, DType k, DType v, DType weight, DType table>
void check_all() {
  Random random(1);
  std::uint64_t seed = 1;
  for (const Form& form : kForms) {
    SCOPED_TRACE(seed);
    // Of the last block of four tokens two are there.
    for (const std::int32_t block_tokens : {1, 4})
      check<x, k, v, weight, table>(form, block_tokens, random, seed++);
  }
}

TEST(RopeAndCacheOnCuda, Bf16) {
  check_all<DType::bf16, DType::bf16, DType::bf16, DType::bf16, DType::f32>();
}
TEST(RopeAndCacheOnCuda, Bf16IntoFp8) {
  check_all<DType::bf16, DType::f8e4m3, DType::f8e4m3, DType::f32, DType::bf16>();
}
TEST(RopeAndCacheOnCuda, F16IntoOthers) {
  check_all<DType::f16, DType::f8e5m2, DType::f32, DType::f16, DType::f16>();
}
TEST(RopeAndCacheOnCuda, F32) {
  check_all<DType::f32, DType::f32, DType::bf16, DType::f32, DType::f32>();
}

TEST(RopeAndCacheOnCuda, BlocksHaveMoreTokensWhereThereAreEnoughOfThem) {
  EXPECT_EQ(rope_and_cache_block_tokens(1), 1);
  EXPECT_EQ(rope_and_cache_block_tokens(2047), 1);
  EXPECT_EQ(rope_and_cache_block_tokens(2048), 2);
  EXPECT_EQ(rope_and_cache_block_tokens(1 << 20), 4);
}

TEST(RopeAndCacheOnCuda, TooManyHeadsAreRefused) {
  const Tensor q(DType::bf16, {1, 1024, 8});
  const Tensor k(DType::bf16, {1, 1, 8});
  const Tensor cache(DType::bf16, {1, 2, 4, 1, 8});
  const Tensor index = int_tensor({0});
  const RopeFrequencies frequencies = rope_frequencies({}, 8);
  const std::vector<std::uint8_t> axes(4, 0);
  try {
    rope_and_cache_launch(q.view(), k.view(), k.view(), index.view().unsqueeze(0), q.view(),
                          KvCache::combined(cache.view()), index.view(),
                          {frequencies.values, 1, {}, axes, false}, {}, 1);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::not_supported);
    EXPECT_THAT(error.what(), testing::HasSubstr("1025 heads"));
  }
}

}  // namespace
}  // namespace tilewright::test
