// SPDX-License-Identifier: Apache-2.0
// What runs once a step or once a layer allocates nothing, from the first call on; operators and
// sampling no more than C++ does.
#define TILEWRIGHT_TEST_COUNT_ALLOCATIONS
#include "c_api/c_support.h"
#include "support/allocation_counter.h"
#include "support/shared_prefix.h"
#include "support/simple_batch.h"

namespace tilewright::test {
namespace {

class CAllocations : public testing::Test {
 protected:
  ~CAllocations() override { set_num_threads(threads_); }

 private:
  int threads_ = num_threads();
};

TEST_F(CAllocations, NoneInUpdatesAndRuns) {
  const Dims dims{6, 2, 64, 64};
  const Lengths lengths = {{1, 1500}, {1, 17}, {40, 200}, {0, 30}, {1, 0}, {129, 129}};
  SimpleBatch b(dims, DType::bf16, lengths, 16, 46);
  Random random(47);
  for (int i = 0; i < static_cast<int>(VariantKind::count); ++i) {
    const VariantCase c = make_variant(static_cast<VariantKind>(i), dims,
                                       static_cast<std::int64_t>(lengths.size()), random);
    const Attention cpp(make_spec(dims, DType::bf16, c.variant));
    RunArgs run_args = b.tensors.args();
    if (!c.variant.softmax) run_args.lse = {};
    run_args.params = c.run_params;
    run_args.logits_soft_cap = c.logits_soft_cap;
    run_args.k_scale = 0.5F;
    // What C++ itself allocates is the same.
    Plan cpp_plan({cpp}, b.limits());
    const std::vector<PlanInput> inputs = b.inputs(cpp, c.plan_params);
    const TensorView q_view = b.tensors.q.view();
    const KvCache cache = b.cache.view();
    const AllocationCounter cpp_counter;
    cpp_plan.update(b.batch(), inputs);
    cpp.run(cpp_plan, q_view, cache, run_args);
    const std::int64_t allowed = cpp_counter.count();

    const AttentionHandle attention = make_attention(cpp.spec());
    const PlanHandle plan = make_plan(attention.get(), b.limits());
    const tw_batch batch = to_c(b.batch());
    CInput input(inputs[0], attention.get());
    CRunArgs args(run_args);
    const tw_tensor q = to_c(q_view);
    const tw_kv_cache kv = to_c(cache);
    const AllocationCounter counter;
    const tw_status updated = tw_plan_update(plan.get(), &batch, &input.get(), 1, nullptr);
    const tw_status run = tw_attention_run(attention.get(), plan.get(), &q, &kv, 1, &args.get());
    const std::int64_t count = counter.count();
    EXPECT_OK(updated);
    EXPECT_OK(run);
    EXPECT_EQ(count, allowed) << variant_name(static_cast<VariantKind>(i));
    EXPECT_EQ(allowed, 0) << variant_name(static_cast<VariantKind>(i));
  }
}

// Lists that grow and shrink, in another order each time; names that are too long to lie in a
// string itself.
TEST_F(CAllocations, NoneForSeveralAttentions) {
  const Dims dims{4, 2, 32, 32};
  SimpleBatch b(dims, DType::f32, {{1, 100}, {3, 40}}, 16, 7);
  Variant many = variants::causal();
  Expr window;
  std::vector<ParamValue> plan_params;
  const std::string prefix = "a_parameter_whose_name_is_long_";
  for (int i = 0; i < 5; ++i) {
    const std::string name = prefix + std::to_string(i);
    const Expr param = Param::integer(name)();
    window = window.defined() ? min(window, param) : param;
    plan_params.emplace_back(name, 30.0 + i);
  }
  many.mask = many.mask && expr::kv_pos() > expr::q_pos() - window;
  const std::vector<Attention> cpp = {Attention(make_spec(dims, DType::f32, variants::causal())),
                                      Attention(make_spec(dims, DType::f32, many)),
                                      Attention(make_spec(dims, DType::f32, many))};
  std::vector<AttentionHandle> handles;
  std::vector<const tw_attention*> list;
  for (const Attention& attention : cpp) {
    handles.push_back(make_attention(attention.spec()));
    list.push_back(handles.back().get());
  }
  const tw_limits limits = to_c(b.limits());
  PlanHandle plan;
  ASSERT_OK(tw_plan_create(list.data(), list.size(), &limits, nullptr, plan.target()));
  CInput first(b.inputs(cpp[0])[0], list[0]);
  CInput second(b.inputs(cpp[1], plan_params)[0], list[1]);
  CInput third(b.inputs(cpp[2], plan_params)[0], list[2]);
  const tw_batch batch = to_c(b.batch());
  std::array<std::array<tw_plan_input, 3>, 4> orders = {{{third.get(), second.get(), first.get()},
                                                         {first.get(), second.get(), third.get()},
                                                         {second.get(), first.get(), third.get()},
                                                         {third.get(), first.get(), second.get()}}};
  Plan cpp_plan(cpp, b.limits());
  const std::vector<PlanInput> cpp_inputs = {b.inputs(cpp[0])[0], b.inputs(cpp[1], plan_params)[0],
                                             b.inputs(cpp[2], plan_params)[0]};
  const AllocationCounter cpp_counter;
  cpp_plan.update(b.batch(), cpp_inputs);
  EXPECT_EQ(cpp_counter.count(), 0);
  for (const auto& inputs : orders) {
    const AllocationCounter counter;
    const tw_status status =
        tw_plan_update(plan.get(), &batch, inputs.data(), inputs.size(), nullptr);
    const std::int64_t count = counter.count();
    EXPECT_OK(status);
    EXPECT_EQ(count, 0);
  }
}

TEST_F(CAllocations, NoneWithLevels) {
  const Dims dims{8, 2, 64, 64};
  const SharedPrefix b(dims, DType::bf16, 700, Lengths(9, {2, 40}), 50);
  const BatchTensors tensors(b.requests, dims, DType::bf16);
  const Attention cpp(make_spec(dims, DType::bf16, variants::causal()));
  const AttentionHandle attention = make_attention(cpp.spec());
  const PlanHandle plan = make_plan(attention.get(), b.limits());
  const tw_batch batch = to_c(b.batch());
  CInput input(PlanInput(cpp, b.levels()), attention.get());
  CRunArgs args(tensors.args());
  const tw_tensor q = to_c(tensors.q.view());
  const std::vector<tw_kv_cache> kv = to_c(b.caches());
  const AllocationCounter counter;
  const tw_status updated = tw_plan_update(plan.get(), &batch, &input.get(), 1, nullptr);
  const tw_status run =
      tw_attention_run(attention.get(), plan.get(), &q, kv.data(), kv.size(), &args.get());
  const std::int64_t count = counter.count();
  EXPECT_OK(updated);
  EXPECT_OK(run);
  EXPECT_EQ(count, 0);
}

template <typename Cpp, typename C>
void expect_no_more(const char* name, const Cpp& cpp, const C& c) {
  cpp();  // what is made once
  const AllocationCounter cpp_counter;
  cpp();
  const std::int64_t allowed = cpp_counter.count();
  const AllocationCounter counter;
  const tw_status status = c();
  const std::int64_t count = counter.count();
  EXPECT_OK(status) << name;
  EXPECT_EQ(count, allowed) << name;
}

TEST_F(CAllocations, OperatorsAsInCpp) {
  set_num_threads(1);
  const auto zeros = [](DType dtype, const Extents& shape) {
    return Tensor(dtype, shape, row_major(shape), 0);
  };
  const Tensor x = zeros(DType::bf16, {4, 2, 16});
  const Tensor flat = zeros(DType::bf16, {4, 32});
  const Tensor half = zeros(DType::bf16, {4, 16});
  const Tensor weight = zeros(DType::bf16, {32});
  const Tensor out = zeros(DType::bf16, {4, 2, 16});
  const Tensor slots = int_tensor({0, 1, 2, 3});
  const Tensor pages = zeros(DType::bf16, {2, 4, 2, 16});
  const Tensor states = zeros(DType::bf16, {4, 2, 2, 16});
  const Tensor lse = zeros(DType::f32, {4, 2, 2});
  const Tensor logits = zeros(DType::f32, {4, 300});
  const Tensor tokens = zeros(DType::i32, {4});
  const KvCache cache = KvCache::separate(pages.view(), pages.view());
  const tw_tensor c_x = to_c(x.view());
  const tw_tensor c_flat = to_c(flat.view());
  const tw_tensor c_half = to_c(half.view());
  const tw_tensor c_weight = to_c(weight.view());
  const tw_tensor c_out = to_c(out.view());
  const tw_tensor c_slots = to_c(slots.view());
  const tw_tensor c_states = to_c(states.view());
  const tw_tensor c_lse = to_c(lse.view());
  const tw_tensor c_logits = to_c(logits.view());
  const tw_tensor c_tokens = to_c(tokens.view());
  const tw_kv_cache c_cache = to_c(cache);
  const RopeSpec rope{.scaling = LongRopeScaling{std::vector<double>(8, 2.0), 1.0}};
  auto spec = sized<tw_rope_spec>();
  const std::vector<double> factors(8, 2.0);
  spec.scaling = TW_ROPE_LONGROPE;
  spec.factors = factors.data();
  spec.num_factors = 8;
  RopeHandle c_rope;
  ASSERT_OK(tw_rope_create(&spec, c_rope.target()));
  auto sampling = sized<tw_sampling_args>();
  const tw_real top_p = {0.9F, {}};
  sampling.top_p = &top_p;
  SamplingArgs cpp_sampling;
  cpp_sampling.top_p = 0.9F;

  expect_no_more(
      "write_kv_cache", [&] { write_kv_cache(x.view(), x.view(), cache, slots.view()); },
      [&] {
        return tw_write_kv_cache(&c_x, &c_x, &c_cache, &c_slots, nullptr, nullptr, nullptr,
                                 nullptr);
      });
  expect_no_more(
      "rms_norm", [&] { rms_norm(flat.view(), weight.view(), flat.view(), 1e-5F); },
      [&] { return tw_rms_norm(&c_flat, &c_weight, &c_flat, 1e-5F, 0, nullptr, nullptr); });
  expect_no_more(
      "apply_rope", [&] { apply_rope(x.view(), slots.view(), out.view(), rope); },
      [&] { return tw_apply_rope(&c_x, &c_slots, &c_out, c_rope.get(), nullptr, nullptr); });
  expect_no_more(
      "act_and_mul", [&] { act_and_mul(flat.view(), half.view(), Activation::silu); },
      [&] { return tw_act_and_mul(&c_flat, &c_half, TW_SILU, nullptr); });
  expect_no_more(
      "merge_states", [&] { merge_states(states.view(), lse.view(), out.view()); },
      [&] { return tw_merge_states(&c_states, &c_lse, &c_out, nullptr, nullptr); });
  expect_no_more(
      "sample", [&] { sample(logits.view(), cpp_sampling, tokens.view()); },
      [&] { return tw_sample(&c_logits, &sampling, &c_tokens); });
}

}  // namespace
}  // namespace tilewright::test
