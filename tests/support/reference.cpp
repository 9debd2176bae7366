// SPDX-License-Identifier: Apache-2.0
#include "support/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/rope.h"

namespace tilewright::test {
namespace {

void rotate(double* x, int head_dim, std::int64_t position, const RopeSpec& rope) {
  const int dim = rope.dim ? rope.dim : head_dim;
  const auto amplitude = static_cast<double>(reference_rope_amplitude(rope));
  for (int i = 0; i < dim / 2; ++i) {
    const auto angle =
        static_cast<double>(position) * static_cast<double>(reference_rope_frequency(rope, i, dim));
    const auto cosine = amplitude * std::cos(angle);
    const auto sine = amplitude * std::sin(angle);
    double& a = x[rope.interleaved ? 2 * i : i];
    double& b = x[rope.interleaved ? 2 * i + 1 : i + dim / 2];
    const double rotated = a * cosine - b * sine;
    b = a * sine + b * cosine;
    a = rotated;
  }
}

std::vector<double> rotated_heads(std::vector<double> x, int heads, int head_dim,
                                  const std::vector<std::int64_t>& positions,
                                  const std::optional<RopeSpec>& rope) {
  if (!rope) return x;
  for (std::size_t token = 0; token < positions.size(); ++token) {
    for (int head = 0; head < heads; ++head) {
      rotate(&x[(token * heads + head) * head_dim], head_dim, positions[token], *rope);
    }
  }
  return x;
}

}  // namespace

Expected reference_attention(const Request& request, const Dims& dims, const Semantics& semantics,
                             double sm_scale, const std::vector<double>& sinks) {
  const double infinity = std::numeric_limits<double>::infinity();
  const std::int64_t kv_len = request.kv_len();
  const auto q =
      rotated_heads(request.q, dims.qo_heads, dims.head_dim, request.q_pos, semantics.rope);
  const auto k =
      rotated_heads(request.k, dims.kv_heads, dims.head_dim, request.kv_pos, semantics.rope);
  const auto scale_of = [](const std::vector<double>& scales, std::int64_t head) {
    return scales.empty() ? 1.0 : scales[head];
  };
  Expected expected;
  expected.out.assign(request.q_len() * dims.qo_heads * dims.value_dim, 0.0);
  expected.magnitude = expected.out;
  expected.lse.assign(request.q_len() * dims.qo_heads, -infinity);
  std::vector<double> logits(kv_len);

  for (std::int64_t row = 0; row < request.q_len() * dims.qo_heads; ++row) {
    Element at;
    at.q_index = row / dims.qo_heads;
    at.q_head = row % dims.qo_heads;
    at.kv_head = at.q_head / dims.group();
    at.q_pos = request.q_pos[at.q_index];
    at.batch = request.batch;
    at.q_len = request.q_len();
    at.kv_len = kv_len;
    const double scale =
        sm_scale * scale_of(request.q_scale, at.kv_head) * scale_of(request.k_scale, at.kv_head);

    std::vector<std::int64_t> seen;
    double largest = -infinity;
    for (std::int64_t j = 0; j < kv_len; ++j) {
      at.kv_pos = request.kv_pos[j];
      if (semantics.mask && !semantics.mask(at)) continue;
      const double* key = &k[(j * dims.kv_heads + at.kv_head) * dims.head_dim];
      double dot = 0;
      for (int d = 0; d < dims.head_dim; ++d) dot += q[row * dims.head_dim + d] * key[d];
      logits[j] = semantics.logit ? semantics.logit(dot * scale, at) : dot * scale;
      largest = std::max(largest, logits[j]);
      seen.push_back(j);
    }
    if (seen.empty()) continue;  // output 0, lse -inf

    double denominator = 1;
    if (semantics.softmax) {
      if (!sinks.empty()) largest = std::max(largest, sinks[at.q_head]);
      denominator = sinks.empty() ? 0 : std::exp(sinks[at.q_head] - largest);
      for (const std::int64_t j : seen) denominator += std::exp(logits[j] - largest);
      expected.lse[row] = largest + std::log(denominator);
    }
    double* out = &expected.out[row * dims.value_dim];
    double* magnitude = &expected.magnitude[row * dims.value_dim];
    for (const std::int64_t j : seen) {
      const double weight =
          semantics.softmax ? std::exp(logits[j] - largest) / denominator : logits[j];
      const double* value = &request.v[(j * dims.kv_heads + at.kv_head) * dims.value_dim];
      for (int d = 0; d < dims.value_dim; ++d) {
        out[d] += weight * scale_of(request.v_scale, at.kv_head) * value[d];
        magnitude[d] += std::fabs(weight * scale_of(request.v_scale, at.kv_head) * value[d]);
      }
    }
    if (semantics.output) {
      for (int d = 0; d < dims.value_dim; ++d) out[d] = semantics.output(out[d], at);
    }
  }
  return expected;
}

std::vector<double> random_sinks(const Dims& dims, Random& random) {
  std::vector<double> sinks;
  sinks.reserve(dims.qo_heads);
  for (int head = 0; head < dims.qo_heads; ++head) {
    sinks.push_back(rounded(random.normal(), DType::f32));
  }
  return sinks;
}

Request random_request(Random& random, const Dims& dims, std::int64_t q_len, std::int64_t kv_len,
                       DType q_dtype, DType k_dtype, DType v_dtype, double spread) {
  Request request;
  const auto fill = [&](std::vector<double>& values, std::int64_t count, DType dtype) {
    values.resize(count);
    for (double& value : values) value = rounded(random.normal() * spread, dtype);
  };
  fill(request.q, q_len * dims.qo_heads * dims.head_dim, q_dtype);
  fill(request.k, kv_len * dims.kv_heads * dims.head_dim, k_dtype);
  fill(request.v, kv_len * dims.kv_heads * dims.value_dim, v_dtype);
  for (std::int64_t i = 0; i < q_len; ++i) request.q_pos.push_back(kv_len - q_len + i);
  for (std::int64_t i = 0; i < kv_len; ++i) request.kv_pos.push_back(i);
  return request;
}

void alias_values(Request& request, const Dims& dims) {
  for (std::int64_t row = 0; row < request.kv_len() * dims.kv_heads; ++row) {
    for (int d = 0; d < dims.value_dim; ++d) {
      request.v[row * dims.value_dim + d] = request.k[row * dims.head_dim + d];
    }
  }
}

}  // namespace tilewright::test
