// SPDX-License-Identifier: Apache-2.0
// Attention of bf16 and fp8 on each kind of kernel that the CPU may have: AMX tiles, AVX512_BF16
// dot products, and the portable ones.
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <string>

#include "cpu/tile_bf16.h"
#include "support/attention_case.h"

namespace tilewright::test {
namespace {

using cpu::Bf16Choice;

class Bf16Kernels : public testing::TestWithParam<Bf16Choice> {
 protected:
  void SetUp() override {
    cpu::choose_bf16_kernels(GetParam());
    if (GetParam() != Bf16Choice::none && cpu::bf16_kernels() == nullptr) {
      GTEST_SKIP() << "this CPU has no such instructions, or none that are faster than f32";
    }
  }
  void TearDown() override { cpu::choose_bf16_kernels(Bf16Choice::best); }
};

void run(const Case& c) {
  SCOPED_TRACE(c.name());
  CaseRun(c).run();
}

TEST_P(Bf16Kernels, Variants) {
  for (int variant = 0; variant < static_cast<int>(VariantKind::count); ++variant) {
    Case c;
    c.seed = static_cast<std::uint64_t>(variant) + 1;
    c.q_dtype = DType::bf16;
    c.kv_dtype = variant % 3 == 0 ? DType::f8e4m3 : DType::bf16;
    c.kv_heads = 2;
    c.group = 3;
    c.head_dim = 72;
    c.value_dim = variant % 2 == 0 ? 72 : 128;
    c.variant = static_cast<VariantKind>(variant);
    c.scales = static_cast<ScaleKind>(variant % static_cast<int>(ScaleKind::count));
    c.make_legal();
    CaseRun probe(c);
    if (supports(Device{}, probe.spec())) run(c);
  }
}

TEST_P(Bf16Kernels, LengthsAndHeads) {
  std::uint64_t seed = 100;
  for (int lengths = 0; lengths < static_cast<int>(LengthKind::count); ++lengths) {
    for (const auto& [kv_heads, group] : {std::pair(1, 1), std::pair(2, 4), std::pair(1, 17)}) {
      for (const int dim : {8, 64, 576}) {
        Case c;
        c.seed = ++seed;
        c.q_dtype = DType::bf16;
        c.kv_dtype = DType::bf16;
        c.kv_heads = kv_heads;
        c.group = group;
        c.head_dim = dim;
        c.value_dim = dim;
        c.lengths = static_cast<LengthKind>(lengths);
        c.make_legal();
        run(c);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, Bf16Kernels,
                         testing::Values(Bf16Choice::best, Bf16Choice::avx512, Bf16Choice::none),
                         [](const testing::TestParamInfo<Bf16Choice>& choice) {
                           return choice.param == Bf16Choice::best     ? "best"
                                  : choice.param == Bf16Choice::avx512 ? "avx512"
                                                                       : "portable";
                         });

}  // namespace
}  // namespace tilewright::test
