// SPDX-License-Identifier: Apache-2.0
// The operators on a GPU against the CPU backend, both through the public API.
#include <tilewright/ops.h>

#include <array>

#include "gpu/gpu_tensor.h"
#include "ops_cuda/cases.h"

namespace tilewright::test {
namespace {

using OpsOnGpu = GpuTest;

// Runs twice: the bits must be the same. Errors of launches show in the download.
template <typename Run>
void run_twice(Tensor& out, const Run& run) {
  const Tensor before = copy_of(out);
  std::vector<std::uint8_t> first;
  for (int time = 0; time < 2; ++time) {
    std::memcpy(out.storage(), before.snapshot().data(), out.storage_bytes());
    OnGpu gpu(out);
    run(gpu.view());
    gpu.download();
    if (time == 0) first = out.snapshot();
  }
  EXPECT_EQ(out.snapshot(), first);
  EXPECT_TRUE(out.guards_intact());
}

TEST_F(OpsOnGpu, RmsNorm) {
  Random random(1);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const std::int64_t dim : {60, 128, 4096, 7168}) {
      for (const Placement& place : {kPlacements[0], kPlacements[4]}) {
        Tensor x = strided(mixed_dtype(mix, 0), {37, dim}, place.gap, place.shift);
        Tensor weight(mixed_dtype(mix, 1), {dim});
        Tensor got = strided(mixed_dtype(mix, 2), {37, dim}, place.gap);
        fill_normal(x, random, 3);
        fill_normal(weight, random);
        Tensor expected = copy_of(got);
        const OnGpu gpu_x(x);
        const OnGpu gpu_weight(weight);
        run_twice(got, [&](const TensorView& out) {
          rms_norm(gpu_x.view(), gpu_weight.view(), out, 1e-5F, 1.0F);
        });
        rms_norm(x.view(), weight.view(), expected.view(), 1e-5F, 1.0F);
        expect_close(got, expected, 4);
      }
    }
  }
}

TEST_F(OpsOnGpu, FusedAddRmsNorm) {
  Random random(2);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const std::int64_t dim : {128, 5120}) {
      Tensor x = strided(mixed_dtype(mix, 0), {9, dim}, 8);
      Tensor residual = strided(mixed_dtype(mix, 1), {9, dim}, 0);
      Tensor weight(mixed_dtype(mix, 2), {dim});
      Tensor got = strided(mixed_dtype(mix, 3), {9, dim}, 0);
      fill_normal(x, random);
      fill_normal(residual, random, 4);
      fill_normal(weight, random);
      Tensor cpu_residual = copy_of(residual);
      Tensor expected = copy_of(got);
      OnGpu gpu_x(x);
      OnGpu gpu_residual(residual);
      OnGpu gpu_weight(weight);
      OnGpu gpu_out(got);
      fused_add_rms_norm(gpu_x.view(), gpu_residual.view(), gpu_weight.view(), gpu_out.view(),
                         1e-6F);
      gpu_out.download();
      gpu_residual.download();
      fused_add_rms_norm(x.view(), cpu_residual.view(), weight.view(), expected.view(), 1e-6F);
      EXPECT_EQ(residual.snapshot(), cpu_residual.snapshot());
      expect_close(got, expected, 4);
    }
  }
}

TEST_F(OpsOnGpu, NormsWithFp8Outputs) {
  Random random(8);
  Tensor scale = float_tensor({0.02});
  const OnGpu gpu_scale(scale);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t dim : {60, 128, 4096}) {
      Tensor x(dtype, {37, dim});
      Tensor residual(dtype, {37, dim});
      Tensor weight(dtype, {dim});
      Tensor got(DType::f8e4m3, {37, dim});
      const Tensor expected(DType::f8e4m3, {37, dim});
      fill_normal(x, random, 3);
      fill_normal(residual, random);
      fill_normal(weight, random);
      const OnGpu gpu_x(x);
      OnGpu gpu_residual(residual);
      const OnGpu gpu_weight(weight);
      run_twice(got, [&](const TensorView& out) {
        rms_norm(gpu_x.view(), gpu_weight.view(), out, 1e-5F, 0, gpu_scale.view());
      });
      rms_norm(x.view(), weight.view(), expected.view(), 1e-5F, 0, scale.view());
      expect_close_fp8(got, expected);
      OnGpu gpu_got(got);
      fused_add_rms_norm(gpu_x.view(), gpu_residual.view(), gpu_weight.view(), gpu_got.view(),
                         1e-5F, 0, 0.7F);
      gpu_got.download();
      fused_add_rms_norm(x.view(), residual.view(), weight.view(), expected.view(), 1e-5F, 0, 0.7F);
      expect_close_fp8(got, expected);
    }
  }
}

TEST_F(OpsOnGpu, LayerNorm) {
  Random random(9);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const std::int64_t dim : {60, 128, 4096, 9216, 17408}) {
      Tensor x = strided(mixed_dtype(mix, 0), {37, dim}, 0);
      Tensor weight(mixed_dtype(mix, 1), {dim});
      Tensor bias(mixed_dtype(mix, 2), {dim});
      Tensor got = strided(mixed_dtype(mix, 3), {37, dim}, 0);
      fill_normal(x, random, 3);
      fill_normal(weight, random);
      fill_normal(bias, random);
      Tensor expected = copy_of(got);
      const OnGpu gpu_x(x);
      const OnGpu gpu_weight(weight);
      const OnGpu gpu_bias(bias);
      for (const bool biased : {false, true}) {
        run_twice(got, [&](const TensorView& out) {
          layer_norm(gpu_x.view(), gpu_weight.view(), biased ? gpu_bias.view() : TensorView(), out,
                     1e-5F);
        });
        layer_norm(x.view(), weight.view(), biased ? bias.view() : TensorView(), expected.view(),
                   1e-5F);
        expect_close(got, expected, 8);
      }
    }
  }
}

TEST_F(OpsOnGpu, ActAndMul) {
  Random random(3);
  for (const Activation activation : {Activation::silu, Activation::gelu, Activation::gelu_tanh}) {
    for (int mix = 0; mix < kNumMixes; mix += activation == Activation::silu ? 1 : 4) {
      for (const std::int64_t dim : {7, 64, 1376}) {
        Tensor x = strided(mixed_dtype(mix, 0), {33, 2 * dim}, 0);
        Tensor got = strided(mixed_dtype(mix, 1), {33, dim}, 8);
        fill_normal(x, random, 4);
        Tensor expected = copy_of(got);
        const OnGpu gpu_x(x);
        run_twice(got, [&](const TensorView& out) { act_and_mul(gpu_x.view(), out, activation); });
        act_and_mul(x.view(), expected.view(), activation);
        expect_close(got, expected, 30);
      }
    }
  }
}

TEST_F(OpsOnGpu, GatherRows) {
  Random random(11);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const std::int64_t dim : {7, 64, 1000}) {
      Tensor x = strided(mixed_dtype(mix, 0), {50, dim}, 8);
      Tensor got = strided(mixed_dtype(mix, 1), {33, dim}, 0);
      Tensor indices(mix % 2 == 0 ? DType::i32 : DType::i64, {33});
      fill_normal(x, random);
      for (std::int64_t i = 0; i < 33; ++i) {
        indices.set({i}, static_cast<double>(random.bits() % 50));
      }
      const Tensor expected = copy_of(got);
      const OnGpu gpu_x(x);
      const OnGpu gpu_indices(indices);
      run_twice(got,
                [&](const TensorView& out) { gather_rows(gpu_x.view(), gpu_indices.view(), out); });
      gather_rows(x.view(), indices.view(), expected.view());
      EXPECT_EQ(got.snapshot(), expected.snapshot()) << mix << ", dim " << dim;
    }
  }
  Tensor x(DType::i32, {4, 16});
  for (std::int64_t i = 0; i < 64; ++i) x.set({i / 16, i % 16}, static_cast<double>(i + 1));
  Tensor indices = int_tensor({3, 4, -1});
  Tensor got(DType::i32, {3, 16});
  const OnGpu gpu_x(x);
  const OnGpu gpu_indices(indices);
  run_twice(got,
            [&](const TensorView& out) { gather_rows(gpu_x.view(), gpu_indices.view(), out); });
  for (std::int64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(got.get({0, i}), static_cast<double>(49 + i));
    EXPECT_EQ(got.get({1, i}), 0);
    EXPECT_EQ(got.get({2, i}), 0);
  }
}

TEST_F(OpsOnGpu, PackBits) {
  Random random(10);
  Tensor x = strided(DType::u8, {5, 4099}, 1);
  for (std::size_t i = 0; i < x.storage_bytes(); ++i) {
    x.storage()[i] = static_cast<std::uint8_t>(random.bits() % 2);
  }
  const OnGpu gpu_x(x);
  for (const BitOrder order : {BitOrder::big, BitOrder::little}) {
    Tensor got(DType::u8, {5, 513});
    const Tensor expected(DType::u8, {5, 513});
    run_twice(got, [&](const TensorView& out) { pack_bits(gpu_x.view(), out, order); });
    pack_bits(x.view(), expected.view(), order);
    EXPECT_EQ(got.snapshot(), expected.snapshot());
    const TensorView row = x.view().select(0, 1);
    Tensor indptr = int_tensor({0, 3, 3, 70, 4000, 4099});
    Tensor got_indptr = int_tensor({0, 0, 0, 0, 0, 0});
    const Tensor expected_indptr = copy_of(got_indptr);
    Tensor segments(DType::u8, {517});
    const Tensor expected_segments(DType::u8, {517});
    const OnGpu gpu_indptr(indptr);
    OnGpu gpu_got_indptr(got_indptr);
    run_twice(segments, [&](const TensorView& out) {
      segment_pack_bits(gpu_x.view().select(0, 1), gpu_indptr.view(), out, gpu_got_indptr.view(),
                        order);
    });
    gpu_got_indptr.download();
    segment_pack_bits(row, indptr.view(), expected_segments.view(), expected_indptr.view(), order);
    EXPECT_EQ(segments.snapshot(), expected_segments.snapshot());
    EXPECT_EQ(got_indptr.snapshot(), expected_indptr.snapshot());
  }
}

TEST_F(OpsOnGpu, MergeStates) {
  Random random(4);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const std::int64_t dim : {5, 128}) {
      const std::int64_t tokens = 19;
      Tensor values(mixed_dtype(mix, 0), {tokens, 4, 3, dim},
                    strides_in_order({tokens, 4, 3, dim}, {1, 0, 2, 3}));
      Tensor lse(DType::f32, {tokens, 4, 3});
      Tensor got = strided(mixed_dtype(mix, 1), {tokens, 3, dim}, 0);
      Tensor got_lse(DType::f32, {tokens, 3});
      fill_normal(values, random);
      fill_normal(lse, random, 5);
      for (std::int64_t t = 0; t < tokens; ++t) {
        for (std::int64_t s = 0; s < 4; ++s) {
          if (t != 1 && !random.chance(0.3)) continue;
          lse.set({t, s, 1}, -INFINITY);
          values.set({t, s, 1, dim / 2}, NAN);
        }
      }
      Tensor expected = copy_of(got);
      Tensor expected_lse = copy_of(got_lse);
      OnGpu gpu_values(values);
      OnGpu gpu_lse(lse);
      OnGpu gpu_got_lse(got_lse);
      run_twice(got, [&](const TensorView& out) {
        merge_states(gpu_values.view(), gpu_lse.view(), out, gpu_got_lse.view());
      });
      gpu_got_lse.download();
      merge_states(values.view(), lse.view(), expected.view(), expected_lse.view());
      expect_close(got, expected, 3);
      expect_close(got_lse, expected_lse, 10);
    }
  }
}

Tensor positions_up_to(std::int64_t tokens, std::int64_t end, DType dtype, Random& random) {
  Tensor positions(dtype, {tokens});
  for (std::int64_t t = 0; t < tokens; ++t) {
    positions.set({t}, static_cast<double>(random.bits() % static_cast<std::uint64_t>(end)));
  }
  return positions;
}

TEST_F(OpsOnGpu, Rope) {
  Random random(5);
  const RopeScaling scalings[] = {{},
                                  NtkScaling{4},
                                  Llama3Scaling{},
                                  YarnScaling{.factor = 4, .original_max_position = 32768},
                                  LongRopeScaling{std::vector<double>(32, 3.5), 1.19}};
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const RopeScaling& scaling : scalings) {
      for (const bool interleaved : {false, true}) {
        const RopeSpec rope{64, 500000.0, 1, interleaved, scaling};
        Tensor x = strided(mixed_dtype(mix, 0), {23, 5, 96}, interleaved ? 3 : 0);
        Tensor got = strided(mixed_dtype(mix, 1), {23, 5, 96}, 0);
        Tensor positions =
            positions_up_to(23, 1 << 20, interleaved ? DType::i32 : DType::i64, random);
        fill_normal(x, random);
        Tensor expected = copy_of(got);
        const OnGpu gpu_x(x);
        const OnGpu gpu_positions(positions);
        run_twice(got, [&](const TensorView& out) {
          apply_rope(gpu_x.view(), gpu_positions.view(), out, rope);
        });
        apply_rope(x.view(), positions.view(), expected.view(), rope);
        expect_close(got, expected, 4);
      }
    }
  }
}

TEST_F(OpsOnGpu, RopeInPlaceFromATableWithAxes) {
  Random random(6);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    const DType dtype = mixed_dtype(mix, 0);
    Tensor x(dtype, {9, 4, 128});
    Tensor table(mixed_dtype(mix, 2), {1000, 128});
    Tensor positions(DType::i32, {3, 9});
    fill_normal(x, random);
    fill_normal(table, random);
    for (std::int64_t axis = 0; axis < 3; ++axis) {
      for (std::int64_t t = 0; t < 9; ++t) {
        positions.set({axis, t}, static_cast<double>(300 * axis + t));
      }
    }
    const RopeSections sections{{24, 20, 20}, true};
    Tensor expected = copy_of(x);
    apply_rope_with_cos_sin_cache(expected.view(), positions.view(), table.view(), expected.view(),
                                  false, sections);
    OnGpu gpu_x(x);
    const OnGpu gpu_table(table);
    const OnGpu gpu_positions(positions);
    apply_rope_with_cos_sin_cache(gpu_x.view(), gpu_positions.view(), gpu_table.view(),
                                  gpu_x.view(), false, sections);
    gpu_x.download();
    expect_close(x, expected, 6);
  }
}

bool is_fp8(DType dtype) {
  return dtype == DType::f8e4m3 || dtype == DType::f8e5m2;
}

// Numbers, what lies between two, and what overflows: where the instructions of the GPU might
// differ.
void fill_for_fp8(Tensor& tensor, Random& random) {
  fill_normal(tensor, random, 100);
  const TensorView view = tensor.view();
  for (std::int64_t i = 0; i < view.numel(); ++i) {
    if (i % 3 == 0) continue;
    float value = 0;
    if (i % 3 == 1) {
      value = std::ldexp(static_cast<float>(random.bits() % 64),
                         static_cast<int>(random.bits() % 40) - 24);
    } else {
      value = std::bit_cast<float>(static_cast<std::uint32_t>(random.bits()));
      if (!std::isfinite(value)) value = i % 2 == 0 ? INFINITY : -INFINITY;
    }
    store_element(view.data, view.dtype, i, random.chance(0.5) ? value : -value);
  }
}

TEST_F(OpsOnGpu, WriteKvCache) {
  Random random(7);
  const std::int64_t tokens = 50;
  for (const DType from : {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2}) {
    for (const DType to : {DType::f32, DType::f16, DType::bf16, DType::f8e4m3, DType::f8e5m2}) {
      if (is_fp8(from) && from != to) continue;
      Tensor k(from, {tokens, 4, 64});
      Tensor v = strided(from, {tokens, 4, 56}, 3);
      if (is_fp8(from)) {
        fill_normal(k, random, 10);
      } else {
        fill_for_fp8(k, random);
      }
      fill_normal(v, random, 100);
      Tensor k_cache = strided(to, {10, 16, 4, 64}, 0);
      Tensor v_cache = strided(to, {10, 4, 16, 56}, 8);
      Tensor slots(DType::i64, {tokens});
      for (std::int64_t t = 0; t < tokens; ++t) {
        slots.set({t}, t % 7 == 3 ? -1.0 : static_cast<double>((t * 37) % 160));
      }
      for (std::int64_t t = 45; t < tokens; ++t) slots.set({t}, -1);
      Tensor indptr = int_tensor({0, 20, 20, 45});
      Tensor scale(DType::f32, {3, 4});
      for (std::int64_t r = 0; r < 3; ++r) {
        for (std::int64_t h = 0; h < 4; ++h) scale.set({r, h}, 0.1 + random.uniform());
      }
      const bool scaled = is_fp8(to) && !is_fp8(from);
      Tensor k_expected = copy_of(k_cache);
      Tensor v_expected = copy_of(v_cache);
      write_kv_cache(k.view(), v.view(), {k_expected.view(), v_expected.view().transpose(1, 2)},
                     slots.view(), scaled ? Scale(scale.view()) : Scale(),
                     scaled ? Scale(2.5F) : Scale(), indptr.view());
      const OnGpu gpu_k(k);
      const OnGpu gpu_v(v);
      const OnGpu gpu_slots(slots);
      const OnGpu gpu_indptr(indptr);
      const OnGpu gpu_scale(scale);
      OnGpu gpu_k_cache(k_cache);
      OnGpu gpu_v_cache(v_cache);
      write_kv_cache(gpu_k.view(), gpu_v.view(),
                     {gpu_k_cache.view(), gpu_v_cache.view().transpose(1, 2)}, gpu_slots.view(),
                     scaled ? Scale(gpu_scale.view()) : Scale(), scaled ? Scale(2.5F) : Scale(),
                     gpu_indptr.view());
      gpu_k_cache.download();
      gpu_v_cache.download();
      EXPECT_EQ(k_cache.snapshot(), k_expected.snapshot())
          << dtype_name(from) << " " << dtype_name(to);
      EXPECT_EQ(v_cache.snapshot(), v_expected.snapshot())
          << dtype_name(from) << " " << dtype_name(to);
    }
  }
}

// The bits of the three operators on the GPU.
TEST_F(OpsOnGpu, RopeAndWriteKvCache) {
  Random random(11);
  // With many tokens a block has four, and the last one two.
  constexpr std::array<std::array<std::int64_t, 2>, 3> kTokensAndHeads = {
      {{20, 4}, {20, 64}, {4098, 4}}};
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const DType to : {dtype, DType::f8e4m3}) {
      for (const bool normed : {false, true}) {
        for (const auto& [tokens, heads] : kTokensAndHeads) {
          if (tokens > 20 && dtype != DType::bf16) continue;
          const std::int64_t pages = (tokens + 63) / 16;
          const std::int64_t all = heads + 2 * 4;
          Tensor qkv(dtype, {tokens, all, 128});
          Tensor weight(dtype, {128});
          fill_normal(qkv, random);
          fill_normal(weight, random);
          Tensor positions = positions_up_to(tokens, 1 << 20, DType::i64, random);
          Tensor slots(DType::i32, {tokens});
          for (std::int64_t t = 0; t < tokens; ++t)
            slots.set({t}, t % 7 == 3 ? -1.0 : static_cast<double>((t * 37) % (pages * 16)));
          const OnGpu gpu_qkv(qkv);
          const OnGpu gpu_weight(weight);
          const OnGpu gpu_positions(positions);
          const OnGpu gpu_slots(slots);
          const TensorView q = gpu_qkv.view().slice(1, 0, heads);
          const TensorView k = gpu_qkv.view().slice(1, heads, heads + 4);
          const TensorView v = gpu_qkv.view().slice(1, heads + 4, all);
          RopeAndCacheArgs args;
          args.rope.interleaved = normed;
          if (normed) args.qk_norm = {gpu_weight.view(), gpu_weight.view(), 1e-5F, 0};
          if (to == DType::f8e4m3) args.v_scale = 0.25F;
          Mirror got_q{Tensor(dtype, {tokens, heads, 128})};
          Mirror got{strided(to, {pages, 2, 16, 4, 128}, 0)};
          Mirror expected_q{Tensor(dtype, {tokens, heads, 128})};
          Mirror expected_k{Tensor(dtype, {tokens, 4, 128})};
          Mirror expected{strided(to, {pages, 2, 16, 4, 128}, 0)};
          apply_rope_and_write_kv_cache(q, k, v, gpu_positions.view(), got_q.gpu.view(),
                                        KvCache::combined(got.gpu.view()), gpu_slots.view(), args);
          const auto rotate = [&](const TensorView& from, const TensorView& out) {
            if (normed) rms_norm(from, gpu_weight.view(), out, 1e-5F);
            apply_rope(normed ? out : from, gpu_positions.view(), out, args.rope);
          };
          rotate(q, expected_q.gpu.view());
          rotate(k, expected_k.gpu.view());
          write_kv_cache(expected_k.gpu.view(), v, KvCache::combined(expected.gpu.view()),
                         gpu_slots.view(), {}, args.v_scale);
          for (Mirror* mirror : {&got_q, &got, &expected_q, &expected}) mirror->gpu.download();
          EXPECT_EQ(got_q.host.snapshot(), expected_q.host.snapshot());
          EXPECT_EQ(got.host.snapshot(), expected.host.snapshot());
        }
      }
    }
  }
}

TEST_F(OpsOnGpu, TensorsOfOtherDevicesAreRefused) {
  Tensor x(DType::f32, {4, 64});
  Tensor weight(DType::f32, {64});
  const OnGpu gpu_x(x);
  expect_invalid([&] { rms_norm(gpu_x.view(), weight.view(), gpu_x.view(), 1e-6F); },
                 "weight is float32[64]");
}

}  // namespace
}  // namespace tilewright::test
