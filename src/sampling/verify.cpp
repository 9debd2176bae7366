// SPDX-License-Identifier: Apache-2.0
// Front end of speculative verification: requests over threads. What is computed:
// docs/speculative.md.
#include <tilewright/speculative.h>

#include "base/checks.h"
#include "base/parallel.h"
#include "sampling/cuda_verify.h"
#include "sampling/verify_call.h"
#include "sampling/verify_walk.h"

namespace tilewright {
namespace {

void verify(const VerifyCall& call) {
  check_verify(call);
  if (call.target.device.type == DeviceType::cuda) {
    verify_on_cuda(call);
    return;
  }
  const std::int64_t requests = call.requests();
  // Buffers stay with their threads.
  if (requests < num_threads()) {
    thread_local VerifyWalk walk(true);
    for (std::int64_t request = 0; request < requests; ++request) walk.run(call, request);
    return;
  }
  parallel_for(requests, 1, [&](std::int64_t begin, std::int64_t end) {
    thread_local VerifyWalk walk(false);
    for (std::int64_t request = begin; request < end; ++request) walk.run(call, request);
  });
}

}  // namespace

void verify_chain(const TensorView& target, const TensorView& draft_tokens,
                  const TensorView& counts, const VerifyArgs& args, const TensorView& tokens,
                  const TensorView& emitted, const TensorView& accepted) {
  verify({target, draft_tokens, counts, {}, {}, args, tokens, {}, emitted, accepted});
}

void verify_tree(const TensorView& target, const VerifyTree& tree, const VerifyArgs& args,
                 const TensorView& tokens, const TensorView& nodes, const TensorView& accepted) {
  require_defined("tree.next_token", tree.next_token);
  verify({target,
          tree.tokens,
          {},
          tree.next_token,
          tree.next_sibling,
          args,
          tokens,
          nodes,
          accepted,
          {}});
}

}  // namespace tilewright
