/* SPDX-License-Identifier: Apache-2.0 */
/* The operators around attention, and sampling, in C. See ops.h, sampling.h. */
#ifndef TILEWRIGHT_C_OPS_H
#define TILEWRIGHT_C_OPS_H

#include <tilewright/c_base.h>
#include <tilewright/c_kv_cache.h>
#include <tilewright/c_variant.h>

#ifdef __cplusplus
extern "C" {
#endif

/* NOLINTBEGIN(readability-identifier-naming) */

/* Scales NULL: 1; token_indptr NULL: one request. */
TILEWRIGHT_API tw_status tw_write_kv_cache(const tw_tensor* k, const tw_tensor* v,
                                           const tw_kv_cache* cache, const tw_tensor* slot_mapping,
                                           const tw_real* k_scale, const tw_real* v_scale,
                                           const tw_tensor* token_indptr, tw_stream stream);

/* out_scale NULL: 1. */
TILEWRIGHT_API tw_status tw_rms_norm(const tw_tensor* x, const tw_tensor* weight,
                                     const tw_tensor* out, float eps, float weight_offset,
                                     const tw_real* out_scale, tw_stream stream);
TILEWRIGHT_API tw_status tw_fused_add_rms_norm(const tw_tensor* x, const tw_tensor* residual,
                                               const tw_tensor* weight, const tw_tensor* out,
                                               float eps, float weight_offset,
                                               const tw_real* out_scale, tw_stream stream);

/* bias may be NULL. */
TILEWRIGHT_API tw_status tw_layer_norm(const tw_tensor* x, const tw_tensor* weight,
                                       const tw_tensor* bias, const tw_tensor* out, float eps,
                                       const tw_real* out_scale, tw_stream stream);

enum { TW_MAX_ROPE_AXES = 4 };

typedef struct tw_rope_sections {
  size_t size;
  int32_t pairs[TW_MAX_ROPE_AXES];
  int32_t interleaved;
  int32_t reserved;
} tw_rope_sections;

/* sections NULL: positions of one axis. */
TILEWRIGHT_API tw_status tw_apply_rope(const tw_tensor* x, const tw_tensor* positions,
                                       const tw_tensor* out, const tw_rope* rope,
                                       const tw_rope_sections* sections, tw_stream stream);
TILEWRIGHT_API tw_status tw_apply_rope_with_cos_sin_cache(
    const tw_tensor* x, const tw_tensor* positions, const tw_tensor* cos_sin_cache,
    const tw_tensor* out, int32_t interleaved, const tw_rope_sections* sections, tw_stream stream);

/* Exactly one of rope and cos_sin_cache is given; interleaved belongs to cos_sin_cache. */
typedef struct tw_rope_and_cache_args {
  size_t size;
  const tw_rope* rope;
  const tw_tensor* cos_sin_cache;
  const tw_rope_sections* sections; /* NULL: positions of one axis */
  const tw_tensor* q_norm_weight;   /* NULL: queries are not normed */
  const tw_tensor* k_norm_weight;   /* NULL: keys are not normed */
  const tw_real* k_scale;           /* NULL: 1 */
  const tw_real* v_scale;           /* NULL: 1 */
  const tw_tensor* token_indptr;    /* NULL: one request */
  tw_stream stream;
  float norm_eps; /* 0: 1e-6 */
  float norm_weight_offset;
  int32_t interleaved;
  int32_t reserved;
} tw_rope_and_cache_args;

TILEWRIGHT_API tw_status tw_apply_rope_and_write_kv_cache(
    const tw_tensor* q, const tw_tensor* k, const tw_tensor* v, const tw_tensor* positions,
    const tw_tensor* q_out, const tw_kv_cache* cache, const tw_tensor* slot_mapping,
    const tw_rope_and_cache_args* args);

enum { TW_SILU = 0, TW_GELU = 1, TW_GELU_TANH = 2 };

TILEWRIGHT_API tw_status tw_act_and_mul(const tw_tensor* x, const tw_tensor* out,
                                        int32_t activation, tw_stream stream);

TILEWRIGHT_API tw_status tw_gather_rows(const tw_tensor* x, const tw_tensor* indices,
                                        const tw_tensor* out, tw_stream stream);

enum { TW_BIG_BIT_ORDER = 0, TW_LITTLE_BIT_ORDER = 1 };

TILEWRIGHT_API tw_status tw_pack_bits(const tw_tensor* x, const tw_tensor* out, int32_t order,
                                      tw_stream stream);
TILEWRIGHT_API tw_status tw_segment_pack_bits(const tw_tensor* x, const tw_tensor* indptr,
                                              const tw_tensor* out, const tw_tensor* out_indptr,
                                              int32_t order, tw_stream stream);

/* lse_out may be NULL. */
TILEWRIGHT_API tw_status tw_merge_states(const tw_tensor* values, const tw_tensor* lse,
                                         const tw_tensor* out, const tw_tensor* lse_out,
                                         tw_stream stream);

/* Bits of a row's status: SamplingStatus. */
enum {
  TW_SAMPLING_WELL = 0,
  TW_SAMPLING_NAN = 1,
  TW_SAMPLING_INFINITY = 2,
  TW_SAMPLING_NO_CANDIDATE = 4,
  TW_SAMPLING_BAD_PARAMETER = 8,
  TW_SAMPLING_SLOT = 16
};

/* SamplingArgs::order. */
enum {
  TW_FILTER_ORDER_HF = 0,
  TW_FILTER_ORDER_JOINT = 1,
  TW_FILTER_ORDER_VLLM = 2,
  TW_FILTER_ORDER_LLAMACPP = 3
};

/* NULL members, and tensors of rank 0: the defaults of SamplingArgs. */
typedef struct tw_sampling_args {
  size_t size;
  const tw_real* temperature; /* NULL: 1 */
  const tw_integer* top_k;    /* NULL: off; a number fits 32 bits */
  const tw_real* top_p;       /* NULL: off */
  const tw_real* min_p;       /* NULL: off */
  const tw_integer* seeds;    /* NULL: 0 */
  const tw_integer* steps;    /* NULL: 0 */
  tw_stream stream;
  tw_tensor slots;  /* none: entry r of a parameter is row r's */
  tw_tensor status; /* none: not written */
  tw_tensor allowed;
  tw_tensor bias_ids;
  tw_tensor bias_values;
  tw_tensor output_counts;
  tw_tensor prompt_bits;
  const tw_real* repetition_penalty; /* NULL: 1 */
  const tw_real* frequency_penalty;  /* NULL: 0 */
  const tw_real* presence_penalty;   /* NULL: 0 */
  const tw_real* typical_p;          /* NULL: off */
  int32_t order;
  int32_t reserved;
} tw_sampling_args;

TILEWRIGHT_API tw_status tw_sample(const tw_tensor* logits, const tw_sampling_args* args,
                                   const tw_tensor* tokens);

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif
