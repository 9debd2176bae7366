// SPDX-License-Identifier: Apache-2.0
// Which blocks of a mask are needed at all: what lets a plan skip work for masks that only an
// evaluation of every element decides.
#pragma once

#include <tilewright/export.h>
#include <tilewright/tensor_view.h>

#include <cstdint>
#include <memory>
#include <vector>

namespace tilewright {

struct Batch;
struct ParamValue;
struct Variant;

// For each block of query tokens, a list of blocks of KV positions (CSR). Tensors are contiguous,
// on the plan's device, and stay as they are until the plan's last run.
//
// It is an accelerator, not a mask: blocks that are not listed are taken for empty and may be
// skipped, so the lists must have every block in which some query attends to some key; blocks
// marked as full are computed without masking, so every pair of theirs must attend. Inside the
// others the variant's mask decides.
struct BlockStructure {
  std::int64_t q_block = 0;   // query tokens, counted from the request's first one
  std::int64_t kv_block = 0;  // KV positions, counted from position 0
  // 1: the lists are those of all heads. Or the attention's KV heads: each has lists of its own.
  int num_kv_heads = 1;
  // i32 [requests + 1]: request r has the block rows [request_rows[r], request_rows[r + 1]), at
  // least ceil(q_len / q_block).
  TensorView request_rows;
  // i32 [block rows * num_kv_heads + 1]: block row i of KV head h has the entries [indptr[j],
  // indptr[j + 1]), j = i * num_kv_heads + h.
  TensorView indptr;
  TensorView indices;                  // i32 [entries]: KV blocks, ascending in a list
  TensorView full;                     // optional u8 [entries]: 1 where every pair attends
  std::shared_ptr<const void> memory;  // what the tensors point to, where block_structure() made it

  bool defined() const { return indptr.defined(); }
};

// The structure of a variant's mask over a batch, from its evaluation on all threads. The batch
// needs kv_lens; `params` has the mask's parameters, whenever they bind. Where the mask reads
// heads, their numbers must be given, and each KV head gets its lists. Errors (invalid_argument): a
// variant without a mask, block sizes below 1, and what Plan::update says of batches and
// parameters.
TILEWRIGHT_API BlockStructure block_structure(const Variant& variant, const Batch& batch,
                                              const std::vector<ParamValue>& params,
                                              std::int64_t q_block = 64, std::int64_t kv_block = 64,
                                              int num_qo_heads = 0, int num_kv_heads = 0);

}  // namespace tilewright
