// SPDX-License-Identifier: Apache-2.0
// Speculative verification of chains, behind summaries of their rows: a block decides for a
// request, then blocks have chunks of the row where its chain ends, and the last of them draws.
#pragma once

#include "sampling/verify_chunks.h"
#include "sampling/verify_requests.h"

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

// What is accepted of a request's draft tokens.
template <typename T>
TW_DEVICE void verify_decisions(const VerifyParams& p) {
  SampleMemory& memory = *reinterpret_cast<SampleMemory*>(shared_memory());
  const i64 request = block_id();
  const bool tells = thread_id() == 0;
  const RequestWorkspace workspace(p, request);
  i64 entry;
  if (!find_entry(p.sample, request, entry)) {
    if (tells) store_end(p, request, 0, 0, 0, kStatusSlot);
    return;
  }
  bool good = true;
  const DraftTree tree{p, request, draft_count(p, request, good)};
  const Decision decision{p, request, value_of_entry(p.sample.seeds, entry),
                          value_of_entry(p.sample.steps, entry)};
  process_of_entry(p.sample.process, entry, p.sample.vocabulary, memory.bias_filter,
                   memory.process);
  if (tells && has_masks(p)) memory.process.allowed = nullptr;
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

// The token behind the accepted ones.
template <typename T>
TW_DEVICE void verify_draws(const VerifyParams& p) {
  VerifyMemory& memory = *reinterpret_cast<VerifyMemory*>(shared_memory());
  const i32 chunks = chunks_of_row(p);
  const i64 request = block_id() / chunks;
  const RequestWorkspace workspace(p, request);
  const ChainEnd end = workspace.end();
  i64 entry;
  if (!find_entry(p.sample, request, entry)) return;
  process_of_entry(p.sample.process, entry, p.sample.vocabulary, memory.sample.bias_filter,
                   memory.sample.process);
  enter_node(p, workspace, request, end.node, memory);
  if (thread_id() == 0) {
    memory.rejections = workspace.rejections();
    memory.shifts = workspace.shifts();
    memory.rejected = end.rejected;
  }
  sync_block();
  const RowOfLogits<T> row = target_row<T>(p, request, end.node, memory);
  const auto left = [&](i32 id, float logit) {
    if (row.processed) logit = process_logit(row.process, id, logit);
    return left_of_entry<T>(p, memory, request, end.node, id, row.value(logit));
  };
  Chunk chunk{request, end.node, false, 0, 0, 0};
  place_chunk(p, block_id() % chunks, chunk);
  u64 sum = 0;
  for_chunk<T>(p, chunk, [&](i32 id, float logit) { sum += left(id, logit); });
  sum = sum_of_chunk(sum, memory.sample.of_warps);
  if (thread_id() == 0) {
    workspace.left()[chunk.index] = sum;
    memory.sample.result[0] =
        static_cast<u64>(atomic_add_acq_rel(&workspace.end().chunks, 1) == chunks - 1);
  }
  sync_block();
  if (memory.sample.result[0] == 0) return;
  const u64* sums = workspace.left();
  u64 total = 0;
#pragma unroll 1
  for (i32 i = 0; i < chunks; ++i) total += sums[i];
  const Decision decision{p, request, value_of_entry(p.sample.seeds, entry),
                          value_of_entry(p.sample.steps, entry)};
  const u64 coin = decision.final_coin(end.node);
  u64 rest = multiply_high(coin, total);
  i32 index = 0;
#pragma unroll 1
  while (index < chunks && rest >= sums[index]) rest -= sums[index++];
  place_chunk(p, index, chunk);
  if (total == 0) {
    // The difference is below a unit: target and draft are the same, and all of the row is walked.
    rest = multiply_high(coin, memory.target.mass);
    chunk.begin = 0;
    chunk.end = p.sample.vocabulary;
    sync_block();
    if (thread_id() == 0) memory.rejected = 0;
    sync_block();
  }
  // As logits are: what is done to them goes by their ids in the whole row.
  const RowOfLogits<T> part{
      row.logits + chunk.begin, chunk.end - chunk.begin, row.aligned, false, row.process, false};
  const i32 token = locate(
                        part, [&](i32 i, float logit) { return left(chunk.begin + i, logit); },
                        [&](u64) { return rest; }, memory.sample) +
                    chunk.begin;
  if (thread_id() == 0) store_number(p.tokens, request, end.node, token);
}

}  // namespace tw
