// SPDX-License-Identifier: Apache-2.0
// Attention in float64, written to be obviously right: one request at a time, its keys and values
// as plain arrays that know nothing of pages, layouts or plans.
#pragma once

#include <tilewright/variant.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "support/random.h"
#include "support/tensor.h"

namespace tilewright::test {

struct Dims {
  int qo_heads = 1;
  int kv_heads = 1;
  int head_dim = 8;
  int value_dim = 8;
  int group() const { return qo_heads / kv_heads; }
};

// What a logit or a mask may ask for.
struct Element {
  std::int64_t q_pos = 0;
  std::int64_t kv_pos = 0;
  std::int64_t q_head = 0;
  std::int64_t kv_head = 0;
  std::int64_t batch = 0;
  std::int64_t q_len = 0;
  std::int64_t kv_len = 0;
  std::int64_t q_index = 0;  // of the query token in its request
};

// What an attention computes, as plain functions; those left out mean "as usual".
struct Semantics {
  std::function<double(double logit, const Element&)> logit;
  std::function<bool(const Element&)> mask;
  std::function<double(double value, const Element&)> output;  // kv_pos is not set
  std::optional<RopeSpec> rope;
  bool softmax = true;
};

struct Request {
  std::vector<std::int64_t> q_pos;
  std::vector<std::int64_t> kv_pos;
  std::vector<double> q;                          // [q_len, qo_heads, head_dim]
  std::vector<double> k;                          // [kv_len, kv_heads, head_dim]
  std::vector<double> v;                          // [kv_len, kv_heads, value_dim]
  std::vector<double> q_scale, k_scale, v_scale;  // [kv_heads], or empty: 1
  std::int64_t batch = 0;

  std::int64_t q_len() const { return static_cast<std::int64_t>(q_pos.size()); }
  std::int64_t kv_len() const { return static_cast<std::int64_t>(kv_pos.size()); }
};

struct Expected {
  std::vector<double> out;        // [q_len, qo_heads, value_dim]
  std::vector<double> magnitude;  // of the same shape: the sum of |weight * value|
  std::vector<double> lse;        // [q_len, qo_heads]
};

// `sinks`: a logit for each query head in the denominator, or empty.
Expected reference_attention(const Request& request, const Dims& dims, const Semantics& semantics,
                             double sm_scale, const std::vector<double>& sinks = {});

// A learned logit for each query head, as float32 holds them.
std::vector<double> random_sinks(const Dims& dims, Random& random);

// Random queries, keys and values as the dtypes hold them; positions 0, 1, 2, ... for keys and the
// last ones for queries.
Request random_request(Random& random, const Dims& dims, std::int64_t q_len, std::int64_t kv_len,
                       DType q_dtype, DType k_dtype, DType v_dtype, double spread = 1.0);

// Values are the first value_dim elements of the keys, as in a latent cache.
void alias_values(Request& request, const Dims& dims);

}  // namespace tilewright::test
