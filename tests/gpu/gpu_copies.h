// SPDX-License-Identifier: Apache-2.0
// Copies of a call's tensors on GPU 0, made from views alone.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <utility>
#include <vector>

#include "cuda/device.h"
#include "cuda/memory.h"
#include "gpu/gpu_tensor.h"
#include "tilewright/plan.h"

namespace tilewright::test {

class GpuCopies {
 public:
  GpuCopies() : context_(0) {}

  // The tensor on the GPU, at an address of the same alignment; "no tensor" stays that.
  TensorView operator()(const TensorView& host) { return copy(host, 0).view; }
  // The same for a tensor of the tests (support/tensor.h) that is written: with its guards.
  TensorView written(const TensorView& host) {
    const Copy& copied = copy(host, kGuard);
    written_.push_back(&copied);
    return copied.view;
  }
  // What kernels wrote, back into the host's tensors; waits for them.
  void download() {
    for (const Copy* copied : written_) {
      cuda::copy_to_host(copied->host, copied->device, copied->bytes, {});
    }
    cuda::synchronize({});
  }

  Scale scale(Scale host) {
    host.tensor = (*this)(host.tensor);
    return host;
  }
  std::vector<ParamValue> params(std::vector<ParamValue> host) {
    for (ParamValue& value : host) value.tensor = (*this)(value.tensor);
    return host;
  }
  PageTable table(PageTable host) {
    host.indices = (*this)(host.indices);
    host.indptr = (*this)(host.indptr);
    host.row_ids = (*this)(host.row_ids);
    host.last_page_len = (*this)(host.last_page_len);
    return host;
  }
  std::vector<KvLevel> levels(std::vector<KvLevel> host) {
    for (KvLevel& level : host) {
      level.table = table(level.table);
      level.kv_lens = (*this)(level.kv_lens);
      level.qo_indptr = (*this)(level.qo_indptr);
      level.q_rows = (*this)(level.q_rows);
      level.kv_pos = (*this)(level.kv_pos);
    }
    return host;
  }
  Batch batch(Batch host) {
    host.qo_indptr = (*this)(host.qo_indptr);
    host.kv_lens = (*this)(host.kv_lens);
    host.num_requests = (*this)(host.num_requests);
    host.q_pos = (*this)(host.q_pos);
    host.q_pos_offset = (*this)(host.q_pos_offset);
    return host;
  }
  KvCache cache(KvCache host) {
    host.k = (*this)(host.k);
    host.v = (*this)(host.v);
    return host;
  }
  RunArgs args(RunArgs host) {
    host.out = written(host.out);
    host.lse = written(host.lse);
    host.q_scale = scale(host.q_scale);
    host.k_scale = scale(host.k_scale);
    host.v_scale = scale(host.v_scale);
    host.out_scale = scale(host.out_scale);
    host.sinks = (*this)(host.sinks);
    host.params = params(host.params);
    return host;
  }

 private:
  static constexpr std::size_t kGuard = 256;

  struct Copy {
    TensorView view;
    std::uint8_t* host = nullptr;
    std::uint8_t* device = nullptr;
    std::size_t bytes = 0;
    cuda::DeviceBuffer buffer;
  };

  const Copy& copy(const TensorView& host, std::size_t guard) {
    Copy& made = copies_.emplace_back();
    made.view = host;
    if (!host.defined()) return made;
    std::int64_t last = 0;
    bool empty = false;
    for (int dim = 0; dim < host.rank; ++dim) {
      const auto d = static_cast<std::size_t>(dim);
      empty = empty || host.shape[d] == 0;
      last += (host.shape[d] - 1) * host.strides[d];
    }
    const std::size_t body =
        empty ? 0 : static_cast<std::size_t>((last + 1) * dtype_bytes(host.dtype));
    const std::size_t shift = reinterpret_cast<std::uintptr_t>(host.data) % 256;
    made.buffer = cuda::DeviceBuffer(cuda::device(0), body + shift + 2 * guard + 256);
    made.bytes = body + 2 * guard;
    made.host = static_cast<std::uint8_t*>(host.data) - guard;
    made.device = static_cast<std::uint8_t*>(made.buffer.data()) + shift;
    if (made.bytes > 0) cuda::copy_to_device(made.device, made.host, made.bytes, {});
    made.view.data = made.device + guard;
    made.view.device = kGpu;
    return made;
  }

  cuda::ContextScope context_;
  std::deque<Copy> copies_;
  std::vector<const Copy*> written_;
};

}  // namespace tilewright::test
