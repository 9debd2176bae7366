// SPDX-License-Identifier: Apache-2.0
// The operators' way from tensors on a GPU to a launch, against the test double of libcuda: which
// kernel, where, and parameters of the size that the compiled kernel takes (a launch refuses
// others).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/ops.h>
#include <tilewright/sampling.h>

#include "support/expect_error.h"
#include "support/tensor.h"
#include "support/use_fake_cuda.h"
#include "support/use_nvrtc.h"

namespace tilewright::test {
namespace {

class OpLaunch : public SharedNvrtcFixture {
 protected:
  OpLaunch() { fake_cuda(); }

  // As if it lay on the second GPU.
  static TensorView on_gpu(const Tensor& tensor) {
    TensorView view = tensor.view();
    view.device = {DeviceType::cuda, 1};
    return view;
  }

  // The one launch that `call` makes.
  template <typename Call>
  FakeLaunch launch_of(const Call& call) {
    const std::size_t before = fake_cuda().launches.size();
    call(Stream{&stream_});
    EXPECT_EQ(fake_cuda().launches.size(), before + 1);
    FakeLaunch launch = fake_cuda().launches.back();
    EXPECT_EQ(launch.device, 1);
    EXPECT_EQ(launch.stream, &stream_);
    return launch;
  }

  int stream_ = 0;
};

TEST_F(OpLaunch, EveryOperator) {
  const Tensor x(DType::bf16, {10, 512});
  const Tensor weight(DType::bf16, {512});
  const Tensor out(DType::bf16, {10, 512});
  FakeLaunch launch = launch_of(
      [&](Stream s) { rms_norm(on_gpu(x), on_gpu(weight), on_gpu(out), 1e-6F, 0, {}, s); });
  EXPECT_EQ(launch.kernel, "rms_norm_bf16_bf16_bf16");
  EXPECT_EQ(launch.grid, 3U);  // a warp a row
  launch = launch_of([&](Stream s) {
    fused_add_rms_norm(on_gpu(x), on_gpu(out), on_gpu(weight), on_gpu(x), 1e-6F, 0, {}, s);
  });
  EXPECT_EQ(launch.kernel, "fused_add_rms_norm_bf16_bf16_bf16_bf16");

  launch = launch_of([&](Stream s) {
    layer_norm(on_gpu(x), on_gpu(weight), on_gpu(weight), on_gpu(out), 1e-6F, {}, s);
  });
  EXPECT_EQ(launch.kernel, "layer_norm_with_bias_bf16_bf16_bf16_bf16");

  const Tensor bytes(DType::u8, {10, 256});
  const Tensor bits(DType::u8, {10, 32});
  launch = launch_of([&](Stream s) { pack_bits(on_gpu(bytes), on_gpu(bits), BitOrder::big, s); });
  EXPECT_EQ(launch.kernel, "pack_bits");
  EXPECT_EQ(launch.grid, 2U);  // of 256 threads with a byte

  const Tensor half(DType::bf16, {10, 256});
  launch = launch_of([&](Stream s) { act_and_mul(on_gpu(x), on_gpu(half), Activation::silu, s); });
  EXPECT_EQ(launch.kernel, "act_and_mul_silu_bf16_bf16");
  EXPECT_EQ(launch.grid, 2U);  // of 256 threads with 8 elements

  const Tensor rows(DType::i32, {10});
  launch = launch_of([&](Stream s) { gather_rows(on_gpu(x), on_gpu(rows), on_gpu(out), s); });
  EXPECT_EQ(launch.kernel, "gather_rows_bf16_bf16");
  EXPECT_EQ(launch.grid, 3U);  // of 256 threads with 8 elements

  const Tensor q(DType::bf16, {10, 8, 64});
  const Tensor positions(DType::i32, {10});
  launch =
      launch_of([&](Stream s) { apply_rope(on_gpu(q), on_gpu(positions), on_gpu(q), {}, {}, s); });
  EXPECT_EQ(launch.kernel, "apply_rope_bf16_bf16");
  EXPECT_EQ(launch.grid, 10U);
  EXPECT_EQ(launch.shared_bytes, 3072U);
  const Tensor table(DType::f32, {100, 64});
  launch = launch_of([&](Stream s) {
    apply_rope_with_cos_sin_cache(on_gpu(q), on_gpu(positions), on_gpu(table), on_gpu(q), false, {},
                                  s);
  });
  EXPECT_EQ(launch.kernel, "apply_rope_with_table_bf16_bf16_float");

  const Tensor cache(DType::f8e4m3, {4, 2, 16, 8, 64});
  const KvCache kv = KvCache::combined(on_gpu(cache));
  launch = launch_of([&](Stream s) {
    write_kv_cache(on_gpu(q), on_gpu(q), kv, on_gpu(positions), 0.5F, 2.0F, {}, s);
  });
  EXPECT_EQ(launch.kernel, "write_kv_cache_bf16_f8e4m3_bf16_f8e4m3");

  const Tensor k(DType::bf16, {10, 8, 64});
  launch = launch_of([&](Stream s) {
    RopeAndCacheArgs args;
    args.stream = s;
    apply_rope_and_write_kv_cache(on_gpu(q), on_gpu(k), on_gpu(k), on_gpu(positions), on_gpu(q), kv,
                                  on_gpu(positions), args);
  });
  EXPECT_EQ(launch.kernel, "rope_and_cache_bf16_f8e4m3_f8e4m3_bf16_float");
  EXPECT_EQ(launch.grid, 10U);

  const Tensor values(DType::f32, {10, 3, 8, 64});
  const Tensor lse(DType::f32, {10, 3, 8});
  launch =
      launch_of([&](Stream s) { merge_states(on_gpu(values), on_gpu(lse), on_gpu(q), {}, s); });
  EXPECT_EQ(launch.kernel, "merge_states_float_bf16");

  const Tensor tokens(DType::i32, {10});
  launch = launch_of([&](Stream s) {
    SamplingArgs args;
    args.stream = s;
    sample(on_gpu(x), args, on_gpu(tokens));
  });
  EXPECT_EQ(launch.kernel, "sample_cluster_bf16");  // the fake is a Hopper
  EXPECT_EQ(launch.cluster, 1);
  EXPECT_EQ(launch.grid, 10U);
  launch = launch_of([&](Stream s) {
    SamplingArgs args;
    args.order = FilterOrder::llamacpp;
    args.stream = s;
    sample(on_gpu(x), args, on_gpu(tokens));
  });
  EXPECT_EQ(launch.kernel, "sample_bf16");
  EXPECT_EQ(launch.cluster, 0);
  EXPECT_EQ(launch.grid, 10U);
}

TEST_F(OpLaunch, NothingToDoIsNoLaunch) {
  const Tensor x(DType::f32, {0, 64});
  const Tensor weight(DType::f32, {64});
  const std::size_t before = fake_cuda().launches.size();
  rms_norm(on_gpu(x), on_gpu(weight), on_gpu(x), 1e-6F);
  EXPECT_EQ(fake_cuda().launches.size(), before);
}

// Numbers are checked as on the CPU; what tensors hold is not read.
TEST_F(OpLaunch, ArgumentsAreChecked) {
  const Tensor logits(DType::f32, {2, 10});
  const Tensor tokens(DType::i32, {2});
  const Tensor poison(DType::f32, {2});
  SamplingArgs args;
  args.top_p = on_gpu(poison);
  args.temperature = -1.0F;
  expect_error_of(ErrorCode::invalid_argument, {"temperature", "-1"},
                  [&] { sample(on_gpu(logits), args, on_gpu(tokens)); });
  args.temperature = on_gpu(poison);
  launch_of([&](Stream s) {
    args.stream = s;
    sample(on_gpu(logits), args, on_gpu(tokens));
  });
  args.min_p = poison.view();
  expect_error_of(ErrorCode::invalid_argument, {"min_p", "must be on cuda:1"},
                  [&] { sample(on_gpu(logits), args, on_gpu(tokens)); });
}

}  // namespace
}  // namespace tilewright::test
