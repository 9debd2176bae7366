// SPDX-License-Identifier: Apache-2.0
// KV in several levels on a GPU against the reference, and the same bits each time.
#include <string>
#include <vector>

#include "gpu/gpu_batch.h"
#include "support/prefix_tree.h"
#include "support/ragged_level.h"
#include "support/shared_prefix.h"
#include "support/variant_cases.h"

namespace tilewright::test {
namespace {

using LevelsOnGpu = GpuTest;

// Runs twice over what the first time left in the plan, and gives the bytes of out and lse.
std::vector<std::uint8_t> run_twice(Plan& plan, const Attention& attention, const Batch& batch,
                                    const std::vector<KvLevel>& levels,
                                    const std::vector<ParamValue>& plan_params,
                                    BatchTensors& tensors, const std::vector<KvCache>& caches,
                                    const RunArgs& args) {
  std::vector<std::uint8_t> bits[2];
  for (std::vector<std::uint8_t>& all : bits) {
    tensors.out.refill();
    tensors.lse.refill();
    const auto status =
        run_on_gpu(plan, attention, batch, levels, plan_params, tensors.q.view(), caches, args);
    for (const std::int32_t word : status) EXPECT_EQ(word, 0);
    all = tensors.out.snapshot();
    const std::vector<std::uint8_t> logs = tensors.lse.snapshot();
    all.insert(all.end(), logs.begin(), logs.end());
  }
  EXPECT_TRUE(bits[0] == bits[1]) << "the second run gave other bits";
  return bits[1];
}

class TreesOnGpu : public GpuTest, public testing::WithParamInterface<VariantKind> {};

TEST_P(TreesOnGpu, OfPrefixes) {
  const auto kind = static_cast<std::uint64_t>(GetParam());
  const Dims dims{6, 2, 64, 64};
  const DType dtype = kind % 2 == 0 ? DType::bf16 : DType::f16;
  Random random(700 + kind);
  const VariantCase any = make_variant(GetParam(), dims, 1, random);
  const Attention attention(make_spec(dims, dtype, any.variant), kGpu);
  for (const int workers : {0, 5}) {
    Limits limits = kTreeLimits;
    limits.workers = workers;
    Plan plan({attention}, limits);
    for (int i = 0; i < 12 && !HasFailure(); ++i) {
      SCOPED_TRACE(testing::Message() << "tree " << i << " workers " << workers);
      const Tree tree = random_tree(dims, dtype, random,
                                    {CacheForm::combined_nhd, CacheForm::separate_hnd,
                                     CacheForm::interleaved_nhd, CacheForm::combined_hnd_kv0});
      const VariantCase c =
          make_variant(GetParam(), dims, static_cast<std::int64_t>(tree.requests.size()), random);
      const Tensor qo_indptr = int_tensor(query_indptr(tree.requests));
      Batch batch;
      batch.qo_indptr = qo_indptr.view();
      BatchTensors tensors(tree.requests, dims, dtype, 2);
      RunArgs args = tensors.args();
      args.params = c.run_params;
      std::vector<double> sinks;
      Tensor sink_tensor;
      if (i % 3 == 0) {
        sinks = random_sinks(dims, random);
        sink_tensor = float_tensor(sinks);
        args.sinks = sink_tensor.view();
      }
      args.padding = i % 2 == 0 ? Padding::keep : Padding::zero;
      run_twice(plan, attention, batch, tree.views(), c.plan_params, tensors, tree.caches(), args);
      tensors.expect(tree.requests, c.semantics, sinks, gpu_arithmetic(dtype));
      if (i % 2 == 0) {
        tensors.expect_padding_kept();
      } else {
        tensors.expect_padding_zero();
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Variants, TreesOnGpu,
                         testing::Values(VariantKind::full, VariantKind::causal,
                                         VariantKind::causal_window, VariantKind::alibi,
                                         VariantKind::sink_window, VariantKind::modulo,
                                         VariantKind::window_by_request, VariantKind::output_gate),
                         [](const testing::TestParamInfo<VariantKind>& value) {
                           return std::string(variant_name(value.param));
                         });

// Levels that are any sets of query tokens, listed or in order.
TEST_F(LevelsOnGpu, AnySetsOfQueryTokens) {
  const Dims dims{3, 1, 64, 64};  // mostly an odd number of rows
  const DType dtype = DType::f16;
  const Attention attention(make_spec(dims, dtype, variants::causal()), kGpu);
  for (const int num_levels : {2, 3}) {
    Limits limits{8, 128, 32, 400, num_levels};
    Plan plan({attention}, limits);
    for (std::uint64_t seed = 0; seed < 16 && !HasFailure(); ++seed) {
      SCOPED_TRACE(testing::Message() << num_levels << " levels, seed " << seed);
      Random random(seed * 10 + static_cast<std::uint64_t>(num_levels));
      Extents indptr = {0};
      for (std::int64_t r = random.range(1, 4); r > 0; --r) {
        indptr.push_back(indptr.back() + random.range(1, 30));
      }
      const std::int64_t tokens = indptr.back();
      std::vector<Request> references;
      Extents positions;
      for (std::int64_t t = 0; t < tokens; ++t) {
        references.push_back(random_request(random, dims, 1, 0, dtype, dtype, dtype));
        positions.push_back(random.range(0, 200));
        references.back().q_pos[0] = positions.back();
      }
      std::vector<RaggedLevel> levels(static_cast<std::size_t>(num_levels));
      std::vector<KvLevel> views;
      std::vector<KvCache> caches;
      for (RaggedLevel& level : levels) {
        level.dtype = dtype;
        const bool listed = level.add_random_rows(dims, tokens, random, references);
        views.push_back(level.view(dims, listed));
        caches.push_back(level.cache());
      }
      const Tensor qo_indptr = int_tensor(indptr);
      const Tensor q_pos = int_tensor(positions);
      Batch batch;
      batch.qo_indptr = qo_indptr.view();
      batch.q_pos = q_pos.view();
      BatchTensors tensors(references, dims, dtype, 2);
      run_twice(plan, attention, batch, views, {}, tensors, caches, tensors.args());
      tensors.expect(references, causal_semantics(), {}, gpu_arithmetic(dtype));
      tensors.expect_padding_kept();
    }
  }
}

// A prefix that is long enough, behind enough requests, is computed once and joined; one request
// alone, and a plan that is batch-invariant, read it with each request.
TEST_F(LevelsOnGpu, SharedPrefixesJoinedAndFolded) {
  const Dims dims{8, 2, 128, 128};
  for (const DType dtype : {DType::bf16, DType::f16}) {
    const Attention attention(make_spec(dims, dtype, variants::causal()), kGpu);
    for (const std::int64_t prefix :
         {std::int64_t{0}, std::int64_t{1}, std::int64_t{64}, std::int64_t{700}}) {
      for (const int requests : {1, 3, 12}) {
        std::vector<std::pair<std::int64_t, std::int64_t>> lengths;
        for (int r = 0; r < requests; ++r) {
          const std::int64_t q_len = r % 4 == 3 ? 9 : 1;
          lengths.emplace_back(q_len, q_len + r * 13 % 70);
        }
        SharedPrefix shared(dims, dtype, prefix, lengths,
                            static_cast<std::uint64_t>(prefix * 100 + requests));
        Random random(5);
        const std::vector<double> sinks = random_sinks(dims, random);
        const Tensor sink_tensor = float_tensor(sinks);
        for (const Determinism mode : {Determinism::repeatable, Determinism::batch_invariant}) {
          SCOPED_TRACE(testing::Message()
                       << dtype_name(dtype) << " prefix " << prefix << " requests " << requests
                       << (mode == Determinism::repeatable ? "" : " batch-invariant"));
          Limits limits = shared.limits();
          limits.determinism = mode;
          Plan plan({attention}, limits);
          BatchTensors tensors(shared.requests, dims, dtype, 1);
          RunArgs args = tensors.args();
          args.sinks = sink_tensor.view();
          run_twice(plan, attention, shared.batch(), shared.levels(), {}, tensors, shared.caches(),
                    args);
          tensors.expect(shared.requests, causal_semantics(), sinks, gpu_arithmetic(dtype));
          tensors.expect_padding_kept();
          if (HasFailure()) return;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tilewright::test
