// SPDX-License-Identifier: Apache-2.0
// Bad arguments of a run, its tensors, caches, scales and parameters: the error's code, and a
// message that names the argument and its value.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <string>
#include <tuple>
#include <vector>

#include "attention/error_fixture.h"

namespace tilewright::test {
namespace {

TEST_F(AttentionErrors, Query) {
  update();
  query = {};
  expect_error(kInvalid, {"q"}, [&] { run(); });
  query = q.view().slice(0, 0, 4);
  expect_error(kInvalid, {"q", "4", "5"}, [&] { run(); });
  query = q.view().slice(1, 0, 3);
  expect_error(kInvalid, {"q", "3", "4"}, [&] { run(); });
  query = q.view().slice(2, 0, 8);
  expect_error(kInvalid, {"q", "8", "16"}, [&] { run(); });
  query = q.view().select(0, 0);
  expect_error(kInvalid, {"q is ", "[4, 16]"}, [&] { run(); });
  query = q.view();
  query.strides[2] = 2;
  expect_error(kInvalid, {"q", "contiguous"}, [&] { run(); });
  query = q.view();
  query.dtype = DType::f16;
  expect_error(kInvalid, {"q", dtype_name(DType::f16), dtype_name(DType::bf16)}, [&] { run(); });
  query = q.view();
  query.device = {DeviceType::cuda, 0};
  expect_error(kInvalid, {"q", "cuda:0"}, [&] { run(); });
}

TEST_F(AttentionErrors, Out) {
  update();
  args.out = {};
  expect_error(kInvalid, {"out"}, [&] { run(); });
  args.out = out.view().slice(0, 0, 4);
  expect_error(kInvalid, {"out", "4", "5"}, [&] { run(); });
  args.out = out.view().slice(2, 0, 8);
  expect_error(kInvalid, {"out", "8", "16"}, [&] { run(); });
  args.out = out.view();
  args.out.dtype = DType::f16;
  expect_error(kInvalid, {"out", dtype_name(DType::f16)}, [&] { run(); });
  args.out = out.view();
  args.out.strides[0] = 0;
  expect_error(kInvalid, {"out", "overlap"}, [&] { run(); });
  args.out = out.view();
  args.out.device = {DeviceType::cuda, 0};
  expect_error(kInvalid, {"out", "cuda:0"}, [&] { run(); });
}

TEST_F(AttentionErrors, Lse) {
  update();
  args.lse = lse.view().slice(0, 0, 4);
  expect_error(kInvalid, {"lse", "4", "5"}, [&] { run(); });
  args.lse = lse.view().slice(1, 0, 2);
  expect_error(kInvalid, {"lse", "2", "4"}, [&] { run(); });
  args.lse = lse.view();
  args.lse.dtype = DType::i32;
  expect_error(kInvalid, {"lse", dtype_name(DType::f32)}, [&] { run(); });
  args.lse = lse.view();
  args.lse.strides[1] = 0;
  expect_error(kInvalid, {"lse", "overlap"}, [&] { run(); });
}

TEST_F(AttentionErrors, Caches) {
  update();
  kv.k = {};
  expect_error(kInvalid, {"k"}, [&] { run(); });
  set_run();
  kv.k = k.view().slice(2, 0, 1);
  expect_error(kInvalid, {"k", "1", "2"}, [&] { run(); });
  set_run();
  kv.v = v.view().slice(3, 0, 8);
  expect_error(kInvalid, {"v", "8", "16"}, [&] { run(); });
  set_run();
  kv.k.dtype = DType::f16;
  expect_error(kInvalid, {"k", dtype_name(DType::f16)}, [&] { run(); });
  set_run();
  kv.v.device = {DeviceType::cuda, 0};
  expect_error(kInvalid, {"v", "cuda:0"}, [&] { run(); });
  set_run();
  kv.k.strides[3] = 2;
  expect_error(kInvalid, {"k", "contiguous"}, [&] { run(); });
  // Pages of another size than the table's.
  set_run();
  kv.k = k.view().slice(1, 0, 2);
  kv.v = v.view().slice(1, 0, 2);
  expect_error(kInvalid, {"2", "4"}, [&] { run(); });
  // One cache for each level.
  set_run();
  expect_error(kInvalid, {"levels", "2", "1"}, [&] {
    attention.run(plan, query, std::vector<KvCache>{kv, kv}, args);
  });
  // v has a page less than k: page 8 is in use.
  kv.v = v.view().slice(0, 0, 8);
  expect_error(kInvalid, {"v", "page 8", "8 pages"}, [&] { run(); });
}

TEST_F(AttentionErrors, CacheBuilders) {
  const Tensor kv5(DType::bf16, {10, 2, 4, 2, 16});
  EXPECT_NO_THROW(KvCache::combined(kv5.view()));
  expect_error(kInvalid, {"kv_dim", "2"}, [&] { KvCache::combined(kv5.view(), KvLayout::nhd, 2); });
  expect_error(kInvalid, {"kv", "10"}, [&] { KvCache::combined(kv5.view(), KvLayout::nhd, 0); });
  expect_error(kInvalid, {"kv", "rank"}, [&] { KvCache::combined(k.view()); });
  expect_error(kInvalid, {"k", "rank"}, [&] { KvCache::separate(kv5.view(), kv5.view()); });
  expect_error(kInvalid, {"v", "rank"}, [&] {
    const Tensor tokens(DType::bf16, {10, 2, 16});
    KvCache::separate(k.view(), tokens.view());
  });
  expect_error(kInvalid, {"head_dim", "16"}, [&] { KvCache::interleaved(k.view(), 16); });
  expect_error(kInvalid, {"head_dim", "-1"}, [&] { KvCache::interleaved(k.view(), -1); });
}

TEST_F(AttentionErrors, Sinks) {
  update();
  const Tensor three = float_tensor({1, 2, 3});
  args.sinks = three.view();
  expect_error(kInvalid, {"sinks", "3", "4"}, [&] { run(); });
  const Tensor matrix(DType::f32, {2, 2});
  args.sinks = matrix.view();
  expect_error(kInvalid, {"sinks", "[2, 2]", "[4]"}, [&] { run(); });
  const Tensor half(DType::bf16, {4});
  args.sinks = half.view();
  expect_error(kInvalid, {"sinks", dtype_name(DType::f32)}, [&] { run(); });
}

TEST_F(AttentionErrors, WithoutSoftmax) {
  const Attention sigmoid(make_spec(dims, DType::bf16, variants::sigmoid()));
  Plan sigmoid_plan({sigmoid}, plan.limits());
  sigmoid_plan.update(batch, {PlanInput(sigmoid, {level()})});
  const auto run_sigmoid = [&] { sigmoid.run(sigmoid_plan, query, kv, args); };
  expect_error(kInvalid, {"lse", "softmax"}, run_sigmoid);
  args.lse = {};
  const Tensor sinks = float_tensor({1, 2, 3, 4});
  args.sinks = sinks.view();
  expect_error(kInvalid, {"sinks", "softmax"}, run_sigmoid);
  args.sinks = {};
  run_sigmoid();
}

TEST_F(AttentionErrors, Scales) {
  update();
  const Tensor bad_shape(DType::f32, {3, 3});
  const Tensor bad_dtype(DType::bf16, {1});
  const Tensor bad_rank(DType::f32, {1, 1, 1});
  for (const auto& [scale, name] : {std::pair{&args.q_scale, "q_scale"},
                                    {&args.k_scale, "k_scale"},
                                    {&args.v_scale, "v_scale"},
                                    {&args.out_scale, "out_scale"}}) {
    SCOPED_TRACE(name);
    for (const Tensor* bad : {&bad_shape, &bad_dtype, &bad_rank}) {
      *scale = Scale(bad->view());
      expect_error(kInvalid, {name}, [&] { run(); });
    }
    *scale = Scale();
  }
  EXPECT_NO_THROW(run());
}

// Parameters

TEST_F(AttentionErrors, RunParameters) {
  attention = Attention(make_spec(dims, DType::bf16, variants::alibi()));
  plan = Plan({attention}, limits);
  update();
  expect_error(kInvalid, {"slope"}, [&] { run(); });  // missing
  const Tensor slope = float_tensor({1, 2, 3, 4});
  args.params = {ParamValue("slope", slope.view())};
  EXPECT_NO_THROW(run());
  args.params = {ParamValue("slope", slope.view()), ParamValue("slop", 1.0)};
  expect_error(kInvalid, {"slop", "slope"}, [&] { run(); });  // unknown: the known are listed
  args.params = {ParamValue("slope", slope.view()), ParamValue("slope", slope.view())};
  expect_error(kInvalid, {"slope"}, [&] { run(); });  // twice
  const Tensor three = float_tensor({1, 2, 3});
  args.params = {ParamValue("slope", three.view())};
  expect_error(kInvalid, {"slope", "3", "4"}, [&] { run(); });
  const Tensor integers = int_tensor({1, 2, 3, 4});
  args.params = {ParamValue("slope", integers.view())};
  expect_error(kInvalid, {"slope", dtype_name(DType::f32)}, [&] { run(); });
  args.params = {ParamValue("slope", 1.0)};
  expect_error(kInvalid, {"slope"}, [&] { run(); });  // a number for a tensor
}

TEST_F(AttentionErrors, PlanParameters) {
  const Param window = Param::integer("window", 1);
  Variant variant;
  variant.mask = expr::q_pos() - expr::kv_pos() < window(expr::batch());
  attention = Attention(make_spec(dims, DType::bf16, variant));
  plan = Plan({attention}, limits);
  expect_error(kInvalid, {"window"}, [&] { update(); });  // missing
  const Tensor three = int_tensor({4, 5, 6});
  const Tensor two = int_tensor({4, 5});
  plan_params = {ParamValue("window", two.view())};
  expect_error(kInvalid, {"window", "2", "3"}, [&] { update(); });
  plan_params = {ParamValue("window", three.view()), ParamValue("widow", 1.0)};
  expect_error(kInvalid, {"widow", "window"}, [&] { update(); });
  plan_params = {ParamValue("window", three.view())};
  EXPECT_NO_THROW(update_and_run());
  args.params = plan_params;  // at the wrong time
  expect_error(kInvalid, {"window"}, [&] { run(); });
}

TEST_F(AttentionErrors, SoftCapOfAVariantWithoutOne) {
  update();
  args.logits_soft_cap = 30.0F;
  expect_error(kInvalid, {"logits_soft_cap"}, [&] { run(); });
}

}  // namespace
}  // namespace tilewright::test
