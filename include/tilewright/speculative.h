// SPDX-License-Identifier: Apache-2.0
// Speculative verification: which draft tokens the target model accepts, and the token behind them.
#pragma once

#include <tilewright/sampling.h>
#include <tilewright/tensor_view.h>

#include <cstdint>

namespace tilewright {

// What rows of target and draft are.
enum class VerifyInput : std::uint8_t {
  logits,  // filtered as SamplingArgs say
  // f32, f16, bf16 in [0, 1], used as they are but for normalisation: of SamplingArgs only seeds,
  // steps and slots matter. NaN counts as 0.
  probabilities,
};

// What verify_chain() and verify_tree() have in common. `positions` is the extent of target's
// second dimension. docs/speculative.md has what is computed, in full.
struct VerifyArgs {
  // Of a request: where sample() says row, it is a request here, and both its target and its draft
  // rows are filtered so. steps: the tokens that the request has drawn before this call. Its
  // `status` must not be given.
  SamplingArgs sampling;
  VerifyInput input = VerifyInput::logits;
  // As target, [requests, positions - 1, vocabulary] of a chain, [requests, nodes, vocabulary] of a
  // tree, optional: the distribution that draft tokens were drawn from, by one draw each; of a
  // tree, row i is that of the children of node i. Without it draft tokens count as certain.
  TensorView draft;
  // i32 [requests, positions, ceil(vocabulary / 32)], optional: as SamplingArgs::allowed, but of
  // each position (of a tree: node). It acts on target and draft; that of `sampling` is not read
  // then.
  TensorView allowed;
  // A draft token whose probability is at least this is accepted whatever the coin; in [0, 1], 1:
  // off.
  float threshold_single = 1;
  // Probabilities of acceptance are divided by it; in [0, 1], 1: off. With a threshold below 1 the
  // tokens no longer have exactly the target's distribution.
  float threshold_acc = 1;
  // Uniform numbers instead of Philox's, optional: f32 in [0, 1), or i64, all 64 bits of which
  // are. coins: of a chain [requests, positions - 1], of a tree [requests, nodes], that of a child
  // at its own place with draft rows and at its parent's without; final_coins: [requests], for the
  // token behind the accepted ones.
  TensorView coins;
  TensorView final_coins;
  // i32 [requests], optional, written: bits of SamplingStatus of the rows of target and draft that
  // decided. bad_parameter on CUDA also says that a count, or a draft token or a link that decided,
  // was out of range.
  TensorView status;
  // CUDA only: i64 [at least verify_workspace_size()], contiguous; what it holds does not matter.
  // Calls that may run at the same time have one each.
  TensorView workspace;
};

// Elements of VerifyArgs::workspace that a call needs.
TILEWRIGHT_API std::int64_t verify_workspace_size(std::int64_t requests, std::int64_t positions);

// Speculative sampling of a chain (Leviathan et al., arXiv 2211.17192). Request r has counts[r]
// draft tokens; row i of target [requests, positions, vocabulary] (f32, f16, bf16; vocabulary
// contiguous) is what the target model says behind i of them. Each is accepted with the
// probability min(1, p / q); behind the first one that is not the token is drawn from the residual
// max(0, p - q), behind all of them from the last row. So the tokens have the target's
// distribution.
//
// draft_tokens: i32 or i64 [requests, positions - 1]. counts: i32 [requests], or undefined: all
// have positions - 1. Written: tokens, i32 or i64 [requests, positions], the accepted ones, the
// drawn one, then -1; emitted, i32 [requests], how many were accepted in a row; accepted, optional,
// i32 [requests], how many would be, each one by itself (both as FlashInfer's
// chain_speculative_sampling has them).
//
// All tensors are on one device, and the CPU and CUDA give the same results. Errors:
// invalid_argument, also as of sample(), and where a count is outside [0, positions - 1] or a draft
// token outside [0, vocabulary). On CUDA these are not checked: such a count is clamped, such a
// token is not accepted, and a request whose slot is out of range gets token 0 alone.
TILEWRIGHT_API void verify_chain(const TensorView& target, const TensorView& draft_tokens,
                                 const TensorView& counts, const VerifyArgs& args,
                                 const TensorView& tokens, const TensorView& emitted,
                                 const TensorView& accepted = {});

// Draft tokens as trees: node 0 is the root, whose token is not looked at. All i32 or all i64
// [requests, nodes].
struct VerifyTree {
  TensorView tokens;
  TensorView next_token;    // the first child of a node, or -1
  TensorView next_sibling;  // the next child of the node's parent, or -1
};

// The same with a tree of draft tokens: row i of target [requests, nodes, vocabulary] is what the
// target model says behind node i. From the root on, children are tried in their order until one is
// accepted: with draft rows each by a coin of its own against what the ones before left of the
// target's distribution (SpecInfer, arXiv 2305.09781); without, by one coin against the sum of
// their probabilities, as SGLang's tree_speculative_sampling_target_only. Behind the last accepted
// one the token is drawn from what is left. Both have the target's distribution exactly.
//
// Written: tokens, i32 or i64 [requests, length], the accepted ones, the drawn one, then -1; nodes,
// i32 [requests, length], those accepted from the root 0 on, then -1; accepted, i32 [requests], how
// many draft tokens were. At most length - 1 are.
//
// Errors as of verify_chain(). A link leads to a later node, where no other one leads, or is -1:
// others are an error; on CUDA those out of range count as -1, and of a node with two parents the
// result is that of one of them or the other.
TILEWRIGHT_API void verify_tree(const TensorView& target, const VerifyTree& tree,
                                const VerifyArgs& args, const TensorView& tokens,
                                const TensorView& nodes, const TensorView& accepted);

// The links of trees that are given by the parents of their nodes, [requests, nodes] on the CPU;
// the root's parent is -1, and a node behind it whose parent is -1 belongs to no tree. All i32 or
// all i64. Errors: invalid_argument, also for a parent that is not before its child.
TILEWRIGHT_API void tree_links(const TensorView& parents, const TensorView& next_token,
                               const TensorView& next_sibling);

}  // namespace tilewright
