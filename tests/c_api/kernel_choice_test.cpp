// SPDX-License-Identifier: Apache-2.0
// Kernels and batches explained through the C API: what C++ says.
#include <tilewright/kernel_choice.h>

#include "c_api/c_support.h"

namespace tilewright::test {
namespace {

AttentionSpec spec_of(DType kv_dtype) {
  AttentionSpec spec;
  spec.num_qo_heads = 32;
  spec.num_kv_heads = 8;
  spec.head_dim = 128;
  spec.kv_dtype = kv_dtype;
  return spec;
}

void expect_like(const tw_kernel_choice& c, const KernelChoice& choice) {
  EXPECT_EQ(c.kernel, choice.kernel);
  EXPECT_EQ(c.name, choice.name);
  EXPECT_EQ(c.arch, choice.arch);
  EXPECT_EQ(std::vector<std::string>(c.not_decode, c.not_decode + c.num_not_decode),
            choice.not_decode);
  EXPECT_EQ(std::vector<std::string>(c.not_hopper, c.not_hopper + c.num_not_hopper),
            choice.not_hopper);
  EXPECT_EQ(c.lists_blocks != 0, choice.lists_blocks);
  EXPECT_EQ(c.tile_rows, choice.tile_rows);
  EXPECT_EQ(c.block_tokens, choice.block_tokens);
  EXPECT_EQ(c.key_stages, choice.key_stages);
  EXPECT_EQ(c.value_stages, choice.value_stages);
  EXPECT_EQ(c.decode_stages, choice.decode_stages);
  EXPECT_EQ(c.threads, choice.threads);
  EXPECT_EQ(c.blocks_per_sm, choice.blocks_per_sm);
  EXPECT_EQ(c.shared_bytes, choice.shared_bytes);
  EXPECT_EQ(c.heads_together, choice.heads_together);
}

TEST(CKernelChoice, IsThatOfCpp) {
  for (const DType kv_dtype : {DType::bf16, DType::f8e4m3}) {
    for (const Limits& limits : {Limits{8, 8, 1, 1024}, Limits{8, 800, 100, 1024}}) {
      const AttentionSpec spec = spec_of(kv_dtype);
      const tw_attention_spec c_spec = to_c(spec, nullptr);
      const tw_limits c_limits = to_c(limits);
      auto requests = sized<tw_kernel_choice>();
      auto rows = sized<tw_kernel_choice>();
      ASSERT_OK(tw_choose_kernels(&c_spec, &c_limits, "sm_90a", &requests, &rows));
      const KernelChoices expected = choose_kernels(spec, limits, "sm_90a");
      expect_like(requests, expected.requests);
      expect_like(rows, expected.rows);
    }
  }
}

TEST(CKernelChoice, Models) {
  const char* const* names = nullptr;
  std::size_t count = 0;
  ASSERT_OK(tw_gpu_model_names(&names, &count));
  const std::vector<GpuModel> models = gpu_models();
  ASSERT_EQ(count, models.size());
  for (std::size_t i = 0; i < count; ++i) {
    auto model = sized<tw_gpu_model>();
    ASSERT_OK(tw_get_gpu_model(names[i], &model));
    EXPECT_EQ(model.name, models[i].name);
    EXPECT_EQ(model.arch, models[i].arch);
    EXPECT_EQ(model.num_sms, models[i].num_sms);
    EXPECT_EQ(model.l2_bytes, models[i].l2_bytes);
    EXPECT_EQ(model.bytes_per_second, models[i].bytes_per_second);
    EXPECT_EQ(model.operations_per_second, models[i].operations_per_second);
  }
  auto model = sized<tw_gpu_model>();
  expect_invalid(tw_get_gpu_model("tpu", &model), {"gpu is tpu"});
}

TEST(CKernelChoice, WorkIsThatOfCpp) {
  const AttentionSpec spec = spec_of(DType::bf16);
  const std::vector<RequestLengths> batch = {{64, 1, 4096, 1024}, {1, 2048, 8192}};
  const BatchWork expected = explain_batch(spec, limits_of(batch), batch, gpu_model("h200"));
  std::array<tw_request_lengths, 2> c_batch = {sized<tw_request_lengths>(),
                                               sized<tw_request_lengths>()};
  for (std::size_t i = 0; i < batch.size(); ++i) {
    c_batch[i].requests = batch[i].requests == 1 ? 0 : batch[i].requests;  // 0: 1
    c_batch[i].q_len = batch[i].q_len;
    c_batch[i].kv_len = batch[i].kv_len;
    c_batch[i].shared_len = batch[i].shared_len;
  }
  auto limits = sized<tw_limits>();
  ASSERT_OK(tw_limits_of(c_batch.data(), c_batch.size(), &limits));
  EXPECT_EQ(limits.requests, 65);
  EXPECT_EQ(limits.q_tokens, 64 + 2048);
  EXPECT_EQ(limits.q_len, 2048);
  EXPECT_EQ(limits.kv_len, 8192);
  EXPECT_EQ(limits.levels, 2);
  auto gpu = sized<tw_gpu_model>();
  ASSERT_OK(tw_get_gpu_model("h200", &gpu));
  const tw_attention_spec c_spec = to_c(spec, nullptr);
  auto work = sized<tw_batch_work>();
  ASSERT_OK(tw_explain_batch(&c_spec, &limits, c_batch.data(), c_batch.size(), &gpu, nullptr, 0, 16,
                             &work));
  EXPECT_EQ(work.requests, expected.requests);
  EXPECT_EQ(work.q_tokens, expected.q_tokens);
  EXPECT_EQ(work.kv_tokens, expected.kv_tokens);
  EXPECT_EQ(work.tiles, expected.stats.tiles);
  EXPECT_EQ(work.blocks, expected.stats.blocks);
  EXPECT_EQ(work.full_blocks, expected.stats.full_blocks);
  EXPECT_EQ(work.skipped_blocks, expected.stats.skipped_blocks);
  EXPECT_EQ(work.split_tiles, expected.stats.split_tiles);
  EXPECT_EQ(work.folded_rows, expected.stats.folded_rows);
  EXPECT_EQ(work.kv_bytes_by_tiles, expected.stats.kv_bytes);
  EXPECT_EQ(work.workers, expected.workers);
  EXPECT_EQ(work.b_workers, expected.b_workers);
  EXPECT_EQ(work.a_items, expected.a_items);
  EXPECT_EQ(work.b_items, expected.b_items);
  EXPECT_EQ(work.a_share, expected.a_share);
  EXPECT_EQ(work.b_share, expected.b_share);
  EXPECT_EQ(work.balance, expected.balance);
  EXPECT_EQ(work.box_tokens, expected.box_tokens);
  EXPECT_EQ(work.kv_bytes, expected.kv_bytes);
  EXPECT_EQ(work.qo_bytes, expected.qo_bytes);
  EXPECT_EQ(work.pairs, expected.pairs);
  EXPECT_EQ(work.operations, expected.operations);
  EXPECT_EQ(work.memory_us, expected.memory_us);
  EXPECT_EQ(work.compute_us, expected.compute_us);

  gpu.reserved = 1;
  expect_invalid(tw_explain_batch(&c_spec, &limits, c_batch.data(), 2, &gpu, nullptr, 0, 16, &work),
                 {"gpu.reserved is 1"});
  gpu.reserved = 0;
  c_batch[1].kv_len = -4;
  expect_invalid(tw_explain_batch(&c_spec, &limits, c_batch.data(), 2, &gpu, nullptr, 0, 16, &work),
                 {"batch[1].kv_len is -4"});
}

TEST(CKernelChoice, NothingIsWrittenWhenASizeIsWrong) {
  const tw_attention_spec spec = to_c(spec_of(DType::bf16), nullptr);
  const tw_limits limits = to_c(Limits{8, 8, 1, 1024});
  auto requests = sized<tw_kernel_choice>();
  tw_kernel_choice rows{};
  expect_invalid(tw_choose_kernels(&spec, &limits, "sm_80", &requests, &rows), {"rows.size is 0"});
  EXPECT_EQ(requests.kernel, nullptr);
}

}  // namespace
}  // namespace tilewright::test
