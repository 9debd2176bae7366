// SPDX-License-Identifier: Apache-2.0
// Copies of all tensors of a call in another memory, made from views alone.
#pragma once

#include <tilewright/plan.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace tilewright::test {

// Bytes from a tensor's first element to the end of its last one.
inline std::size_t body_bytes(const TensorView& tensor) {
  std::int64_t last = 0;
  bool empty = false;
  for (int dim = 0; dim < tensor.rank; ++dim) {
    const auto d = static_cast<std::size_t>(dim);
    empty = empty || tensor.shape[d] == 0;
    last += (tensor.shape[d] - 1) * tensor.strides[d];
  }
  return empty ? 0 : static_cast<std::size_t>((last + 1) * dtype_bytes(tensor.dtype));
}

// A class `Memory` derives from it and copies single tensors: memory(view) one that is read,
// memory.written(view) one that is written. "No tensor" stays that.
template <typename Memory>
class CallCopies {
 public:
  Scale scale(Scale host) {
    host.tensor = copied(host.tensor);
    return host;
  }
  std::vector<ParamValue> params(std::vector<ParamValue> host) {
    for (ParamValue& value : host) value.tensor = copied(value.tensor);
    return host;
  }
  PageTable table(PageTable host) {
    host.indices = copied(host.indices);
    host.indptr = copied(host.indptr);
    host.row_ids = copied(host.row_ids);
    host.last_page_len = copied(host.last_page_len);
    return host;
  }
  std::vector<KvLevel> levels(std::vector<KvLevel> host) {
    for (KvLevel& level : host) {
      level.table = table(level.table);
      level.kv_lens = copied(level.kv_lens);
      level.qo_indptr = copied(level.qo_indptr);
      level.q_rows = copied(level.q_rows);
      level.kv_pos = copied(level.kv_pos);
    }
    return host;
  }
  Batch batch(Batch host) {
    host.qo_indptr = copied(host.qo_indptr);
    host.kv_lens = copied(host.kv_lens);
    host.num_requests = copied(host.num_requests);
    host.q_pos = copied(host.q_pos);
    host.q_pos_offset = copied(host.q_pos_offset);
    return host;
  }
  BlockStructure blocks(BlockStructure host) {
    host.request_rows = copied(host.request_rows);
    host.indptr = copied(host.indptr);
    host.indices = copied(host.indices);
    host.full = copied(host.full);
    return host;
  }
  KvCache cache(KvCache host) {
    host.k = copied(host.k);
    host.v = copied(host.v);
    return host;
  }
  RunArgs args(RunArgs host) {
    host.out = self().written(host.out);
    host.lse = self().written(host.lse);
    host.q_scale = scale(host.q_scale);
    host.k_scale = scale(host.k_scale);
    host.v_scale = scale(host.v_scale);
    host.out_scale = scale(host.out_scale);
    host.sinks = copied(host.sinks);
    host.params = params(host.params);
    return host;
  }

 private:
  Memory& self() { return static_cast<Memory&>(*this); }
  TensorView copied(const TensorView& host) { return self()(host); }
};

}  // namespace tilewright::test
