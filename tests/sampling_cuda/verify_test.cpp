// SPDX-License-Identifier: Apache-2.0
// Speculative verification's kernels in the emulator: the results of the CPU, whatever is asked.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <tilewright/speculative.h>

#include "runtime/launch.h"
#include "sampling/cuda_verify.h"
#include "sampling/process_support.h"
#include "sampling/residual.h"
#include "sampling/verify_cluster.h"
#include "sampling/verify_cluster_masses.h"
#include "sampling/verify_decisions.h"
#include "sampling/verify_draws.h"
#include "sampling/verify_requests.h"
#include "sampling/verify_support.h"

namespace tilewright::test {
namespace {

using testing::ElementsAre;

using Kernel = void (*)(tw::VerifyParams);

template <typename T>
Kernel kernel_of(VerifyKernel kernel) {
  constexpr Kernel kKernels[kVerifyKernels] = {
      [](tw::VerifyParams p) { tw::verify_rows<T>(p); },
      [](tw::VerifyParams p) { tw::verify_requests<T>(p); },
      [](tw::VerifyParams p) { tw::verify_maxima<T>(p); },
      [](tw::VerifyParams p) { tw::verify_masses<T>(p); },
      [](tw::VerifyParams p) { tw::verify_cluster_masses<T>(p); },
      [](tw::VerifyParams p) { tw::verify_cluster<T, T>(p); },
      [](tw::VerifyParams p) { tw::verify_cluster<float, T>(p); },
      [](tw::VerifyParams p) { tw::verify_decisions<T>(p); },
      [](tw::VerifyParams p) { tw::verify_draws<T>(p); }};
  return kKernels[static_cast<int>(kernel)];
}

// As a GPU of an architecture would.
void emulate(const VerifyCall& call, const std::string& arch, std::uint64_t seed) {
  for (const VerifyKernel kernel : verify_kernels(arch, call)) {
    CudaLaunch<tw::VerifyParams> launch = verify_launch(kernel, call);
    // As on a GPU with room for two clusters: most have several rows.
    if (kernel == VerifyKernel::cluster_masses)
      launch.grid = std::min(launch.grid, 2 * launch.cluster);
    const Kernel function = call.target.dtype == DType::f32   ? kernel_of<float>(kernel)
                            : call.target.dtype == DType::f16 ? kernel_of<tw::f16>(kernel)
                                                              : kernel_of<tw::bf16>(kernel);
    tw::emulator::launch(function,
                         {.grid = launch.grid,
                          .block = launch.block,
                          .shared_bytes = launch.shared_bytes,
                          .cluster = launch.cluster,
                          .seed = seed},
                         launch.params);
  }
}

// A call's inputs: a chain where `tree` has no tokens.
struct Inputs {
  Tensor target;
  Tensor drafts;  // of a chain
  TensorView counts;
  const TreeTensors* tree = nullptr;
  std::int64_t length;
  VerifyArgs args;

  VerifyResults on_cpu() const {
    VerifyResults results(target.shape()[0], length, DType::i32);
    VerifyArgs with_status = args;
    with_status.status = results.status.view();
    if (tree == nullptr) {
      verify_chain(target.view(), drafts.view(), counts, with_status, results.tokens.view(),
                   results.emitted.view(), results.accepted.view());
    } else {
      verify_tree(target.view(), tree->view(), with_status, results.tokens.view(),
                  results.nodes.view(), results.emitted.view());
    }
    return results;
  }

  VerifyResults emulated(const std::string& arch = "sm_80", std::uint64_t seed = 1) const {
    const std::int64_t requests = target.shape()[0];
    VerifyResults results(requests, length, DType::i64);
    Tensor workspace(DType::i64, {verify_workspace_size(requests, target.shape()[1])});
    VerifyArgs all = args;
    all.status = results.status.view();
    all.workspace = workspace.view();
    const TensorView none;
    const bool chain = tree == nullptr;
    const VerifyCall call = {target.view(),
                             chain ? drafts.view() : tree->tokens.view(),
                             counts,
                             chain ? none : tree->next_token.view(),
                             chain ? none : tree->next_sibling.view(),
                             all,
                             results.tokens.view(),
                             chain ? none : results.nodes.view(),
                             results.emitted.view(),
                             chain ? results.accepted.view() : none};
    emulate(call, arch, seed);
    EXPECT_TRUE(workspace.guards_intact());
    return results;
  }
};

void expect_same(const Inputs& inputs, std::uint64_t seed = 1) {
  const VerifyResults expected = inputs.on_cpu();
  for (const char* arch : {"sm_80", "sm_90a"}) {
    SCOPED_TRACE(arch);
    const VerifyResults got = inputs.emulated(arch, seed);
    for (std::int64_t r = 0; r < inputs.target.shape()[0]; ++r) {
      ASSERT_EQ(got.tokens_of(r), expected.tokens_of(r)) << "request " << r;
      ASSERT_EQ(got.emitted.get({r}), expected.emitted.get({r})) << "request " << r;
      ASSERT_EQ(got.status.get({r}), expected.status.get({r})) << "request " << r;
    }
    // Between their elements there is what was there.
    ASSERT_EQ(got.nodes.snapshot(), expected.nodes.snapshot());
    ASSERT_EQ(got.accepted.snapshot(), expected.accepted.snapshot());
    ASSERT_TRUE(got.tokens.guards_intact());
    ASSERT_TRUE(got.emitted.guards_intact());
    ASSERT_TRUE(got.status.guards_intact());
    if (inputs.tree != nullptr) return;
  }
}

// A draft token now and then, the likely one of its row otherwise: so that chains go on.
std::int64_t pick_token(Random& random, const Tensor& rows, std::int64_t request,
                        std::int64_t node) {
  const std::int64_t vocabulary = rows.shape()[2];
  std::int64_t best = random.range(0, vocabulary - 1);
  if (random.chance(0.4)) return best;
  for (int tries = 0; tries < 8; ++tries) {
    const std::int64_t other = random.range(0, vocabulary - 1);
    if (rows.get({request, node, other}) > rows.get({request, node, best})) best = other;
  }
  return best;
}

void give_filters(Random& random, SamplingArgs& args) {
  args.order =
      random.pick({FilterOrder::hf, FilterOrder::joint, FilterOrder::vllm, FilterOrder::llamacpp});
  args.temperature = random.pick({0.0F, 0.05F, 0.7F, 1.0F, 1.0F, 3.0F, INFINITY});
  if (random.chance(0.4)) args.top_k = random.pick({1, 2, 50, 300, 2000});
  if (random.chance(0.4)) args.top_p = random.pick({0.0F, 0.1F, 0.5F, 0.9F, 0.999F, 2.0F});
  if (random.chance(0.3)) args.min_p = random.pick({1e-5F, 0.05F, 0.5F, 1.0F});
  if (random.chance(0.3)) args.typical_p = random.pick({1e-6F, 0.2F, 0.5F, 0.9F, 0.999F});
}

// What calls of chains and trees choose from; tensors that a call refers to live here.
struct RandomCall {
  static constexpr std::int64_t kRequests = 3;
  Random& random;
  std::int64_t nodes;
  std::int64_t vocabulary = random.pick<std::int64_t>({1, 2, 33, 100, 1003});
  DType dtype = random.pick({DType::f32, DType::f32, DType::f16, DType::bf16});
  bool probabilities = random.chance(0.25);
  Inputs inputs;
  Tensor draft;
  ProcessTables tables{random, kRequests, vocabulary, 3};
  Tensor slots{DType::i32, {kRequests}, {2}};
  Tensor seeds{DType::i64, {kRequests}, {1}};
  Tensor allowed;
  Tensor coins;
  Tensor final_coins;

  RandomCall(Random& source, std::int64_t node_count, std::int64_t draft_rows)
      : random(source), nodes(node_count) {
    VerifyArgs& args = inputs.args;
    args.input = probabilities ? VerifyInput::probabilities : VerifyInput::logits;
    inputs.target = rows(nodes);
    inputs.length = nodes;
    if (draft_rows > 0 && random.chance(0.6)) {
      draft = rows(draft_rows);
      if (random.chance(0.7)) pull_towards(inputs.target, draft, random.pick({1.0, 0.9, 0.5}));
      args.draft = draft.view();
    }
    if (random.chance(0.5)) give_filters(random, args.sampling);
    if (random.chance(0.2)) tables.give(random, args.sampling);
    for (std::int64_t r = 0; r < kRequests; ++r) {
      slots.set({r}, static_cast<double>(random.range(0, kRequests - 1)));
      seeds.set({r}, static_cast<double>(random.range(-1000, 1000)));
    }
    args.sampling.seeds = seeds.view();
    args.sampling.steps = random.pick<std::int64_t>({0, 7, 1LL << 40, -2});
    if (random.chance(0.4)) args.sampling.slots = slots.view();
    if (random.chance(0.2)) give_masks();
    if (random.chance(0.2)) args.threshold_single = random.pick({0.0F, 0.01F, 0.3F});
    if (random.chance(0.2)) args.threshold_acc = random.pick({0.0F, 0.1F, 0.6F});
  }

  Tensor rows(std::int64_t count) const {
    const auto kind =
        static_cast<RowKind>(random.range(0, static_cast<std::int64_t>(RowKind::count) - 1));
    const Extents shape = {kRequests, count, vocabulary};
    Tensor tensor = random_rows(random, kind, shape, dtype, probabilities,
                                random.pick<std::int64_t>({0, 8, 1}));
    if (random.chance(0.15)) tensor.set({0, 0, random.range(0, vocabulary - 1)}, INFINITY);
    return tensor;
  }

  void give_masks() {
    const std::int64_t words = (vocabulary + 31) / 32;
    allowed = Tensor(DType::i32, {kRequests, nodes, words}, {words * nodes + 5, words, 1});
    for (std::int64_t i = 0; i < kRequests * nodes * words; ++i) {
      allowed.set({i / (nodes * words), i / words % nodes, i % words},
                  static_cast<std::int32_t>(random.bits() | random.bits()));
    }
    inputs.args.allowed = allowed.view();
  }

  void give_coins(std::int64_t columns) {
    const DType of_coins = random.pick({DType::f32, DType::i64});
    coins = Tensor(of_coins, {kRequests, columns}, {columns + 1, 1});
    final_coins = Tensor(of_coins, {kRequests}, {2});
    const auto coin = [&] {
      return of_coins == DType::f32 ? random.uniform() : static_cast<double>(random.bits() >> 1);
    };
    for (std::int64_t r = 0; r < kRequests; ++r) {
      for (std::int64_t i = 0; i < columns; ++i) coins.set({r, i}, coin());
      final_coins.set({r}, coin());
    }
    if (random.chance(0.7)) inputs.args.coins = coins.view();
    if (random.chance(0.7)) inputs.args.final_coins = final_coins.view();
  }
};

TEST(VerifyOnCuda, AnyChain) {
  Random random(1);
  std::int64_t accepted = 0;
  for (std::uint64_t round = 0; round < 150; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    const std::int64_t drafts = random.range(0, 4);
    RandomCall call(random, drafts + 1, drafts);
    Inputs& inputs = call.inputs;
    inputs.drafts = Tensor(random.pick({DType::i32, DType::i64}), {3, drafts}, {drafts + 2, 1});
    Tensor counts(DType::i32, {3}, {2});
    for (std::int64_t r = 0; r < 3; ++r) {
      counts.set({r}, static_cast<double>(random.range(0, drafts)));
      for (std::int64_t i = 0; i < drafts; ++i) {
        inputs.drafts.set({r, i}, static_cast<double>(pick_token(random, inputs.target, r, i)));
      }
    }
    if (random.chance(0.5)) inputs.counts = counts.view();
    if (drafts > 0 && random.chance(0.4)) call.give_coins(drafts);
    expect_same(inputs, round);
    if (testing::Test::HasFatalFailure()) return;
    const VerifyResults results = inputs.on_cpu();
    for (std::int64_t r = 0; r < 3; ++r) {
      accepted += static_cast<std::int64_t>(results.emitted.get({r}));
    }
  }
  // Chains of every length were there.
  EXPECT_GT(accepted, 200);
}

TEST(VerifyOnCuda, AnyTree) {
  Random random(2);
  std::int64_t accepted = 0;
  for (std::uint64_t round = 0; round < 150; ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    const std::int64_t nodes = random.range(1, 9);
    RandomCall call(random, nodes, nodes);
    Inputs& inputs = call.inputs;
    TreeTensors tree =
        random_trees(random, 3, nodes, call.vocabulary, random.pick({DType::i32, DType::i64}));
    for (std::int64_t r = 0; r < 3; ++r) {
      for (std::int64_t node = 1; node < nodes; ++node) {
        const auto parent = static_cast<std::int64_t>(tree.parents.get({r, node}));
        if (parent < 0) continue;
        tree.tokens.set({r, node},
                        static_cast<double>(pick_token(random, inputs.target, r, parent)));
      }
    }
    inputs.tree = &tree;
    if (random.chance(0.3)) inputs.length = random.range(1, nodes);
    if (random.chance(0.4)) call.give_coins(nodes);
    expect_same(inputs, round);
    if (testing::Test::HasFatalFailure()) return;
    const VerifyResults results = inputs.on_cpu();
    for (std::int64_t r = 0; r < 3; ++r) {
      accepted += static_cast<std::int64_t>(results.emitted.get({r}));
    }
  }
  EXPECT_GT(accepted, 200);
}

TEST(VerifyOnCuda, LongRows) {
  Random random(3);
  for (const RowKind kind : {RowKind::normal, RowKind::flat, RowKind::quantised, RowKind::masked}) {
    Inputs inputs;
    inputs.target = random_rows(random, kind, {1, 3, 40003}, DType::f32, false);
    Tensor draft = random_rows(random, kind, {1, 2, 40003}, DType::f32, false);
    // Of equal rows a token that neither has leaves nothing.
    pull_towards(inputs.target, draft, kind == RowKind::masked ? 1 : 0.5);
    inputs.drafts = Tensor(DType::i32, {1, 2});
    for (std::int64_t i = 0; i < 2; ++i) {
      const std::int64_t token =
          kind == RowKind::masked ? 17 * i : pick_token(random, inputs.target, 0, i);
      inputs.drafts.set({0, i}, static_cast<double>(token));
    }
    inputs.length = 3;
    inputs.args.draft = draft.view();
    for (const float top_p : {1.0F, 0.9F}) {
      inputs.args.sampling.top_p = top_p;
      inputs.args.sampling.seeds = static_cast<std::int64_t>(random.bits());
      expect_same(inputs);
    }
    // What is done to logits goes by ids in the whole row.
    Tensor counts(DType::i32, {1, 40003});
    for (std::int64_t i = 0; i < 40003; ++i) counts.set({0, i}, static_cast<double>(i % 3));
    inputs.args.sampling.top_p = 1;
    inputs.args.sampling.output_counts = counts.view();
    inputs.args.sampling.frequency_penalty = 0.5F;
    expect_same(inputs);
  }
}

// On the CPU these are errors. With top-k, which does not change what is greedy, other kernels run.
class BadChainsOnCuda : public testing::TestWithParam<int> {};

TEST_P(BadChainsOnCuda, ActAsGoodOnes) {
  Random random(4);
  Inputs inputs;
  inputs.target = random_rows(random, RowKind::normal, {5, 3, 20}, DType::f32, false);
  inputs.drafts = Tensor(DType::i32, {5, 2});
  inputs.length = 3;
  for (std::int64_t r = 0; r < 5; ++r) {
    for (const std::int64_t i : {0, 1}) {
      std::int64_t best = 0;
      for (std::int64_t id = 1; id < 20; ++id) {
        if (inputs.target.get({r, i, id}) > inputs.target.get({r, i, best})) best = id;
      }
      inputs.drafts.set({r, i}, static_cast<double>(best));
    }
  }
  inputs.args.sampling.temperature = 0;
  inputs.args.sampling.top_k = GetParam();
  const Tensor good = int_tensor({0, 2, 2, 1, 1});
  inputs.counts = good.view();
  const VerifyResults expected = inputs.on_cpu();
  // Counts are clamped, tokens out of range are not accepted.
  const Tensor bad = int_tensor({-7, 3, 2, 2, 2});
  inputs.counts = bad.view();
  inputs.drafts.set({3, 1}, -1);
  inputs.drafts.set({4, 1}, 20);
  VerifyResults got = inputs.emulated();
  for (std::int64_t r = 0; r < 5; ++r) {
    EXPECT_EQ(got.tokens_of(r), expected.tokens_of(r)) << r;
    EXPECT_EQ(got.emitted.get({r}), expected.emitted.get({r})) << r;
    EXPECT_EQ(got.status.get({r}), r == 2 ? 0 : 8) << r;
  }
  // A slot out of range: the others do not notice.
  inputs.drafts.set({3, 1}, 0);
  inputs.drafts.set({4, 1}, 0);
  inputs.counts = good.view();
  const Tensor temperature = float_tensor({0, 0});
  const Tensor slots = int_tensor({0, 1, 2, -1, 0});
  inputs.args.sampling.temperature = temperature.view();
  inputs.args.sampling.slots = slots.view();
  got = inputs.emulated();
  for (const std::int64_t r : {2, 3}) {
    EXPECT_THAT(got.tokens_of(r), ElementsAre(0, -1, -1));
    EXPECT_EQ(got.emitted.get({r}), 0);
    EXPECT_EQ(got.status.get({r}), 16);
  }
  for (const std::int64_t r : {0, 1, 4}) EXPECT_EQ(got.tokens_of(r), expected.tokens_of(r)) << r;
}

INSTANTIATE_TEST_SUITE_P(TopK, BadChainsOnCuda, testing::Values(0, 5));

TEST(VerifyOnCuda, BadLinks) {
  Random random(5);
  Inputs inputs;
  inputs.target = random_rows(random, RowKind::flat, {1, 4, 6}, DType::f32, false);
  TreeTensors tree({1, 4}, DType::i64);
  const double parents[] = {-1, 0, 0, 1};
  for (std::int64_t node = 0; node < 4; ++node) {
    tree.parents.set({0, node}, parents[node]);
    tree.tokens.set({0, node}, 0);
  }
  tree.link();
  inputs.tree = &tree;
  inputs.length = 4;
  inputs.args.sampling.temperature = 0;
  EXPECT_THAT(inputs.emulated().tokens_of(0), ElementsAre(0, 0, 0, -1));
  // Back, to itself, behind the end: as no link.
  for (const double link : {0.0, 1.0, 4.0, -9.0, 1e15}) {
    tree.next_token.set({0, 1}, link);
    const VerifyResults got = inputs.emulated();
    EXPECT_THAT(got.tokens_of(0), ElementsAre(0, 0, -1, -1)) << link;
    EXPECT_EQ(got.status.get({0}), 8) << link;
  }
}

TEST(VerifyKernels, AreChosenByWhatActsOnRows) {
  Inputs inputs;
  inputs.target = Tensor(DType::f32, {1, 2, 100});
  inputs.drafts = Tensor(DType::i32, {1, 1});
  const VerifyCall call = {
      inputs.target.view(), inputs.drafts.view(), {}, {}, {}, inputs.args, {}, {}, {}, {}};
  const auto first = [&](const char* arch = "sm_80") { return verify_kernels(arch, call).front(); };
  SamplingArgs& sampling = inputs.args.sampling;
  EXPECT_EQ(first(), VerifyKernel::maxima);
  EXPECT_EQ(first("sm_90a"), VerifyKernel::cluster_masses);
  sampling.top_k = 100;
  sampling.temperature = 0.5F;
  EXPECT_EQ(first(), VerifyKernel::maxima);
  sampling.top_k = 99;
  EXPECT_EQ(first(), VerifyKernel::rows);
  EXPECT_EQ(first("sm_90a"), VerifyKernel::cluster);
  inputs.args.input = VerifyInput::probabilities;
  EXPECT_EQ(first(), VerifyKernel::masses);
  inputs.args.input = VerifyInput::logits;
  sampling.top_k = 0;
  const Tensor top_p = float_tensor({1});
  sampling.top_p = top_p.view();
  EXPECT_EQ(first(), VerifyKernel::rows);
  sampling.top_p = 1;
  sampling.typical_p = 0.5F;
  EXPECT_EQ(first(), VerifyKernel::rows);
  EXPECT_EQ(first("sm_90a"), VerifyKernel::rows);
  sampling.typical_p = 1;
  sampling.output_counts = top_p.view();
  EXPECT_EQ(first(), VerifyKernel::rows);
  EXPECT_EQ(first("sm_90a"), VerifyKernel::cluster);
  inputs.target = Tensor(DType::bf16, {1, 2, 100});
  const VerifyCall of_16_bits = {
      inputs.target.view(), inputs.drafts.view(), {}, {}, {}, inputs.args, {}, {}, {}, {}};
  // What is changed is not rounded.
  sampling.frequency_penalty = 1;
  EXPECT_EQ(verify_kernels("sm_90a", of_16_bits).front(), VerifyKernel::cluster_f32);
  sampling.frequency_penalty = 0;
  EXPECT_EQ(verify_kernels("sm_90a", of_16_bits).front(), VerifyKernel::cluster);
}

TEST(VerifyKernels, ArithmeticIsTheCpus) {
  Random random(7);
  for (int i = 0; i < 20000; ++i) {
    TokenPair pair;
    pair.target_mass = (random.bits() >> (random.bits() % 63)) | 1;
    pair.draft_mass = (random.bits() >> (1 + random.bits() % 62)) | 1;
    pair.target = random.chance(0.1) ? 0 : random.below(pair.target_mass) + 1;
    pair.draft = random.chance(0.1) ? 0 : random.below(pair.draft_mass) + 1;
    const tw::TokenPair on_gpu = {pair.target, pair.target_mass, pair.draft, pair.draft_mass};
    const std::uint64_t coin = random.pick({std::uint64_t{0}, ~std::uint64_t{0}, random.bits()});
    const float threshold = random.pick({1.0F, 0.3F, 1e-9F, 0.0F});
    ASSERT_EQ(tw::accepts(on_gpu, coin, threshold), accepts(pair, coin, threshold));
    const int shift = residual_shift(pair.target_mass, pair.draft_mass);
    ASSERT_EQ(tw::residual_shift(pair.target_mass, pair.draft_mass), shift);
    ASSERT_EQ(tw::residual_weight(on_gpu, shift), residual_weight(pair));
    // Of masses that rows may have.
    const std::uint64_t most_mass = (std::uint64_t{1} << 60) - 1;
    const std::uint64_t most_weight = (std::uint64_t{1} << 42) - 1;
    const TokenPair of_rows = {
        pair.target & most_weight, std::max(pair.target_mass & most_mass, 1UL),
        pair.draft & most_weight, std::max(pair.draft_mass & most_mass, 1UL)};
    const int small_shift = residual_shift(of_rows.target_mass, of_rows.draft_mass);
    ASSERT_EQ(
        tw::residual_of_weights(
            {of_rows.target, of_rows.target_mass, of_rows.draft, of_rows.draft_mass}, small_shift),
        residual_weight(of_rows));
    const auto number = static_cast<float>(std::ldexp(random.normal(), random.range(-50, 3)));
    ASSERT_EQ(tw::probability_weight(number), probability_weight(number));
    ASSERT_EQ(tw::coin_bits(number), coin_bits(number));
  }
  for (const float number : {0.0F, 1.0F, NAN, INFINITY, -INFINITY, 0x1.fffffep-1F}) {
    EXPECT_EQ(tw::probability_weight(number), probability_weight(number));
    EXPECT_EQ(tw::coin_bits(number), coin_bits(number));
  }
}

// By a conversion, also of NaN and of what weighs nothing.
TEST(VerifyKernels, ConvertedWeightsAreTheWeights) {
  Random random(6);
  for (int i = 0; i < 20000; ++i) {
    const auto largest = static_cast<float>(random.normal());
    const tw::WeightScale scale = {largest, tw::scale_of_temperature(random.pick({1.0F, 0.3F}))};
    const auto logit = static_cast<float>(largest - std::abs(random.normal()) * 12);
    ASSERT_EQ(tw::converted_weight(logit, scale), tw::token_weight(logit, scale)) << logit;
  }
  const tw::WeightScale scale = {2, tw::scale_of_temperature(1)};
  EXPECT_EQ(tw::converted_weight(2, scale), std::uint64_t{1} << tw::kWeightBits);
  EXPECT_EQ(tw::converted_weight(NAN, scale), 0U);
  EXPECT_EQ(tw::converted_weight(-INFINITY, scale), 0U);
}

TEST(VerifyKernels, OneOfEachForEveryDType) {
  EXPECT_EQ(verify_kernel_name(VerifyKernel::rows, DType::bf16), "verify_rows_bf16");
  EXPECT_EQ(verify_kernel_name(VerifyKernel::requests, DType::f32), "verify_requests_float");
  EXPECT_EQ(verify_kernel_sources("sm_80").size(), 18U);
  EXPECT_EQ(verify_kernel_sources("sm_90a").size(), 26U);
}

}  // namespace
}  // namespace tilewright::test
