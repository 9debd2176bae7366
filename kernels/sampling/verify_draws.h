// SPDX-License-Identifier: Apache-2.0
// Speculative verification of chains behind verify_masses(): a block decides for a request, then
// blocks have chunks of the row where its chain ends, and the last of them draws.
#pragma once

#include "sampling/verify_chunks.h"
#include "sampling/verify_requests.h"

namespace tw {

// Adds up what chunks have found: a warp has a row.
TW_DEVICE void add_masses(const VerifyParams& p, const RequestWorkspace& workspace, i32 count) {
  const i32 rows = p.draft.data != nullptr ? 2 * count + 1 : count + 1;
#pragma unroll 1
  for (i32 row = warp_id(); row < rows; row += kChunkThreads / kWarpSize) {
    const bool draft = row > count;
    const i32 node = draft ? row - count - 1 : row;
    RowSummary& summary = draft ? workspace.draft(node) : workspace.target(node);
    if (summary.certain >= 0) continue;
    const u64 mine = lane_id() < chunks_of_row(p) ? workspace.masses(draft, node)[lane_id()] : 0;
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

// The third one: what is accepted of a request's draft tokens.
template <typename T>
TW_DEVICE void verify_decisions(const VerifyParams& p) {
  SampleMemory& memory = *reinterpret_cast<SampleMemory*>(shared_memory());
  const i64 request = block_id();
  const bool tells = thread_id() == 0;
  const RequestWorkspace workspace(p, request);
  i64 entry;
  if (!find_entry(p.sample, request, entry)) {
    if (tells) {
      store_end(p, request, 0, 0, 0, kStatusSlot);
      workspace.end() = {-1, -1, 0};
    }
    return;
  }
  bool good = true;
  const DraftTree tree{p, request, draft_count(p, request, good)};
  const Decision decision{p, request, value_of_entry(p.sample.seeds, entry),
                          value_of_entry(p.sample.steps, entry)};
  if (tells) memory.process = {};
  add_masses(p, workspace, tree.count);
  sync_block();
  weigh_draft_tokens<T>(tree, workspace, memory.process);
  sync_block();
  u64* accepted = workspace.rejections();
#pragma unroll 1
  for (i32 node = thread_id(); node < tree.count; node += kChunkThreads)
    accepted[node] = accepts_next(tree, workspace, decision, node) ? 1 : 0;
  sync_block();
  if (!tells) return;
  i32 depth = 0, all = 0;
#pragma unroll 1
  for (i32 node = 0; node < tree.count; ++node) {
    all += static_cast<i32>(accepted[node]);
    if (depth != node || accepted[node] == 0) continue;
    store_number(p.tokens, request, depth, tree.token(node + 1, good));
    ++depth;
  }
  // The token behind them, if there is one that could have been accepted.
  const i32 rejected = depth < tree.count ? tree.token(depth + 1, good) : -1;
  u32 status = good ? 0 : kStatusBadParameter;
#pragma unroll 1
  for (i32 node = 0; node <= depth; ++node) {
    status |= workspace.target(node).status;
    if (p.draft.data != nullptr && node < tree.count) status |= workspace.draft(node).status;
  }
  workspace.end() = {depth, rejected >= 0 ? 1 : 0, 0};
  if (rejected >= 0)
    store_rejection(p, workspace, 0, rejected, workspace.target(depth).mass,
                    workspace.draft(depth).mass);
  // The token behind the accepted ones is not known yet.
  store_end(p, request, depth, -1, all, status);
}

// The last one: the token behind the accepted ones.
template <typename T>
TW_DEVICE void verify_draws(const VerifyParams& p) {
  VerifyMemory& memory = *reinterpret_cast<VerifyMemory*>(shared_memory());
  const i32 chunks = chunks_of_row(p);
  const i64 request = block_id() / chunks;
  const RequestWorkspace workspace(p, request);
  const ChainEnd end = workspace.end();
  if (end.node < 0) return;
  enter_node(p, workspace, request, end.node, memory);
  if (thread_id() == 0) {
    memory.rejections = workspace.rejections();
    memory.shifts = workspace.shifts();
    memory.rejected = end.rejected;
    memory.sample.process = {};
  }
  sync_block();
  RowOfLogits<T> row = target_row<T>(p, request, end.node, memory);
  const auto left = [&](i32 id, float value) {
    return left_of_entry<T>(p, memory, request, end.node, id, value);
  };
  Chunk chunk{request, end.node, false, 0, 0, 0};
  place_chunk(p, block_id() % chunks, chunk);
  u64 sum = 0;
  for_chunk<T>(p, chunk, [&](i32 id, float logit) { sum += left(id, row.value(logit)); });
  sum = sum_of_chunk(sum, memory.sample.of_warps);
  if (thread_id() == 0) {
    workspace.left()[chunk.index] = sum;
    memory.sample.result[0] =
        static_cast<u64>(atomic_add_acq_rel(&workspace.end().chunks, 1) == chunks - 1);
  }
  sync_block();
  if (memory.sample.result[0] == 0) return;
  const u64* sums = workspace.left();
  u64 bits = ~u64{0};  // of a sum
  u64 total = 0;
#pragma unroll 1
  for (i32 i = 0; i < chunks; ++i) total += sums[i];
  if (total == 0) {
    // The difference is below a unit: target and draft are the same.
    sync_block();
    if (thread_id() == 0) memory.rejected = 0;
    sync_block();
    sums = workspace.masses(false, end.node);
    bits = ~kMassNan;
    total = memory.target.mass;
  }
  i64 entry;
  find_entry(p.sample, request, entry);
  const Decision decision{p, request, value_of_entry(p.sample.seeds, entry),
                          value_of_entry(p.sample.steps, entry)};
  u64 rest = multiply_high(decision.final_coin(end.node), total);
  i32 token = memory.target.certain;
  if (token < 0) {
    i32 index = 0;
#pragma unroll 1
    while (rest >= (sums[index] & bits)) rest -= sums[index++] & bits;
    place_chunk(p, index, chunk);
    row.logits += chunk.begin;
    row.count = chunk.end - chunk.begin;
    token = chunk.begin + locate(
                              row, [&](i32 i, float value) { return left(chunk.begin + i, value); },
                              [&](u64) { return rest; }, memory.sample);
  }
  if (thread_id() == 0) store_number(p.tokens, request, end.node, token);
}

}  // namespace tw
