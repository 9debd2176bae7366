// SPDX-License-Identifier: Apache-2.0
// The operators and sampling: the bits of C++ on the same data.
#include "c_api/c_support.h"
#include "ops/ops_support.h"

namespace tilewright::test {
namespace {

using testing::Test;

// Both ways of filling `out`: the same bytes.
template <typename Cpp, typename C>
void expect_same(Tensor& out, const Cpp& cpp, const C& c) {
  const Tensor start = copy_of(out);
  cpp();
  const auto expected = out.snapshot();
  EXPECT_FALSE(expected == start.snapshot()) << "nothing was written";
  std::memcpy(out.data() - kGuardBytes, start.snapshot().data(), expected.size());
  ASSERT_OK(c());
  EXPECT_TRUE(out.snapshot() == expected);
}

class COps : public Test {
 protected:
  Tensor normal(const Extents& shape, DType dtype = DType::bf16) {
    Tensor tensor(dtype, shape);
    fill_normal(tensor, random_);
    return tensor;
  }

 private:
  Random random_{77};
};

TEST_F(COps, WriteKvCache) {
  const Tensor k = normal({5, 2, 16});
  const Tensor v = normal({5, 2, 16});
  Tensor cache = normal({4, 2, 8, 2, 16}, DType::f8e4m3);
  const Tensor slots = int_tensor({3, 17, -1, 31, 0});
  const Tensor indptr = int_tensor({0, 2, 5});
  const Tensor scales(DType::f32, {2, 2}, {2, 1}, 0x3F);  // 0x3F3F3F3F: 0.747
  const KvCache cpp = KvCache::combined(cache.view());
  const tw_tensor c_k = to_c(k.view());
  const tw_tensor c_v = to_c(v.view());
  const tw_kv_cache c_cache = to_c(cpp);
  const tw_tensor c_slots = to_c(slots.view());
  const tw_tensor c_indptr = to_c(indptr.view());
  const tw_real number = {0.25F, {}};
  const tw_real by_head = {0, to_c(scales.view())};
  expect_same(
      cache, [&] { write_kv_cache(k.view(), v.view(), cpp, slots.view()); },
      [&] {
        return tw_write_kv_cache(&c_k, &c_v, &c_cache, &c_slots, nullptr, nullptr, nullptr,
                                 nullptr);
      });
  expect_same(
      cache,
      [&] {
        write_kv_cache(k.view(), v.view(), cpp, slots.view(), 0.25F, scales.view(), indptr.view());
      },
      [&] {
        return tw_write_kv_cache(&c_k, &c_v, &c_cache, &c_slots, &number, &by_head, &c_indptr,
                                 nullptr);
      });
  const Tensor beyond = int_tensor({3, 17, -1, 32, 0});
  const tw_tensor c_beyond = to_c(beyond.view());
  expect_invalid(
      tw_write_kv_cache(&c_k, &c_v, &c_cache, &c_beyond, nullptr, nullptr, nullptr, nullptr),
      {"slot_mapping", "32"});
}

TEST_F(COps, Norms) {
  const Tensor x = normal({6, 48});
  const Tensor weight = normal({48});
  Tensor out = normal({6, 48});
  const tw_tensor c_x = to_c(x.view());
  const tw_tensor c_weight = to_c(weight.view());
  const tw_tensor c_out = to_c(out.view());
  expect_same(
      out, [&] { rms_norm(x.view(), weight.view(), out.view(), 1e-5F, 1); },
      [&] { return tw_rms_norm(&c_x, &c_weight, &c_out, 1e-5F, 1, nullptr, nullptr); });
  Tensor residual = normal({6, 48});
  const Tensor before = copy_of(residual);
  const tw_tensor c_residual = to_c(residual.view());
  fused_add_rms_norm(x.view(), residual.view(), weight.view(), out.view(), 1e-5F);
  const auto expected = out.snapshot();
  const auto expected_residual = residual.snapshot();
  std::memcpy(residual.data() - kGuardBytes, before.snapshot().data(), before.snapshot().size());
  ASSERT_OK(
      tw_fused_add_rms_norm(&c_x, &c_residual, &c_weight, &c_out, 1e-5F, 0, nullptr, nullptr));
  EXPECT_TRUE(out.snapshot() == expected);
  EXPECT_TRUE(residual.snapshot() == expected_residual);
  Tensor fp8 = normal({6, 48}, DType::f8e4m3);
  const tw_tensor c_fp8 = to_c(fp8.view());
  const tw_real out_scale = {0.25F, {}};
  expect_same(
      fp8, [&] { rms_norm(x.view(), weight.view(), fp8.view(), 1e-5F, 0, 0.25F); },
      [&] { return tw_rms_norm(&c_x, &c_weight, &c_fp8, 1e-5F, 0, &out_scale, nullptr); });
  expect_invalid(tw_rms_norm(&c_x, &c_weight, &c_out, 1e-5F, 0, &out_scale, nullptr),
                 {"out_scale is given"});
  expect_invalid(tw_rms_norm(&c_x, &c_x, &c_out, 1e-5F, 0, nullptr, nullptr), {"weight"});
}

TEST_F(COps, LayerNorm) {
  const Tensor x = normal({6, 48});
  const Tensor weight = normal({48});
  const Tensor bias = normal({48});
  Tensor out = normal({6, 48}, DType::f8e4m3);
  const tw_tensor c_x = to_c(x.view());
  const tw_tensor c_weight = to_c(weight.view());
  const tw_tensor c_bias = to_c(bias.view());
  const tw_tensor c_out = to_c(out.view());
  const tw_real out_scale = {0.25F, {}};
  expect_same(
      out, [&] { layer_norm(x.view(), weight.view(), {}, out.view(), 1e-5F); },
      [&] { return tw_layer_norm(&c_x, &c_weight, nullptr, &c_out, 1e-5F, nullptr, nullptr); });
  expect_same(
      out, [&] { layer_norm(x.view(), weight.view(), bias.view(), out.view(), 1e-5F, 0.25F); },
      [&] { return tw_layer_norm(&c_x, &c_weight, &c_bias, &c_out, 1e-5F, &out_scale, nullptr); });
  expect_invalid(tw_layer_norm(&c_x, &c_weight, &c_x, &c_out, 1e-5F, nullptr, nullptr), {"bias"});
}

TEST_F(COps, Rope) {
  const Tensor x = normal({4, 3, 16});
  const Tensor positions = int_tensor({7, 0, 300, 12});
  Tensor axes = int_matrix(2, 4);
  for (int i = 0; i < 8; ++i) axes.set({i / 4, i % 4}, 3 * i);
  Tensor out = normal({4, 3, 16});
  const Tensor table = normal({400, 16}, DType::f32);
  const tw_tensor c_x = to_c(x.view());
  const tw_tensor c_positions = to_c(positions.view());
  const tw_tensor c_axes = to_c(axes.view());
  const tw_tensor c_out = to_c(out.view());
  const tw_tensor c_table = to_c(table.view());
  auto spec = sized<tw_rope_spec>();
  spec.theta = 5e5;
  spec.scaling = TW_ROPE_LLAMA3;
  RopeHandle rope;
  ASSERT_OK(tw_rope_create(&spec, rope.target()));
  const RopeSpec cpp{.theta = 5e5, .scaling = Llama3Scaling{}};
  auto sections = sized<tw_rope_sections>();
  sections.pairs[0] = 5;
  sections.pairs[1] = 3;
  const RopeSections cpp_sections{{5, 3}, false};
  expect_same(
      out, [&] { apply_rope(x.view(), positions.view(), out.view(), cpp); },
      [&] { return tw_apply_rope(&c_x, &c_positions, &c_out, rope.get(), nullptr, nullptr); });
  expect_same(
      out, [&] { apply_rope(x.view(), axes.view(), out.view(), cpp, cpp_sections); },
      [&] { return tw_apply_rope(&c_x, &c_axes, &c_out, rope.get(), &sections, nullptr); });
  expect_same(
      out,
      [&] {
        apply_rope_with_cos_sin_cache(x.view(), positions.view(), table.view(), out.view(), true);
      },
      [&] {
        return tw_apply_rope_with_cos_sin_cache(&c_x, &c_positions, &c_table, &c_out, 1, nullptr,
                                                nullptr);
      });
  sections.interleaved = 2;
  expect_invalid(tw_apply_rope(&c_x, &c_axes, &c_out, rope.get(), &sections, nullptr),
                 {"sections.interleaved is 2"});
  sections.interleaved = 0;
  sections.reserved = 4;
  expect_invalid(tw_apply_rope(&c_x, &c_axes, &c_out, rope.get(), &sections, nullptr),
                 {"sections.reserved is 4"});
  expect_invalid(
      tw_apply_rope_with_cos_sin_cache(&c_x, &c_positions, &c_table, &c_out, 7, nullptr, nullptr),
      {"interleaved is 7"});
}

TEST_F(COps, RopeAndWriteKvCache) {
  const Tensor q = normal({4, 3, 16});
  const Tensor k = normal({4, 2, 16});
  const Tensor v = normal({4, 2, 16});
  const Tensor weight = normal({16});
  const Tensor table = normal({400, 16}, DType::f32);
  const Tensor positions = int_tensor({7, 0, 300, 12});
  const Tensor slots = int_tensor({3, -1, 31, 0});
  const Tensor indptr = int_tensor({0, 4});
  Tensor out = normal({4, 3, 16});
  Tensor memory = normal({4, 2, 8, 2, 16}, DType::f8e4m3);
  const KvCache cache = KvCache::combined(memory.view());
  const tw_tensor c_q = to_c(q.view());
  const tw_tensor c_k = to_c(k.view());
  const tw_tensor c_v = to_c(v.view());
  const tw_tensor c_weight = to_c(weight.view());
  const tw_tensor c_table = to_c(table.view());
  const tw_tensor c_positions = to_c(positions.view());
  const tw_tensor c_slots = to_c(slots.view());
  const tw_tensor c_indptr = to_c(indptr.view());
  const tw_tensor c_out = to_c(out.view());
  const tw_kv_cache c_cache = to_c(cache);
  const tw_real half = {0.5F, {}};
  const tw_real two = {2, {}};
  auto spec = sized<tw_rope_spec>();
  spec.theta = 5e5;
  RopeHandle rope;
  ASSERT_OK(tw_rope_create(&spec, rope.target()));
  auto args = sized<tw_rope_and_cache_args>();
  args.rope = rope.get();
  RopeAndCacheArgs cpp;
  cpp.rope.theta = 5e5;
  const auto c_call = [&] {
    return tw_apply_rope_and_write_kv_cache(&c_q, &c_k, &c_v, &c_positions, &c_out, &c_cache,
                                            &c_slots, &args);
  };
  const auto same = [&] {
    const auto call = [&] {
      apply_rope_and_write_kv_cache(q.view(), k.view(), v.view(), positions.view(), out.view(),
                                    cache, slots.view(), cpp);
    };
    expect_same(out, call, c_call);
    memory.refill();
    expect_same(memory, call, c_call);
  };
  same();
  args.q_norm_weight = args.k_norm_weight = &c_weight;
  args.norm_eps = 0.1F;
  args.norm_weight_offset = 1;
  cpp.qk_norm = {weight.view(), weight.view(), 0.1F, 1};
  args.k_scale = &half;
  args.v_scale = &two;
  args.token_indptr = &c_indptr;
  cpp.k_scale = 0.5F;
  cpp.v_scale = 2;
  cpp.token_indptr = indptr.view();
  same();
  args.cos_sin_cache = &c_table;
  expect_invalid(c_call(), {"args.rope and args.cos_sin_cache"});
  args.rope = nullptr;
  args.interleaved = 1;
  cpp.cos_sin_cache = table.view();
  cpp.rope.interleaved = true;
  same();
  args.reserved = 1;
  expect_invalid(c_call(), {"args.reserved is 1"});
  args.reserved = 0;
  args.cos_sin_cache = nullptr;
  expect_invalid(c_call(), {"args.rope is NULL"});
}

TEST_F(COps, ActivationsAndMerge) {
  const Tensor x = normal({5, 64});
  Tensor out = normal({5, 32});
  const tw_tensor c_x = to_c(x.view());
  const tw_tensor c_out = to_c(out.view());
  const std::vector<std::pair<Activation, std::int32_t>> activations = {
      {Activation::silu, TW_SILU},
      {Activation::gelu, TW_GELU},
      {Activation::gelu_tanh, TW_GELU_TANH}};
  for (const auto& [cpp, c] : activations) {
    expect_same(
        out, [&, which = cpp] { act_and_mul(x.view(), out.view(), which); },
        [&, which = c] { return tw_act_and_mul(&c_x, &c_out, which, nullptr); });
  }
  expect_invalid(tw_act_and_mul(&c_x, &c_out, 3, nullptr), {"activation is 3", "[0, 2]"});

  const Tensor values = normal({3, 2, 4, 16});
  const Tensor lse = normal({3, 2, 4}, DType::f32);
  Tensor joined = normal({3, 4, 16});
  Tensor lse_out = normal({3, 4}, DType::f32);
  const tw_tensor c_values = to_c(values.view());
  const tw_tensor c_lse = to_c(lse.view());
  const tw_tensor c_joined = to_c(joined.view());
  const tw_tensor c_lse_out = to_c(lse_out.view());
  expect_same(
      joined, [&] { merge_states(values.view(), lse.view(), joined.view()); },
      [&] { return tw_merge_states(&c_values, &c_lse, &c_joined, nullptr, nullptr); });
  expect_same(
      lse_out, [&] { merge_states(values.view(), lse.view(), joined.view(), lse_out.view()); },
      [&] { return tw_merge_states(&c_values, &c_lse, &c_joined, &c_lse_out, nullptr); });
}

TEST_F(COps, GatherRows) {
  const Tensor x = normal({5, 12}, DType::f32);
  const Tensor indices = int_tensor({4, 0, 4});
  Tensor out = normal({3, 12}, DType::bf16);
  const tw_tensor c_x = to_c(x.view());
  const tw_tensor c_indices = to_c(indices.view());
  const tw_tensor c_out = to_c(out.view());
  expect_same(
      out, [&] { gather_rows(x.view(), indices.view(), out.view()); },
      [&] { return tw_gather_rows(&c_x, &c_indices, &c_out, nullptr); });
  const Tensor outside = int_tensor({4, 5, 0});
  const tw_tensor c_outside = to_c(outside.view());
  expect_invalid(tw_gather_rows(&c_x, &c_outside, &c_out, nullptr), {"indices[1] is 5"});
}

TEST_F(COps, PackBits) {
  Tensor x(DType::u8, {3, 21});
  for (std::int64_t i = 0; i < 63; ++i) x.set({i / 21, i % 21}, static_cast<double>(i % 3));
  Tensor out(DType::u8, {3, 3});
  const tw_tensor c_x = to_c(x.view());
  const tw_tensor c_out = to_c(out.view());
  expect_same(
      out, [&] { pack_bits(x.view(), out.view()); },
      [&] { return tw_pack_bits(&c_x, &c_out, TW_BIG_BIT_ORDER, nullptr); });
  expect_same(
      out, [&] { pack_bits(x.view(), out.view(), BitOrder::little); },
      [&] { return tw_pack_bits(&c_x, &c_out, TW_LITTLE_BIT_ORDER, nullptr); });
  expect_invalid(tw_pack_bits(&c_x, &c_out, 2, nullptr), {"order is 2"});

  const TensorView row = x.view().select(0, 1);
  const Tensor indptr = int_tensor({1, 4, 20});
  Tensor out_indptr = int_tensor({7, 7, 7});
  Tensor segments(DType::u8, {4}, {1}, kSentinel);
  const tw_tensor c_row = to_c(row);
  const tw_tensor c_indptr = to_c(indptr.view());
  const tw_tensor c_out_indptr = to_c(out_indptr.view());
  const tw_tensor c_segments = to_c(segments.view());
  expect_same(
      segments, [&] { segment_pack_bits(row, indptr.view(), segments.view(), out_indptr.view()); },
      [&] {
        return tw_segment_pack_bits(&c_row, &c_indptr, &c_segments, &c_out_indptr, TW_BIG_BIT_ORDER,
                                    nullptr);
      });
  EXPECT_EQ(out_indptr.get({2}), 3);
}

TEST_F(COps, Sample) {
  const Tensor logits = normal({6, 500}, DType::f32);
  Tensor tokens(DType::i32, {6});
  const Tensor temperature = float_tensor({0.5, 1, 1.5, 0, 2, 0.7});
  const Tensor seeds(DType::i64, {6}, {1}, 0x11);
  const tw_tensor c_logits = to_c(logits.view());
  const tw_tensor c_tokens = to_c(tokens.view());
  auto args = sized<tw_sampling_args>();
  SamplingArgs cpp;
  const auto same = [&] {
    tokens.set({0}, -1);
    expect_same(
        tokens, [&] { sample(logits.view(), cpp, tokens.view()); },
        [&] { return tw_sample(&c_logits, &args, &c_tokens); });
  };
  same();
  const tw_real number = {0.8F, {}};
  const tw_real by_row = {0, to_c(temperature.view())};
  const tw_real top_p = {0.9F, {}};
  const tw_real min_p = {0.02F, {}};
  const tw_integer top_k = {20, {}};
  const tw_integer seed_rows = {0, to_c(seeds.view())};
  const tw_integer steps = {INT64_C(1) << 40, {}};
  args.temperature = &number;
  cpp.temperature = 0.8F;
  same();
  args.temperature = &by_row;
  cpp.temperature = temperature.view();
  args.top_p = &top_p;
  cpp.top_p = 0.9F;
  args.min_p = &min_p;
  cpp.min_p = 0.02F;
  args.top_k = &top_k;
  cpp.top_k = 20;
  args.seeds = &seed_rows;
  cpp.seeds = seeds.view();
  args.steps = &steps;
  cpp.steps = INT64_C(1) << 40;
  same();
  // Callers that were compiled before there were slots.
  args.size = offsetof(tw_sampling_args, slots);
  same();
  args.size = sizeof(tw_sampling_args);
  const Tensor slots = int_tensor({5, 0, 2, 2, 1, 3});
  Tensor status(DType::i32, {6});
  args.slots = to_c(slots.view());
  cpp.slots = slots.view();
  args.status = to_c(status.view());
  cpp.status = status.view();
  same();
  status.set({0}, -1);
  expect_same(
      status, [&] { sample(logits.view(), cpp, tokens.view()); },
      [&] { return tw_sample(&c_logits, &args, &c_tokens); });
  // What is done to logits before.
  Tensor words(DType::i32, {6, 16}, {16, 1}, 0x5A);
  Tensor counts(DType::i32, {6, 500}, {500, 1}, 0);
  for (std::int64_t i = 0; i < 500; i += 3) counts.set({i % 6, i}, 2);
  const Tensor bias_ids = int_tensor({3, -1, 7, 7, 499, 12});
  const Tensor bias_values = float_tensor({2, 1, -1, 3, 0.5, 4});
  args.allowed = args.prompt_bits = to_c(words.view());
  cpp.allowed = cpp.prompt_bits = words.view();
  args.output_counts = to_c(counts.view());
  cpp.output_counts = counts.view();
  cpp.bias_ids = bias_ids.view().unsqueeze(1);
  cpp.bias_values = bias_values.view().unsqueeze(1);
  args.bias_ids = to_c(cpp.bias_ids);
  args.bias_values = to_c(cpp.bias_values);
  const tw_real penalty = {1.25F, {}};
  args.repetition_penalty = &penalty;
  cpp.repetition_penalty = 1.25F;
  args.frequency_penalty = &by_row;
  cpp.frequency_penalty = temperature.view();
  args.presence_penalty = &min_p;
  cpp.presence_penalty = 0.02F;
  same();
  args.typical_p = &top_p;
  cpp.typical_p = 0.9F;
  same();
  args.order = TW_FILTER_ORDER_LLAMACPP;
  cpp.order = FilterOrder::llamacpp;
  same();
  args.order = 4;
  expect_invalid(tw_sample(&c_logits, &args, &c_tokens), {"args.order is 4"});
  args.order = TW_FILTER_ORDER_HF;
  const Tensor bad_slots = int_tensor({5, 0, 6, 2, 1, 3});
  args.slots = to_c(bad_slots.view());
  expect_invalid(tw_sample(&c_logits, &args, &c_tokens), {"slots of row 2 is 6", "[0, 6)"});
  args.slots = {};
  const tw_integer large = {INT64_C(1) << 40, {}};
  args.top_k = &large;
  expect_invalid(tw_sample(&c_logits, &args, &c_tokens),
                 {"args.top_k is 1099511627776", "32 bits"});
  args.top_k = nullptr;
  const tw_real negative = {-1, {}};
  args.temperature = &negative;
  expect_invalid(tw_sample(&c_logits, &args, &c_tokens), {"temperature", "-1"});
}

}  // namespace
}  // namespace tilewright::test
