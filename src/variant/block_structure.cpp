// SPDX-License-Identifier: Apache-2.0
#include <tilewright/block_structure.h>
#include <tilewright/plan.h>

#include <algorithm>
#include <string>

#include "base/checks.h"
#include "base/numeric.h"
#include "base/parallel.h"
#include "variant/mask_evaluator.h"

namespace tilewright {
namespace {

struct Lists {
  std::vector<std::int32_t> request_rows, indptr, indices;
  std::vector<std::uint8_t> full;
};

struct BlockRow {
  std::size_t request = 0;
  std::int64_t begin = 0;  // query tokens, counted in the request
  std::int64_t end = 0;
  std::int64_t kv_head = 0;
};

struct Entry {
  std::int32_t block = 0;
  std::uint8_t full = 0;
};

// Element i of an i32 tensor of rank 1 with at least `count` elements.
class Integers {
 public:
  Integers(const char* name, const TensorView& tensor, std::int64_t count) : tensor_(tensor) {
    require_rank(name, tensor, {1});
    require_dtype(name, tensor, {DType::i32});
    require_device(name, tensor, Device{});
    require(tensor.shape[0] >= count, "{} is {}: it must have {} entries", name, tensor, count);
  }
  std::int64_t operator[](std::int64_t i) const {
    return load_integer(tensor_.data, tensor_.dtype, i * tensor_.strides[0]);
  }

 private:
  const TensorView& tensor_;
};

std::vector<MaskRequest> read_requests(const Batch& batch) {
  require(batch.interleave.world == 1,
          "batch.interleave has world {}: a block structure is made of whole sequences, for all "
          "shards",
          batch.interleave.world);
  const Integers indptr("batch.qo_indptr", batch.qo_indptr, 1);
  std::int64_t count = batch.qo_indptr.shape[0] - 1;
  if (batch.num_requests.defined()) {
    count = std::min(count, Integers("batch.num_requests", batch.num_requests, 1)[0]);
  }
  const Integers kv_lens("batch.kv_lens", batch.kv_lens, count);
  std::vector<MaskRequest> requests;
  for (std::int64_t r = 0; r < count; ++r) {
    MaskRequest request;
    request.batch = r;
    request.q_begin = indptr[r];
    request.q_len = indptr[r + 1] - indptr[r];
    request.kv_len = kv_lens[r];
    require(request.q_begin >= 0 && request.q_len >= 0 && request.kv_len >= 0,
            "request {} has query tokens [{}, {}) and {} keys: indptr must not decrease, lengths "
            "not be negative",
            r, request.q_begin, indptr[r + 1], request.kv_len);
    request.q_pos = request.kv_len - request.q_len;
    requests.push_back(request);
  }
  if (batch.q_pos_offset.defined()) {
    const Integers offsets("batch.q_pos_offset", batch.q_pos_offset, count);
    for (std::int64_t r = 0; r < count; ++r) {
      requests[static_cast<std::size_t>(r)].q_pos = offsets[r];
    }
  }
  if (batch.q_pos.defined()) {
    const Integers positions("batch.q_pos", batch.q_pos, indptr[count]);
    for (MaskRequest& request : requests) {
      request.q_pos_table = static_cast<const std::int32_t*>(batch.q_pos.data);
      request.q_pos_stride = batch.q_pos.strides[0];
    }
  }
  return requests;
}

std::vector<Entry> entries_of(const MaskEvaluator& mask, MaskEvaluator::Rows& rows,
                              const MaskRequest& request, const BlockRow& block_row,
                              std::int64_t group_size, std::int64_t kv_block) {
  QueryRange queries = request.range(block_row.begin, block_row.end);
  queries.kv_head = block_row.kv_head;
  queries.q_head_begin = block_row.kv_head * group_size;
  queries.q_head_end = queries.q_head_begin + group_size;
  const MaskRanges ranges = mask.ranges(queries);
  std::vector<Entry> entries;
  for (std::int64_t begin = 0; begin < request.kv_len; begin += kv_block) {
    const std::int64_t end = std::min(begin + kv_block, request.kv_len);
    TileKind kind = proven_kind(ranges, begin, end);
    if (kind == TileKind::mixed) kind = rows.kind(queries, begin, end);
    if (kind == TileKind::empty) continue;
    entries.push_back({static_cast<std::int32_t>(begin / kv_block),
                       static_cast<std::uint8_t>(kind == TileKind::full ? 1 : 0)});
  }
  return entries;
}

template <typename T>
TensorView view_of(const std::vector<T>& values, DType dtype) {
  return TensorView(values.data(), dtype, {static_cast<std::int64_t>(values.size())});
}

}  // namespace

BlockStructure block_structure(const Variant& variant, const Batch& batch,
                               const std::vector<ParamValue>& params, std::int64_t q_block,
                               std::int64_t kv_block, int num_qo_heads, int num_kv_heads) {
  require(q_block >= 1, "q_block is {}: it must be at least 1", q_block);
  require(kv_block >= 1, "kv_block is {}: it must be at least 1", kv_block);
  const bool no_heads = num_qo_heads == 0 && num_kv_heads == 0;
  require(no_heads || (num_kv_heads >= 1 && num_qo_heads >= 1 && num_qo_heads % num_kv_heads == 0),
          "num_kv_heads is {}: it must be positive and divide num_qo_heads, {}", num_kv_heads,
          num_qo_heads);
  const std::vector<MaskRequest> requests = read_requests(batch);
  const std::int64_t q_tokens =
      requests.empty() ? 0 : requests.back().q_begin + requests.back().q_len;
  const MaskEvaluator mask(
      variant, params,
      {num_qo_heads, num_kv_heads, static_cast<std::int64_t>(requests.size()), q_tokens});
  require(!no_heads || !mask.reads_heads(),
          "num_qo_heads and num_kv_heads are missing: the mask depends on the head");
  const int heads = mask.reads_heads() ? num_kv_heads : 1;
  const int group_size = mask.reads_heads() ? num_qo_heads / num_kv_heads : 1;
  auto lists = std::make_shared<Lists>();
  lists->request_rows.push_back(0);
  std::vector<BlockRow> block_rows;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    for (std::int64_t begin = 0; begin < requests[r].q_len; begin += q_block) {
      for (int head = 0; head < heads; ++head) {
        block_rows.push_back({r, begin, std::min(begin + q_block, requests[r].q_len), head});
      }
    }
    lists->request_rows.push_back(
        static_cast<std::int32_t>(block_rows.size() / static_cast<std::size_t>(heads)));
  }
  std::vector<std::vector<Entry>> entries(block_rows.size());
  parallel_for(
      static_cast<std::int64_t>(block_rows.size()), 1, [&](std::int64_t begin, std::int64_t end) {
        MaskEvaluator::Rows rows(mask);
        for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
          entries[i] = entries_of(mask, rows, requests[block_rows[i].request], block_rows[i],
                                  group_size, kv_block);
        }
      });
  lists->indptr.push_back(0);
  for (const std::vector<Entry>& row : entries) {
    for (const Entry& entry : row) {
      lists->indices.push_back(entry.block);
      lists->full.push_back(entry.full);
    }
    lists->indptr.push_back(static_cast<std::int32_t>(lists->indices.size()));
  }
  BlockStructure structure;
  structure.q_block = q_block;
  structure.kv_block = kv_block;
  structure.num_kv_heads = heads;
  structure.request_rows = view_of(lists->request_rows, DType::i32);
  structure.indptr = view_of(lists->indptr, DType::i32);
  structure.indices = view_of(lists->indices, DType::i32);
  structure.full = view_of(lists->full, DType::u8);
  structure.memory = lists;
  return structure;
}

}  // namespace tilewright
