// SPDX-License-Identifier: Apache-2.0
// What a batch costs on a GPU, beside plain counts of its mask.
#include <tilewright/tilewright.h>

#include <algorithm>

#include "support/expect_error.h"

namespace tilewright::test {
namespace {

AttentionSpec spec_of(Variant variant = variants::causal()) {
  AttentionSpec spec;
  spec.num_qo_heads = 32;
  spec.num_kv_heads = 8;
  spec.head_dim = 128;
  spec.variant = std::move(variant);
  return spec;
}

BatchWork work_of(const AttentionSpec& spec, const std::vector<RequestLengths>& batch,
                  const std::string& gpu = "h100") {
  return explain_batch(spec, limits_of(batch), batch, gpu_model(gpu));
}

TEST(BatchWork, OfDecodeIsItsBytes) {
  const BatchWork work = work_of(spec_of(), {{64, 1, 4096}}, "h200");
  EXPECT_EQ(work.requests, 64);
  EXPECT_EQ(work.q_tokens, 64);
  EXPECT_EQ(work.kv_tokens, 64 * 4096);
  EXPECT_EQ(work.stats.tiles, 64 * 8);
  EXPECT_EQ(work.a_items, 0);
  EXPECT_EQ(work.b_items, 64);  // all heads of a request are one item
  EXPECT_EQ(work.b_share, 1);
  EXPECT_EQ(work.kv_bytes, std::int64_t{64} * 4096 * 8 * (128 + 128) * 2);
  EXPECT_EQ(work.stats.kv_bytes, work.kv_bytes);
  EXPECT_EQ(work.qo_bytes, std::int64_t{64} * 32 * (128 + 128) * 2);
  EXPECT_EQ(work.pairs, 64.0 * 4096 * 32);
  EXPECT_EQ(work.operations, 2 * work.pairs * 256);
  const GpuModel gpu = gpu_model("h200");
  EXPECT_DOUBLE_EQ(work.memory_us,
                   static_cast<double>(work.kv_bytes + work.qo_bytes) / gpu.bytes_per_second * 1e6);
  EXPECT_DOUBLE_EQ(work.compute_us, work.operations / gpu.operations_per_second * 1e6);
  EXPECT_EQ(work.bound_us(), work.memory_us);
}

TEST(BatchWork, HeadsSideBySideFitTheGpu) {
  GpuModel gpu = gpu_model("h100");
  gpu.num_sms = 2;  // of two blocks of threads each
  const BatchWork work = explain_batch(spec_of(), limits_of({{3, 1, 100}}), {{3, 1, 100}}, gpu);
  EXPECT_EQ(work.b_items, 3 * 8 / 4);
  EXPECT_EQ(work.workers, 1);
}

TEST(BatchWork, OfPrefillIsItsProducts) {
  const BatchWork work = work_of(spec_of(), {{1, 16384, 16384}});
  EXPECT_EQ(work.bound_us(), work.compute_us);
  EXPECT_EQ(work.pairs, 32.0 * 16384 * 16385 / 2);
  EXPECT_GT(work.a_items, 0);
  EXPECT_NEAR(work.a_share + work.b_share, 1, 1e-9);
  EXPECT_GT(work.balance, 0.9);
  EXPECT_LE(work.balance, 1);
  // Each key once, though each tile reads it.
  EXPECT_EQ(work.kv_bytes, std::int64_t{16384} * 8 * 256 * 2);
  EXPECT_GT(work.stats.kv_bytes, 100 * work.kv_bytes);
}

TEST(BatchWork, OfAMixedBatchHasBothSections) {
  const BatchWork work = work_of(spec_of(), {{64, 1, 4096}, {1, 2048, 8192}});
  EXPECT_EQ(work.requests, 65);
  EXPECT_GT(work.a_items, 0);
  EXPECT_GE(work.b_items, 64 * 8);
  EXPECT_GT(work.a_share, 0.2);
  EXPECT_GT(work.b_share, 0.1);
}

// The pairs that masks allow, counted one by one by explain().
TEST(BatchWork, PairsAreThoseOfTheMask) {
  for (const Variant& variant : {variants::full(), variants::causal(), variants::causal(99),
                                 variants::attention_sink(4, 200), variants::chunked_local(128),
                                 variants::sliding_window(50, 20), variants::block_causal(32)}) {
    const AttentionSpec spec = spec_of(variant);
    const std::vector<RequestLengths> batch = {{2, 150, 700}, {3, 1, 333}};
    double pairs = 0;
    for (const RequestLengths& of : batch) {
      pairs += static_cast<double>(of.requests * spec.num_qo_heads *
                                   explain(variant, of.q_len, of.kv_len).pairs);
    }
    EXPECT_EQ(work_of(spec, batch).pairs, pairs) << variant.serialize();
  }
}

TEST(BatchWork, MasksThatReadHeadsAreCountedByHead) {
  const Expr window = (expr::q_head() + 1) * 16;
  Variant variant;
  variant.mask = expr::q_pos() - expr::kv_pos() < window && expr::kv_pos() <= expr::q_pos();
  const BatchWork work = work_of(spec_of(variant), {{1, 1, 4096}});
  double pairs = 0;
  for (int head = 0; head < 32; ++head) pairs += (head + 1) * 16;
  EXPECT_EQ(work.pairs, pairs);
}

TEST(BatchWork, KeysThatAWindowHidesAreNotRead) {
  const BatchWork work = work_of(spec_of(variants::causal(127)), {{16, 1, 32768}});
  EXPECT_EQ(work.pairs, 16.0 * 32 * 128);
  EXPECT_EQ(work.kv_bytes, std::int64_t{16} * 8 * 128 * 512);
  EXPECT_GT(work.stats.skipped_blocks, 0);
}

TEST(BatchWork, SharedKeysAreReadOnce) {
  const BatchWork work = work_of(spec_of(), {{64, 1, 8448, 8192}});
  EXPECT_EQ(work.requests, 64);
  EXPECT_EQ(work.kv_tokens, 8192 + 64 * 256);
  EXPECT_EQ(work.kv_bytes, work.kv_tokens * 8 * 256 * 2);
  EXPECT_EQ(work.pairs, 64.0 * 8448 * 32);
  EXPECT_EQ(work.stats.folded_rows, 0);
  EXPECT_EQ(work.stats.tiles, 8 * (64 * 4 / 128 + 64));  // of the prefix, of each request
}

// Bounds are the same, whatever the plan makes of the rows.
TEST(BatchWork, KeysThatAreCheaperToReadForEachRequest) {
  const BatchWork work = work_of(spec_of(), {{2, 1, 80, 64}});
  EXPECT_EQ(work.stats.folded_rows, 1);
  EXPECT_EQ(work.stats.tiles, 2 * 8);
  EXPECT_EQ(work.kv_tokens, 64 + 2 * 16);
  EXPECT_EQ(work.kv_bytes, work.kv_tokens * 8 * 256 * 2);
  EXPECT_EQ(work.pairs, 2.0 * 80 * 32);
}

TEST(BatchWork, RequestsThatShareNothingAreAmongThoseThatDo) {
  for (const Variant& variant : {variants::causal(), variants::causal(99)}) {
    const AttentionSpec spec = spec_of(variant);
    const std::vector<RequestLengths> batch = {
        {1, 3, 50}, {8, 1, 2600, 2048}, {3, 1, 100}, {6, 40, 4000, 3072}, {2, 1, 70}};
    double pairs = 0;
    std::int64_t tokens = 0;
    for (const RequestLengths& of : batch) {
      pairs += static_cast<double>(of.requests * spec.num_qo_heads *
                                   explain(variant, of.q_len, of.kv_len).pairs);
      tokens += of.shared_len + of.requests * (of.kv_len - of.shared_len);
    }
    const BatchWork work = work_of(spec, batch);
    EXPECT_EQ(work.pairs, pairs) << variant.serialize();
    EXPECT_EQ(work.kv_tokens, tokens);
    EXPECT_EQ(work.stats.folded_rows, 0);
  }
}

TEST(BatchWork, BoxesAreThoseOfHoppersKernel) {
  const std::vector<RequestLengths> batch = {{1, 1024, 2048}};
  const auto boxes = [&](const char* gpu, std::int64_t page_size) {
    return explain_batch(spec_of(), limits_of(batch), batch, gpu_model(gpu), {}, page_size)
        .box_tokens;
  };
  EXPECT_EQ(boxes("h100", 16), 16);
  EXPECT_EQ(boxes("h100", 256), 64);
  for (const std::int64_t page_size : {0, 1, 4, 24}) EXPECT_EQ(boxes("h100", page_size), 0);
  EXPECT_EQ(boxes("a100", 16), 0);
}

TEST(BatchWork, ParametersThatBindAtPlanAreGiven) {
  const AttentionSpec spec = spec_of(variants::prefix_lm());
  const std::vector<RequestLengths> batch = {{1, 64, 64}};
  expect_error_of(ErrorCode::invalid_argument, {"prefix_len"}, [&] { work_of(spec, batch); });
  std::vector<std::int32_t> prefix = {64};
  const BatchWork work =
      explain_batch(spec, limits_of(batch), batch, gpu_model("h100"),
                    {{"prefix_len", TensorView(prefix.data(), DType::i32, {1})}});
  EXPECT_EQ(work.pairs, 32.0 * 64 * 64);
}

TEST(BatchWork, LimitsOfABatchFitIt) {
  const Limits limits = limits_of({{64, 1, 4096}, {2, 2048, 8192}});
  EXPECT_EQ(limits.requests, 66);
  EXPECT_EQ(limits.q_tokens, 64 + 4096);
  EXPECT_EQ(limits.q_len, 2048);
  EXPECT_EQ(limits.kv_len, 8192);
  EXPECT_EQ(limits.levels, 1);
  EXPECT_EQ(limits_of({{64, 1, 4096}, {2, 1, 700, 512}}).levels, 2);
}

TEST(BatchWork, WrongArguments) {
  const auto fails = [](ErrorCode code, const std::string& words, const Limits& limits,
                        const std::vector<RequestLengths>& batch,
                        const GpuModel& gpu = gpu_model("h100"), std::int64_t page_size = 16) {
    expect_error_of(code, {words},
                    [&] { explain_batch(spec_of(), limits, batch, gpu, {}, page_size); });
  };
  const Limits limits = {4, 64, 16, 1024};
  fails(ErrorCode::invalid_argument, "batch is empty", limits, {});
  fails(ErrorCode::invalid_argument, "batch[1].q_len is 0", limits, {{1, 1, 1}, {1, 0, 5}});
  fails(ErrorCode::invalid_argument, "batch[0].kv_len is -1", limits, {{1, 1, -1}});
  fails(ErrorCode::invalid_argument, "batch[0].requests is 0", limits, {{0, 1, 1}});
  fails(ErrorCode::invalid_argument, "batch[1].shared_len is 6: it must be in [0, 5]", limits,
        {{1, 1, 1}, {1, 1, 5, 6}});
  fails(ErrorCode::limit_exceeded, "levels", limits, {{2, 1, 5, 4}});
  fails(ErrorCode::invalid_argument, "query tokens up to batch[1]", limits,
        {{1, 1 << 29, 1}, {1 << 29, 1 << 29, 1}});
  fails(ErrorCode::limit_exceeded, "batch has 5 requests: limits.requests is 4", limits,
        {{5, 1, 1}});
  fails(ErrorCode::limit_exceeded, "q_len", limits, {{1, 17, 17}});
  fails(ErrorCode::limit_exceeded, "kv_len", limits, {{1, 1, 1025}});
  fails(ErrorCode::invalid_argument, "page_size is -1", limits, {{1, 1, 1}}, gpu_model("h100"), -1);
  GpuModel gpu = gpu_model("h100");
  gpu.num_sms = 0;
  fails(ErrorCode::invalid_argument, "gpu.num_sms is 0", limits, {{1, 1, 1}}, gpu);
  gpu = gpu_model("h100");
  gpu.bytes_per_second = 0;
  fails(ErrorCode::invalid_argument, "gpu.bytes_per_second is 0", limits, {{1, 1, 1}}, gpu);
  expect_error_of(ErrorCode::invalid_argument, {"gpu is tpu", "a100, h100, h200"},
                  [] { gpu_model("tpu"); });
}

}  // namespace
}  // namespace tilewright::test
