// SPDX-License-Identifier: Apache-2.0
// Speculative verification on a GPU: the results of the CPU, both through the public API.
#include <tilewright/speculative.h>

#include "gpu/gpu_tensor.h"
#include "sampling/process_support.h"
#include "sampling/verify_support.h"

namespace tilewright::test {
namespace {

using VerifyOnGpu = GpuTest;

constexpr std::int64_t kRequests = 5;

// Parameters of each request, and what processes its logits.
struct RequestParameters {
  Mirror temperature{float_tensor({0, 1, 0.6, 1, 1.5})};
  Mirror top_k{int_tensor({0, 0, 50, 0, 1000})};
  Mirror top_p{float_tensor({1, 1, 0.9, 0.95, 0.8})};
  Mirror min_p{float_tensor({0, 0, 0, 0.02, 0.001})};
  Mirror typical_p{float_tensor({1, 1, 1, 0.9, 1})};
  Mirror seeds{Tensor(DType::i64, {kRequests})};
  Mirror steps{Tensor(DType::i64, {kRequests})};
  Mirror slots{int_tensor({3, 0, 1, 4, 2})};
  ProcessTables tables;
  OnGpu allowed{tables.allowed};
  OnGpu prompt{tables.prompt};
  OnGpu counts{tables.counts};
  OnGpu repetition{tables.repetition};

  RequestParameters(Random& random, std::int64_t vocabulary)
      : tables(random, kRequests, vocabulary, 1) {
    for (std::int64_t r = 0; r < kRequests; ++r) {
      seeds.host.set({r}, static_cast<double>(r * 1000003));
      steps.host.set({r}, static_cast<double>(r * r));
    }
    seeds.gpu.upload({});
    steps.gpu.upload({});
  }

  // Without filters chains have kernels of their own.
  void give(bool filtered, bool processed, SamplingArgs& cpu, SamplingArgs& gpu) const {
    const auto both = [&](auto member, const Mirror& mirror) {
      cpu.*member = mirror.host.view();
      gpu.*member = mirror.gpu.view();
    };
    both(&SamplingArgs::temperature, temperature);
    both(&SamplingArgs::seeds, seeds);
    both(&SamplingArgs::steps, steps);
    both(&SamplingArgs::slots, slots);
    if (!filtered) return;
    both(&SamplingArgs::top_k, top_k);
    both(&SamplingArgs::top_p, top_p);
    both(&SamplingArgs::min_p, min_p);
    both(&SamplingArgs::typical_p, typical_p);
    if (!processed) return;
    const auto table = [&](auto member, const Tensor& host, const OnGpu& on_gpu) {
      cpu.*member = host.view();
      gpu.*member = on_gpu.view();
    };
    table(&SamplingArgs::allowed, tables.allowed, allowed);
    table(&SamplingArgs::prompt_bits, tables.prompt, prompt);
    table(&SamplingArgs::output_counts, tables.counts, counts);
    table(&SamplingArgs::repetition_penalty, tables.repetition, repetition);
  }
};

// Likely tokens of their rows, and any.
std::int64_t pick_token(Random& random, const Tensor& rows, std::int64_t request,
                        std::int64_t node) {
  const std::int64_t vocabulary = rows.shape()[2];
  std::int64_t best = random.range(0, vocabulary - 1);
  const int tries = random.chance(0.3) ? 0 : 300;
  for (int i = 0; i < tries; ++i) {
    const std::int64_t other = random.range(0, vocabulary - 1);
    if (rows.get({request, node, other}) > rows.get({request, node, best})) best = other;
  }
  return best;
}

// All that a call writes, on both.
struct MirroredResults {
  VerifyResults cpu;
  VerifyResults gpu;
  OnGpu tokens{gpu.tokens};
  OnGpu nodes{gpu.nodes};
  OnGpu emitted{gpu.emitted};
  OnGpu accepted{gpu.accepted};
  OnGpu status{gpu.status};

  explicit MirroredResults(std::int64_t length) : cpu(kRequests, length), gpu(kRequests, length) {}

  // Guards and all.
  void expect_same() {
    for (OnGpu* each : {&tokens, &nodes, &emitted, &accepted, &status}) each->download();
    for (std::int64_t r = 0; r < kRequests; ++r) {
      EXPECT_EQ(gpu.tokens_of(r), cpu.tokens_of(r)) << "request " << r;
    }
    EXPECT_EQ(gpu.tokens.snapshot(), cpu.tokens.snapshot());
    EXPECT_EQ(gpu.nodes.snapshot(), cpu.nodes.snapshot());
    EXPECT_EQ(gpu.emitted.snapshot(), cpu.emitted.snapshot());
    EXPECT_EQ(gpu.accepted.snapshot(), cpu.accepted.snapshot());
    EXPECT_EQ(gpu.status.snapshot(), cpu.status.snapshot());
  }
};

// What a call reads, on both: rows of one kind, draft rows near the target's.
struct MirroredRows {
  Mirror target;
  Mirror draft;
  Mirror workspace;

  MirroredRows(Random& random, std::int64_t nodes, std::int64_t drafts, std::int64_t vocabulary,
               bool probabilities)
      : MirroredRows(random, static_cast<RowKind>(random.range(0, kKinds - 1)),
                     random.pick({DType::f32, DType::f16, DType::bf16}), nodes, drafts, vocabulary,
                     probabilities) {}

 private:
  static constexpr auto kKinds = static_cast<std::int64_t>(RowKind::count);

  MirroredRows(Random& random, RowKind kind, DType dtype, std::int64_t nodes, std::int64_t drafts,
               std::int64_t vocabulary, bool probabilities)
      : target(random_rows(random, kind, {kRequests, nodes, vocabulary}, dtype, probabilities)),
        draft(random_rows(random, kind, {kRequests, drafts, vocabulary}, dtype, probabilities)),
        workspace(Tensor(DType::i64, {verify_workspace_size(kRequests, nodes)})) {
    pull_towards(target.host, draft.host, random.pick({0.9, 0.5}));
    draft.gpu.upload({});
  }
};

// Arguments for both, from the same choices.
struct MirroredArgs {
  VerifyArgs cpu;
  VerifyArgs gpu;

  MirroredArgs(Random& random, const RequestParameters& parameters, const MirroredRows& rows,
               const MirroredResults& results, bool probabilities) {
    parameters.give(random.chance(0.5), random.chance(0.5), cpu.sampling, gpu.sampling);
    const bool with_draft = random.chance(0.6);
    const float threshold = random.pick({1.0F, 1.0F, 0.3F});
    for (VerifyArgs* args : {&cpu, &gpu}) {
      args->input = probabilities ? VerifyInput::probabilities : VerifyInput::logits;
      args->threshold_single = threshold;
    }
    if (with_draft) {
      cpu.draft = rows.draft.host.view();
      gpu.draft = rows.draft.gpu.view();
    }
    cpu.status = results.cpu.status.view();
    gpu.status = results.status.view();
    gpu.workspace = rows.workspace.gpu.view();
  }
};

TEST_F(VerifyOnGpu, Chains) {
  Random random(1);
  constexpr std::int64_t kDrafts = 4;
  for (int round = 0; round < 40; ++round) {
    SCOPED_TRACE(round);
    const std::int64_t vocabulary = random.pick<std::int64_t>({3, 33, 1000, 1003, 32003});
    const bool probabilities = random.chance(0.25);
    const MirroredRows rows(random, kDrafts + 1, kDrafts, vocabulary, probabilities);
    const RequestParameters parameters(random, vocabulary);
    Mirror drafts(Tensor(DType::i32, {kRequests, kDrafts}));
    Mirror counts(int_tensor({4, 4, 0, 3, 2}));
    for (std::int64_t r = 0; r < kRequests; ++r) {
      for (std::int64_t i = 0; i < kDrafts; ++i) {
        drafts.host.set({r, i}, static_cast<double>(pick_token(random, rows.target.host, r, i)));
      }
    }
    drafts.gpu.upload({});
    MirroredResults results(kDrafts + 1);
    const MirroredArgs args(random, parameters, rows, results, probabilities);
    verify_chain(rows.target.host.view(), drafts.host.view(), counts.host.view(), args.cpu,
                 results.cpu.tokens.view(), results.cpu.emitted.view(),
                 results.cpu.accepted.view());
    verify_chain(rows.target.gpu.view(), drafts.gpu.view(), counts.gpu.view(), args.gpu,
                 results.tokens.view(), results.emitted.view(), results.accepted.view());
    results.expect_same();
  }
}

TEST_F(VerifyOnGpu, Trees) {
  Random random(2);
  for (int round = 0; round < 24; ++round) {
    SCOPED_TRACE(round);
    const std::int64_t nodes = random.range(1, 9);
    const std::int64_t vocabulary = random.pick<std::int64_t>({3, 33, 1000, 1003, 8200});
    const bool probabilities = random.chance(0.25);
    const MirroredRows rows(random, nodes, nodes, vocabulary, probabilities);
    const RequestParameters parameters(random, vocabulary);
    TreeTensors tree = random_trees(random, kRequests, nodes, vocabulary, DType::i64);
    for (std::int64_t r = 0; r < kRequests; ++r) {
      for (std::int64_t node = 1; node < nodes; ++node) {
        const auto parent = static_cast<std::int64_t>(tree.parents.get({r, node}));
        if (parent < 0) continue;
        tree.tokens.set({r, node},
                        static_cast<double>(pick_token(random, rows.target.host, r, parent)));
      }
    }
    const OnGpu tokens(tree.tokens);
    const OnGpu next_token(tree.next_token);
    const OnGpu next_sibling(tree.next_sibling);
    MirroredResults results(nodes);
    const MirroredArgs args(random, parameters, rows, results, probabilities);
    verify_tree(rows.target.host.view(), tree.view(), args.cpu, results.cpu.tokens.view(),
                results.cpu.nodes.view(), results.cpu.emitted.view());
    verify_tree(rows.target.gpu.view(), {tokens.view(), next_token.view(), next_sibling.view()},
                args.gpu, results.tokens.view(), results.nodes.view(), results.emitted.view());
    results.expect_same();
  }
}

// Of a large vocabulary, as language models have, without a draft's rows and with them.
TEST_F(VerifyOnGpu, LongRows) {
  Random random(3);
  constexpr std::int64_t kVocabulary = 128256;
  const MirroredRows rows(random, 3, 2, kVocabulary, false);
  const RequestParameters parameters(random, kVocabulary);
  Mirror drafts(Tensor(DType::i32, {kRequests, 2}));
  for (std::int64_t r = 0; r < kRequests; ++r) {
    for (std::int64_t i = 0; i < 2; ++i) {
      drafts.host.set({r, i}, static_cast<double>(pick_token(random, rows.target.host, r, i)));
    }
  }
  drafts.gpu.upload({});
  for (int round = 0; round < 8; ++round) {
    SCOPED_TRACE(round);
    MirroredResults results(3);
    const MirroredArgs args(random, parameters, rows, results, false);
    verify_chain(rows.target.host.view(), drafts.host.view(), {}, args.cpu,
                 results.cpu.tokens.view(), results.cpu.emitted.view(),
                 results.cpu.accepted.view());
    verify_chain(rows.target.gpu.view(), drafts.gpu.view(), {}, args.gpu, results.tokens.view(),
                 results.emitted.view(), results.accepted.view());
    results.expect_same();
  }
}

}  // namespace
}  // namespace tilewright::test
