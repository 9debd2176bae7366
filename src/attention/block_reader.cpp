// SPDX-License-Identifier: Apache-2.0
#include "attention/block_reader.h"

#include <algorithm>
#include <limits>

#include "base/checks.h"

namespace tilewright {
namespace {

// A contiguous tensor of rank 1; returns how many elements it has, as far as 32 bits tell.
std::int32_t require_list(const char* name, const TensorView& tensor, DType dtype, Device device) {
  require_rank(name, tensor, {1});
  require_dtype(name, tensor, {dtype});
  require_device(name, tensor, device);
  require_last_dim_contiguous(name, tensor);
  return static_cast<std::int32_t>(
      std::min<std::int64_t>(tensor.shape[0], std::numeric_limits<std::int32_t>::max()));
}

void require_entries(const char* name, const TensorView& tensor, std::int64_t count) {
  require(tensor.shape[0] >= count, "{} is {}: it must have {} entries", name, tensor, count);
}

const std::int32_t* integers(const TensorView& tensor) {
  return static_cast<const std::int32_t*>(tensor.data);
}

void require_indptr(const char* name, const std::int32_t* indptr, std::int64_t count) {
  require(indptr[0] >= 0, "{}[0] is {}: it must not be negative", name, indptr[0]);
  for (std::int64_t i = 0; i < count; ++i) {
    require(indptr[i] <= indptr[i + 1], "{}[{}] is {} and {}[{}] is {}: it must not decrease", name,
            i, indptr[i], name, i + 1, indptr[i + 1]);
  }
}

void require_ascending(const plan::BlockLists& lists, std::int64_t count) {
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

plan::BlockLists block_lists(const BlockStructure& structure, const AttentionSpec& spec,
                             Device device, std::int64_t requests) {
  plan::BlockLists lists;
  if (!structure.defined()) return lists;
  require(spec.variant.mask.defined(), "blocks are given: the variant must have a mask");
  require(structure.q_block >= 1, "blocks.q_block is {}: it must be at least 1", structure.q_block);
  require(structure.kv_block >= 1, "blocks.kv_block is {}: it must be at least 1",
          structure.kv_block);
  require(structure.num_kv_heads == 1 || structure.num_kv_heads == spec.num_kv_heads,
          "blocks.num_kv_heads is {}: it must be 1 or {}, the KV heads", structure.num_kv_heads,
          spec.num_kv_heads);
  lists.q_block = structure.q_block;
  lists.kv_block = structure.kv_block;
  lists.heads = structure.num_kv_heads;
  require_list("blocks.request_rows", structure.request_rows, DType::i32, device);
  require_entries("blocks.request_rows", structure.request_rows, requests + 1);
  lists.request_rows = integers(structure.request_rows);
  const std::int32_t bounds = require_list("blocks.indptr", structure.indptr, DType::i32, device);
  require_entries("blocks.indptr", structure.indptr, 1);
  lists.num_lists = bounds - 1;
  lists.indptr = integers(structure.indptr);
  lists.num_entries = require_list("blocks.indices", structure.indices, DType::i32, device);
  lists.indices = integers(structure.indices);
  if (structure.full.defined()) {
    lists.num_entries =
        std::min(lists.num_entries, require_list("blocks.full", structure.full, DType::u8, device));
    lists.full = static_cast<const std::uint8_t*>(structure.full.data);
  }
  return lists;
}

void read_blocks(const BlockStructure& structure, const AttentionSpec& spec, Device device,
                 cpu::AttentionPlan& plan) {
  plan.blocks = {};
  if (!structure.defined()) return;
  const std::int64_t requests = plan.schedule.header->num_requests;
  const plan::BlockLists lists = block_lists(structure, spec, device, requests);
  require_indptr("blocks.request_rows", lists.request_rows, requests);
  for (std::int64_t r = 0; r < requests; ++r) {
    const std::int64_t needed = plan::ceil_div(plan.requests[r].q_len, lists.q_block);
    const std::int64_t rows = lists.request_rows[r + 1] - lists.request_rows[r];
    require(rows >= needed, "blocks.request_rows gives request {} {} rows: {} query tokens need {}",
            r, rows, plan.requests[r].q_len, needed);
  }
  const std::int64_t count = std::int64_t{lists.request_rows[requests]} * lists.heads;
  require_entries("blocks.indptr", structure.indptr, count + 1);
  require_indptr("blocks.indptr", lists.indptr, count);
  const std::int64_t entries = lists.indptr[count];
  require_entries("blocks.indices", structure.indices, entries);
  if (structure.full.defined()) require_entries("blocks.full", structure.full, entries);
  require_ascending(lists, count);
  plan.blocks = lists;
}

}  // namespace tilewright
