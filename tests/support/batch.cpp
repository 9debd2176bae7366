// SPDX-License-Identifier: Apache-2.0
#include "support/batch.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

namespace tilewright::test {

Extents query_indptr(const std::vector<Request>& requests) {
  Extents indptr = {0};
  for (const Request& request : requests) indptr.push_back(indptr.back() + request.q_len());
  return indptr;
}

Extents kv_lengths(const std::vector<Request>& requests) {
  Extents lengths;
  for (const Request& request : requests) lengths.push_back(request.kv_len());
  return lengths;
}

void put_queries(Tensor& q, const std::vector<Request>& requests, const Dims& dims) {
  std::int64_t token = 0;
  for (const Request& request : requests) {
    for (std::int64_t i = 0; i < request.q_len(); ++i, ++token) {
      for (std::int64_t head = 0; head < dims.qo_heads; ++head) {
        q.set_row({token, head, 0}, &request.q[(i * dims.qo_heads + head) * dims.head_dim],
                  dims.head_dim);
      }
    }
  }
}

BatchTensors::BatchTensors(const std::vector<Request>& requests, const Dims& d, DType dtype,
                           std::int64_t padding)
    : dims(d), q_dtype(dtype), tokens(query_indptr(requests).back()), rows(tokens + padding) {
  q = Tensor(dtype, {rows, d.qo_heads, d.head_dim});
  const Extents out_shape = {rows, d.qo_heads, d.value_dim};
  const Extents lse_shape = {rows, d.qo_heads};
  out = Tensor(dtype, out_shape, row_major(out_shape), kSentinel);
  lse = Tensor(DType::f32, lse_shape, row_major(lse_shape), kSentinel);
  put_queries(q, requests, d);
}

RunArgs BatchTensors::args() const {
  RunArgs run;
  run.out = out.view();
  run.lse = lse.view();
  return run;
}

void BatchTensors::expect(const std::vector<Request>& requests, const Semantics& semantics,
                          const std::vector<double>& sinks, double arithmetic) const {
  if (arithmetic == 0) {
    arithmetic = rounds_weights(q_dtype, q_dtype, q_dtype) ? kRoundedWeights : kArithmetic;
  }
  const double sm_scale = 1 / std::sqrt(static_cast<double>(dims.head_dim));
  std::int64_t first = 0;
  for (std::size_t r = 0; r < requests.size(); ++r) {
    const Expected expected = reference_attention(requests[r], dims, semantics, sm_scale, sinks);
    EXPECT_TRUE(matches(out, lse, first, expected, dims, q_dtype,
                        fmt::format("request {} ({} queries, {} keys)", r, requests[r].q_len(),
                                    requests[r].kv_len()),
                        arithmetic, semantics.rope ? kTwoBf16 : kArithmetic));
    first += requests[r].q_len();
  }
  EXPECT_TRUE(out.guards_intact());
  EXPECT_TRUE(!lse.defined() || lse.guards_intact());
}

void BatchTensors::expect_padding_kept() const {
  for (std::int64_t token = tokens; token < rows; ++token) {
    for (std::int64_t head = 0; head < dims.qo_heads; ++head) {
      EXPECT_TRUE(lse.untouched({token, head})) << "lse of padding row " << token;
      for (std::int64_t d = 0; d < dims.value_dim; ++d) {
        ASSERT_TRUE(out.untouched({token, head, d})) << "out of padding row " << token;
      }
    }
  }
}

void BatchTensors::expect_padding_zero() const {
  for (std::int64_t token = tokens; token < rows; ++token) {
    for (std::int64_t head = 0; head < dims.qo_heads; ++head) {
      EXPECT_EQ(lse.get({token, head}), -INFINITY) << "lse of padding row " << token;
      for (std::int64_t d = 0; d < dims.value_dim; ++d) {
        ASSERT_EQ(out.get({token, head, d}), 0) << "out of padding row " << token;
      }
    }
  }
}

AttentionSpec make_spec(const Dims& dims, DType dtype, const Variant& variant) {
  AttentionSpec spec;
  spec.num_qo_heads = dims.qo_heads;
  spec.num_kv_heads = dims.kv_heads;
  spec.head_dim = dims.head_dim;
  spec.head_dim_vo = dims.value_dim;
  spec.q_dtype = spec.kv_dtype = dtype;
  spec.variant = variant;
  return spec;
}

}  // namespace tilewright::test
