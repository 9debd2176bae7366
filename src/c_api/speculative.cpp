// SPDX-License-Identifier: Apache-2.0
#include <tilewright/c_speculative.h>
#include <tilewright/speculative.h>

#include "c_api/guard.h"
#include "c_api/read.h"
#include "c_api/read_sampling.h"

using namespace tilewright;
using namespace tilewright::c_api;

namespace {

VerifyArgs read_args(const tw_verify_args* args) {
  const Path path("args");
  const tw_verify_args given = read_struct(path, args);
  VerifyArgs result;
  if (given.sampling != nullptr) {
    result.sampling = read_sampling_args({path, "sampling"}, given.sampling);
  }
  result.input = read_enum({path, "input"}, given.input, VerifyInput::probabilities);
  result.draft = read_tensor({path, "draft"}, given.draft);
  result.allowed = read_tensor({path, "allowed"}, given.allowed);
  if (given.threshold_single != nullptr) result.threshold_single = *given.threshold_single;
  if (given.threshold_acc != nullptr) result.threshold_acc = *given.threshold_acc;
  result.coins = read_tensor({path, "coins"}, given.coins);
  result.final_coins = read_tensor({path, "final_coins"}, given.final_coins);
  result.status = read_tensor({path, "status"}, given.status);
  result.workspace = read_tensor({path, "workspace"}, given.workspace);
  check_reserved({path, "reserved"}, given.reserved);
  return result;
}

}  // namespace

tw_status tw_verify_workspace_size(int64_t requests, int64_t positions, int64_t* elements) {
  return guarded([&] {
    std::int64_t& size = required("elements", elements);
    size = verify_workspace_size(requests, positions);
  });
}

tw_status tw_verify_chain(const tw_tensor* target, const tw_tensor* draft_tokens,
                          const tw_tensor* counts, const tw_verify_args* args,
                          const tw_tensor* tokens, const tw_tensor* emitted,
                          const tw_tensor* accepted) {
  return guarded([&] {
    verify_chain(read_tensor("target", target), read_tensor("draft_tokens", draft_tokens),
                 read_optional_tensor("counts", counts), read_args(args),
                 read_tensor("tokens", tokens), read_tensor("emitted", emitted),
                 read_optional_tensor("accepted", accepted));
  });
}

tw_status tw_verify_tree(const tw_tensor* target, const tw_tensor* tree_tokens,
                         const tw_tensor* next_token, const tw_tensor* next_sibling,
                         const tw_verify_args* args, const tw_tensor* tokens,
                         const tw_tensor* nodes, const tw_tensor* accepted) {
  return guarded([&] {
    const VerifyTree tree = {read_tensor("tree_tokens", tree_tokens),
                             read_tensor("next_token", next_token),
                             read_tensor("next_sibling", next_sibling)};
    verify_tree(read_tensor("target", target), tree, read_args(args), read_tensor("tokens", tokens),
                read_tensor("nodes", nodes), read_tensor("accepted", accepted));
  });
}

tw_status tw_tree_links(const tw_tensor* parents, const tw_tensor* next_token,
                        const tw_tensor* next_sibling) {
  return guarded([&] {
    tree_links(read_tensor("parents", parents), read_tensor("next_token", next_token),
               read_tensor("next_sibling", next_sibling));
  });
}
