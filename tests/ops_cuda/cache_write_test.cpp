// SPDX-License-Identifier: Apache-2.0
#include "ops/cache_write.h"

#include "ops_cuda/emulate.h"

namespace tilewright::test {
namespace {

using tw::CacheWriteParams;

struct Conversion {
  DType from;
  DType to;
};
constexpr Conversion kConversions[] = {
    {DType::f32, DType::f32},       {DType::f32, DType::f16},       {DType::f32, DType::bf16},
    {DType::f32, DType::f8e4m3},    {DType::f32, DType::f8e5m2},    {DType::f16, DType::f32},
    {DType::f16, DType::f16},       {DType::f16, DType::bf16},      {DType::f16, DType::f8e4m3},
    {DType::f16, DType::f8e5m2},    {DType::bf16, DType::f32},      {DType::bf16, DType::f16},
    {DType::bf16, DType::bf16},     {DType::bf16, DType::f8e4m3},   {DType::bf16, DType::f8e5m2},
    {DType::f8e4m3, DType::f8e4m3}, {DType::f8e5m2, DType::f8e5m2},
};
constexpr int kNumConversions = std::size(kConversions);

// Keys have one conversion, values another.
constexpr Conversion of_keys(int i) {
  return kConversions[i];
}
constexpr Conversion of_values(int i) {
  return kConversions[(5 * i + 3) % kNumConversions];
}

template <int i>
void kernel(CacheWriteParams p) {
  tw::write_kv_cache<DeviceElement<of_keys(i).from>, DeviceElement<of_keys(i).to>,
                     DeviceElement<of_values(i).from>, DeviceElement<of_values(i).to>>(p);
}

const auto kCompiled = []<int... i>(std::integer_sequence<int, i...>) {
  return std::vector<CompiledKernel<CacheWriteParams>>{
      {{CudaOp::write_kv_cache,
        {of_keys(i).from, of_keys(i).to, of_values(i).from, of_values(i).to}},
       kernel<i>}...};
}
(std::make_integer_sequence<int, kNumConversions>());

constexpr std::int64_t kPages = 3;
constexpr std::int64_t kPageSize = 4;
constexpr std::int64_t kHeads = 3;
const std::vector<std::int64_t> kSlots = {7, -1, 0, 11, 4, -1, 2};

Tensor integers(const std::vector<std::int64_t>& values, DType dtype, std::int64_t stride = 1) {
  Tensor tensor(dtype, {static_cast<std::int64_t>(values.size())}, {stride});
  for (std::size_t i = 0; i < values.size(); ++i) {
    tensor.set({static_cast<std::int64_t>(i)}, static_cast<double>(values[i]));
  }
  return tensor;
}

bool is_fp8(DType dtype) {
  return dtype == DType::f8e4m3 || dtype == DType::f8e5m2;
}

// Keys, values and a cache, and the bytes that the CPU leaves there.
struct Case {
  Tensor k;
  Tensor v;
  Tensor k_cache;
  Tensor v_cache;

  Case(int i, std::int64_t k_dim, std::int64_t v_dim, const Placement& place, Random& random)
      : k(strided(of_keys(i).from, {7, kHeads, k_dim}, place.gap, place.shift)),
        v(of_values(i).from, {7, kHeads, v_dim},
          strides_in_order({7, kHeads, v_dim}, {1, 0, 2}, place.gap)),
        k_cache(strided(of_keys(i).to, {kPages, kPageSize, kHeads, k_dim}, place.gap)),
        v_cache(strided(of_values(i).to, {kPages, kHeads, kPageSize, v_dim}, 0)) {
    fill_normal(k, random, 100);
    fill_normal(v, random, 100);
  }

  KvCache cache() const { return {k_cache.view(), v_cache.view().transpose(1, 2)}; }

  void check(const Tensor& slots, const Scale& k_scale, const Scale& v_scale,
             const Tensor& token_indptr) {
    const Tensor k_before = copy_of(k_cache);
    const Tensor v_before = copy_of(v_cache);
    emulate(kCompiled, cache_write_launch(k.view(), v.view(), cache(), slots.view(), k_scale,
                                          v_scale, token_indptr.view()));
    const KvCache expected{k_before.view(), v_before.view().transpose(1, 2)};
    write_kv_cache(k.view(), v.view(), expected, slots.view(), k_scale, v_scale,
                   token_indptr.view());
    EXPECT_EQ(k_cache.snapshot(), k_before.snapshot());
    EXPECT_EQ(v_cache.snapshot(), v_before.snapshot());
  }
};

TEST(WriteKvCacheOnCuda, EveryDTypeAndPlacement) {
  Random random(1);
  for (int i = 0; i < kNumConversions; ++i) {
    for (const Placement& place : kPlacements) {
      SCOPED_TRACE(kernel_name(kCompiled[static_cast<std::size_t>(i)].kernel));
      Case c(i, 40, 24, place, random);
      c.check(integers(kSlots, DType::i32, 2), {}, {}, {});
      Case odd(i, 5, 8, place, random);
      odd.check(integers(kSlots, DType::i64), {}, {}, {});
    }
  }
}

// More runs than threads read ahead.
TEST(WriteKvCacheOnCuda, ManyHeads) {
  Random random(5);
  const std::vector<CompiledKernel<CacheWriteParams>> compiled = {
      {{CudaOp::write_kv_cache, {DType::bf16, DType::bf16, DType::bf16, DType::f8e4m3}},
       [](CacheWriteParams p) {
         tw::write_kv_cache<tw::bf16, tw::bf16, tw::bf16, tw::f8e4m3>(p);
       }}};
  for (const std::int64_t gap : {0, 1}) {
    Tensor k = strided(DType::bf16, {3, 70, 64}, gap);
    Tensor v = strided(DType::bf16, {3, 70, 128}, 0);
    Tensor k_got = strided(DType::bf16, {2, 4, 70, 64}, 0);
    Tensor v_got = strided(DType::f8e4m3, {2, 4, 70, 128}, 0);
    fill_normal(k, random);
    fill_normal(v, random, 100);
    const Tensor k_expected = copy_of(k_got);
    const Tensor v_expected = copy_of(v_got);
    const Tensor slots = integers({6, 1, 2}, DType::i32);
    emulate(compiled, cache_write_launch(k.view(), v.view(), {k_got.view(), v_got.view()},
                                         slots.view(), {}, 2.5F, {}));
    write_kv_cache(k.view(), v.view(), {k_expected.view(), v_expected.view()}, slots.view(), {},
                   2.5F);
    EXPECT_EQ(k_got.snapshot(), k_expected.snapshot());
    EXPECT_EQ(v_got.snapshot(), v_expected.snapshot());
  }
}

TEST(WriteKvCacheOnCuda, ScalesOfEveryShape) {
  Random random(2);
  for (int i = 0; i < kNumConversions; ++i) {
    const auto scaled = [](Conversion c) { return is_fp8(c.to) && !is_fp8(c.from); };
    const Tensor indptr = integers({0, 2, 2, 5}, DType::i32);
    const std::vector<std::int64_t> slots = {7, -1, 0, 11, 4, -1, -1};
    for (const Extents& shape :
         {Extents{1}, Extents{kHeads}, Extents{1, kHeads}, Extents{3, 1}, Extents{3, kHeads}}) {
      Tensor scale(DType::f32, shape);
      fill_normal(scale, random);
      for (std::int64_t at = 0; at < scale.view().numel(); ++at) {
        auto* value = static_cast<float*>(scale.view().data) + at;
        *value = std::fabs(*value) + 0.1F;
      }
      Case c(i, 40, 24, kPlacements[0], random);
      c.check(integers(slots, DType::i32), scaled(of_keys(i)) ? Scale(scale.view()) : Scale(),
              scaled(of_values(i)) ? Scale(scale.view()) : Scale(), indptr);
    }
    Case c(i, 16, 16, kPlacements[0], random);
    c.check(integers(slots, DType::i32), scaled(of_keys(i)) ? Scale(0.3F) : Scale(),
            scaled(of_values(i)) ? Scale(7.0F) : Scale(), {});
  }
}

// On the CPU these are errors; a kernel must leave the memory of others alone.
TEST(WriteKvCacheOnCuda, BadSlotsAreSkipped) {
  Random random(3);
  Case c(0, 40, 24, kPlacements[0], random);
  const Tensor bad = integers({7, 12, 0, 1000000, -7, -1, 2}, DType::i64);
  const Tensor good = integers({7, -1, 0, -1, -1, -1, -1}, DType::i64);
  const Tensor indptr = integers({0, 3, 6}, DType::i64);  // token 6 is nobody's
  const Tensor k_before = copy_of(c.k_cache);
  const Tensor v_before = copy_of(c.v_cache);
  emulate(kCompiled,
          cache_write_launch(c.k.view(), c.v.view(), c.cache(), bad.view(), {}, {}, indptr.view()));
  write_kv_cache(c.k.view(), c.v.view(), {k_before.view(), v_before.view().transpose(1, 2)},
                 good.view(), {}, {}, indptr.view());
  EXPECT_EQ(c.k_cache.snapshot(), k_before.snapshot());
  EXPECT_EQ(c.v_cache.snapshot(), v_before.snapshot());
}

// MLA: the values are the first elements of the keys, in the same memory.
TEST(WriteKvCacheOnCuda, ValuesThatAliasKeysWin) {
  Random random(4);
  Tensor k(DType::f32, {7, 1, 48});
  Tensor v(DType::f32, {7, 1, 32});
  fill_normal(k, random);
  fill_normal(v, random);
  Tensor got(DType::f32, {kPages, kPageSize, 1, 48});
  Tensor expected = copy_of(got);
  const Tensor slots = integers(kSlots, DType::i32);
  const std::vector<CompiledKernel<CacheWriteParams>> all_f32 = {
      {{CudaOp::write_kv_cache, {DType::f32, DType::f32, DType::f32, DType::f32}},
       [](CacheWriteParams p) { tw::write_kv_cache<float, float, float, float>(p); }}};
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    emulate(all_f32,
            cache_write_launch(k.view(), v.view(), {got.view(), got.view().slice(3, 0, 32)},
                               slots.view(), {}, {}, {}),
            seed);
    write_kv_cache(k.view(), v.view(), {expected.view(), expected.view().slice(3, 0, 32)},
                   slots.view());
    EXPECT_EQ(got.snapshot(), expected.snapshot());
  }
}

}  // namespace
}  // namespace tilewright::test
