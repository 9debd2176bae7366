/* SPDX-License-Identifier: Apache-2.0 */
/* Which CUDA kernel an attention takes, and what a batch costs, in C. See kernel_choice.h. */
#ifndef TILEWRIGHT_C_KERNEL_CHOICE_H
#define TILEWRIGHT_C_KERNEL_CHOICE_H

#include <tilewright/c_plan.h>

#ifdef __cplusplus
extern "C" {
#endif

/* NOLINTBEGIN(readability-identifier-naming) */

/* Strings and lists of it are valid until this thread's next call of tw_choose_kernels(). */
typedef struct tw_kernel_choice {
  size_t size;
  const char* kernel;
  const char* name;
  const char* arch;
  const char* const* not_decode; /* [num_not_decode] */
  size_t num_not_decode;
  const char* const* not_hopper; /* [num_not_hopper] */
  size_t num_not_hopper;
  int32_t lists_blocks; /* 0, 1 */
  int32_t tile_rows;
  int32_t block_tokens;
  int32_t key_stages;
  int32_t value_stages;
  int32_t decode_stages;
  int32_t threads;
  int32_t blocks_per_sm;
  int32_t shared_bytes;
  int32_t heads_together;
} tw_kernel_choice;

/* KernelChoices: each of the two may be NULL where it is not asked for. */
TILEWRIGHT_API tw_status tw_choose_kernels(const tw_attention_spec* spec, const tw_limits* limits,
                                           const char* arch, tw_kernel_choice* requests,
                                           tw_kernel_choice* rows);

typedef struct tw_gpu_model {
  size_t size;
  const char* name; /* may be NULL where it is given to a function */
  const char* arch;
  int64_t l2_bytes;
  double bytes_per_second;
  double operations_per_second;
  int32_t num_sms;
  int32_t reserved;
} tw_gpu_model;

/* *names: [*count], live as long as the library. */
TILEWRIGHT_API tw_status tw_gpu_model_names(const char* const** names, size_t* count);
/* Its strings live as long as the library. */
TILEWRIGHT_API tw_status tw_get_gpu_model(const char* name, tw_gpu_model* model);

/* So many requests of these lengths. */
typedef struct tw_request_lengths {
  size_t size;
  int64_t requests; /* 0: 1 */
  int64_t q_len;
  int64_t kv_len;
  int64_t shared_len; /* of kv_len: the same keys for all of these requests */
} tw_request_lengths;

TILEWRIGHT_API tw_status tw_limits_of(const tw_request_lengths* batch, size_t count,
                                      tw_limits* limits);

typedef struct tw_batch_work {
  size_t size;
  int64_t requests;
  int64_t q_tokens;
  int64_t kv_tokens;
  int64_t tiles; /* this and the next five: BatchWork::stats */
  int64_t blocks;
  int64_t full_blocks;
  int64_t skipped_blocks;
  int64_t split_tiles;
  int64_t kv_bytes_by_tiles; /* PlanStats::kv_bytes */
  int64_t a_items;
  int64_t b_items;
  double a_share;
  double b_share;
  double balance;
  int64_t kv_bytes;
  int64_t qo_bytes;
  double pairs;
  double operations;
  double memory_us;
  double compute_us; /* the larger of these two is the bound */
  int32_t workers;
  int32_t b_workers;
  int32_t box_tokens;
  int32_t reserved;
  int64_t folded_rows; /* of BatchWork::stats, too */
} tw_batch_work;

/* page_size 0: no table of pages. params may be NULL for none. */
TILEWRIGHT_API tw_status tw_explain_batch(const tw_attention_spec* spec, const tw_limits* limits,
                                          const tw_request_lengths* batch, size_t count,
                                          const tw_gpu_model* gpu, const tw_param* params,
                                          size_t num_params, int64_t page_size,
                                          tw_batch_work* work);

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif
