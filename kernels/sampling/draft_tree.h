// SPDX-License-Identifier: Apache-2.0
// The draft tokens of a request, what decides of them, and where the results go.
#pragma once

#include "sampling/verify_rows.h"

namespace tw {

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

// The i-th rejection at a node, for left_of_weight(); `mass` was left before.
TW_DEVICE void store_rejection(const VerifyParams& p, const RequestWorkspace& workspace, i32 i,
                               i32 id, u64 mass, u64 draft_mass) {
  const bool has_draft = p.draft.data != nullptr;
  workspace.rejections()[i] = has_draft ? mass : static_cast<u64>(id);
  if (has_draft) workspace.shifts()[i] = static_cast<u64>(residual_shift(mass, draft_mass));
}

// Whether the draft token behind a node of a chain is accepted, by itself.
TW_DEVICE bool accepts_next(const DraftTree& tree, const RequestWorkspace& workspace,
                            const Decision& decision, i32 node) {
  const VerifyParams& p = tree.p;
  bool good;
  if (tree.token(node + 1, good) < 0) return false;
  const u64 weight = workspace.target_weight(node + 1);
  const u64 mass = workspace.target(node).mass;
  TokenPair pair{weight, mass, 1, 1};
  if (p.draft.data != nullptr)
    pair = {weight, mass, workspace.draft_weight(node + 1), workspace.draft(node).mass};
  return decision.accepts(pair, weight, mass, decision.coin(node, node, node + 1, 0));
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

}  // namespace tw
