// SPDX-License-Identifier: Apache-2.0
// Speculative verification of a request by a block, behind verify_rows(): the walk from the root
// along accepted draft tokens, as docs/speculative.md says, with the results of the CPU.
#pragma once

#include "sampling/verify_rows.h"

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
};
static_assert(sizeof(VerifyMemory) <= kVerifySharedBytes);

TW_DEVICE i64 number_at(const RequestTable& table, i64 request, i32 i) {
  const i64 at = request * table.request_stride + i * table.stride;
  return table.wide != 0 ? static_cast<const i64*>(table.data)[at]
                         : static_cast<const i32*>(table.data)[at];
}

TW_DEVICE void store_number(const RequestTable& table, i64 request, i32 i, i32 value) {
  if (table.data == nullptr) return;
  const i64 at = request * table.request_stride + i * table.stride;
  if (table.wide != 0) {
    static_cast<i64*>(const_cast<void*>(table.data))[at] = value;
  } else {
    static_cast<i32*>(const_cast<void*>(table.data))[at] = value;
  }
}

TW_DEVICE u64 coin_at(const RequestTable& table, i64 request, i32 i) {
  const i64 at = request * table.request_stride + i * table.stride;
  return table.wide != 0 ? static_cast<const u64*>(table.data)[at]
                         : coin_bits(static_cast<const float*>(table.data)[at]);
}

// A request's tree: a chain is one, too. What is out of range makes `good` false.
struct DraftTree {
  const VerifyParams& p;
  i64 request;
  i32 count;  // of a chain

  TW_DEVICE bool is_chain() const { return p.next_token.data == nullptr; }
  TW_DEVICE i32 link(const RequestTable& links, i32 node, bool& good) const {
    const i64 to = number_at(links, request, node);
    if (to > node && to < p.nodes) return static_cast<i32>(to);
    if (to != -1) good = false;
    return -1;
  }
  TW_DEVICE i32 first_child(i32 node, bool& good) const {
    if (is_chain()) return node < count ? node + 1 : -1;
    return link(p.next_token, node, good);
  }
  TW_DEVICE i32 sibling(i32 node, bool& good) const {
    return is_chain() ? -1 : link(p.next_sibling, node, good);
  }
  // -1: out of range.
  TW_DEVICE i32 token(i32 node, bool& good) const {
    const i64 id = number_at(p.draft_tokens, request, node - 1 + p.first_token);
    if (id >= 0 && id < p.sample.vocabulary) return static_cast<i32>(id);
    good = false;
    return -1;
  }
};

// The weights of all draft tokens, in any order. Masks of nodes are not in `process`.
template <typename T>
TW_DEVICE void weigh_draft_tokens(const DraftTree& tree, const RequestWorkspace& workspace,
                                  const LogitProcess& process) {
  const VerifyParams& p = tree.p;
  const i64 request = tree.request;
  bool good;  // said where the walk meets them
#pragma unroll 1
  for (i32 node = thread_id(); node < p.nodes; node += num_threads()) {
    const u32* const allowed = has_masks(p) ? allowed_of(p, request, node) : nullptr;
    i32 child = tree.first_child(node, good);
#pragma unroll 1
    for (; child >= 0; child = tree.sibling(child, good)) {
      const i32 id = tree.token(child, good);
      if (id < 0) continue;
      workspace.target_weight(child) =
          weight_of_token<T>(p, false, request, node, id, workspace.target(node), process, allowed);
      if (p.draft.data == nullptr) continue;
      workspace.draft_weight(child) =
          weight_of_token<T>(p, true, request, node, id, workspace.draft(node), process, allowed);
    }
  }
}

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
    const i32 i = memory.rejected;
    workspace.rejections()[i] = has_draft ? mass : static_cast<u64>(id);
    if (has_draft)
      workspace.shifts()[i] = static_cast<u64>(residual_shift(mass, memory.draft.mass));
    memory.rejected = i + 1;
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

// What decides of a child: its coin, and the thresholds.
struct Decision {
  const VerifyParams& p;
  i64 request;
  i64 seed;
  i64 step;

  TW_DEVICE u64 random(i32 depth, u32 stream, i32 index) const {
    return sampling_bits(seed, static_cast<i64>(static_cast<u64>(step) + static_cast<u64>(depth)),
                         stream, static_cast<u32>(index));
  }
  TW_DEVICE u64 coin(i32 depth, i32 node, i32 child, i32 tried) const {
    // A coin for each child, or one for all children of a node.
    const bool each = p.draft.data != nullptr;
    if (p.coins.data == nullptr) return random(depth, kAcceptanceStream, each ? tried : 0);
    return coin_at(p.coins, request, each && p.next_token.data != nullptr ? child : node);
  }
  TW_DEVICE u64 final_coin(i32 depth) const {
    if (p.final_coins.data == nullptr) return random(depth, kCorrectionStream, 0);
    return coin_at(p.final_coins, request, 0);
  }
  TW_DEVICE bool accepts(const TokenPair& pair, u64 weight, u64 mass, u64 coin) const {
    const bool alone = p.threshold_single < 1 && weight >= threshold_mass(p.threshold_single, mass);
    return alone || tw::accepts(pair, coin, p.threshold_acc);
  }
};

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

// How many draft tokens of a chain from `node` on would be accepted, each one by itself.
TW_DEVICE i32 count_accepted(const DraftTree& tree, const RequestWorkspace& workspace,
                             const Decision& decision, i32 node) {
  const VerifyParams& p = tree.p;
  i32 accepted = 0;
  bool good;
#pragma unroll 1
  for (; node < tree.count; ++node) {
    if (tree.token(node + 1, good) < 0) continue;
    const u64 weight = workspace.target_weight(node + 1);
    const u64 mass = workspace.target(node).mass;
    TokenPair pair{weight, mass, 1, 1};
    if (p.draft.data != nullptr)
      pair = {weight, mass, workspace.draft_weight(node + 1), workspace.draft(node).mass};
    if (decision.accepts(pair, weight, mass, decision.coin(node, node, node + 1, 0))) ++accepted;
  }
  return accepted;
}

TW_DEVICE void store_end(const VerifyParams& p, i64 request, i32 depth, i32 token, i32 accepted,
                         u32 status) {
  store_number(p.tokens, request, depth, token);
#pragma unroll 1
  for (i32 i = depth + 1; i < p.length; ++i) {
    store_number(p.tokens, request, i, -1);
    store_number(p.on_path, request, i, -1);
  }
  store_number(p.emitted, request, 0, depth);
  store_number(p.accepted, request, 0, accepted);
  store_number(p.status, request, 0, static_cast<i32>(status));
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
    if (tells) store_end(p, request, 0, 0, 0, kStatusSlot);
    return;
  }
  process_of_entry(p.sample.process, entry, p.sample.vocabulary, memory.sample.bias_filter,
                   memory.sample.process);
  bool good = true;
  const DraftTree tree{p, request,
                       p.next_token.data == nullptr ? draft_count(p, request, good) : 0};
  const RequestWorkspace workspace(p, request);
  const Decision decision{p, request, value_of_entry(p.sample.seeds, entry),
                          value_of_entry(p.sample.steps, entry)};
  u32 status = good ? 0 : kStatusBadParameter;
  if (tells) {
    memory.rejections = workspace.rejections();
    memory.shifts = workspace.shifts();
    if (has_masks(p)) memory.sample.process.allowed = nullptr;
  }
  sync_block();
  weigh_draft_tokens<T>(tree, workspace, memory.sample.process);
  i32 node = 0, depth = 0;
#pragma unroll 1
  for (;;) {
    enter_node(p, workspace, request, node, memory);
    status |= memory.target.status;
    const i32 child = accepted_child<T>(tree, workspace, decision, node, depth, status, memory);
    if (child < 0) break;
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
  if (!tells) return;
  const i32 others =
      p.accepted.data == nullptr ? 0 : count_accepted(tree, workspace, decision, depth + 1);
  store_end(p, request, depth, token, depth + others, status);
}

}  // namespace tw
