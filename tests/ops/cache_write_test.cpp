// SPDX-License-Identifier: Apache-2.0
#include <tilewright/ops.h>

#include "ops/ops_support.h"

namespace tilewright {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

constexpr std::int64_t kPages = 5;
constexpr std::int64_t kPageSize = 4;
constexpr std::int64_t kHeads = 3;

Tensor slots_of(const std::vector<std::int64_t>& slots, DType dtype) {
  Tensor tensor(dtype, {static_cast<std::int64_t>(slots.size())}, {2});
  for (std::size_t i = 0; i < slots.size(); ++i) {
    tensor.set({static_cast<std::int64_t>(i)}, static_cast<double>(slots[i]));
  }
  return tensor;
}

// Element [page, row, head, i] of a cache in normal form.
double element(const TensorView& cache, std::int64_t slot, std::int64_t head, std::int64_t i) {
  return load_element(cache.data, cache.dtype,
                      slot / kPageSize * cache.strides[0] + slot % kPageSize * cache.strides[1] +
                          head * cache.strides[2] + i);
}

const std::vector<std::int64_t> kSlots = {7, -1, 0, 19, 4, -1, 12};

void expect_written(const Tensor& from, const TensorView& cache, std::int64_t dim,
                    const std::vector<double>& scales) {
  std::vector<bool> written(kPages * kPageSize, false);
  for (std::size_t t = 0; t < kSlots.size(); ++t) {
    if (kSlots[t] < 0) continue;
    written[static_cast<std::size_t>(kSlots[t])] = true;
    for (std::int64_t h = 0; h < kHeads; ++h) {
      for (std::int64_t i = 0; i < dim; ++i) {
        const auto value = static_cast<float>(from.get({static_cast<std::int64_t>(t), h, i}));
        const float scaled = value / static_cast<float>(scales[static_cast<std::size_t>(h)]);
        ASSERT_EQ(element(cache, kSlots[t], h, i), rounded(scaled, cache.dtype))
            << "token " << t << " head " << h << " element " << i;
      }
    }
  }
  std::uint32_t poison = 0;
  for (std::int64_t slot = 0; slot < kPages * kPageSize; ++slot) {
    if (written[static_cast<std::size_t>(slot)]) continue;
    for (std::int64_t h = 0; h < kHeads; ++h) {
      std::memset(&poison, kSentinel, sizeof(poison));
      ASSERT_EQ(element(cache, slot, h, dim - 1), load_element(&poison, cache.dtype, 0)) << slot;
    }
  }
}

TEST(WriteKvCache, EveryDTypeAndTarget) {
  Random random(1);
  for_each_simd_target([&] {
    for (const DType in : kWideFloats) {
      for (const DType to : {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2}) {
        for (const DType index : {DType::i32, DType::i64}) {
          const std::int64_t k_dim = 40;
          const std::int64_t v_dim = 24;
          const auto tokens = static_cast<std::int64_t>(kSlots.size());
          Tensor k(in, {tokens, kHeads, k_dim}, row_major({tokens, kHeads, k_dim}, 3));
          Tensor v(in, {tokens, kHeads, v_dim},
                   strides_in_order({tokens, kHeads, v_dim}, {1, 0, 2}));
          Tensor kc(to, {kPages, kPageSize, kHeads, k_dim},
                    row_major({kPages, kPageSize, kHeads, k_dim}, 1), kSentinel);
          Tensor vc(to, {kPages, kHeads, kPageSize, v_dim},
                    row_major({kPages, kHeads, kPageSize, v_dim}), kSentinel);
          fill_normal(k, random, 100);
          fill_normal(v, random, 100);
          const KvCache cache{kc.view(), vc.view().transpose(1, 2)};
          write_kv_cache(k.view(), v.view(), cache, slots_of(kSlots, index).view());
          expect_written(k, cache.k, k_dim, {1, 1, 1});
          expect_written(v, cache.v, v_dim, {1, 1, 1});
          ASSERT_TRUE(kc.guards_intact());
          ASSERT_TRUE(vc.guards_intact());
        }
      }
    }
  });
}

TEST(WriteKvCache, Fp8ScalesDivideAndSaturate) {
  Random random(2);
  const auto tokens = static_cast<std::int64_t>(kSlots.size());
  for (const DType to : {DType::f8e4m3, DType::f8e5m2}) {
    Tensor k(DType::bf16, {tokens, kHeads, 16});
    Tensor v(DType::bf16, {tokens, kHeads, 16});
    fill_normal(k, random, 300);
    fill_normal(v, random, 300);
    k.set({0, 1, 5}, 1e30);
    k.set({0, 1, 6}, -INFINITY);
    k.set({0, 1, 7}, NAN);
    Tensor kv(to, {kPages, 2, kPageSize, kHeads, 16}, row_major({kPages, 2, kPageSize, kHeads, 16}),
              kSentinel);
    const KvCache cache = KvCache::combined(kv.view());
    const Tensor v_scale = float_tensor({0.5, 2.0, 3.7});
    write_kv_cache(k.view(), v.view(), cache, slots_of(kSlots, DType::i32).view(), 0.3F,
                   v_scale.view());
    k.set({0, 1, 7}, 0);
    EXPECT_TRUE(std::isnan(element(cache.k, kSlots[0], 1, 7)));
    EXPECT_EQ(element(cache.k, kSlots[0], 1, 5), to == DType::f8e4m3 ? 448 : 57344);
    const std::ptrdiff_t at =
        1 * cache.k.strides[0] + 3 * cache.k.strides[1] + 1 * cache.k.strides[2] + 7;
    store_element(cache.k.data, to, at, 0);  // slot 7 is row 3 of page 1
    expect_written(k, cache.k, 16, {0.3, 0.3, 0.3});
    expect_written(v, cache.v, 16, {0.5, 2.0, 3.7});
  }
}

// Tokens 0 to 2 are request 0's, request 1 has none, 3 and 4 are request 2's, 5 and 6 nobody's.
TEST(WriteKvCache, Fp8ScalesByRequestAndHead) {
  Random random(7);
  Tensor k(DType::f32, {7, kHeads, 16});
  fill_normal(k, random, 100);
  const std::vector<std::int64_t> slots = {7, 3, 0, 19, 4, -1, -1};
  Tensor scale(DType::f32, {3, kHeads}, {5, 1});
  for (std::int64_t r = 0; r < 3; ++r) {
    for (std::int64_t h = 0; h < kHeads; ++h)
      scale.set({r, h}, 0.25 + static_cast<double>(r + 3 * h));
  }
  const TensorView by_request = scale.view().slice(1, 0, 1);
  for (const DType index : {DType::i32, DType::i64}) {
    Tensor kc(DType::f8e4m3, {kPages, kPageSize, kHeads, 16});
    Tensor vc(DType::f8e4m3, {kPages, kPageSize, kHeads, 16});
    const KvCache cache{kc.view(), vc.view()};
    write_kv_cache(k.view(), k.view(), cache, slots_of(slots, index).view(), scale.view(),
                   by_request, slots_of({0, 3, 3, 5}, index).view());
    for (std::int64_t token = 0; token < 5; ++token) {
      const std::int64_t r = token < 3 ? 0 : 2;
      for (std::int64_t h = 0; h < kHeads; ++h) {
        for (std::int64_t i = 0; i < 16; ++i) {
          const auto value = static_cast<float>(k.get({token, h, i}));
          const std::int64_t slot = slots[static_cast<std::size_t>(token)];
          ASSERT_EQ(element(cache.k, slot, h, i),
                    rounded(value / static_cast<float>(scale.get({r, h})), DType::f8e4m3));
          ASSERT_EQ(element(cache.v, slot, h, i),
                    rounded(value / static_cast<float>(scale.get({r, 0})), DType::f8e4m3));
        }
      }
    }
    const auto before = kc.snapshot();
    const auto write = [&](const std::vector<std::int64_t>& to, const std::vector<std::int64_t>& of,
                           const TensorView& k_scale) {
      return [&cache, &k, to, of, k_scale, index] {
        write_kv_cache(k.view(), k.view(), cache, slots_of(to, index).view(), k_scale, {},
                       of.empty() ? TensorView() : slots_of(of, index).view());
      };
    };
    expect_invalid(write(slots, {}, scale.view()), "token_indptr tells the requests");
    expect_invalid(write(slots, {0, 3, 5}, scale.view()), "or broadcast to [2, 3]");
    expect_invalid(write(slots, {0, 3, 2, 5}, scale.view()), "token_indptr[2] is 2");
    expect_invalid(write(slots, {1, 3, 4, 5}, scale.view()), "token_indptr[0] is 1");
    expect_invalid(write(slots, {0, 3, 4, 8}, scale.view()), "token_indptr[3] is 8");
    expect_invalid(write({7, 3, 0, 19, 4, -1, 2}, {0, 3, 3, 5}, scale.view()),
                   "slot_mapping[6] is 2: it must be -1 behind the last token");
    scale.set({1, 2}, -1);
    expect_invalid(write(slots, {0, 3, 3, 5}, scale.view()), "k_scale[1, 2] is -1");
    scale.set({1, 2}, 1);
    EXPECT_EQ(kc.snapshot(), before);
  }
}

TEST(WriteKvCache, StridedLastDimensionAndRawFp8) {
  const auto tokens = static_cast<std::int64_t>(kSlots.size());
  Tensor k(DType::f8e4m3, {tokens, kHeads, 16}, strides_in_order({tokens, kHeads, 16}, {2, 0, 1}));
  Random random(3);
  fill_normal(k, random);
  Tensor kc(DType::f8e4m3, {kPages, kPageSize, kHeads, 16},
            row_major({kPages, kPageSize, kHeads, 16}), kSentinel);
  Tensor vc(DType::f32, {kPages, kPageSize, kHeads, 16}, row_major({kPages, kPageSize, kHeads, 16}),
            kSentinel);
  Tensor v(DType::f16, {tokens, kHeads, 16}, strides_in_order({tokens, kHeads, 16}, {2, 1, 0}));
  fill_normal(v, random);
  const KvCache cache{kc.view(), vc.view()};
  write_kv_cache(k.view(), v.view(), cache, slots_of(kSlots, DType::i64).view());
  expect_written(k, cache.k, 16, {1, 1, 1});
  expect_written(v, cache.v, 16, {1, 1, 1});
}

TEST(WriteKvCache, LatentValuesAliasKeys) {
  const std::int64_t tokens = 3;
  Tensor latent(DType::bf16, {tokens, 1, 72});
  Random random(4);
  fill_normal(latent, random);
  Tensor kc(DType::bf16, {2, 4, 1, 72});
  const KvCache cache{kc.view(), kc.view().slice(3, 0, 64)};
  write_kv_cache(latent.view(), latent.view().slice(2, 0, 64), cache, int_tensor({6, 0, 3}).view());
  for (std::int64_t i = 0; i < 72; ++i) EXPECT_EQ(kc.get({1, 2, 0, i}), latent.get({0, 0, i}));
}

TEST(WriteKvCache, ErrorsWriteNothing) {
  Tensor k(DType::bf16, {3, 2, 8});
  Tensor v(DType::bf16, {3, 2, 8});
  Tensor kc(DType::bf16, {kPages, kPageSize, 2, 8}, row_major({kPages, kPageSize, 2, 8}),
            kSentinel);
  Tensor vc(DType::bf16, {kPages, kPageSize, 2, 8}, row_major({kPages, kPageSize, 2, 8}),
            kSentinel);
  Tensor fc(DType::f8e4m3, {kPages, kPageSize, 2, 8}, row_major({kPages, kPageSize, 2, 8}),
            kSentinel);
  Random random(5);
  fill_normal(k, random);
  fill_normal(v, random);
  const auto before = std::make_pair(kc.snapshot(), vc.snapshot());
  const KvCache cache{kc.view(), vc.view()};
  const KvCache fp8{fc.view(), fc.view()};
  const Tensor good_slots = int_tensor({0, 1, 2});
  const TensorView g = good_slots.view();
  const auto write_slots = [&](const Extents& slots) {
    return [&, slots] { write_kv_cache(k.view(), v.view(), cache, int_tensor(slots).view()); };
  };
  expect_invalid(write_slots({0, 1, 20}), "slot_mapping[2] is 20: it must be -1 or below 20");
  expect_invalid(write_slots({0, -2, 1}), "slot_mapping[1] is -2");
  expect_invalid(write_slots({0, 1}), "slot_mapping is int32[2]");
  expect_invalid([&] { write_kv_cache(k.view(), v.view().slice(1, 0, 1), cache, g); },
                 "v is bfloat16[3, 1, 8]");
  expect_invalid([&] { write_kv_cache(k.view().slice(2, 0, 4), v.view(), cache, g); },
                 "k is bfloat16[3, 2, 4]");
  expect_invalid(
      [&] {
        write_kv_cache(k.view(), v.view(), {kc.view(), vc.view().slice(0, 0, 4)}, g);
      },
      "cache.v is bfloat16[4, 4, 2, 8]");
  expect_invalid(
      [&] { write_kv_cache(k.view(), v.view(), cache, TensorView(g.data, DType::u8, {3})); },
      "slot_mapping is uint8[3]");
  expect_invalid([&] { write_kv_cache(k.view(), v.view(), cache, g, 2.0F); }, "only fp8 caches");
  expect_invalid([&] { write_kv_cache(k.view(), v.view(), fp8, g, 0.0F); }, "k_scale is 0");
  expect_invalid(
      [&] {
        write_kv_cache(k.view(), v.view(), fp8, g, {}, float_tensor({1, 2, 3}).view());
      },
      "v_scale is float32[3]");
  expect_invalid(
      [&] {
        write_kv_cache(k.view(), v.view(), fp8, g, {}, float_tensor({1, -2}).view());
      },
      "v_scale[1] is -2");
  const TensorView raw(k.data(), DType::f8e5m2, {3, 2, 8});
  expect_invalid([&] { write_kv_cache(raw, v.view(), cache, g); }, "k is float8_e5m2");
  EXPECT_EQ(before, std::make_pair(kc.snapshot(), vc.snapshot()));
  EXPECT_TRUE(fc.untouched({0, 0, 0, 0}));
  write_kv_cache(k.view().slice(0, 0, 0), v.view().slice(0, 0, 0), cache, g.slice(0, 0, 0));
}

TEST(WriteKvCache, LaterTokensWinWhateverTheThreads) {
  Random random(6);
  Tensor k(DType::f32, {400, 8, 16});
  fill_normal(k, random);
  Extents slots(400);
  for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = static_cast<std::int64_t>(i % 10);
  const Tensor mapping = int_tensor(slots);
  const Tensor out(DType::bf16, {10, 1, 8, 16});
  Tensor vc(DType::bf16, {10, 1, 8, 16});
  expect_same_for_threads(out, [&](Tensor& result) {
    write_kv_cache(k.view(), k.view(), {result.view(), vc.view()}, mapping.view());
    EXPECT_EQ(result.get({3, 0, 5, 7}), rounded(k.get({393, 5, 7}), DType::bf16));
  });
}

}  // namespace
}  // namespace tilewright
