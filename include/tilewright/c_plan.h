/* SPDX-License-Identifier: Apache-2.0 */
/* Plans in C. See plan.h, block_structure.h. */
#ifndef TILEWRIGHT_C_PLAN_H
#define TILEWRIGHT_C_PLAN_H

#include <tilewright/c_attention.h>

#ifdef __cplusplus
extern "C" {
#endif

/* NOLINTBEGIN(readability-identifier-naming) */

enum { TW_REPEATABLE = 0, TW_BATCH_INVARIANT = 1 };

typedef struct tw_limits {
  size_t size;
  int64_t requests;
  int64_t q_tokens;
  int64_t q_len;
  int64_t kv_len;
  int32_t levels;           /* 0: 1 */
  int32_t determinism;      /* TW_REPEATABLE, TW_BATCH_INVARIANT */
  int32_t workers;          /* 0: what suits the device */
  int32_t block_structures; /* 0, 1: Limits::block_structures */
} tw_limits;

typedef struct tw_batch {
  size_t size;
  tw_tensor qo_indptr;
  tw_tensor kv_lens;       /* optional */
  tw_tensor num_requests;  /* optional */
  tw_tensor q_pos;         /* optional */
  tw_tensor q_pos_offset;  /* optional */
  int64_t interleave_size; /* KvInterleave; 0: 1 */
  int64_t interleave_world;
  int64_t interleave_rank;
} tw_batch;

/* What the tensors of a structure made by tw_block_structure_make() point to. */
typedef struct tw_block_memory tw_block_memory;

typedef struct tw_block_structure {
  size_t size;
  int64_t q_block;
  int64_t kv_block;
  int32_t num_kv_heads; /* 0: 1 */
  tw_tensor request_rows;
  tw_tensor indptr;
  tw_tensor indices;
  tw_tensor full;                /* optional */
  const tw_block_memory* memory; /* NULL: the tensors are the caller's */
} tw_block_structure;

/* params may be NULL for none; block sizes 0: 64; heads 0: not given. `memory` is to be given back;
 * a plan that was updated with it keeps what it needs. */
TILEWRIGHT_API tw_status tw_block_structure_make(const tw_variant* variant, const tw_batch* batch,
                                                 const tw_param* params, size_t num_params,
                                                 int64_t q_block, int64_t kv_block,
                                                 int32_t num_qo_heads, int32_t num_kv_heads,
                                                 tw_block_structure* blocks,
                                                 tw_block_memory** memory);
TILEWRIGHT_API void tw_block_memory_destroy(tw_block_memory* memory);

/* One attention's KV in a plan. */
typedef struct tw_plan_input {
  size_t size;
  const tw_attention* attention;
  const tw_kv_level* levels; /* [num_levels], outermost first; the plain case is one */
  size_t num_levels;
  const tw_param* params; /* [num_params] */
  size_t num_params;
  const tw_block_structure* blocks; /* NULL: none */
} tw_plan_input;

typedef struct tw_plan_stats {
  size_t size;
  int64_t tiles;
  int64_t blocks;
  int64_t full_blocks;
  int64_t skipped_blocks;
  int64_t split_tiles;
  int64_t kv_bytes;
  double balance;
  int64_t folded_rows;
} tw_plan_stats;

typedef struct tw_plan_piece {
  size_t size;
  int32_t worker;
  int32_t level;
  int32_t row;
  int32_t request;
  int32_t kv_head;
  int32_t tile;
  int32_t first_block;
  int32_t num_blocks;
  int64_t start;
  int64_t cost;
} tw_plan_piece;

TILEWRIGHT_API tw_status tw_plan_workspace_bytes(const tw_attention* const* attentions,
                                                 size_t num_attentions, const tw_limits* limits,
                                                 size_t* bytes);
/* workspace NULL: the plan allocates its own. Plans are not thread-safe: one function of one plan
 * at a time. */
TILEWRIGHT_API tw_status tw_plan_create(const tw_attention* const* attentions,
                                        size_t num_attentions, const tw_limits* limits,
                                        const tw_tensor* workspace, tw_plan** plan);
TILEWRIGHT_API void tw_plan_destroy(tw_plan* plan);
TILEWRIGHT_API tw_status tw_plan_prepare(tw_plan* plan);
/* inputs: each attention of the plan once. A plan whose update failed has no batch. */
TILEWRIGHT_API tw_status tw_plan_update(tw_plan* plan, const tw_batch* batch,
                                        const tw_plan_input* inputs, size_t num_inputs,
                                        tw_stream stream);

TILEWRIGHT_API tw_status tw_plan_get_limits(const tw_plan* plan, tw_limits* limits);
TILEWRIGHT_API tw_status tw_plan_get_stats(const tw_plan* plan, const tw_attention* attention,
                                           tw_plan_stats* stats);
/* These two write at most `capacity` entries and tell in *count how many there are. The pointer may
 * be NULL where capacity is 0. The first piece's size holds for all. */
TILEWRIGHT_API tw_status tw_plan_get_pieces(const tw_plan* plan, const tw_attention* attention,
                                            tw_plan_piece* pieces, size_t capacity, size_t* count);
TILEWRIGHT_API tw_status tw_plan_get_status(const tw_plan* plan, int32_t* words, size_t capacity,
                                            size_t* count);

/* Bits of a status word: RequestStatus. */
enum {
  TW_REQUEST_WELL = 0,
  TW_REQUEST_Q_RANGE = 1,
  TW_REQUEST_KV_LEN = 2,
  TW_REQUEST_PAGE = 4,
  TW_REQUEST_POSITION = 8,
  TW_REQUEST_LEVEL_ROWS = 16,
  TW_REQUEST_NUM_REQUESTS = 32,
  TW_REQUEST_BLOCKS = 64
};
/* A status word in words: describe_status(). Valid until this thread's next call of it. */
TILEWRIGHT_API tw_status tw_describe_status(int32_t word, const char** text);

/* Without waiting: words is i32 in host memory, on a GPU page-locked, that stays until the copy is
 * done. */
TILEWRIGHT_API tw_status tw_plan_copy_status(const tw_plan* plan, const tw_tensor* words,
                                             tw_stream stream);
/* 0, 1: whether updates and runs first look at the words of the last update. */
TILEWRIGHT_API tw_status tw_plan_set_debug(tw_plan* plan, int32_t debug);
TILEWRIGHT_API tw_status tw_plan_get_debug(const tw_plan* plan, int32_t* debug);

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif
