/* SPDX-License-Identifier: Apache-2.0 */
/* The header as strict C99, which is why this file is not C++; and the layouts that C has. */
#include <tilewright/c_api.h>

#if defined(__cplusplus) || __STDC_VERSION__ != 199901L
#error "this file is here to be compiled as C99"
#endif

/* In the order of header_test.cpp. */
size_t tw_test_layout(size_t* numbers);

size_t tw_test_layout(size_t* numbers) {
  const size_t layout[] = {
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
  const size_t count = sizeof(layout) / sizeof(layout[0]);
  size_t i;
  for (i = 0; i < count; ++i) numbers[i] = layout[i];
  return count;
}
