// SPDX-License-Identifier: Apache-2.0
// KV in several levels in the emulator: every level's results are kept, and joined by the second
// kernel.
#include "attention_cuda/compiled_cases.h"
#include "attention_cuda/emulated_attention.h"
#include "support/prefix_tree.h"
#include "support/shared_prefix.h"

namespace tilewright::test {
namespace {

// Runs the same batch in several orders, with the same bits, and checks the numbers.
void run_levels(const CompiledCase& compiled, const Limits& limits, const Batch& batch,
                const std::vector<KvLevel>& levels, const std::vector<KvCache>& caches,
                const VariantCase& variant, const std::vector<Request>& requests, const Dims& dims,
                const std::vector<double>& sinks = {}, double arithmetic = 0) {
  EmulatedAttention attention(CaseRun(compiled.attention).spec(), compiled.target, limits);
  GuardedCopies copies;
  const Batch own_batch = copies.batch(batch);
  const std::vector<KvLevel> own_levels = copies.levels(levels);
  const std::vector<ParamValue> params = copies.params(variant.plan_params);
  BatchTensors tensors(requests, dims, compiled.attention.q_dtype, 2);
  const TensorView q = copies(tensors.q.view());
  std::vector<KvCache> kv;
  kv.reserve(caches.size());
  for (const KvCache& cache : caches) kv.push_back(copies.cache(cache));
  RunArgs args = tensors.args();
  args.params = variant.run_params;
  const Tensor sink_tensor = float_tensor(sinks);
  if (!sinks.empty()) args.sinks = sink_tensor.view();
  args = copies.args(args);
  std::vector<std::uint8_t> bits;
  for (std::uint64_t seed = 0; seed < 2; ++seed) {
    attention.update(own_batch, own_levels, params, seed);
    attention.run(q, kv, args, seed);
    copies.download();
    std::vector<std::uint8_t> all = tensors.out.snapshot();
    const std::vector<std::uint8_t> logs = tensors.lse.snapshot();
    all.insert(all.end(), logs.begin(), logs.end());
    if (seed > 0) {
      EXPECT_TRUE(all == bits) << "another order gave other bits";
    }
    bits = all;
  }
  tensors.expect(requests, variant.semantics, sinks, arithmetic);
  tensors.expect_padding_kept();
}

TEST(EmulatedLevels, ASharedPrefix) {
  for (const CompiledCase& compiled : {causal_128(), causal_128_ampere(), scalar_causal_64()}) {
    const Dims dims = compiled.attention.dims();
    const SharedPrefix batch(dims, compiled.attention.kv_dtype, 300,
                             {{1, 30}, {5, 40}, {0, 7}, {1, 1}, {20, 33}, {1, 64}}, 9);
    Random random(1);
    const VariantCase causal = make_variant(VariantKind::causal, dims, 6, random);
    Limits limits = batch.limits();
    limits.workers = 6;
    run_levels(compiled, limits, batch.batch(), batch.levels(), batch.caches(), causal,
               batch.requests, dims);
  }
}

// Rows of 74 floats, three a token: those of every level are aligned all the same.
TEST(EmulatedLevels, AnOddNumberOfRows) {
  CompiledCase compiled = rope_72();
  compiled.attention.kv_heads = 1;
  const Dims dims = compiled.attention.dims();
  const SharedPrefix batch(dims, compiled.attention.kv_dtype, 300, {{1, 30}, {1, 7}, {1, 64}}, 9);
  Random random(1);
  const VariantCase rope = make_variant(VariantKind::rope, dims, 3, random);
  Limits limits = batch.limits();
  limits.workers = 6;
  run_levels(compiled, limits, batch.batch(), batch.levels(), batch.caches(), rope, batch.requests,
             dims, {}, gpu_arithmetic(DType::f16));
}

TEST(EmulatedLevels, TreesOfPrefixes) {
  Random random(77);
  for (int i = 0; i < 12; ++i) {
    SCOPED_TRACE(i);
    const CompiledCase compiled = i % 3 == 0   ? causal_128()
                                  : i % 3 == 1 ? sink_window_64()
                                  : i % 2 == 0 ? rope_128()
                                               : documents_64();
    const Dims dims = compiled.attention.dims();
    const Tree tree = random_tree(
        dims, DType::bf16, random,
        {CacheForm::combined_nhd, CacheForm::separate_hnd, CacheForm::combined_hnd_kv0});
    const VariantCase variant = make_variant(
        compiled.attention.variant, dims, static_cast<std::int64_t>(tree.requests.size()), random);
    Limits limits{9, 45, 5, 800, 3};
    limits.workers = i % 2 == 0 ? 0 : 7;
    const Tensor qo_indptr = int_tensor(query_indptr(tree.requests));
    Batch batch;
    batch.qo_indptr = qo_indptr.view();
    std::vector<KvLevel> levels;
    std::vector<KvCache> caches;
    for (const Level& level : tree.levels) {
      levels.push_back(level.level);
      caches.push_back(level.cache->view());
    }
    const std::vector<double> sinks =
        i % 4 == 0 ? random_sinks(dims, random) : std::vector<double>{};
    run_levels(compiled, limits, batch, levels, caches, variant, tree.requests, dims, sinks);
  }
}

}  // namespace
}  // namespace tilewright::test
