// SPDX-License-Identifier: Apache-2.0
// What Plan::status() says of a request whose lengths or pages are only known on the device.
#pragma once

#include <tilewright/export.h>

#include <cstdint>
#include <string>

namespace tilewright {

// Bits of a request's status word. With any of them the request's output is 0 and its lse -inf;
// other requests are not touched, except where they share what is wrong.
enum class RequestStatus : std::uint32_t {
  well = 0,
  // Its query tokens: qo_indptr decreases, does not begin with 0, or is over the plan's limits.
  q_range = 1,
  // A length is negative, missing, over the plan's limit, or over what the page table holds.
  kv_len = 2,
  // A page id, or what leads to it (row_ids, indptr), is negative or beyond the cache.
  page = 4,
  // A query token or a key would be at a position beyond 2^31 - 1.
  position = 8,
  // A level's qo_indptr or q_rows is malformed: of every request. Or kv_pos is missing where the
  // query tokens of a row have different numbers of keys before it.
  level_rows = 16,
  // num_requests is negative or more than the plan or qo_indptr has: of every request.
  num_requests = 32,
  // A block structure's lists: fewer rows than the query tokens need, a row or an entry behind the
  // tensors, KV blocks that do not ascend from 0.
  blocks = 64,
};

// A status word in words: its bits by name, each with what must be. "well" for 0.
TILEWRIGHT_API std::string describe_status(std::int32_t word);

}  // namespace tilewright
