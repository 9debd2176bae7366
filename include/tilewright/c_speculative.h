/* SPDX-License-Identifier: Apache-2.0 */
/* Speculative verification in C. See speculative.h. */
#ifndef TILEWRIGHT_C_SPECULATIVE_H
#define TILEWRIGHT_C_SPECULATIVE_H

#include <tilewright/c_base.h>
#include <tilewright/c_ops.h>

#ifdef __cplusplus
extern "C" {
#endif

/* NOLINTBEGIN(readability-identifier-naming) */

/* VerifyArgs::input. */
enum { TW_VERIFY_LOGITS = 0, TW_VERIFY_PROBABILITIES = 1 };

/* NULL members, and tensors of rank 0: the defaults of VerifyArgs. */
typedef struct tw_verify_args {
  size_t size;
  const tw_sampling_args* sampling; /* NULL: its defaults; the stream is there */
  tw_tensor draft;
  tw_tensor allowed;
  const float* threshold_single; /* NULL: 1 */
  const float* threshold_acc;    /* NULL: 1 */
  tw_tensor coins;
  tw_tensor final_coins;
  tw_tensor status; /* none: not written */
  tw_tensor workspace;
  int32_t input;
  int32_t reserved;
} tw_verify_args;

TILEWRIGHT_API tw_status tw_verify_workspace_size(int64_t requests, int64_t positions,
                                                  int64_t* elements);

/* counts and accepted may be NULL. */
TILEWRIGHT_API tw_status tw_verify_chain(const tw_tensor* target, const tw_tensor* draft_tokens,
                                         const tw_tensor* counts, const tw_verify_args* args,
                                         const tw_tensor* tokens, const tw_tensor* emitted,
                                         const tw_tensor* accepted);

TILEWRIGHT_API tw_status tw_verify_tree(const tw_tensor* target, const tw_tensor* tree_tokens,
                                        const tw_tensor* next_token, const tw_tensor* next_sibling,
                                        const tw_verify_args* args, const tw_tensor* tokens,
                                        const tw_tensor* nodes, const tw_tensor* accepted);

TILEWRIGHT_API tw_status tw_tree_links(const tw_tensor* parents, const tw_tensor* next_token,
                                       const tw_tensor* next_sibling);

/* NOLINTEND(readability-identifier-naming) */

#ifdef __cplusplus
}
#endif

#endif
