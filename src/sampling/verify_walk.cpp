// SPDX-License-Identifier: Apache-2.0
#include "sampling/verify_walk.h"

#include <algorithm>
#include <numeric>

#include "base/checks.h"
#include "sampling/check_args.h"
#include "sampling/philox.h"
#include "sampling/process.h"
#include "sampling/residual.h"

namespace tilewright {
namespace {

// An element of a caller's coins.
std::uint64_t given_coin(const TensorView& coins, std::int64_t at) {
  if (coins.dtype == DType::f32) return coin_bits(static_cast<const float*>(coins.data)[at]);
  return static_cast<const std::uint64_t*>(coins.data)[at];
}

std::uint64_t mass_of(const std::vector<WeightedToken>& tokens) {
  return std::accumulate(
      tokens.begin(), tokens.end(), std::uint64_t{0},
      [](std::uint64_t sum, const WeightedToken& token) { return sum + token.weight; });
}

std::vector<WeightedToken>::iterator find_token(std::vector<WeightedToken>& tokens,
                                                std::int32_t id) {
  const auto at = std::lower_bound(tokens.begin(), tokens.end(), id,
                                   [](const WeightedToken& a, std::int32_t b) { return a.id < b; });
  return at != tokens.end() && at->id == id ? at : tokens.end();
}

}  // namespace

void VerifyWalk::start(const VerifyCall& call, std::int64_t request) {
  call_ = &call;
  request_ = request;
  const SamplingArgs& args = call.args.sampling;
  entry_ = entry_of(args, request);
  params_.temperature = value_of(args.temperature, entry_);
  params_.top_k = value_of(args.top_k, entry_);
  params_.top_p = value_of(args.top_p, entry_);
  params_.min_p = value_of(args.min_p, entry_);
  params_.typical_p = value_of(args.typical_p, entry_);
  params_.order = args.order;
  seed_ = value_of(args.seeds, entry_);
  step_ = value_of(args.steps, entry_);
  process_ = row_process_of(args, entry_, call.vocabulary());
  count_ = call.is_tree() ? 0 : draft_count(call, request);
  depth_ = 0;
  status_ = 0;
}

std::int32_t VerifyWalk::read(VerifyRow& row, const TensorView& rows, std::int64_t node) {
  Logits list;
  list.values = static_cast<const std::byte*>(rows.data) +
                (request_ * rows.strides[0] + node * rows.strides[1]) * dtype_bytes(rows.dtype);
  list.dtype = rows.dtype;
  list.count = call_->vocabulary();
  if (call_->args.input == VerifyInput::probabilities) return row.read_probabilities(list);
  const TensorView& allowed = call_->args.allowed;
  if (allowed.defined()) {
    process_.allowed = static_cast<const std::uint32_t*>(allowed.data) +
                       request_ * allowed.strides[0] + node * allowed.strides[1];
  }
  return row.read_logits(list, params_, process_, call_->args.status.defined());
}

void VerifyWalk::read_target(std::int64_t node) {
  status_ |= static_cast<std::uint32_t>(read(target_, call_->target, node));
  listed_ = false;
}

void VerifyWalk::read_draft(std::int64_t node) {
  status_ |= static_cast<std::uint32_t>(read(draft_, call_->args.draft, node));
}

std::int64_t VerifyWalk::first_child(std::int64_t node) const {
  if (call_->is_tree()) return index_at(call_->next_token, request_, node);
  return node < count_ ? node + 1 : -1;
}

std::int64_t VerifyWalk::sibling(std::int64_t node) const {
  return call_->is_tree() ? index_at(call_->next_sibling, request_, node) : -1;
}

std::int32_t VerifyWalk::token_of(std::int64_t node) const {
  return static_cast<std::int32_t>(
      index_at(call_->draft_tokens, request_, node - 1 + call_->first_token()));
}

std::uint64_t VerifyWalk::coin(std::int64_t node, std::int64_t child, std::uint32_t tried) const {
  const TensorView& coins = call_->args.coins;
  // A coin for each child, or one for all children of a node.
  const bool each = call_->args.draft.defined();
  if (coins.defined()) {
    const std::int64_t column = call_->is_tree() && each ? child : node;
    return given_coin(coins, request_ * coins.strides[0] + column * coins.strides[1]);
  }
  return sampling_bits(seed_, step_at(depth_), RandomStream::acceptance, each ? tried : 0);
}

std::uint64_t VerifyWalk::final_coin() const {
  const TensorView& coins = call_->args.final_coins;
  if (coins.defined()) return given_coin(coins, request_ * coins.strides[0]);
  return sampling_bits(seed_, step_at(depth_), RandomStream::correction);
}

std::int64_t VerifyWalk::step_at(std::int64_t depth) const {
  // Counters go round.
  return static_cast<std::int64_t>(static_cast<std::uint64_t>(step_) +
                                   static_cast<std::uint64_t>(depth));
}

bool VerifyWalk::passes_alone(std::int32_t token) const {
  const float threshold = call_->args.threshold_single;
  return threshold < 1 && target_.weight_of(token) >= threshold_mass(threshold, target_.mass());
}

bool VerifyWalk::accepts_child(std::int64_t node, std::int64_t child, std::uint32_t tried) {
  const std::int32_t token = token_of(child);
  if (passes_alone(token)) return true;
  const float threshold = call_->args.threshold_acc;
  const std::uint64_t bits = coin(node, child, tried);
  std::uint64_t weight = 0;
  if (listed_) {
    const auto at = find_token(left_, token);
    if (at != left_.end()) weight = at->weight;
  } else {
    weight = target_.weight_of(token);
  }
  if (call_->args.draft.defined()) {
    const std::uint64_t mass = listed_ ? left_mass_ : target_.mass();
    return accepts({weight, mass, draft_.weight_of(token), draft_.mass()}, bits, threshold);
  }
  tried_mass_ += weight;
  return accepts({tried_mass_, target_.mass(), 1, 1}, bits, threshold);
}

void VerifyWalk::reject(std::int32_t token) {
  if (!listed_) {
    target_.list_tokens(left_);
    left_mass_ = target_.mass();
    listed_ = true;
  }
  if (call_->args.draft.defined()) {
    for (WeightedToken& left : left_) {
      left.weight =
          residual_weight({left.weight, left_mass_, draft_.weight_of(left.id), draft_.mass()});
    }
  } else if (const auto at = find_token(left_, token); at != left_.end()) {
    at->weight = 0;
  }
  left_mass_ = mass_of(left_);
  if (left_mass_ == 0) {
    // The difference is below a unit: target and draft are the same.
    target_.list_tokens(left_);
    left_mass_ = target_.mass();
  }
}

std::int64_t VerifyWalk::accepted_child(std::int64_t node) {
  std::int64_t child = depth_ + 1 < call_->tokens.shape[1] ? first_child(node) : -1;
  if (child >= 0 && call_->args.draft.defined()) read_draft(node);
  tried_mass_ = 0;
  for (std::uint32_t tried = 0; child >= 0; child = sibling(child), ++tried) {
    if (accepts_child(node, child, tried)) return child;
    reject(token_of(child));
  }
  if (!listed_) {
    target_.list_tokens(left_);
    left_mass_ = target_.mass();
    listed_ = true;
  }
  return -1;
}

std::int32_t VerifyWalk::draw() const {
  // floor(coin / 2^64 * mass): uniform in [0, mass).
  auto rest = static_cast<std::uint64_t>(share_of(left_mass_, final_coin()));
  for (const WeightedToken& token : left_) {
    if (rest < token.weight) return token.id;
    rest -= token.weight;
  }
  raise(ErrorCode::internal, "verification: a row's masses do not add up");
}

std::int32_t VerifyWalk::count_accepted(std::int64_t node) {
  std::int32_t accepted = 0;
  const std::uint32_t status = status_;
  for (; node < count_; ++node) {
    depth_ = node;
    read_target(node);
    if (call_->args.draft.defined()) read_draft(node);
    tried_mass_ = 0;
    accepted += accepts_child(node, node + 1, 0) ? 1 : 0;
  }
  status_ = status;  // these rows have decided nothing
  return accepted;
}

void VerifyWalk::store_token(std::int64_t column, std::int32_t token) const {
  const TensorView& tokens = call_->tokens;
  const std::int64_t at = request_ * tokens.strides[0] + column * tokens.strides[1];
  if (tokens.dtype == DType::i64) {
    static_cast<std::int64_t*>(tokens.data)[at] = token;
  } else {
    static_cast<std::int32_t*>(tokens.data)[at] = token;
  }
}

void VerifyWalk::store_node(std::int64_t column, std::int64_t node) const {
  const TensorView& nodes = call_->nodes;
  if (!nodes.defined()) return;
  static_cast<std::int32_t*>(nodes.data)[request_ * nodes.strides[0] + column * nodes.strides[1]] =
      static_cast<std::int32_t>(node);
}

void VerifyWalk::run(const VerifyCall& call, std::int64_t request) {
  start(call, request);
  const auto store_count = [&](const TensorView& counts, std::int32_t count) {
    static_cast<std::int32_t*>(counts.data)[request * counts.strides[0]] = count;
  };
  std::int64_t node = 0;
  store_node(0, node);
  for (;;) {
    read_target(node);
    const std::int64_t child = accepted_child(node);
    if (child < 0) break;
    store_token(depth_, token_of(child));
    ++depth_;
    store_node(depth_, child);
    node = child;
  }
  store_token(depth_, draw());
  for (std::int64_t column = depth_ + 1; column < call.tokens.shape[1]; ++column) {
    store_token(column, -1);
    store_node(column, -1);
  }
  const auto emitted = static_cast<std::int32_t>(depth_);
  store_count(call.emitted, emitted);
  if (call.accepted.defined()) store_count(call.accepted, emitted + count_accepted(depth_ + 1));
  if (call.args.status.defined()) {
    store_count(call.args.status, static_cast<std::int32_t>(status_));
  }
}

}  // namespace tilewright
