// SPDX-License-Identifier: Apache-2.0
#include "ops/merge_states.h"
#include "ops_cuda/emulate.h"

namespace tilewright::test {
namespace {

using tw::MergeParams;

template <int mix>
void kernel(MergeParams p) {
  tw::merge_states<DeviceElement<mixed_dtype(mix, 0)>, DeviceElement<mixed_dtype(mix, 1)>>(p);
}

const auto kCompiled = compile_mixes<MergeParams>([]<int mix>() {
  return CompiledKernel<MergeParams>{
      {CudaOp::merge_states, {mixed_dtype(mix, 0), mixed_dtype(mix, 1)}}, kernel<mix>};
});

void check(int mix, std::int64_t states, std::int64_t dim, const Placement& place, bool with_lse,
           Random& random) {
  const std::int64_t tokens = 5;
  const std::int64_t heads = 3;
  Tensor values(mixed_dtype(mix, 0), {tokens, states, heads, dim},
                strides_in_order({tokens, states, heads, dim}, {1, 0, 2, 3}, place.gap), kPoison,
                place.shift);
  Tensor lse(DType::f32, {tokens, states, heads}, row_major({tokens, states, heads}, 2));
  Tensor got = strided(mixed_dtype(mix, 1), {tokens, heads, dim}, place.gap);
  Tensor got_lse = with_lse ? strided(DType::f32, {tokens, heads}, 1) : Tensor();
  fill_normal(values, random);
  fill_normal(lse, random, 5);
  for (std::int64_t t = 0; t < tokens; ++t) {
    for (std::int64_t s = 0; s < states; ++s) {
      // Token 1 has no state that counts; what a state that does not count holds is not looked at.
      if (t != 1 && !random.chance(0.3)) continue;
      lse.set({t, s, 1}, -INFINITY);
      values.set({t, s, 1, dim / 2}, NAN);
    }
  }
  Tensor expected = copy_of(got);
  Tensor expected_lse = with_lse ? copy_of(got_lse) : Tensor();
  emulate(kCompiled, merge_launch(values.view(), lse.view(), got.view(), got_lse.view()));
  merge_states(values.view(), lse.view(), expected.view(), expected_lse.view());
  expect_close(got, expected, 3);
  ASSERT_TRUE(got.guards_intact());
  if (!with_lse) return;
  expect_close(got_lse, expected_lse, 10);
  ASSERT_TRUE(got_lse.guards_intact());
}

TEST(MergeStatesOnCuda, EveryDTypeAndPlacement) {
  Random random(1);
  for (int mix = 0; mix < kNumMixes; ++mix) {
    for (const Placement& place : kPlacements) {
      check(mix, 3, 64, place, true, random);
      check(mix, 2, 5, place, false, random);
    }
  }
}

TEST(MergeStatesOnCuda, OneStateIsCopiedAndNoneIsEmpty) {
  Random random(2);
  check(0, 1, 24, {0, 0}, true, random);
  Tensor values(DType::f32, {2, 0, 3, 16});
  Tensor lse(DType::f32, {2, 0, 3});
  Tensor out(DType::f32, {2, 3, 16});
  Tensor lse_out(DType::f32, {2, 3});
  emulate(kCompiled, merge_launch(values.view(), lse.view(), out.view(), lse_out.view()));
  EXPECT_EQ(out.get({1, 2, 15}), 0);
  EXPECT_EQ(lse_out.get({1, 2}), -INFINITY);
}

}  // namespace
}  // namespace tilewright::test
