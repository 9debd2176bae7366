// SPDX-License-Identifier: Apache-2.0
// The attention kernels in the emulator against the reference in float64: batches, forms and
// arguments. Caches hold NaN where no key of a request is.
#include <algorithm>

#include "attention_cuda/compiled_cases.h"
#include "attention_cuda/emulated_attention.h"

namespace tilewright::test {
namespace {

std::vector<std::uint8_t> bytes_of(const TensorView& tensor) {
  const auto* data = static_cast<const std::uint8_t*>(tensor.data);
  return {data, data + (tensor.defined() ? body_bytes(tensor) : 0)};
}

// Runs a case several times, over what the run before left in the plan, in other orders of threads
// and blocks: with the same bits.
void run_case(const CompiledCase& compiled, int runs = 2) {
  Case c = compiled.attention;
  c.aligned = true;
  c.make_legal();
  SCOPED_TRACE(c.name());
  CaseRun run(c);
  run.run_on(gpu_arithmetic(c.q_dtype),
             [&](const AttentionSpec& spec, const Limits& limits, const Batch& batch,
                 const std::vector<KvLevel>& levels, const std::vector<ParamValue>& plan_params,
                 const TensorView& q, const KvCache& kv, const RunArgs& args) {
               EmulatedAttention attention(spec, compiled.target, limits);
               GuardedCopies copies;
               const Batch own_batch = copies.batch(batch);
               const std::vector<KvLevel> own_levels = copies.levels(levels);
               const std::vector<ParamValue> own_params = copies.params(plan_params);
               const TensorView own_q = copies(q);
               const std::vector<KvCache> own_kv = {copies.cache(kv)};
               const RunArgs own_args = copies.args(args);
               std::vector<std::uint8_t> out;
               std::vector<std::uint8_t> lse;
               for (int i = 0; i < runs; ++i) {
                 const std::uint64_t seed = c.seed * 100 + static_cast<std::uint64_t>(i);
                 copies.reset();
                 attention.update(own_batch, own_levels, own_params, seed);
                 attention.run(own_q, own_kv, own_args, seed);
                 if (i == 0) {
                   out = bytes_of(own_args.out);
                   lse = bytes_of(own_args.lse);
                 }
                 EXPECT_TRUE(out == bytes_of(own_args.out)) << "out has other bits in run " << i;
                 EXPECT_TRUE(lse == bytes_of(own_args.lse)) << "lse has other bits in run " << i;
               }
               copies.download();
               const std::vector<std::uint32_t> status =
                   attention.status(batch.qo_indptr.shape[0] - 1);
               EXPECT_EQ(*std::max_element(status.begin(), status.end()), 0U);
             });
}

using Make = CompiledCase (*)();
constexpr Make kCompiled[] = {causal_128,
                              causal_128_ampere,
                              full_soft_cap_64,
                              gated_72_40,
                              causal_192_128,
                              sink_window_64,
                              sigmoid_64,
                              documents_64,
                              fp8_128,
                              fp8_values_64,
                              fp8_of_two_kinds_80_48,
                              rope_128,
                              rope_of_fp8_80,
                              rope_72,
                              modulo_64,
                              alibi_64,
                              causal_256,
                              causal_80,
                              scalar_causal_64,
                              scalar_sink_window_80_48,
                              scalar_sigmoid_192,
                              scalar_rope_72};
constexpr LengthKind kLengths[] = {LengthKind::decode, LengthKind::prefill, LengthKind::append,
                                   LengthKind::cross,  LengthKind::empty,   LengthKind::one_long,
                                   LengthKind::mixed};

class Kernels : public testing::TestWithParam<int> {};
TEST_P(Kernels, EveryLengthKind) {
  for (const LengthKind kind : kLengths) {
    CompiledCase compiled = kCompiled[GetParam()]();
    compiled.attention.lengths = kind;
    compiled.attention.kv_heads = 1 + static_cast<int>(kind) % 2;
    compiled.attention.seed = 10 + static_cast<std::uint64_t>(kind);
    run_case(compiled);
  }
}
INSTANTIATE_TEST_SUITE_P(All, Kernels, testing::Range(0, static_cast<int>(std::size(kCompiled))));

TEST(EmulatedKernels, EveryTableForm) {
  for (int table = 0; table < static_cast<int>(TableForm::count); ++table) {
    for (const std::int64_t page_size : {1, 5, 16}) {
      CompiledCase compiled = page_size == 5 ? sink_window_64() : full_soft_cap_64();
      Case& c = compiled.attention;
      c.seed = static_cast<std::uint64_t>(table * 31 + page_size);
      c.table = static_cast<TableForm>(table);
      if (page_size > 1 && has_page_size_one(c.table)) continue;
      c.page_size = page_size;
      c.kv_heads = 1;
      c.lengths = page_size == 16 ? LengthKind::append : LengthKind::decode;
      run_case(compiled, 1);
    }
  }
}

TEST(EmulatedKernels, EveryCacheForm) {
  for (int form = 0; form < static_cast<int>(CacheForm::count); ++form) {
    CompiledCase compiled = form % 3 == 0 ? fp8_128() : sink_window_64();
    Case& c = compiled.attention;
    c.cache = static_cast<CacheForm>(form);
    if (c.cache == CacheForm::separate_strided) continue;  // not aligned to 16 bytes
    c.seed = static_cast<std::uint64_t>(form) + 50;
    c.lengths = form % 2 == 0 ? LengthKind::decode : LengthKind::cross;
    c.page_size = 5;
    run_case(compiled, 1);
  }
}

// Boxes are pages of eight tokens or more, or parts of large ones. Of a block of 128 keys with 192
// elements, pages of eight are more than a warp has lanes. Pages of one token are copied by rows.
TEST(EmulatedKernels, CopiesOfEveryPageSizeAndCacheForm) {
  constexpr LengthKind kKinds[] = {LengthKind::append, LengthKind::prefill, LengthKind::decode,
                                   LengthKind::prefill};
  int turn = 0;
  for (int form = 0; form < static_cast<int>(CacheForm::count); ++form) {
    for (const std::int64_t page_size : {1, 8, 32, 64, 256}) {
      const auto cache = static_cast<CacheForm>(form);
      CompiledCase compiled = cache == CacheForm::separate_nhd || cache == CacheForm::separate_hnd
                                  ? causal_192_128()
                              : form % 2 == 0 ? causal_128()
                                              : causal_80();
      Case& c = compiled.attention;
      c.cache = cache;
      if (c.cache == CacheForm::separate_strided) continue;  // not aligned to 16 bytes
      c.seed = static_cast<std::uint64_t>(form) * 300 + static_cast<std::uint64_t>(page_size);
      c.lengths = kKinds[static_cast<std::size_t>(turn++) % std::size(kKinds)];
      c.kv_heads = 2;
      c.page_size = page_size;
      run_case(compiled, 1);
    }
  }
}

TEST(EmulatedKernels, ScalesSinksPositionsWorkers) {
  for (int i = 0; i < 18; ++i) {
    CompiledCase compiled = kCompiled[static_cast<std::size_t>(i) % std::size(kCompiled)]();
    Case& c = compiled.attention;
    c.seed = static_cast<std::uint64_t>(i) + 100;
    c.scales = static_cast<ScaleKind>(i % static_cast<int>(ScaleKind::count));
    c.positions = static_cast<PositionKind>(i % static_cast<int>(PositionKind::count));
    c.sinks = i % 2 == 1;
    // More workers than blocks of threads, and fewer.
    c.workers = i % 3 == 0 ? 1 : i % 3 == 1 ? 11 : 3;
    c.lengths = kLengths[static_cast<std::size_t>(i) % std::size(kLengths)];
    run_case(compiled);
  }
}

TEST(EmulatedKernels, RandomBatches) {
  for (std::uint64_t seed = 0; seed < 40; ++seed) {
    CompiledCase compiled = kCompiled[seed % std::size(kCompiled)]();
    Case& c = compiled.attention;
    Random random(seed);
    c.seed = seed + 1000;
    c.lengths = LengthKind::tiny;
    c.table = static_cast<TableForm>(random.below(static_cast<std::uint64_t>(TableForm::count)));
    c.page_size = random.pick({1, 3, 5, 16});
    c.kv_heads = random.pick({1, 2, 3});
    c.scales = static_cast<ScaleKind>(random.below(static_cast<std::uint64_t>(ScaleKind::count)));
    c.positions =
        static_cast<PositionKind>(random.below(static_cast<std::uint64_t>(PositionKind::count)));
    c.sinks = random.chance(0.3);
    c.workers = random.pick({0, 1, 2, 9});
    run_case(compiled);
  }
}

// Split into parts by many workers, and merged by whoever comes last: the order must not matter.
TEST(EmulatedKernels, TheOrderChangesNothing) {
  for (const Make make : {&full_soft_cap_64, &sink_window_64, &sigmoid_64, &scalar_causal_64}) {
    CompiledCase compiled = make();
    compiled.attention.lengths = LengthKind::one_long;
    compiled.attention.kv_heads = 1;
    compiled.attention.workers = 7;
    compiled.attention.seed = 7;
    run_case(compiled, 10);
  }
}

}  // namespace
}  // namespace tilewright::test
