// SPDX-License-Identifier: Apache-2.0
// Attention through the C API: the bits that C++ gives, and the reference's values.
#include "c_api/c_support.h"
#include "support/attention_case.h"
#include "support/shared_prefix.h"

namespace tilewright::test {
namespace {

// Everything through C, from the spec on.
void call_c(const AttentionSpec& spec, const Limits& limits, const Batch& batch,
            const PlanInput& input, const TensorView& q, const KvCache& kv, const RunArgs& args) {
  const AttentionHandle attention = make_attention(spec);
  const PlanHandle plan = make_plan(attention.get(), limits);
  ASSERT_OK(tw_plan_prepare(plan.get()));
  const tw_batch c_batch = to_c(batch);
  CInput c_input(input, attention.get());
  ASSERT_OK(tw_plan_update(plan.get(), &c_batch, &c_input.get(), 1, nullptr));
  const tw_tensor c_q = to_c(q);
  const tw_kv_cache c_kv = to_c(kv);
  CRunArgs c_args(args);
  ASSERT_OK(tw_attention_run(attention.get(), plan.get(), &c_q, &c_kv, 1, &c_args.get()));
}

// Each value of each choice in some case.
std::vector<Case> cases() {
  std::vector<Case> list;
  for (int i = 0; i < static_cast<int>(VariantKind::count); ++i) {
    Case c;
    c.seed = 100 + static_cast<std::uint64_t>(i);
    c.variant = static_cast<VariantKind>(i);
    c.cache = static_cast<CacheForm>(i % static_cast<int>(CacheForm::count));
    c.table = static_cast<TableForm>(i % static_cast<int>(TableForm::count));
    c.q_dtype = std::array{DType::f32, DType::bf16, DType::f16}[static_cast<std::size_t>(i % 3)];
    c.kv_dtype = i % 5 == 4 ? DType::f8e4m3 : c.q_dtype;
    c.page_size = 5 + i % 12;
    c.head_dim = i % 2 == 0 ? 32 : 64;
    c.value_dim = i % 4 == 0 ? 32 : 48;
    c.lengths = LengthKind::tiny;
    c.positions = static_cast<PositionKind>(i % static_cast<int>(PositionKind::count));
    c.strides = static_cast<StrideKind>(i % static_cast<int>(StrideKind::count));
    c.scales = static_cast<ScaleKind>(i % static_cast<int>(ScaleKind::count));
    c.sinks = i % 2 == 1;
    c.workers = i % 3;
    c.make_legal();
    list.push_back(c);
  }
  return list;
}

class CAttention : public testing::TestWithParam<Case> {};

TEST_P(CAttention, GivesTheBitsOfCpp) {
  CaseRun(GetParam()).run_by(call_c);
}
INSTANTIATE_TEST_SUITE_P(Cases, CAttention, testing::ValuesIn(cases()),
                         [](const auto& value) { return value.param.name(); });

TEST(CLevels, GiveTheBitsOfCpp) {
  const Dims dims{8, 2, 64, 64};
  const SharedPrefix b(dims, DType::bf16, 700, Lengths(9, {2, 40}), 50);
  BatchTensors tensors(b.requests, dims, DType::bf16);
  const Attention attention(make_spec(dims, DType::bf16, variants::causal()));
  Plan plan({attention}, b.limits());
  const PlanInput input(attention, b.levels());
  plan.update(b.batch(), {input});
  attention.run(plan, tensors.q.view(), b.caches(), tensors.args());
  ASSERT_EQ(plan.stats(attention).folded_rows, 0);
  const auto out = tensors.out.snapshot();
  const auto lse = tensors.lse.snapshot();
  tensors.out.refill();
  tensors.lse.refill();

  const AttentionHandle c_attention = make_attention(attention.spec());
  const PlanHandle c_plan = make_plan(c_attention.get(), b.limits());
  const tw_batch batch = to_c(b.batch());
  CInput c_input(input, c_attention.get());
  ASSERT_OK(tw_plan_update(c_plan.get(), &batch, &c_input.get(), 1, nullptr));
  const tw_tensor q = to_c(tensors.q.view());
  const std::vector<tw_kv_cache> kv = to_c(b.caches());
  CRunArgs args(tensors.args());
  ASSERT_OK(
      tw_attention_run(c_attention.get(), c_plan.get(), &q, kv.data(), kv.size(), &args.get()));
  EXPECT_TRUE(tensors.out.snapshot() == out);
  EXPECT_TRUE(tensors.lse.snapshot() == lse);

  expect_invalid(tw_attention_run(c_attention.get(), c_plan.get(), &q, kv.data(), 1, &args.get()),
                 {"kv has 1 levels", "2"});
}

TEST(CSpec, DefaultsAndGetters) {
  auto spec = sized<tw_attention_spec>();
  spec.num_qo_heads = 4;
  spec.num_kv_heads = 2;
  spec.head_dim = 64;
  AttentionHandle attention;
  ASSERT_OK(tw_attention_create(&spec, tw_device{}, attention.target()));
  auto got = sized<tw_attention_spec>();
  ASSERT_OK(tw_attention_get_spec(attention.get(), &got));
  EXPECT_EQ(got.num_qo_heads, 4);
  EXPECT_EQ(got.num_kv_heads, 2);
  EXPECT_EQ(got.head_dim, 64);
  EXPECT_EQ(got.head_dim_vo, 64);
  for (const tw_dtype dtype : {got.q_dtype, got.kv_dtype, got.v_dtype, got.out_dtype}) {
    EXPECT_EQ(dtype, TW_BF16);
  }
  const char* text = nullptr;
  ASSERT_OK(tw_variant_text(got.variant, &text));
  EXPECT_EQ(text, variants::causal().serialize());
  tw_device device{7, 7};
  ASSERT_OK(tw_attention_get_device(attention.get(), &device));
  EXPECT_EQ(device.type, TW_CPU);
  EXPECT_EQ(device.index, 0);
}

TEST(CSpec, SupportsOrWhyNot) {
  auto spec = sized<tw_attention_spec>();
  spec.num_qo_heads = 4;
  spec.num_kv_heads = 2;
  spec.head_dim = 64;
  std::int32_t ok = -1;
  const char* reason = nullptr;
  ASSERT_OK(tw_supports({TW_CPU, 0}, &spec, &ok, &reason));
  EXPECT_EQ(ok, 1);
  EXPECT_STREQ(reason, "");
  ASSERT_OK(tw_supports({TW_CPU, 0}, &spec, &ok, nullptr));

  AttentionSpec cpp;
  cpp.num_qo_heads = 4;
  cpp.num_kv_heads = 2;
  cpp.head_dim = 64;
  // Whatever this build says of a device that no machine has.
  const Support support = supports({DeviceType::cuda, 99}, cpp);
  ASSERT_OK(tw_supports({TW_CUDA, 99}, &spec, &ok, &reason));
  EXPECT_EQ(ok, support.ok ? 1 : 0);
  EXPECT_EQ(reason, support.reason);
  if (!support.ok) {
    AttentionHandle attention;
    expect_failed(tw_attention_create(&spec, {TW_CUDA, 99}, attention.target()), TW_NOT_SUPPORTED,
                  {support.reason});
    EXPECT_EQ(attention.get(), nullptr);
  }

  spec.num_kv_heads = 3;
  expect_invalid(tw_supports({TW_CPU, 0}, &spec, &ok, &reason), {"num_kv_heads is 3"});
  spec.num_kv_heads = 2;
  spec.kv_dtype = 77;
  expect_invalid(tw_supports({TW_CPU, 0}, &spec, &ok, &reason), {"spec.kv_dtype is 77"});
}

}  // namespace
}  // namespace tilewright::test
