/* SPDX-License-Identifier: Apache-2.0 */
/* Variants in C: from text, ready-made, and the helpers around them. See variant.h, variants.h,
 * explain.h. */
#ifndef TILEWRIGHT_C_VARIANT_H
#define TILEWRIGHT_C_VARIANT_H

#include <tilewright/c_base.h>

#ifdef __cplusplus
extern "C" {
#endif

/* NOLINTBEGIN(readability-identifier-naming) */

/* What attention computes between Q K^T and the output. Immutable. */
typedef struct tw_variant tw_variant;

/* From the text that tw_variant_text(), Variant::serialize() and Python's Variant.serialize() give;
 * docs/c_api.md describes it. Errors name the line. */
TILEWRIGHT_API tw_status tw_variant_parse(const char* text, tw_variant** variant);

/* An argument of a ready-made variant; flags are 0 or 1. */
typedef struct tw_variant_arg {
  const char* name;
  double value;
} tw_variant_arg;

/* A ready-made one by its name in variants.h, with arguments by theirs: "causal" takes window_left
 * and logits_soft_cap. Those left out are as in C++; args may be NULL for none. */
TILEWRIGHT_API tw_status tw_variant_create(const char* name, const tw_variant_arg* args,
                                           size_t num_args, tw_variant** variant);
/* `variant` with the mask that lets through what both masks do; nothing else is taken of `other`.
 */
TILEWRIGHT_API tw_status tw_variant_and_mask(const tw_variant* variant, const tw_variant* other,
                                             tw_variant** result);
TILEWRIGHT_API void tw_variant_destroy(tw_variant* variant);

/* Equal for equal variants. Lives as long as the variant. */
TILEWRIGHT_API tw_status tw_variant_text(const tw_variant* variant, const char** text);

enum { TW_BIND_RUN = 0, TW_BIND_PLAN = 1 };

typedef struct tw_param_info {
  size_t size;
  const char* name; /* lives as long as the variant */
  int32_t is_real;  /* else integer */
  int32_t rank;
  int32_t bind; /* TW_BIND_... */
  int32_t has_default;
  double default_value;
} tw_param_info;

TILEWRIGHT_API tw_status tw_variant_num_params(const tw_variant* variant, size_t* count);
TILEWRIGHT_API tw_status tw_variant_param(const tw_variant* variant, size_t index,
                                          tw_param_info* info);

/* RopeSpec and its scaling. Members that a scaling does not have are not read. */
enum {
  TW_ROPE_PLAIN = 0,
  TW_ROPE_NTK = 1,
  TW_ROPE_LLAMA3 = 2,
  TW_ROPE_YARN = 3,
  TW_ROPE_LONGROPE = 4
};

typedef struct tw_rope_spec {
  size_t size;
  int32_t dim;           /* 0: the whole head */
  int32_t interleaved;   /* 0: "rotate half" */
  double theta;          /* 0: 10000 */
  double position_scale; /* 0: 1 */
  int32_t scaling;       /* TW_ROPE_...; below, 0 is the default of that scaling in variant.h */
  int32_t exact_ramp;    /* yarn: 1 is `truncate = false` */
  double factor;         /* ntk, llama3, yarn */
  double original_max_position; /* llama3, yarn */
  double low_freq_factor;       /* llama3 */
  double high_freq_factor;      /* llama3 */
  double beta_fast;             /* yarn */
  double beta_slow;             /* yarn */
  double attention_factor;      /* yarn, longrope */
  const double* factors;        /* longrope: copied */
  size_t num_factors;
} tw_rope_spec;

typedef struct tw_rope tw_rope;

/* Checked here, but for what depends on the head. */
TILEWRIGHT_API tw_status tw_rope_create(const tw_rope_spec* spec, tw_rope** rope);
TILEWRIGHT_API void tw_rope_destroy(tw_rope* rope);
/* The variant with queries and keys rotated on the fly. */
TILEWRIGHT_API tw_status tw_variant_with_rope(const tw_variant* variant, const tw_rope* rope,
                                              tw_variant** result);

TILEWRIGHT_API tw_status tw_alibi_slopes(int32_t num_heads, float* slopes); /* [num_heads] */
/* All [length]. */
TILEWRIGHT_API tw_status tw_document_bounds(const int32_t* document, size_t length, int32_t* begin,
                                            int32_t* end);
TILEWRIGHT_API tw_status tw_span_ends(const int32_t* span, size_t length, int32_t* ends);

typedef struct tw_tree_mask tw_tree_mask;

/* qo_indptr [requests + 1]; parents, next_token and next_sibling have an entry for each node,
 * qo_indptr[requests] of them; seen has the matrices one after the other. */
TILEWRIGHT_API tw_status tw_tree_mask_from_parents(const int32_t* qo_indptr, size_t requests,
                                                   const int32_t* parents, size_t num_nodes,
                                                   tw_tree_mask** mask);
TILEWRIGHT_API tw_status tw_tree_mask_from_links(const int32_t* qo_indptr, size_t requests,
                                                 const int32_t* next_token,
                                                 const int32_t* next_sibling, size_t num_nodes,
                                                 tw_tree_mask** mask);
TILEWRIGHT_API tw_status tw_tree_mask_from_matrices(const int32_t* qo_indptr, size_t requests,
                                                    const uint8_t* seen, size_t num_pairs,
                                                    tw_tree_mask** mask);
/* The value of parameter "tree_mask". Lives as long as the mask. */
TILEWRIGHT_API tw_status tw_tree_mask_view(const tw_tree_mask* mask, tw_tensor* view);
TILEWRIGHT_API void tw_tree_mask_destroy(tw_tree_mask* mask);

/* MaskMap: what a mask looks like to the planner. */
typedef struct tw_mask_map tw_mask_map;

enum { TW_TILE_EMPTY = 0, TW_TILE_MIXED = 1, TW_TILE_FULL = 2 };

typedef struct tw_explain_options {
  size_t size;
  int64_t q_tile;              /* 0: 64 */
  int64_t kv_block;            /* 0: 64 */
  int32_t num_qo_heads;        /* 0: 1 */
  int32_t num_kv_heads;        /* 0: 1 */
  const int64_t* q_pos_offset; /* NULL: the queries are the last tokens */
} tw_explain_options;

/* Pointers live as long as the map. */
typedef struct tw_mask_map_info {
  size_t size;
  int64_t rows;
  int64_t columns;
  int64_t pairs;
  double saved;
  double saved_by_structure;
  const char* mask_class;
  const uint8_t* tiles; /* TW_TILE_..., [rows, columns] */
  const uint8_t* exact; /* TW_TILE_..., [rows, columns] */
  const uint8_t* seen;  /* [q_len, kv_len]; NULL where it is left out */
  const char* text;
} tw_mask_map_info;

/* params and options may be NULL: none, the defaults. */
TILEWRIGHT_API tw_status tw_explain(const tw_variant* variant, int64_t q_len, int64_t kv_len,
                                    const tw_param* params, size_t num_params,
                                    const tw_explain_options* options, tw_mask_map** map);
TILEWRIGHT_API tw_status tw_mask_map_get(const tw_mask_map* map, tw_mask_map_info* info);
/* The picture's text; writes at most `capacity` bytes with a final 0. *length: without it, of all.
 * buffer may be NULL where capacity is 0. */
TILEWRIGHT_API tw_status tw_mask_map_svg(const tw_mask_map* map, char* buffer, size_t capacity,
                                         size_t* length);
TILEWRIGHT_API void tw_mask_map_destroy(tw_mask_map* map);

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif
