// SPDX-License-Identifier: Apache-2.0
// The sampling kernel in the emulator: the same tokens as the CPU's, whatever the row and the
// filters.
#include "sampling/sample.h"

#include <gtest/gtest.h>
#include <tilewright/sampling.h>

#include "runtime/launch.h"
#include "sampling/cluster_sample.h"
#include "sampling/cuda_sample.h"
#include "sampling/process_support.h"
#include "support/tensor.h"

namespace tilewright::test {
namespace {

template <typename T>
auto* kernel_of(SampleKernel kernel) {
  using Kernel = void (*)(tw::SampleParams);
  switch (kernel) {
    case SampleKernel::cluster:
      return static_cast<Kernel>([](tw::SampleParams p) { tw::cluster_sample<T, T>(p); });
    case SampleKernel::cluster_f32:
      return static_cast<Kernel>([](tw::SampleParams p) { tw::cluster_sample<float, T>(p); });
    default:
      return static_cast<Kernel>([](tw::SampleParams p) { tw::sample<T>(p); });
  }
}

void emulate(SampleKernel kernel, const TensorView& logits, const SamplingArgs& args,
             const TensorView& tokens, std::uint64_t seed) {
  const CudaLaunch<tw::SampleParams> launch = sample_launch(kernel, logits, args, tokens);
  auto* const function = logits.dtype == DType::f32   ? kernel_of<float>(kernel)
                         : logits.dtype == DType::f16 ? kernel_of<tw::f16>(kernel)
                                                      : kernel_of<tw::bf16>(kernel);
  tw::emulator::launch(function,
                       {.grid = launch.grid,
                        .block = launch.block,
                        .shared_bytes = launch.shared_bytes,
                        .cluster = launch.cluster,
                        .seed = seed},
                       launch.params);
}

// Rows of one kind, some elements apart.
Tensor make_logits(RowKind kind, std::int64_t rows, std::int64_t vocabulary, DType dtype,
                   std::int64_t gap, Random& random) {
  Tensor logits(dtype, {rows, vocabulary}, {vocabulary + gap, 1});
  for (std::int64_t r = 0; r < rows; ++r) {
    const Row row = make_row(random, kind, vocabulary);
    for (std::int64_t i = 0; i < vocabulary; ++i) {
      store_element(logits.view().data, dtype, r * (vocabulary + gap) + i,
                    row[static_cast<std::size_t>(i)]);
    }
  }
  return logits;
}

class SampleOnCuda : public testing::TestWithParam<SampleKernel> {
 protected:
  void emulate(const TensorView& logits, const SamplingArgs& args, const TensorView& tokens,
               std::uint64_t seed = 1) {
    test::emulate(GetParam(), logits, args, tokens, seed);
  }
  // The same tokens, and the same status.
  void expect_same_tokens(const Tensor& logits, SamplingArgs args, std::uint64_t seed = 1);
};

void SampleOnCuda::expect_same_tokens(const Tensor& logits, SamplingArgs args, std::uint64_t seed) {
  SampleKernel kernel = GetParam();
  if (kernel == SampleKernel::cluster) {
    kernel = choose_sample_kernel("sm_90a", logits.view().dtype, logits.shape()[1], args);
    if (kernel == SampleKernel::block) return;
  }
  const std::int64_t rows = logits.shape()[0];
  Tensor got(DType::i64, {rows}, {2});
  Tensor got_status(DType::i32, {rows}, {3});
  Tensor expected(DType::i32, {rows});
  Tensor expected_status(DType::i32, {rows});
  args.status = got_status.view();
  test::emulate(kernel, logits.view(), args, got.view(), seed);
  args.status = expected_status.view();
  sample(logits.view(), args, expected.view());
  for (std::int64_t r = 0; r < rows; ++r) {
    ASSERT_EQ(got.get({r}), expected.get({r})) << "row " << r;
    ASSERT_EQ(got_status.get({r}), expected_status.get({r})) << "row " << r;
  }
  ASSERT_TRUE(got.guards_intact());
  ASSERT_TRUE(got_status.guards_intact());
}

struct Filters {
  float temperature;
  std::int32_t top_k;
  float top_p;
  float min_p;
};
constexpr Filters kFilters[] = {
    {1, 0, 1, 0},           {0, 0, 1, 0},           {0.7F, 1, 1, 0},      {1, 40, 1, 0},
    {1.3F, 0, 0.9F, 0},     {1, 0, 1, 0.05F},       {1, 50, 0.8F, 0},     {0.8F, 300, 0.95F, 0.02F},
    {1, 0, 0, 0},           {INFINITY, 0, 0.5F, 0}, {1e-30F, 0, 0.5F, 0}, {2, 7, 0.3F, 1},
    {1, 100000, 0.9999F, 0}};

TEST_P(SampleOnCuda, SameTokensAsTheCpu) {
  Random random(1);
  for (int kind = 0; kind < static_cast<int>(RowKind::count); ++kind) {
    // Less than a run, ends inside a run, and several stretches.
    for (const std::int64_t vocabulary : {1, 5, 100, 1003}) {
      const Tensor logits =
          make_logits(static_cast<RowKind>(kind), 3, vocabulary, DType::f32, 5, random);
      const std::int64_t steps[] = {0, 1, 1LL << 40};
      for (const Filters& filters : kFilters) {
        if (vocabulary < 100 && (&filters - kFilters) % 4 != kind % 4) continue;
        SamplingArgs args;
        args.temperature = filters.temperature;
        args.top_k = filters.top_k;
        args.top_p = filters.top_p;
        args.min_p = filters.min_p;
        args.seeds = static_cast<std::int64_t>(random.bits());
        args.steps = TensorView(steps, DType::i64, {3});
        SCOPED_TRACE(testing::Message() << "kind " << kind << " vocabulary " << vocabulary
                                        << " filters " << &filters - kFilters);
        expect_same_tokens(logits, args);
      }
    }
  }
}

TEST_P(SampleOnCuda, EveryDTypeAndAlignedRows) {
  Random random(2);
  for (const DType dtype : {DType::f32, DType::f16, DType::bf16}) {
    for (const std::int64_t gap : {0, 8, 1}) {
      const Tensor logits = make_logits(RowKind::normal, 2, 1064, dtype, gap, random);
      EXPECT_EQ(
          sample_launch(GetParam(), logits.view(), {}, int_tensor({0, 0}).view()).params.aligned,
          gap % 8 == 0);
      for (std::int64_t step = 0; step < 4; ++step) {
        SamplingArgs args;
        args.top_k = 30;
        args.top_p = 0.9F;
        args.steps = step;
        expect_same_tokens(logits, args, static_cast<std::uint64_t>(step));
      }
    }
  }
}

TEST_P(SampleOnCuda, InfinitiesAndNothing) {
  Random random(3);
  Tensor logits = make_logits(RowKind::normal, 3, 200, DType::f32, 0, random);
  for (const std::int64_t i : {3, 50, 51, 52, 199}) logits.set({0, i}, INFINITY);
  for (std::int64_t i = 0; i < 200; ++i) logits.set({1, i}, i % 2 == 0 ? -INFINITY : NAN);
  logits.set({2, 70}, NAN);
  for (const Filters& filters : kFilters) {
    for (std::int64_t step = 0; step < 5; ++step) {
      SamplingArgs args;
      args.temperature = filters.temperature;
      args.top_k = filters.top_k;
      args.top_p = filters.top_p;
      args.min_p = filters.min_p;
      args.steps = step;
      expect_same_tokens(logits, args);
    }
  }
}

TEST_P(SampleOnCuda, ParametersOfEachRow) {
  Random random(4);
  const Tensor logits = make_logits(RowKind::quantised, 4, 500, DType::f32, 0, random);
  const Tensor temperature = float_tensor({0, 0.5, 1, 2});
  const Tensor top_p = float_tensor({0.5, 0.9, 1, 0.1});
  const Tensor min_p = float_tensor({0, 0.1, 1, 0});
  const Tensor top_k = int_tensor({1, 0, 300, -4});
  Tensor seeds(DType::i64, {4}, {3});
  for (std::int64_t r = 0; r < 4; ++r) seeds.set({r}, static_cast<double>(r) - 2);
  SamplingArgs args;
  args.temperature = temperature.view();
  args.top_p = top_p.view();
  args.min_p = min_p.view();
  args.top_k = top_k.view();
  args.seeds = seeds.view();
  for (std::int64_t step = 0; step < 10; ++step) {
    args.steps = step;
    expect_same_tokens(logits, args);
  }
}

// On the CPU these are errors.
TEST_P(SampleOnCuda, BadParametersActAsGoodOnes) {
  Random random(5);
  const Tensor logits = make_logits(RowKind::normal, 4, 100, DType::f32, 0, random);
  const Tensor bad_temperature = float_tensor({-1, NAN, 1, 1});
  const Tensor bad_top_p = float_tensor({1, 1, NAN, 1});
  const Tensor bad_min_p = float_tensor({0, NAN, -2, 7});
  const Tensor temperature = float_tensor({0, 0, 1, 1});
  const Tensor min_p = float_tensor({0, 0, 0, 1});
  SamplingArgs bad;
  bad.temperature = bad_temperature.view();
  bad.top_p = bad_top_p.view();
  bad.min_p = bad_min_p.view();
  SamplingArgs good;
  good.temperature = temperature.view();
  good.min_p = min_p.view();
  Tensor got(DType::i32, {4});
  Tensor expected(DType::i32, {4});
  emulate(logits.view(), bad, got.view());
  sample(logits.view(), good, expected.view());
  EXPECT_EQ(got.snapshot(), expected.snapshot());
  // The status says so, of these rows alone.
  const Tensor one_bad = float_tensor({1, 2, -1, 1});
  Tensor status(DType::i32, {4});
  bad = {};
  bad.temperature = one_bad.view();
  bad.status = status.view();
  emulate(logits.view(), bad, got.view());
  EXPECT_EQ(status.snapshot(), int_tensor({0, 0, 8, 0}).snapshot());
}

TEST_P(SampleOnCuda, Slots) {
  Random random(8);
  const Tensor logits = make_logits(RowKind::normal, 5, 300, DType::f32, 0, random);
  const Tensor temperature = float_tensor({0, 0.5, 2});
  const Tensor top_k = int_tensor({0, 7, 100});
  Tensor seeds(DType::i64, {3}, {2});
  for (std::int64_t s = 0; s < 3; ++s) seeds.set({s}, static_cast<double>(s * 17));
  Tensor slots(DType::i32, {5}, {2});
  for (std::int64_t r = 0; r < 5; ++r) slots.set({r}, static_cast<double>((r * 2 + 1) % 3));
  SamplingArgs args;
  args.temperature = temperature.view();
  args.top_k = top_k.view();
  args.seeds = seeds.view();
  args.slots = slots.view();
  for (std::int64_t step = 0; step < 8; ++step) {
    args.steps = step;
    expect_same_tokens(logits, args);
  }
  // Out of range: token 0, and the status says so; the other rows do not notice.
  Tensor got(DType::i32, {5});
  Tensor expected(DType::i32, {5});
  sample(logits.view(), args, expected.view());
  for (const double bad : {-1.0, 3.0, 2147483647.0, -2147483648.0}) {
    slots.set({2}, bad);
    Tensor status(DType::i32, {5});
    args.status = status.view();
    emulate(logits.view(), args, got.view());
    expected.set({2}, 0);
    EXPECT_EQ(got.snapshot(), expected.snapshot());
    EXPECT_EQ(status.snapshot(), int_tensor({0, 0, 16, 0, 0}).snapshot());
  }
}

TEST_P(SampleOnCuda, Processing) {
  Random random(9);
  for (int round = 0; round < 60; ++round) {
    const std::int64_t vocabulary = random.pick<std::int64_t>({1, 31, 32, 33, 300, 1003});
    const ProcessTables tables(random, 3, vocabulary, random.pick<std::int64_t>({1, 5, 40}));
    const auto kind = random.range(0, static_cast<std::int64_t>(RowKind::count) - 1);
    const DType dtype = random.pick({DType::f32, DType::f16, DType::bf16});
    const Tensor logits = make_logits(static_cast<RowKind>(kind), 3, vocabulary, dtype,
                                      random.pick<std::int64_t>({0, 1}), random);
    Tensor slots(DType::i32, {3});
    for (std::int64_t r = 0; r < 3; ++r) {
      slots.set({r}, static_cast<double>(random.range(0, 2)));
    }
    SamplingArgs args;
    tables.give(random, args);
    if (random.chance(0.7)) args.slots = slots.view();
    args.temperature = random.pick({0.0F, 0.8F, 1.5F});
    args.top_k = random.pick({0, 20});
    args.top_p = random.pick({1.0F, 0.9F});
    args.seeds = static_cast<std::int64_t>(random.bits());
    SCOPED_TRACE(round);
    expect_same_tokens(logits, args);
  }
}

// With more ids than the filter has bits some share one.
TEST_P(SampleOnCuda, BiasesOfALongRow) {
  Random random(10);
  const Tensor logits = make_logits(RowKind::normal, 1, 70001, DType::f32, 0, random);
  const Tensor ids = int_tensor({5, 5 + 32768, 5 + 65536, 70000, 5, -1});
  const Tensor values = float_tensor({3, -9, 2, 5, 4, 100});
  SamplingArgs args;
  args.bias_ids = ids.view().unsqueeze(0);
  args.bias_values = values.view().unsqueeze(0);
  args.temperature = 0.1F;
  expect_same_tokens(logits, args);
}

TEST_P(SampleOnCuda, BadPenaltiesAndBiasesAreNotThere) {
  Random random(11);
  const Tensor logits = make_logits(RowKind::normal, 4, 100, DType::f32, 0, random);
  Tensor counts(DType::i32, {4, 100});
  for (std::int64_t i = 0; i < 400; ++i) counts.set({i / 100, i % 100}, static_cast<double>(i % 3));
  const Tensor repetition = float_tensor({0, NAN, -2, 1.5});
  const Tensor frequency = float_tensor({NAN, INFINITY, 0.5, 0.5});
  const Tensor presence = float_tensor({-INFINITY, 1, NAN, 0.1});
  const Tensor good_repetition = float_tensor({1, 1, 1, 1.5});
  const Tensor good_frequency = float_tensor({0, 0, 0.5, 0.5});
  const Tensor good_presence = float_tensor({0, 1, 0, 0.1});
  Tensor got(DType::i32, {4});
  Tensor status(DType::i32, {4});
  Tensor expected(DType::i32, {4});
  SamplingArgs args;
  args.output_counts = counts.view();
  SamplingArgs good = args;
  args.repetition_penalty = repetition.view();
  args.frequency_penalty = frequency.view();
  args.presence_penalty = presence.view();
  args.status = status.view();
  good.repetition_penalty = good_repetition.view();
  good.frequency_penalty = good_frequency.view();
  good.presence_penalty = good_presence.view();
  emulate(logits.view(), args, got.view());
  sample(logits.view(), good, expected.view());
  EXPECT_EQ(got.snapshot(), expected.snapshot());
  EXPECT_EQ(status.snapshot(), int_tensor({8, 8, 8, 0}).snapshot());
  // Ids out of range.
  Tensor ids(DType::i32, {4, 2});
  Tensor values(DType::f32, {4, 2});
  for (std::int64_t r = 0; r < 4; ++r) {
    for (const std::int64_t j : {0, 1}) {
      ids.set({r, j}, r == 0 ? 100 : (r == 1 ? -2 : 3));
      values.set({r, j}, 50);
    }
  }
  args = {};
  args.bias_ids = ids.view();
  args.bias_values = values.view();
  args.status = status.view();
  emulate(logits.view(), args, got.view());
  sample(logits.view(), {}, expected.view());
  EXPECT_EQ(status.snapshot(), int_tensor({8, 8, 0, 0}).snapshot());
  for (const std::int64_t r : {0, 1}) EXPECT_EQ(got.get({r}), expected.get({r}));
  for (const std::int64_t r : {2, 3}) EXPECT_EQ(got.get({r}), 3);
}

// Random combinations of everything.
TEST_P(SampleOnCuda, AnyArguments) {
  Random random(12);
  for (int round = 0; round < 150; ++round) {
    const std::int64_t vocabulary = random.pick<std::int64_t>({1, 33, 300, 1003});
    const auto kind = random.range(0, static_cast<std::int64_t>(RowKind::count) - 1);
    Tensor logits = make_logits(static_cast<RowKind>(kind), 2, vocabulary, DType::f32,
                                random.pick<std::int64_t>({0, 1}), random);
    if (random.chance(0.1)) logits.set({0, random.range(0, vocabulary - 1)}, INFINITY);
    const ProcessTables tables(random, 2, vocabulary, 3);
    SamplingArgs args;
    if (random.chance(0.2)) tables.give(random, args);
    args.order = random.pick(
        {FilterOrder::hf, FilterOrder::joint, FilterOrder::vllm, FilterOrder::llamacpp});
    args.temperature = random.pick({0.05F, 0.7F, 1.0F, 3.0F, INFINITY});
    if (random.chance(0.6)) args.top_k = random.pick({1, 2, 50, 300, 2000});
    if (random.chance(0.6)) args.top_p = random.pick({0.0F, 0.1F, 0.5F, 0.9F, 0.999F, 2.0F});
    if (random.chance(0.6)) args.min_p = random.pick({1e-5F, 0.05F, 0.5F, 1.0F});
    if (random.chance(0.5)) {
      args.typical_p = random.pick({1e-6F, 0.2F, 0.5F, 0.9F, 0.999F, 0.9999999F, 0.0F});
    }
    args.seeds = static_cast<std::int64_t>(random.bits());
    SCOPED_TRACE(testing::Message() << "round " << round << " kind " << kind << " order "
                                    << static_cast<int>(args.order));
    expect_same_tokens(logits, args, static_cast<std::uint64_t>(round));
  }
}

// The last warp's first token is one of the k largest, and few are behind it: what fills its step
// is no token that counts.
TEST_P(SampleOnCuda, ShortStepsAtTheEnd) {
  Random random(14);
  for (const std::int64_t vocabulary : {900, 960, 970, 1003, 1024, 9000}) {
    Tensor logits = make_logits(RowKind::normal, 1, vocabulary, DType::f32, 0, random);
    const std::int64_t last = vocabulary / 128 * 128 - (vocabulary % 128 == 0 ? 128 : 0);
    for (const std::int64_t i : {std::int64_t{3}, std::int64_t{300}, last})
      logits.set({0, i}, 30 + static_cast<double>(i % 3) / 8);
    logits.set({0, 500}, 29.75);
    SamplingArgs args;
    args.top_k = 4;
    args.temperature = 2;
    for (std::int64_t step = 0; step < 40; ++step) {
      args.steps = step;
      SCOPED_TRACE(testing::Message() << "vocabulary " << vocabulary << " step " << step);
      expect_same_tokens(logits, args);
    }
  }
}

TEST_P(SampleOnCuda, LongRows) {
  Random random(6);
  // Stretches of many steps for one kernel; clusters of several blocks for the other one.
  const bool clusters = GetParam() == SampleKernel::cluster;
  for (const RowKind kind : {RowKind::with_nan, RowKind::flat, RowKind::quantised, RowKind::masked,
                             RowKind::geometric, RowKind::ascending, RowKind::misleading,
                             RowKind::denormal, RowKind::peaks, RowKind::one_peak, RowKind::wide}) {
    const DType dtype =
        kind == RowKind::quantised || kind == RowKind::wide ? DType::bf16 : DType::f32;
    const Tensor logits = make_logits(kind, 1, clusters ? 40003 : 300001, dtype, 0, random);
    SamplingArgs args;
    args.top_k = 1000;
    args.top_p = 0.7F;
    expect_same_tokens(logits, args);
    // A short list, alone and behind another filter.
    for (const FilterOrder order : {FilterOrder::hf, FilterOrder::joint}) {
      args.top_k = 30;
      args.min_p = 0.01F;
      args.order = order;
      expect_same_tokens(logits, args);
    }
    args.order = FilterOrder::hf;
    args.top_k = 0;
    args.min_p = 0;
    expect_same_tokens(logits, args);
    args.top_p = 1;
    args.steps = 1;
    expect_same_tokens(logits, args);
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, SampleOnCuda,
                         testing::Values(SampleKernel::block, SampleKernel::cluster),
                         [](const auto& kernel) {
                           return kernel.param == SampleKernel::block ? "Block" : "Cluster";
                         });

TEST(SampleKernels, AreChosenByArchitectureAndVocabulary) {
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::f32, 128256, {}), SampleKernel::cluster);
  EXPECT_EQ(choose_sample_kernel("sm_100", DType::f32, 262144, {}), SampleKernel::cluster);
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::f32, 262145, {}), SampleKernel::block);
  EXPECT_EQ(choose_sample_kernel("sm_90", DType::f32, 1000, {}), SampleKernel::block);
  EXPECT_EQ(choose_sample_kernel("sm_80", DType::f32, 1000, {}), SampleKernel::block);
  SamplingArgs args;
  args.typical_p = 0.9F;
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::f32, 1000, args), SampleKernel::block);
  args = {};
  args.order = FilterOrder::llamacpp;
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::f32, 1000, args), SampleKernel::block);
  args.order = FilterOrder::vllm;
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::f32, 1000, args), SampleKernel::cluster);
  args.min_p = 0.1F;
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::f32, 1000, args), SampleKernel::block);
  // 16-bit logits have room for more, but not where they are changed.
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::bf16, 300000, {}), SampleKernel::cluster);
  args = {};
  args.presence_penalty = 0.5F;
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::bf16, 1000, args), SampleKernel::cluster_f32);
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::bf16, 300000, args), SampleKernel::block);
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::f32, 1000, args), SampleKernel::cluster);
  // With outputs rows are kept as f32.
  const Tensor chosen = float_tensor({0});
  args = {};
  args.outputs.raw.chosen = chosen.view();
  EXPECT_EQ(choose_sample_kernel("sm_80", DType::f32, 1000, args), SampleKernel::outputs);
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::f32, 1000, args), SampleKernel::cluster_outputs);
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::bf16, 262144, args),
            SampleKernel::cluster_outputs);
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::bf16, 262145, args), SampleKernel::outputs);
  args.typical_p = 0.5F;
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::f32, 1000, args), SampleKernel::outputs);
  args.input = SamplingInput::probabilities;
  EXPECT_EQ(choose_sample_kernel("sm_90a", DType::f32, 1000, args), SampleKernel::probabilities);
  EXPECT_EQ(sample_kernel_sources("sm_80").size(), 9U);
  EXPECT_EQ(sample_kernel_sources("sm_90a").size(), 17U);
}

// The numbers behind the filters, at the corners that rows seldom reach.
TEST(SampleKernels, QuotientsAreRounded) {
  __extension__ using Uint128 = unsigned __int128;
  Random random(13);
  for (int i = 0; i < 20000; ++i) {
    const std::uint64_t divisor = (random.bits() >> (1 + random.bits() % 62)) + 1;
    const std::uint64_t quotient = random.bits() >> (42 + random.bits() % 20);
    const Uint128 dividend = Uint128{divisor} * quotient + random.bits() % divisor;
    const auto expected = static_cast<std::uint32_t>((dividend + divisor / 2) / divisor);
    const tw::Wide wide{static_cast<std::uint64_t>(dividend >> 64),
                        static_cast<std::uint64_t>(dividend)};
    ASSERT_EQ(tw::rounded_quotient(wide, divisor), expected);
  }
}

TEST(SampleKernels, MassTargets) {
  __extension__ using Uint128 = unsigned __int128;
  Random random(7);
  for (int i = 0; i < 20000; ++i) {
    const std::uint64_t total = random.bits() >> (1 + random.bits() % 60);
    const auto p =
        static_cast<float>(std::ldexp(random.uniform(), -static_cast<int>(random.bits() % 70)));
    if (!(p > 0 && p < 1) || total == 0) continue;
    int exponent = 0;
    const auto mantissa = static_cast<std::uint64_t>(std::frexp(p, &exponent) * 0x1.0p24F);
    const int shift = 24 - exponent;
    const Uint128 product = Uint128{mantissa} * total;
    const auto expected =
        static_cast<std::uint64_t>((product + ((Uint128{1} << shift) - 1)) >> shift);
    ASSERT_EQ(tw::mass_target(p, total), expected) << p << " " << total;
    ASSERT_EQ(tw::least_weight(p, 1ULL << 40),
              static_cast<std::uint64_t>(std::ceil(std::ldexp(static_cast<double>(p), 40))));
  }
  EXPECT_EQ(tw::mass_target(0, 1000), 1U);
  EXPECT_EQ(tw::mass_target(1e-40F, 1ULL << 62), 1U);
  EXPECT_EQ(tw::mass_target(-1, 1000), 1U);
  EXPECT_EQ(tw::least_weight(1, 1ULL << 40), 1ULL << 40);
  EXPECT_EQ(tw::least_weight(1e-42F, 1ULL << 40), 1U);
}

}  // namespace
}  // namespace tilewright::test
