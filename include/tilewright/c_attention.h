/* SPDX-License-Identifier: Apache-2.0 */
/* Attentions and runs in C. See attention.h. */
#ifndef TILEWRIGHT_C_ATTENTION_H
#define TILEWRIGHT_C_ATTENTION_H

#include <tilewright/c_base.h>
#include <tilewright/c_kv_cache.h>
#include <tilewright/c_variant.h>

#ifdef __cplusplus
extern "C" {
#endif

/* NOLINTBEGIN(readability-identifier-naming) */

typedef struct tw_plan tw_plan;

typedef struct tw_attention_spec {
  size_t size;
  int32_t num_qo_heads;
  int32_t num_kv_heads;
  int32_t head_dim;
  int32_t head_dim_vo;       /* 0: head_dim */
  tw_dtype q_dtype;          /* TW_DEFAULT_DTYPE: bf16 */
  tw_dtype kv_dtype;         /* TW_DEFAULT_DTYPE: bf16 */
  tw_dtype v_dtype;          /* TW_DEFAULT_DTYPE: kv_dtype */
  tw_dtype out_dtype;        /* TW_DEFAULT_DTYPE: q_dtype */
  const tw_variant* variant; /* NULL: causal */
} tw_attention_spec;

/* *ok: 1 or 0; *reason (may be NULL where it is not asked for): "" when ok, valid until this
 * thread's next call of this function. An error for what no device could ever run. */
TILEWRIGHT_API tw_status tw_supports(tw_device device, const tw_attention_spec* spec, int32_t* ok,
                                     const char** reason);

/* Immutable, usable by many threads at once. */
typedef struct tw_attention tw_attention;

TILEWRIGHT_API tw_status tw_attention_create(const tw_attention_spec* spec, tw_device device,
                                             tw_attention** attention);
TILEWRIGHT_API void tw_attention_destroy(tw_attention* attention);
/* spec->variant lives as long as the attention. */
TILEWRIGHT_API tw_status tw_attention_get_spec(const tw_attention* attention,
                                               tw_attention_spec* spec);
TILEWRIGHT_API tw_status tw_attention_get_device(const tw_attention* attention, tw_device* device);

enum { TW_PADDING_KEEP = 0, TW_PADDING_ZERO = 1 };

typedef struct tw_run_args {
  size_t size;
  tw_tensor out;
  tw_tensor lse;                /* optional */
  tw_tensor sinks;              /* optional */
  const float* sm_scale;        /* NULL: 1 / sqrt(head_dim) */
  const float* logits_soft_cap; /* NULL: the variant's */
  const tw_real* q_scale;       /* scales: NULL: 1 */
  const tw_real* k_scale;
  const tw_real* v_scale;
  const tw_real* out_scale;
  const tw_param* params; /* [num_params] */
  size_t num_params;
  int32_t padding; /* TW_PADDING_... */
  tw_stream stream;
} tw_run_args;

/* kv: a cache for each level of the plan's KV, outermost first; the plain case is one. */
TILEWRIGHT_API tw_status tw_attention_run(const tw_attention* attention, tw_plan* plan,
                                          const tw_tensor* q, const tw_kv_cache* kv,
                                          size_t num_levels, const tw_run_args* args);

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif
