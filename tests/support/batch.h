// SPDX-License-Identifier: Apache-2.0
// Requests laid out one after the other, as a batch's tensors are, and their check against the
// reference.
#pragma once

#include <tilewright/attention.h>

#include <cstdint>
#include <vector>

#include "support/compare.h"
#include "support/reference.h"
#include "support/tensor.h"

namespace tilewright::test {

Extents query_indptr(const std::vector<Request>& requests);

Extents kv_lengths(const std::vector<Request>& requests);

// Into q [tokens, qo_heads, head_dim].
void put_queries(Tensor& q, const std::vector<Request>& requests, const Dims& dims);

// q, out and lse of a batch with `padding` rows behind its last query token.
struct BatchTensors {
  Dims dims;
  DType q_dtype;
  std::int64_t tokens = 0;  // without padding
  std::int64_t rows = 0;
  Tensor q, out, lse;

  BatchTensors(const std::vector<Request>& requests, const Dims& d, DType dtype,
               std::int64_t padding = 0);

  RunArgs args() const;

  // `arithmetic`: what the arithmetic may be off by, as a part of the magnitudes; 0: as the CPU's.
  void expect(const std::vector<Request>& requests, const Semantics& semantics,
              const std::vector<double>& sinks = {}, double arithmetic = 0) const;

  void expect_padding_kept() const;

  void expect_padding_zero() const;
};

AttentionSpec make_spec(const Dims& dims, DType dtype, const Variant& variant);

inline bool causal_mask(const Element& at) {
  return at.kv_pos <= at.q_pos;
}

inline Semantics causal_semantics() {
  Semantics semantics;
  semantics.mask = causal_mask;
  return semantics;
}

}  // namespace tilewright::test
