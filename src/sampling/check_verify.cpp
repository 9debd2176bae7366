// SPDX-License-Identifier: Apache-2.0
#include <vector>

#include "base/checks.h"
#include "sampling/check_args.h"
#include "sampling/verify_call.h"

namespace tilewright {
namespace {

void check_input(const char* name, const TensorView& tensor, const TensorView& target,
                 std::initializer_list<std::int64_t> shape, std::initializer_list<DType> dtypes) {
  require_shape(name, tensor, shape);
  require_dtype(name, tensor, dtypes);
  require_device(name, tensor, target.device);
}

void check_output(const char* name, const TensorView& tensor, const TensorView& target,
                  std::initializer_list<std::int64_t> shape, std::initializer_list<DType> dtypes) {
  check_input(name, tensor, target, shape, dtypes);
  require_writable(name, tensor);
}

void check_threshold(const char* name, float threshold) {
  require(threshold >= 0 && threshold <= 1, "{} is {}: it must be in [0, 1]", name, threshold);
}

void check_draft_token(const VerifyCall& call, std::int64_t request, std::int64_t at) {
  const std::int64_t token = index_at(call.draft_tokens, request, at);
  require(token >= 0 && token < call.vocabulary(),
          "draft token {} of request {} is {}: it must be in [0, {})", at, request, token,
          call.vocabulary());
}

void check_chain_values(const VerifyCall& call, std::int64_t request) {
  const std::int64_t count = draft_count(call, request);
  require(count >= 0 && count < call.num_nodes(),
          "counts of request {} is {}: it must be in [0, {}]", request, count,
          call.num_nodes() - 1);
  for (std::int64_t i = 0; i < count; ++i) check_draft_token(call, request, i);
}

void check_tree_values(const VerifyCall& call, std::int64_t request) {
  // A node that two links lead to would have two parents.
  std::vector<bool> linked(static_cast<std::size_t>(call.num_nodes()));
  const auto check_link = [&](const char* name, const TensorView& links, std::int64_t node) {
    const std::int64_t to = index_at(links, request, node);
    require(to == -1 || (to > node && to < call.num_nodes()),
            "{} of node {} of request {} is {}: it must be -1 or a later node below {}", name, node,
            request, to, call.num_nodes());
    if (to == -1) return;
    require(!linked[static_cast<std::size_t>(to)],
            "{} of node {} of request {} is {}: another link leads there", name, node, request, to);
    linked[static_cast<std::size_t>(to)] = true;
    check_draft_token(call, request, to);
  };
  for (std::int64_t node = 0; node < call.num_nodes(); ++node) {
    check_link("next_token", call.next_token, node);
    check_link("next_sibling", call.next_sibling, node);
  }
}

void check_chain(const VerifyCall& call) {
  const TensorView& target = call.target;
  const std::int64_t requests = call.requests();
  check_input("draft_tokens", call.draft_tokens, target, {requests, call.num_nodes() - 1},
              {DType::i32, DType::i64});
  if (call.counts.defined()) check_input("counts", call.counts, target, {requests}, {DType::i32});
  check_output("tokens", call.tokens, target, {requests, call.num_nodes()},
               {DType::i32, DType::i64});
  check_output("emitted", call.emitted, target, {requests}, {DType::i32});
  if (call.accepted.defined()) {
    check_output("accepted", call.accepted, target, {requests}, {DType::i32});
  }
}

void check_tree(const VerifyCall& call) {
  const TensorView& target = call.target;
  const std::int64_t requests = call.requests();
  check_input("tree.tokens", call.draft_tokens, target, {requests, call.num_nodes()},
              {DType::i32, DType::i64});
  const auto check_links = [&](const char* name, const TensorView& links) {
    check_input(name, links, target, {requests, call.num_nodes()}, {call.draft_tokens.dtype});
  };
  check_links("tree.next_token", call.next_token);
  check_links("tree.next_sibling", call.next_sibling);
  require_rank("tokens", call.tokens, {2});
  require(call.tokens.shape[1] >= 1, "tokens is {}: it must have a column", call.tokens);
  check_output("tokens", call.tokens, target, {requests, -1}, {DType::i32, DType::i64});
  check_output("nodes", call.nodes, target, {requests, call.tokens.shape[1]}, {DType::i32});
  check_output("accepted", call.emitted, target, {requests}, {DType::i32});
}

}  // namespace

void check_verify(const VerifyCall& call) {
  const TensorView& target = call.target;
  const VerifyArgs& args = call.args;
  require_rank("target", target, {3});
  require_dtype("target", target, {DType::f32, DType::f16, DType::bf16});
  require_last_dim_contiguous("target", target);
  require(call.num_nodes() >= 1, "target is {}: it must have a position", target);
  require(args.input <= VerifyInput::probabilities, "input is {}: it must be a VerifyInput",
          static_cast<int>(args.input));
  require(!args.sampling.status.defined(),
          "sampling.status is {}: it must not be given, VerifyArgs has a status of its own",
          args.sampling.status);
  call.is_tree() ? check_tree(call) : check_chain(call);
  const std::int64_t requests = call.requests();
  const std::int64_t drafts = call.is_tree() ? call.num_nodes() : call.num_nodes() - 1;
  if (args.draft.defined()) {
    check_input("draft", args.draft, target, {requests, drafts, call.vocabulary()}, {target.dtype});
    require_last_dim_contiguous("draft", args.draft);
  }
  if (args.allowed.defined()) {
    check_input("allowed", args.allowed, target,
                {requests, call.num_nodes(), (call.vocabulary() + 31) / 32}, {DType::i32});
    require_last_dim_contiguous("allowed", args.allowed);
  }
  check_threshold("threshold_single", args.threshold_single);
  check_threshold("threshold_acc", args.threshold_acc);
  if (args.coins.defined())
    check_input("coins", args.coins, target, {requests, drafts}, {DType::f32, DType::i64});
  if (args.final_coins.defined())
    check_input("final_coins", args.final_coins, target, {requests}, {DType::f32, DType::i64});
  if (args.status.defined()) check_output("status", args.status, target, {requests}, {DType::i32});
  check_sampling(target.select(1, 0), args.sampling, call.tokens.select(1, 0));
  if (target.device.type == DeviceType::cuda) {
    const std::int64_t words = verify_workspace_size(requests, call.num_nodes());
    check_output("workspace", args.workspace, target, {-1}, {DType::i64});
    require(args.workspace.is_contiguous() && args.workspace.shape[0] >= words,
            "workspace is {}: it must be contiguous with at least {} elements", args.workspace,
            words);
    return;
  }
  for (std::int64_t request = 0; request < requests; ++request) {
    call.is_tree() ? check_tree_values(call, request) : check_chain_values(call, request);
  }
}

}  // namespace tilewright
