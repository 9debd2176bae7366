// SPDX-License-Identifier: Apache-2.0
// header.c is the proof that the header is C; here, that both languages see the same structs, and
// that structs which may grow have no tail in which a new member could hide.
#include <gtest/gtest.h>
#include <tilewright/c_api.h>

#include <array>
#include <cstddef>
#include <vector>

extern "C" std::size_t tw_test_layout(std::size_t* numbers);

namespace {

TEST(CHeader, StructsAreThoseOfC) {
  const std::vector<std::size_t> expected = {
      sizeof(tw_device),
      sizeof(tw_tensor),
      sizeof(tw_real),
      sizeof(tw_integer),
      sizeof(tw_param),
      sizeof(tw_variant_arg),
      sizeof(tw_param_info),
      sizeof(tw_rope_spec),
      sizeof(tw_explain_options),
      sizeof(tw_mask_map_info),
      sizeof(tw_kv_cache),
      sizeof(tw_page_table),
      sizeof(tw_kv_level),
      sizeof(tw_attention_spec),
      sizeof(tw_run_args),
      sizeof(tw_limits),
      sizeof(tw_batch),
      sizeof(tw_block_structure),
      sizeof(tw_plan_input),
      sizeof(tw_plan_stats),
      sizeof(tw_plan_piece),
      sizeof(tw_nvrtc_info),
      sizeof(tw_cuda_info),
      sizeof(tw_cuda_device),
      sizeof(tw_kernel_cache_entry),
      sizeof(tw_kernel_report),
      sizeof(tw_shared_plan),
      sizeof(tw_compile_options),
      sizeof(tw_kernel_choice),
      sizeof(tw_gpu_model),
      sizeof(tw_request_lengths),
      sizeof(tw_batch_work),
      sizeof(tw_rope_sections),
      sizeof(tw_sampling_args),
      sizeof(tw_verify_args),
      sizeof(tw_sampling_outputs),
      offsetof(tw_tensor, device),
      offsetof(tw_run_args, stream),
      offsetof(tw_rope_spec, num_factors),
      sizeof(TILEWRIGHT_VERSION),
  };
  std::array<std::size_t, 64> numbers{};
  const std::size_t count = tw_test_layout(numbers.data());
  EXPECT_EQ(std::vector<std::size_t>(numbers.begin(), numbers.begin() + count), expected);
}

// That layouts of released versions stay: other languages have them written down.
TEST(CHeader, LayoutsThatOtherLanguagesWroteDown) {
  EXPECT_EQ(sizeof(tw_device), 8);
  EXPECT_EQ(sizeof(tw_tensor), 120);
  EXPECT_EQ(offsetof(tw_tensor, shape), 8);
  EXPECT_EQ(offsetof(tw_tensor, strides), 56);
  EXPECT_EQ(offsetof(tw_tensor, rank), 104);
  EXPECT_EQ(offsetof(tw_tensor, dtype), 108);
  EXPECT_EQ(offsetof(tw_tensor, device), 112);
  EXPECT_EQ(sizeof(tw_real), 128);
  EXPECT_EQ(sizeof(tw_integer), 128);
  EXPECT_EQ(sizeof(tw_param), 136);
  EXPECT_EQ(sizeof(tw_variant_arg), 16);
}

template <typename T, typename Member>
constexpr bool ends_with(Member T::* /*last*/, std::size_t offset) {
  return offset + sizeof(Member) == sizeof(T);
}

TEST(CHeader, NothingHidesBehindTheLastMember) {
  EXPECT_TRUE(ends_with(&tw_param_info::default_value, offsetof(tw_param_info, default_value)));
  EXPECT_TRUE(ends_with(&tw_rope_spec::num_factors, offsetof(tw_rope_spec, num_factors)));
  EXPECT_TRUE(
      ends_with(&tw_explain_options::q_pos_offset, offsetof(tw_explain_options, q_pos_offset)));
  EXPECT_TRUE(ends_with(&tw_mask_map_info::text, offsetof(tw_mask_map_info, text)));
  EXPECT_TRUE(ends_with(&tw_kv_cache::v, offsetof(tw_kv_cache, v)));
  EXPECT_TRUE(ends_with(&tw_page_table::last_page_len, offsetof(tw_page_table, last_page_len)));
  EXPECT_TRUE(ends_with(&tw_kv_level::kv_pos, offsetof(tw_kv_level, kv_pos)));
  EXPECT_TRUE(ends_with(&tw_attention_spec::variant, offsetof(tw_attention_spec, variant)));
  EXPECT_TRUE(ends_with(&tw_run_args::stream, offsetof(tw_run_args, stream)));
  EXPECT_TRUE(ends_with(&tw_nvrtc_info::minor, offsetof(tw_nvrtc_info, minor)));
  EXPECT_TRUE(ends_with(&tw_cuda_info::num_devices, offsetof(tw_cuda_info, num_devices)));
  EXPECT_TRUE(ends_with(&tw_cuda_device::num_sms, offsetof(tw_cuda_device, num_sms)));
  EXPECT_TRUE(ends_with(&tw_kernel_cache_entry::damage, offsetof(tw_kernel_cache_entry, damage)));
  EXPECT_TRUE(ends_with(&tw_kernel_report::error, offsetof(tw_kernel_report, error)));
  EXPECT_TRUE(ends_with(&tw_shared_plan::num_specs, offsetof(tw_shared_plan, num_specs)));
  EXPECT_TRUE(ends_with(&tw_compile_options::reserved, offsetof(tw_compile_options, reserved)));
  EXPECT_TRUE(ends_with(&tw_limits::block_structures, offsetof(tw_limits, block_structures)));
  EXPECT_TRUE(ends_with(&tw_batch::interleave_rank, offsetof(tw_batch, interleave_rank)));
  EXPECT_TRUE(ends_with(&tw_block_structure::memory, offsetof(tw_block_structure, memory)));
  EXPECT_TRUE(ends_with(&tw_plan_input::blocks, offsetof(tw_plan_input, blocks)));
  EXPECT_TRUE(ends_with(&tw_plan_stats::folded_rows, offsetof(tw_plan_stats, folded_rows)));
  EXPECT_TRUE(ends_with(&tw_plan_piece::cost, offsetof(tw_plan_piece, cost)));
  EXPECT_TRUE(
      ends_with(&tw_kernel_choice::heads_together, offsetof(tw_kernel_choice, heads_together)));
  EXPECT_TRUE(ends_with(&tw_gpu_model::reserved, offsetof(tw_gpu_model, reserved)));
  EXPECT_TRUE(ends_with(&tw_request_lengths::shared_len, offsetof(tw_request_lengths, shared_len)));
  EXPECT_TRUE(ends_with(&tw_batch_work::folded_rows, offsetof(tw_batch_work, folded_rows)));
  EXPECT_TRUE(ends_with(&tw_rope_sections::reserved, offsetof(tw_rope_sections, reserved)));
  EXPECT_TRUE(ends_with(&tw_sampling_args::outputs, offsetof(tw_sampling_args, outputs)));
  EXPECT_TRUE(ends_with(&tw_sampling_outputs::processed, offsetof(tw_sampling_outputs, processed)));
  EXPECT_TRUE(ends_with(&tw_verify_args::reserved, offsetof(tw_verify_args, reserved)));
}

}  // namespace
