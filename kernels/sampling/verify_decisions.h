// SPDX-License-Identifier: Apache-2.0
// Speculative verification of chains, behind summaries of their rows: a block decides for a request
// what is accepted.
#pragma once

#include "sampling/verify_chunks.h"

namespace tw {

// Adds up what chunks have found, where they have: a warp has a row.
TW_DEVICE void add_masses(const VerifyParams& p, const RequestWorkspace& workspace, i32 count) {
  const i32 rows = p.draft.data != nullptr ? 2 * count + 1 : count + 1;
#pragma unroll 1
  for (i32 row = warp_id(); row < rows; row += kChunkThreads / kWarpSize) {
    const bool draft = row > count;
    const i32 node = draft ? row - count - 1 : row;
    RowSummary& summary = draft ? workspace.draft(node) : workspace.target(node);
    if (summary.mass != 0) continue;
    static_assert(kChunks == kWarpSize);
    const u64 mine = workspace.masses(draft, node)[lane_id()];
    const bool nan = any_of_warp((mine & kMassNan) != 0);
    const u64 mass = sum_of_warp(mine & ~kMassNan);
    if (lane_id() != 0) continue;
    if (nan) summary.status |= kStatusNan;
    summary.mass = mass;
    if (mass != 0) continue;
    // Probabilities that are all 0.
    summary.mass = 1;
    summary.certain = 0;
    summary.status |= kStatusNoCandidate;
  }
}

// How many tokens are accepted in a row from the first one on, and how many of all would be by
// themselves. By a warp.
struct Accepted {
  i32 depth;
  i32 all;
};
TW_DEVICE Accepted count_accepted(const DraftTree& tree, const RequestWorkspace& workspace,
                                  const Decision& decision) {
  Accepted accepted{0, 0};
#pragma unroll 1
  for (i32 begin = 0; begin < tree.count; begin += kWarpSize) {
    const i32 node = begin + lane_id();
    bool yes = false;
    if (node < tree.count) yes = accepts_next(tree, workspace, decision, node);
    const u32 lanes = ballot(yes);
    accepted.all += count_bits(lanes);
    if (accepted.depth == begin)
      accepted.depth += lanes == kAllLanes ? kWarpSize : lowest_bit(~lanes);
  }
  return accepted;
}

// What is accepted of a request's draft tokens.
template <typename T>
TW_DEVICE void verify_decisions(const VerifyParams& p) {
  SampleMemory& memory = *reinterpret_cast<SampleMemory*>(shared_memory());
  const i64 request = block_id();
  const RequestWorkspace workspace(p, request);
  i64 entry;
  if (!find_entry(p.sample, request, entry)) {
    wait_for_previous_kernel();  // else this one may be done before it
    if (thread_id() == 0) store_end(p, request, 0, 0, 0, kStatusSlot);
    return;
  }
  bool good = true;
  const DraftTree tree{p, request, draft_count(p, request, good)};
  process_of_entry(p.sample.process, entry, p.sample.vocabulary, memory.bias_filter,
                   memory.process);
  if (thread_id() == 0 && has_masks(p)) memory.process.allowed = nullptr;
  wait_for_previous_kernel();
  let_next_kernel_start();
  add_masses(p, workspace, tree.count);
  sync_block();
  weigh_draft_tokens<T>(tree, workspace, memory.process);
  sync_block();
  if (warp_id() != 0) return;
  const Decision decision{p, request, value_of_entry(p.sample.seeds, entry),
                          value_of_entry(p.sample.steps, entry)};
  const Accepted accepted = count_accepted(tree, workspace, decision);
  const i32 depth = accepted.depth;
  u32 status = 0;
#pragma unroll 1
  for (i32 node = lane_id(); node <= depth; node += kWarpSize) {
    if (node < depth) store_number(p.tokens, request, node, tree.token(node + 1, good));
    status |= workspace.target(node).status;
    if (p.draft.data != nullptr && node < tree.count) status |= workspace.draft(node).status;
  }
#pragma unroll
  for (i32 mask = kWarpSize / 2; mask > 0; mask /= 2) status |= shuffle_xor(status, mask);
  if (lane_id() != 0) return;
  // The token behind them, if there is one that could have been accepted.
  const i32 rejected = depth < tree.count ? tree.token(depth + 1, good) : -1;
  if (!good) status |= kStatusBadParameter;
  workspace.end() = {depth, rejected >= 0 ? 1 : 0, 0};
  if (rejected >= 0)
    store_rejection(p, workspace, 0, rejected, workspace.target(depth).mass,
                    workspace.draft(depth).mass);
  // The token behind the accepted ones is not known yet.
  store_end(p, request, depth, -1, accepted.all, status);
}

}  // namespace tw
