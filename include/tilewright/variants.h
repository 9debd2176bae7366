// SPDX-License-Identifier: Apache-2.0
// Ready-made variants, and the helpers that bring what callers have into the form that a variant's
// parameters take. Masks and logits of two variants combine as any expressions do:
//
//   Variant variant = variants::document();
//   variant.mask = variant.mask && variants::causal(4095).mask;
//
// Parameters named below are i32 (also i8 and u8) or f32 (also f16 and bf16). "By query token"
// means one entry for each query token of the batch, as in q; tables of masks bind at plan.
#pragma once

#include <tilewright/tensor_view.h>
#include <tilewright/variant.h>

#include <cstdint>
#include <vector>

namespace tilewright {
namespace variants {

// Every query attends to all keys. A soft cap c > 0 replaces logits by c * tanh(logit / c). It is a
// run parameter, "logits_soft_cap", whose default is the value given here: layers with other caps
// share a plan. 0 leaves logits alone and makes no parameter.
TILEWRIGHT_API Variant full(double logits_soft_cap = 0);
// kv_pos <= q_pos and, if window_left >= 0, kv_pos >= q_pos - window_left: window_left + 1 keys.
TILEWRIGHT_API Variant causal(std::int64_t window_left = -1, double logits_soft_cap = 0);
// q_pos - left <= kv_pos <= q_pos + right; a negative bound means no bound on that side.
TILEWRIGHT_API Variant sliding_window(std::int64_t left, std::int64_t right,
                                      double logits_soft_cap = 0);
// Causal, with the request's first sink_tokens keys and the last window_left + 1 (StreamingLLM,
// arXiv 2309.17453). The sink that is a learned logit of each head is RunArgs::sinks.
TILEWRIGHT_API Variant attention_sink(std::int64_t sink_tokens, std::int64_t window_left,
                                      double logits_soft_cap = 0);
// Causal, and a request's first prefix_len[batch] keys are seen by all its queries. Plan parameter
// "prefix_len" [requests].
TILEWRIGHT_API Variant prefix_lm();
// Causal for requests with causal[batch] != 0, full for the others. Plan parameter "causal"
// [requests].
TILEWRIGHT_API Variant causal_by_request();
// Causal within chunks of chunk_size positions (Llama 4's local layers).
TILEWRIGHT_API Variant chunked_local(std::int64_t chunk_size);
// Blocks of block_size positions see themselves whole and all blocks before them.
TILEWRIGHT_API Variant block_causal(std::int64_t block_size);

// Queries see the keys of their own document: document_begin <= kv_pos, and kv_pos <= q_pos or,
// if not causal, kv_pos < document_end. Plan parameters "document_begin" and "document_end", by
// query token: document_bounds() makes them.
TILEWRIGHT_API Variant document(bool causal = true);
// Causal, and the tokens of a span (an image inside a text) see each other: kv_pos <= q_pos or
// kv_pos < span_end. Plan parameter "span_end", by query token: one past the last position of the
// token's span, 0 for text. span_ends() makes it.
TILEWRIGHT_API Variant bidirectional_spans();
// A request's query tokens are its last keys and the nodes of a tree (speculative decoding): all
// see the keys before them, and node i those nodes j whose bit is set: bit j % 32 of
// tree_mask[i][j / 32]. Plan parameter "tree_mask" [query tokens, words of 32 nodes]: TreeMask
// holds it. Positions of the queries (q_pos) may be the nodes' depths.
TILEWRIGHT_API Variant tree();

// Query token i sees key j where mask[i, j] != 0. Plan parameter "mask" [query tokens, kv]; keys
// past its last column are not seen.
TILEWRIGHT_API Variant dense_mask();
// The same with a bit for each pair, as FlashInfer packs them: request r's [q_len, kv_len] matrix
// is flattened, bit k is bit k % 8 (from the low end) of byte packed_mask_indptr[r] + k / 8. Plan
// parameters "packed_mask" u8 [bytes], "packed_mask_indptr" [requests or more].
TILEWRIGHT_API Variant packed_mask();
// Blocks of q_block query tokens (counted in the request) and kv_block positions are seen whole or
// not at all. Plan parameter "block_mask" [requests, query blocks, KV blocks]. Give the plan a
// BlockStructure as well, so that blocks that are not seen are skipped.
TILEWRIGHT_API Variant block_sparse(std::int64_t q_block, std::int64_t kv_block);

// Causal with a bias slope[q_head] * (kv_pos - q_pos) (arXiv 2108.12409); run parameter "slope",
// f32 [num_qo_heads].
TILEWRIGHT_API Variant alibi();
// T5's relative position bias (arXiv 1910.10683): bias[q_head, bucket of kv_pos - q_pos]. Run
// parameter "relative_bias" [num_qo_heads, num_buckets], the checkpoint's matrix transposed.
// Bidirectional as in the encoder (all keys), else as in the decoder (causal).
TILEWRIGHT_API Variant t5_relative_bias(bool bidirectional, int num_buckets = 32,
                                        int max_distance = 128);
// A bias added to the logits of each pair; -inf masks it. Run parameter "bias" [query tokens, kv]
// or, per head, [num_qo_heads, query tokens, kv].
TILEWRIGHT_API Variant additive_bias(bool per_head = false);
// No softmax: weights are sigmoid(logit + b) (arXiv 2409.04431 takes b = -log(kv_len)). Run
// parameter "sigmoid_bias", by default `bias`.
TILEWRIGHT_API Variant sigmoid(double bias = 0, bool causal = true);

// The slopes of ALiBi's paper.
TILEWRIGHT_API std::vector<float> alibi_slopes(int num_heads);

// For each position of a sequence, where its document begins and ends (one past its last position).
struct RowBounds {
  std::vector<std::int32_t> begin;
  std::vector<std::int32_t> end;
};
// `document` names the document of each position of one request: neighbours with equal numbers
// belong together. A batch's tables are the entries of its query tokens, request after request.
TILEWRIGHT_API RowBounds document_bounds(const std::vector<std::int32_t>& document);
// `span` numbers the spans of one request's positions, 0 for text: "span_end" of each position.
TILEWRIGHT_API std::vector<std::int32_t> span_ends(const std::vector<std::int32_t>& span);

// The nodes that each node of a batch's trees sees, as tree() reads them: bits [nodes, words]. Node
// numbers count within a request; request r has the nodes [qo_indptr[r], qo_indptr[r + 1]).
struct TILEWRIGHT_API TreeMask {
  std::int64_t nodes = 0;
  std::int64_t words = 0;
  std::vector<std::int32_t> bits;

  // Nodes see themselves and their ancestors. parents: -1 for roots, of which there may be several.
  static TreeMask from_parents(const std::vector<std::int32_t>& qo_indptr,
                               const std::vector<std::int32_t>& parents);
  // The same from lists of first children and next siblings, -1 for none, as EAGLE's kernels give
  // them; node 0 of each request is its root.
  static TreeMask from_links(const std::vector<std::int32_t>& qo_indptr,
                             const std::vector<std::int32_t>& next_token,
                             const std::vector<std::int32_t>& next_sibling);
  // From each request's [nodes, nodes] matrix (not 0: seen), one after the other.
  static TreeMask from_matrices(const std::vector<std::int32_t>& qo_indptr,
                                const std::vector<std::uint8_t>& seen);

  TensorView view() const;
};

}  // namespace variants
}  // namespace tilewright
