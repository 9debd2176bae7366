// SPDX-License-Identifier: Apache-2.0
#include "attention/block_reader.h"

#include "base/checks.h"

namespace tilewright {
namespace {

// The elements of an i32 tensor of rank 1 with at least `count` of them.
const std::int32_t* integers(const char* name, const TensorView& tensor, std::int64_t count,
                             Device device) {
  require_rank(name, tensor, {1});
  require_dtype(name, tensor, {DType::i32});
  require_device(name, tensor, device);
  require_last_dim_contiguous(name, tensor);
  require(tensor.shape[0] >= count, "{} is {}: it must have {} entries", name, tensor, count);
  return static_cast<const std::int32_t*>(tensor.data);
}

void require_indptr(const char* name, const std::int32_t* indptr, std::int64_t count) {
  require(indptr[0] >= 0, "{}[0] is {}: it must not be negative", name, indptr[0]);
  for (std::int64_t i = 0; i < count; ++i) {
    require(indptr[i] <= indptr[i + 1], "{}[{}] is {} and {}[{}] is {}: it must not decrease", name,
            i, indptr[i], name, i + 1, indptr[i + 1]);
  }
}

void require_ascending(const cpu::BlockLists& lists, std::int64_t count) {
  for (std::int64_t list = 0; list < count; ++list) {
    std::int64_t before = -1;
    for (std::int64_t i = lists.indptr[list]; i < lists.indptr[list + 1]; ++i) {
      require(lists.indices[i] > before,
              "blocks.indices[{}] is {}: it must be above {}, as a list ascends from 0", i,
              lists.indices[i], before);
      before = lists.indices[i];
    }
  }
}

}  // namespace

void read_blocks(const BlockStructure& structure, const AttentionSpec& spec, Device device,
                 cpu::AttentionPlan& plan) {
  plan.blocks = {};
  if (!structure.defined()) return;
  require(spec.variant.mask.defined(), "blocks are given: the variant must have a mask");
  require(structure.q_block >= 1, "blocks.q_block is {}: it must be at least 1", structure.q_block);
  require(structure.kv_block >= 1, "blocks.kv_block is {}: it must be at least 1",
          structure.kv_block);
  require(structure.num_kv_heads == 1 || structure.num_kv_heads == spec.num_kv_heads,
          "blocks.num_kv_heads is {}: it must be 1 or {}, the KV heads", structure.num_kv_heads,
          spec.num_kv_heads);
  const std::int64_t requests = plan.schedule.header->num_requests;
  cpu::BlockLists lists;
  lists.q_block = structure.q_block;
  lists.kv_block = structure.kv_block;
  lists.heads = structure.num_kv_heads;
  lists.request_rows =
      integers("blocks.request_rows", structure.request_rows, requests + 1, device);
  require_indptr("blocks.request_rows", lists.request_rows, requests);
  for (std::int64_t r = 0; r < requests; ++r) {
    const std::int64_t needed = plan::ceil_div(plan.requests[r].q_len, lists.q_block);
    const std::int64_t rows = lists.request_rows[r + 1] - lists.request_rows[r];
    require(rows >= needed, "blocks.request_rows gives request {} {} rows: {} query tokens need {}",
            r, rows, plan.requests[r].q_len, needed);
  }
  const std::int64_t count = std::int64_t{lists.request_rows[requests]} * lists.heads;
  lists.indptr = integers("blocks.indptr", structure.indptr, count + 1, device);
  require_indptr("blocks.indptr", lists.indptr, count);
  const std::int64_t entries = lists.indptr[count];
  lists.indices = integers("blocks.indices", structure.indices, entries, device);
  require_ascending(lists, count);
  if (structure.full.defined()) {
    require_rank("blocks.full", structure.full, {1});
    require_dtype("blocks.full", structure.full, {DType::u8});
    require_device("blocks.full", structure.full, device);
    require_last_dim_contiguous("blocks.full", structure.full);
    require(structure.full.shape[0] >= entries, "blocks.full is {}: it must have {} entries",
            structure.full, entries);
    lists.full = static_cast<const std::uint8_t*>(structure.full.data);
  }
  plan.blocks = lists;
}

}  // namespace tilewright
