// SPDX-License-Identifier: Apache-2.0
// Speculative verification of a tree by a block, behind verify_rows(): the walk from the root along
// accepted draft tokens, as docs/speculative.md says, with the results of the CPU.
#pragma once

#include "sampling/draft_tree.h"

namespace tw {

// The block's shared memory.
struct VerifyMemory {
  SampleMemory sample;
  // Of the node where the walk is. Here, because what is left of a token's weight is a call.
  RowSummary target;
  RowSummary draft;
  const u64* rejections;
  const u64* shifts;
  i32 rejected;
  u64 coin;  // of the draw, where blocks share it
};
static_assert(sizeof(VerifyMemory) <= kVerifySharedBytes);

// What rejections left of a token's weight in the target's row. Of its draft weight without draft
// rows nothing is known: the token itself was rejected, or not.
TW_DEVICE u64 left_of_weight(const VerifyMemory& memory, bool has_draft, i32 id, u64 target,
                             u64 draft) {
#pragma unroll 1
  for (i32 i = 0; i < memory.rejected; ++i) {
    if (has_draft) {
      target = residual_weight({target, memory.rejections[i], draft, memory.draft.mass},
                               static_cast<i32>(memory.shifts[i]));
    } else if (memory.rejections[i] == static_cast<u64>(id)) {
      return 0;
    }
  }
  return target;
}

// The same of an entry of the target's row. A call, as it is long and in several passes.
template <typename T>
TW_DEVICE_CALL u64 left_of_entry(const VerifyParams& p, const VerifyMemory& memory, i64 request,
                                 i32 node, i32 id, float value) {
  const LogitProcess& process = memory.sample.process;
  const u64 target = weight_of_value(memory.target, p.probabilities != 0, id, value);
  if ((target == 0) | (memory.rejected == 0)) return target;
  const bool has_draft = p.draft.data != nullptr;
  const u64 draft =
      has_draft ? weight_of_token<T>(p, true, request, node, id, memory.draft, process, nullptr)
                : 0;
  return left_of_weight(memory, has_draft, id, target, draft);
}

// Goes to a node: what passes over its rows need.
TW_DEVICE void enter_node(const VerifyParams& p, const RequestWorkspace& workspace, i64 request,
                          i32 node, VerifyMemory& memory) {
  sync_block();
  if (thread_id() == 0) {
    memory.target = workspace.target(node);
    if (p.draft.data != nullptr && node < p.drafts) memory.draft = workspace.draft(node);
    memory.rejected = 0;
    if (has_masks(p)) memory.sample.process.allowed = allowed_of(p, request, node);
  }
  sync_block();
}

template <typename T>
TW_DEVICE RowOfLogits<T> target_row(const VerifyParams& p, i64 request, i32 node,
                                    const VerifyMemory& memory) {
  RowOfLogits<T> row = row_of_node<T>(p, false, request, node, memory.sample.process);
  row.infinite = memory.target.infinite != 0;
  return row;
}

// Takes a rejected token's share from what is left, `mass`. Returns what is left then.
template <typename T>
TW_DEVICE u64 reject(const VerifyParams& p, const RequestWorkspace& workspace, i64 request,
                     i32 node, i32 id, u64 mass, VerifyMemory& memory) {
  const bool has_draft = p.draft.data != nullptr;
  sync_block();
  if (thread_id() == 0) {
    store_rejection(p, workspace, memory.rejected, id, mass, memory.draft.mass);
    ++memory.rejected;
  }
  sync_block();
  if (!has_draft) return mass;
  const u64 left = sum_of_row(
      target_row<T>(p, request, node, memory),
      [&](i32 i, float value) { return left_of_entry<T>(p, memory, request, node, i, value); },
      memory.sample);
  if (left != 0) return left;
  // The difference is below a unit: target and draft are the same.
  if (thread_id() == 0) memory.rejected = 0;
  sync_block();
  return memory.target.mass;
}

// The child that is accepted, or -1: then `memory` has what the next token is drawn from.
template <typename T>
TW_DEVICE i32 accepted_child(const DraftTree& tree, const RequestWorkspace& workspace,
                             const Decision& decision, i32 node, i32 depth, u32& status,
                             VerifyMemory& memory) {
  const VerifyParams& p = tree.p;
  bool good = true;
  i32 child = depth + 1 < p.length ? tree.first_child(node, good) : -1;
  const bool has_draft = p.draft.data != nullptr;
  if (child >= 0 && has_draft) status |= memory.draft.status;
  const u64 target_mass = memory.target.mass;
  u64 mass = target_mass;  // that is left
  u64 tried_mass = 0;
#pragma unroll 1
  for (i32 tried = 0; child >= 0; child = tree.sibling(child, good), ++tried) {
    const i32 id = tree.token(child, good);
    if (id < 0) continue;
    const u64 weight = workspace.target_weight(child);
    const u64 draft = has_draft ? workspace.draft_weight(child) : 1;
    const u64 left = left_of_weight(memory, has_draft, id, weight, draft);
    tried_mass += left;
    const TokenPair pair = has_draft ? TokenPair{left, mass, draft, memory.draft.mass}
                                     : TokenPair{tried_mass, target_mass, 1, 1};
    if (decision.accepts(pair, weight, target_mass, decision.coin(depth, node, child, tried)))
      break;
    mass = reject<T>(p, workspace, tree.request, node, id, mass, memory);
  }
  if (!good) status |= kStatusBadParameter;
  return child;
}

// A block has a request.
template <typename T>
TW_DEVICE void verify_requests(const VerifyParams& p) {
  VerifyMemory& memory = *reinterpret_cast<VerifyMemory*>(shared_memory());
  const i64 request = block_id();
  const bool tells = thread_id() == 0;
  if (tells) store_number(p.on_path, request, 0, 0);
  i64 entry;
  if (!find_entry(p.sample, request, entry)) {
    wait_for_previous_kernel();  // else this one may be done before it
    if (tells) store_end(p, request, 0, 0, 0, kStatusSlot);
    return;
  }
  process_of_entry(p.sample.process, entry, p.sample.vocabulary, memory.sample.bias_filter,
                   memory.sample.process);
  const DraftTree tree{p, request, 0};
  const RequestWorkspace workspace(p, request);
  const Decision decision{p, request, value_of_entry(p.sample.seeds, entry),
                          value_of_entry(p.sample.steps, entry)};
  u32 status = 0;
  if (tells) {
    memory.rejections = workspace.rejections();
    memory.shifts = workspace.shifts();
    if (has_masks(p)) memory.sample.process.allowed = nullptr;
  }
  sync_block();
  wait_for_previous_kernel();
  weigh_draft_tokens<T>(tree, workspace, memory.sample.process);
  i32 node = 0, depth = 0;
#pragma unroll 1
  for (;;) {
    enter_node(p, workspace, request, node, memory);
    status |= memory.target.status;
    const i32 child = accepted_child<T>(tree, workspace, decision, node, depth, status, memory);
    if (child < 0) break;
    bool good;
    if (tells) store_number(p.tokens, request, depth, tree.token(child, good));
    ++depth;
    node = child;
    if (tells) store_number(p.on_path, request, depth, node);
  }
  const u64 coin = decision.final_coin(depth);
  const i32 token = locate(
      target_row<T>(p, request, node, memory),
      [&](i32 id, float value) { return left_of_entry<T>(p, memory, request, node, id, value); },
      // floor(coin / 2^64 * total) is uniform in [0, total).
      [&](u64 total) { return multiply_high(coin, total); }, memory.sample);
  if (tells) store_end(p, request, depth, token, depth, status);
}

}  // namespace tw
