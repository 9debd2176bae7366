// SPDX-License-Identifier: Apache-2.0
// Front end of top_k(): rows over threads.
#include <tilewright/sampling.h>

#include <algorithm>

#include "base/checks.h"
#include "base/numeric.h"
#include "base/parallel.h"
#include "sampling/cuda_top_k.h"
#include "sampling/outputs.h"
#include "sampling/row_sampler.h"

namespace tilewright {
namespace {

void check_top_k(const TensorView& logits, const TensorView& values, const TensorView& indices) {
  require_rank("logits", logits, {2});
  require_dtype("logits", logits, {DType::f32, DType::f16, DType::bf16});
  require_last_dim_contiguous("logits", logits);
  require(logits.shape[1] >= 1 && logits.shape[1] <= kMaxVocabulary,
          "logits is {}: its vocabulary must be in [1, {}]", logits, kMaxVocabulary);
  require_shape("values", values, {logits.shape[0], -1});
  require(values.shape[1] >= 1 && values.shape[1] <= kMostBest,
          "values is {}: k must be in [1, {}]", values, kMostBest);
  require_dtype("values", values, {logits.dtype});
  require_shape("indices", indices, {logits.shape[0], values.shape[1]});
  require_dtype("indices", indices, {DType::i32, DType::i64});
  const auto check_output = [&](const char* name, const TensorView& tensor) {
    require_device(name, tensor, logits.device);
    require_last_dim_contiguous(name, tensor);
    require_writable(name, tensor);
  };
  check_output("values", values);
  check_output("indices", indices);
}

void top_k_row(RowSampler& sampler, const TensorView& logits, const TensorView& values,
               const TensorView& indices, std::int64_t row) {
  const Logits list{static_cast<const std::byte*>(logits.data) +
                        row * logits.strides[0] * dtype_bytes(logits.dtype),
                    logits.dtype, nullptr, logits.shape[1]};
  const std::int64_t k = values.shape[1];
  const std::vector<std::int32_t> ids = sampler.largest_entries(list, k);
  const auto found = static_cast<std::int64_t>(ids.size());
  for (std::int64_t i = 0; i < k; ++i) {
    const std::int32_t id = i < found ? ids[static_cast<std::size_t>(i)] : -1;
    const float value = id < 0 ? -std::numeric_limits<float>::infinity() : logit_at(list, id);
    store_element(values.data, values.dtype, row * values.strides[0] + i, value);
    const std::int64_t at = row * indices.strides[0] + i;
    if (indices.dtype == DType::i64) {
      static_cast<std::int64_t*>(indices.data)[at] = id;
    } else {
      static_cast<std::int32_t*>(indices.data)[at] = id;
    }
  }
}

}  // namespace

void top_k(const TensorView& logits, const TensorView& values, const TensorView& indices,
           Stream stream) {
  check_top_k(logits, values, indices);
  if (logits.device.type == DeviceType::cuda) {
    top_k_on_cuda(logits, values, indices, stream);
    return;
  }
  for_rows_by_samplers(logits, [&](RowSampler& sampler, std::int64_t row) {
    top_k_row(sampler, logits, values, indices, row);
  });
}

}  // namespace tilewright
