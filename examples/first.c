/* SPDX-License-Identifier: Apache-2.0 */
/* A first program in C: two requests decode a token each and one prefills six, in one call over a
 * paged KV cache. All keys are equal and the value of a key is its position, so that a query at
 * position p gives the mean of 0 .. p, and the log-sum-exp of p + 1 equal logits. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <tilewright/c_api.h>

enum { HEADS = 8, KV_HEADS = 2, DIM = 64, PAGE = 16, PAGES = 12, REQUESTS = 3, TOKENS = 8 };

static float cache_memory[PAGES * 2 * PAGE * KV_HEADS * DIM];
static float q[TOKENS * HEADS * DIM], out[TOKENS * HEADS * DIM], lse[TOKENS * HEADS];

static void check(tw_status status) {
  if (status == TW_OK) return;
  fprintf(stderr, "%s: %s\n", tw_status_name(status), tw_last_error());
  exit(1);
}

static tw_tensor tensor(const void* data, tw_dtype dtype, int32_t rank, const int64_t* shape) {
  const tw_device cpu = {TW_CPU, 0};
  tw_tensor made;
  check(tw_tensor_init(data, dtype, rank, shape, NULL, cpu, &made));
  return made;
}

static tw_tensor floats(const float* data, int64_t tokens, int64_t heads, int64_t dim) {
  const int64_t shape[3] = {tokens, heads, dim};
  return tensor(data, TW_F32, dim > 0 ? 3 : 2, shape);
}

static tw_tensor ints(const int32_t* data, int64_t rows, int64_t columns) {
  const int64_t shape[2] = {rows, columns};
  return tensor(data, TW_I32, columns > 0 ? 2 : 1, shape);
}

int main(void) {
  /* Request r has kv_lens[r] tokens in the pages of row r; its queries are the last of them. */
  const int32_t kv_lens[REQUESTS] = {5, 41, 20};
  const int32_t qo_indptr[REQUESTS + 1] = {0, 1, 2, TOKENS};
  const int32_t block_table[REQUESTS][4] = {{7, 0, 0, 0}, {2, 9, 4, 0}, {11, 5, 0, 0}};
  const tw_device cpu = {TW_CPU, 0};
  tw_kv_cache cache = {.size = sizeof(tw_kv_cache)};
  const int64_t cache_shape[5] = {PAGES, 2, PAGE, KV_HEADS, DIM};
  const tw_tensor kv = tensor(cache_memory, TW_F32, 5, cache_shape);
  check(tw_kv_cache_combined(&kv, TW_NHD, 1, &cache));

  /* K and V of each token into its slot. */
  for (int r = 0; r < REQUESTS; ++r) {
    for (int32_t position = 0; position < kv_lens[r]; ++position) {
      const int32_t slot = block_table[r][position / PAGE] * PAGE + position % PAGE;
      float key[KV_HEADS * DIM], value[KV_HEADS * DIM];
      for (int i = 0; i < KV_HEADS * DIM; ++i) {
        key[i] = 0.01F;
        value[i] = (float)position;
      }
      const tw_tensor k = floats(key, 1, KV_HEADS, DIM);
      const tw_tensor v = floats(value, 1, KV_HEADS, DIM);
      const tw_tensor slots = ints(&slot, 1, 0);
      check(tw_write_kv_cache(&k, &v, &cache, &slots, NULL, NULL, NULL, NULL));
    }
  }

  /* What is computed. */
  tw_variant* causal = NULL;
  check(tw_variant_create("causal", NULL, 0, &causal));
  tw_attention_spec spec = {.size = sizeof(tw_attention_spec)};
  spec.num_qo_heads = HEADS;
  spec.num_kv_heads = KV_HEADS;
  spec.head_dim = DIM;
  spec.q_dtype = spec.kv_dtype = TW_F32;
  spec.variant = causal;
  tw_attention* attention = NULL;
  check(tw_attention_create(&spec, cpu, &attention));

  /* Who computes which part of it: made for limits once, updated once a step. */
  tw_limits limits = {.size = sizeof(tw_limits)};
  limits.requests = REQUESTS;
  limits.q_tokens = TOKENS;
  limits.q_len = 6;
  limits.kv_len = 64;
  const tw_attention* attentions[1] = {attention};
  tw_plan* plan = NULL;
  check(tw_plan_create(attentions, 1, &limits, NULL, &plan));
  check(tw_plan_prepare(plan));
  tw_batch batch = {.size = sizeof(tw_batch)};
  batch.qo_indptr = ints(qo_indptr, REQUESTS + 1, 0);
  batch.kv_lens = ints(kv_lens, REQUESTS, 0);
  tw_page_table table = {.size = sizeof(tw_page_table)};
  const tw_tensor pages = ints(&block_table[0][0], REQUESTS, 4);
  check(tw_page_table_padded(&pages, PAGE, NULL, &table));
  tw_kv_level level = {.size = sizeof(tw_kv_level)};
  level.table = &table;
  tw_plan_input input = {.size = sizeof(tw_plan_input)};
  input.attention = attention;
  input.levels = &level;
  input.num_levels = 1;
  check(tw_plan_update(plan, &batch, &input, 1, NULL));

  /* Once a layer. */
  for (int i = 0; i < TOKENS * HEADS * DIM; ++i) q[i] = 0.5F;
  const tw_tensor queries = floats(q, TOKENS, HEADS, DIM);
  tw_run_args args = {.size = sizeof(tw_run_args)};
  args.out = floats(out, TOKENS, HEADS, DIM);
  args.lse = floats(lse, TOKENS, HEADS, 0);
  check(tw_attention_run(attention, plan, &queries, &cache, 1, &args));

  int wrong = 0;
  for (int r = 0; r < REQUESTS; ++r) {
    for (int32_t token = qo_indptr[r]; token < qo_indptr[r + 1]; ++token) {
      const int32_t position = kv_lens[r] - qo_indptr[r + 1] + token;
      const float mean = out[token * HEADS * DIM];
      const float log_sum = lse[token * HEADS];
      printf("request %d position %2d: out %7.4f lse %.4f\n", r, (int)position, mean, log_sum);
      if (fabs(mean - position / 2.0) > 1e-3) wrong = 1;
      if (fabs(log_sum - (0.5 * 0.01 * DIM / 8 + log(position + 1))) > 1e-3) wrong = 1;
    }
  }
  tw_plan_destroy(plan);
  tw_attention_destroy(attention);
  tw_variant_destroy(causal);
  if (wrong) fprintf(stderr, "these are not the means and the logs that they should be\n");
  return wrong;
}
