// SPDX-License-Identifier: Apache-2.0
// Rows of target and draft for speculative verification. A block filters each row and stores a
// summary, by which the weight of any token is found.
#pragma once

#include "sampling/filtered_row.h"
#include "sampling/rejection.h"
#include "sampling/row_numbers.h"
#include "sampling/sample.h"
#include "sampling/verify_params.h"

namespace tw {

struct RowSummary {
  u64 mass;
  FilteredRow filtered;
  i32 certain;   // the only token, with one weight of 1; or -1
  i32 infinite;  // see RowOfLogits
  u32 status;
};
static_assert(sizeof(RowSummary) <= kSummaryWords * sizeof(u64));

// Of a row of logits, by its largest one: what is told of it whatever filters do.
TW_DEVICE RowSummary summary_of_largest(float largest, const RowNumbers& numbers, bool nan) {
  RowSummary summary{};
  summary.certain = -1;
  summary.mass = 1;
  summary.infinite = largest == kInfinity ? 1 : 0;
  summary.status = numbers.status | status_of_logits(largest, nan);
  return summary;
}

// Where a request's chain ends: the node; whether a token was rejected there; how many chunks of
// the row have been looked at.
struct ChainEnd {
  i32 node;
  i32 rejected;
  i32 chunks;
};
static_assert(sizeof(ChainEnd) <= 2 * sizeof(u64));

// Where a request's parts of the workspace are.
struct RequestWorkspace {
  u64* words;
  i32 nodes;

  TW_DEVICE RequestWorkspace(const VerifyParams& p, i64 request)
      : words(static_cast<u64*>(p.workspace) + request * (p.nodes * kNodeWords + kRequestWords)),
        nodes(p.nodes) {}

  TW_DEVICE RowSummary& target(i32 node) const {
    return *reinterpret_cast<RowSummary*>(words + node * kSummaryWords);
  }
  TW_DEVICE RowSummary& draft(i32 node) const { return target(nodes + node); }
  // Of a node's token in the rows of its parent.
  TW_DEVICE u64& target_weight(i32 node) const { return words[2 * nodes * kSummaryWords + node]; }
  TW_DEVICE u64& draft_weight(i32 node) const { return target_weight(nodes + node); }
  // Of rejections at a node, in their order. With draft rows: the mass that was left before, and
  // residual_shift() of it; without: the token.
  TW_DEVICE u64* rejections() const { return &target_weight(2 * nodes); }
  TW_DEVICE u64* shifts() const { return rejections() + nodes; }
  // Of each chunk of a row; verify_chunks.h says what.
  TW_DEVICE u64* maxima(bool draft, i32 node) const {
    return shifts() + nodes + (draft ? nodes + node : node) * kChunks;
  }
  TW_DEVICE u64* masses(bool draft, i32 node) const {
    return maxima(draft, node) + 2 * nodes * kChunks;
  }
  // Of the row where the request ends: of each warp's part of each chunk.
  TW_DEVICE u64* left() const { return words + nodes * kNodeWords; }
  TW_DEVICE ChainEnd& end() const {
    return *reinterpret_cast<ChainEnd*>(left() + kChunks * kChunkWarps);
  }
};

template <typename T>
TW_DEVICE const T* logits_of(const NodeRows& rows, i64 request, i32 node) {
  return static_cast<const T*>(rows.data) + request * rows.request_stride + node * rows.node_stride;
}

// Masks of nodes, in the place of those of requests.
TW_DEVICE bool has_masks(const VerifyParams& p) {
  return p.allowed.data != nullptr;
}
TW_DEVICE const u32* allowed_of(const VerifyParams& p, i64 request, i32 node) {
  return logits_of<u32>(p.allowed, request, node);
}

// Of what RowOfLogits calls a value.
TW_DEVICE u64 weight_of_value(const RowSummary& summary, bool probabilities, i32 id, float value) {
  if (summary.certain >= 0) return id == summary.certain ? 1 : 0;
  return probabilities ? probability_weight(value) : summary.filtered.weight(id, value);
}

// `process` outlives the row.
template <typename T>
TW_DEVICE RowOfLogits<T> row_of_node(const VerifyParams& p, bool draft, i64 request, i32 node,
                                     const LogitProcess& process) {
  return {logits_of<T>(draft ? p.draft : p.target, request, node),
          p.sample.vocabulary,
          (draft ? p.draft_aligned : p.target_aligned) != 0,
          p.probabilities == 0 && changes_logits(process),
          process,
          false};
}

// With a mask of its own, `allowed`, in the place of that of `process`.
template <typename T>
TW_DEVICE u64 weight_of_token(const VerifyParams& p, bool draft, i64 request, i32 node, i32 id,
                              const RowSummary& summary, const LogitProcess& process,
                              const u32* allowed) {
  RowOfLogits<T> row = row_of_node<T>(p, draft, request, node, process);
  row.infinite = summary.infinite != 0;
  float logit = to_float(row.logits[id]);
  if (row.processed) logit = process_logit(process, id, logit);
  if (allowed != nullptr && !bit_of(allowed, id)) logit = -kInfinity;
  return weight_of_value(summary, p.probabilities != 0, id, row.value(logit));
}

// By the whole block; memory.process is that of the row.
template <typename T>
TW_DEVICE RowSummary summarise(const VerifyParams& p, const RowNumbers& numbers,
                               RowOfLogits<T>& row, SampleMemory& memory) {
  RowSummary summary{};
  summary.certain = -1;
  summary.mass = 1;
  bool nan;
  const u64 largest = largest_of_row(row, nan, memory);
  sync_block();
  const float value = of_order_key(static_cast<u32>(largest >> 32));
  summary.status = nan ? kStatusNan : 0;
  if (p.probabilities != 0) {
    const u64 mass = sum_of_row(
        row, [](i32, float q) { return probability_weight(q); }, memory);
    if (mass == 0) {
      summary.certain = 0;
      summary.status |= kStatusNoCandidate;
    } else {
      summary.mass = mass;
    }
    return summary;
  }
  summary.status = numbers.status | status_of_logits(value, nan);
  if (value == -kInfinity) {
    summary.certain = first_allowed(memory.process, p.sample.vocabulary);
  } else if (numbers.temperature == 0) {
    summary.certain = static_cast<i32>(~static_cast<u32>(largest));
  } else {
    row.infinite = value == kInfinity;
    summary.infinite = row.infinite ? 1 : 0;
    Survivors<WeightScale> left;
    draw<false>(p.sample, numbers, row, row.infinite ? 0.0F : value, left, memory);
    summary.filtered = {left.kept, left.typical, left.typicality, left.least, left.of_draw};
    summary.mass = sum_of_row(
        row, [&](i32 id, float v) { return summary.filtered.weight(id, v); }, memory);
  }
  return summary;
}

// Draft tokens of a request.
TW_DEVICE i32 draft_count(const VerifyParams& p, i64 request, bool& good) {
  if (p.counts.data == nullptr) return p.nodes - 1;
  const i32 count = static_cast<const i32*>(p.counts.data)[request * p.counts.request_stride];
  const i32 clamped = count < 0 ? 0 : count < p.nodes ? count : p.nodes - 1;
  if (clamped != count) good = false;
  return clamped;
}

// The row of a number: first all of target, then all of draft. False where nobody asks for it.
TW_DEVICE bool find_row(const VerifyParams& p, i32 number, i64& request, i32& node, bool& draft) {
  const i32 target_rows = p.requests * p.nodes;
  draft = number >= target_rows;
  const i32 index = draft ? number - target_rows : number;
  const i32 of_request = draft ? p.drafts : p.nodes;
  request = index / of_request;
  node = index % of_request;
  bool good;
  const bool is_chain = p.next_token.data == nullptr;
  return !is_chain || node <= draft_count(p, request, good) - (draft ? 1 : 0);
}

// A block has a row.
template <typename T>
TW_DEVICE void verify_rows(const VerifyParams& p) {
  SampleMemory& memory = *reinterpret_cast<SampleMemory*>(shared_memory());
  i64 request, entry;
  i32 node;
  bool draft;
  if (!find_row(p, block_id(), request, node, draft)) return;
  if (!find_entry(p.sample, request, entry)) return;
  RowNumbers numbers = numbers_of_entry(p.sample, entry);
  if (!process_of_entry(p.sample.process, entry, p.sample.vocabulary, memory.bias_filter,
                        memory.process))
    numbers.status = kStatusBadParameter;
  if (has_masks(p)) {
    if (thread_id() == 0) memory.process.allowed = allowed_of(p, request, node);
    sync_block();
  }
  RowOfLogits<T> row = row_of_node<T>(p, draft, request, node, memory.process);
  const RowSummary summary = summarise(p, numbers, row, memory);
  let_next_kernel_start();
  const RequestWorkspace workspace(p, request);
  if (thread_id() == 0) (draft ? workspace.draft(node) : workspace.target(node)) = summary;
}

}  // namespace tw
