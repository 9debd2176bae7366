/* SPDX-License-Identifier: Apache-2.0 */
/* What a project in C does first, through the installed header only: attention of one query token
 * over two keys; and that each function is in the library, be it the shared one. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <tilewright/c_api.h>

typedef void (*function)(void);

static int all_functions_are_there(void) {
  const function functions[] = {
      (function)&tw_supports,
      (function)&tw_attention_create,
      (function)&tw_attention_destroy,
      (function)&tw_attention_get_spec,
      (function)&tw_attention_get_device,
      (function)&tw_attention_run,
      (function)&tw_last_error,
      (function)&tw_status_name,
      (function)&tw_version,
      (function)&tw_cpu_features,
      (function)&tw_set_num_threads,
      (function)&tw_num_threads,
      (function)&tw_dtype_bytes,
      (function)&tw_dtype_name,
      (function)&tw_tensor_init,
      (function)&tw_tensor_slice,
      (function)&tw_tensor_select,
      (function)&tw_tensor_transpose,
      (function)&tw_tensor_unsqueeze,
      (function)&tw_tensor_from_dlpack,
      (function)&tw_tensor_from_dlpack_versioned,
      (function)&tw_tensor_to_dlpack,
      (function)&tw_tensor_to_dlpack_versioned,
      (function)&tw_kv_cache_combined,
      (function)&tw_kv_cache_separate,
      (function)&tw_kv_cache_interleaved,
      (function)&tw_page_table_padded,
      (function)&tw_page_table_csr,
      (function)&tw_page_table_token_slots,
      (function)&tw_page_table_ragged,
      (function)&tw_page_table_contiguous,
      (function)&tw_write_kv_cache,
      (function)&tw_rms_norm,
      (function)&tw_fused_add_rms_norm,
      (function)&tw_layer_norm,
      (function)&tw_apply_rope_and_write_kv_cache,
      (function)&tw_gather_rows,
      (function)&tw_pack_bits,
      (function)&tw_segment_pack_bits,
      (function)&tw_apply_rope,
      (function)&tw_apply_rope_with_cos_sin_cache,
      (function)&tw_act_and_mul,
      (function)&tw_merge_states,
      (function)&tw_sample,
      (function)&tw_block_structure_make,
      (function)&tw_block_memory_destroy,
      (function)&tw_plan_workspace_bytes,
      (function)&tw_plan_create,
      (function)&tw_plan_destroy,
      (function)&tw_plan_prepare,
      (function)&tw_plan_update,
      (function)&tw_plan_get_limits,
      (function)&tw_plan_get_stats,
      (function)&tw_plan_get_pieces,
      (function)&tw_plan_get_status,
      (function)&tw_variant_parse,
      (function)&tw_variant_create,
      (function)&tw_variant_and_mask,
      (function)&tw_variant_destroy,
      (function)&tw_variant_text,
      (function)&tw_variant_num_params,
      (function)&tw_variant_param,
      (function)&tw_rope_create,
      (function)&tw_rope_destroy,
      (function)&tw_variant_with_rope,
      (function)&tw_alibi_slopes,
      (function)&tw_document_bounds,
      (function)&tw_span_ends,
      (function)&tw_tree_mask_from_parents,
      (function)&tw_tree_mask_from_links,
      (function)&tw_tree_mask_from_matrices,
      (function)&tw_tree_mask_view,
      (function)&tw_tree_mask_destroy,
      (function)&tw_explain,
      (function)&tw_mask_map_get,
      (function)&tw_mask_map_svg,
      (function)&tw_mask_map_destroy,
  };
  size_t i;
  for (i = 0; i < sizeof(functions) / sizeof(functions[0]); ++i) {
    if (functions[i] == NULL) return 0;
  }
  return 1;
}

static int failed(tw_status status) {
  if (status != TW_OK) fprintf(stderr, "%s: %s\n", tw_status_name(status), tw_last_error());
  return status != TW_OK;
}

static tw_tensor tensor(const void* data, tw_dtype dtype, int32_t rank, int64_t rows,
                        int64_t heads, int64_t dim) {
  const tw_device cpu = {TW_CPU, 0};
  const int64_t shape[3] = {rows, heads, dim};
  tw_tensor made = {0};
  failed(tw_tensor_init(data, dtype, rank, shape, NULL, cpu, &made));
  return made;
}

/* Two equal keys: the output is the mean of the two values, and lse is logit + log(2). */
static int attention_works(void) {
  const tw_device cpu = {TW_CPU, 0};
  const int32_t qo_indptr[2] = {0, 1};
  const int32_t kv_indptr[2] = {0, 2};
  float q[8], k[16], v[16], out[8], lse[1];
  const float sm_scale = 1;
  tw_variant* variant = NULL;
  tw_attention* attention = NULL;
  tw_plan* plan = NULL;
  int i, good;
  tw_attention_spec spec = {.size = sizeof(spec), .num_qo_heads = 1, .num_kv_heads = 1};
  tw_limits limits = {.size = sizeof(limits), .requests = 1, .q_tokens = 1, .q_len = 1};
  tw_batch batch = {.size = sizeof(batch)};
  tw_page_table table = {.size = sizeof(table)};
  tw_kv_level level = {.size = sizeof(level)};
  tw_plan_input input = {.size = sizeof(input)};
  tw_run_args args = {.size = sizeof(args)};
  tw_kv_cache cache = {.size = sizeof(cache)};
  tw_tensor rows, queries, keys, values;

  if (failed(tw_variant_create("full", NULL, 0, &variant))) return 0;
  spec.head_dim = 8;
  spec.q_dtype = spec.kv_dtype = TW_F32;
  spec.variant = variant;
  if (failed(tw_attention_create(&spec, cpu, &attention))) return 0;
  limits.kv_len = 2;
  {
    const tw_attention* attentions[1];
    attentions[0] = attention;
    if (failed(tw_plan_create(attentions, 1, &limits, NULL, &plan))) return 0;
  }
  batch.qo_indptr = tensor(qo_indptr, TW_I32, 1, 2, 0, 0);
  rows = tensor(kv_indptr, TW_I32, 1, 2, 0, 0);
  if (failed(tw_page_table_ragged(&rows, &table))) return 0;
  level.table = &table;
  input.attention = attention;
  input.levels = &level;
  input.num_levels = 1;
  if (failed(tw_plan_update(plan, &batch, &input, 1, NULL))) return 0;
  for (i = 0; i < 16; ++i) {
    if (i < 8) q[i] = 1;
    k[i] = 0.5F;
    v[i] = i < 8 ? 1.0F : 3.0F;
  }
  queries = tensor(q, TW_F32, 3, 1, 1, 8);
  keys = tensor(k, TW_F32, 3, 2, 1, 8);
  values = tensor(v, TW_F32, 3, 2, 1, 8);
  if (failed(tw_kv_cache_separate(&keys, &values, TW_NHD, &cache))) return 0;
  args.out = tensor(out, TW_F32, 3, 1, 1, 8);
  args.lse = tensor(lse, TW_F32, 2, 1, 1, 0);
  args.sm_scale = &sm_scale;
  if (failed(tw_attention_run(attention, plan, &queries, &cache, 1, &args))) return 0;
  good = fabs(lse[0] - (4 + log(2.0))) < 1e-5;
  for (i = 0; i < 8; ++i) good = good && fabs(out[i] - 2) < 1e-5;
  tw_plan_destroy(plan);
  tw_attention_destroy(attention);
  tw_variant_destroy(variant);
  return good;
}

static int errors_arrive(void) {
  tw_variant* variant = NULL;
  return tw_variant_create("nobody", NULL, 0, &variant) == TW_INVALID_ARGUMENT &&
         strstr(tw_last_error(), "nobody") != NULL && variant == NULL;
}

int main(void) {
  const int version = strcmp(tw_version(), TILEWRIGHT_VERSION) == 0;
  const int functions = all_functions_are_there();
  const int attention = attention_works();
  const int errors = errors_arrive();
  printf("version %d functions %d attention %d errors %d\n", version, functions, attention, errors);
  return version && functions && attention && errors ? 0 : 1;
}
