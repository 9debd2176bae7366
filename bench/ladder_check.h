// SPDX-License-Identifier: Apache-2.0
// Values of the ladder's tensors, and what attention over them is, for sampled query rows.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "ladder_row.h"

namespace tilewright::bench {

using Halves = std::vector<std::uint16_t>;  // bf16

inline float to_float(std::uint16_t bits) {
  const std::uint32_t word = static_cast<std::uint32_t>(bits) << 16;
  float value = 0;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

// Nearly normal values of mean 0 and variance 1: what a kernel is given decides how much power a
// GPU draws, and so how fast it runs.
inline Halves random_halves(std::size_t count, std::uint64_t seed) {
  Halves values(count);
#pragma omp parallel for schedule(static)
  for (std::size_t i = 0; i < count; ++i) {
    // SplitMix64 (Steele et al., OOPSLA'14) of the place.
    std::uint64_t z = (i + 1) * 0x9E3779B97F4A7C15U + seed;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    z ^= z >> 31;
    // Each of four uniform parts has the variance 1/12.
    std::int32_t sum = -2 * 65536;
    for (int part = 0; part < 64; part += 16) sum += static_cast<std::int32_t>(z >> part & 0xFFFF);
    const float value = static_cast<float>(sum) * (1.7320508F / 65536);
    std::uint32_t word = 0;
    std::memcpy(&word, &value, sizeof(word));
    values[i] = static_cast<std::uint16_t>(word >> 16);
  }
  return values;
}

// One row of queries, all in f32 but the sums of the softmax. kv: [pages, 2, page, kv_heads, dim].
inline std::vector<float> ladder_reference(const LadderRow& row, const std::int32_t* pages,
                                           const Halves& q, const Halves& kv, std::int64_t token,
                                           int head, std::int32_t keys) {
  const auto dim = static_cast<std::size_t>(row.head_dim);
  const std::uint16_t* query =
      &q[(static_cast<std::size_t>(token) * static_cast<std::size_t>(row.qo_heads) +
          static_cast<std::size_t>(head)) *
         dim];
  const int kv_head = head / (row.qo_heads / row.kv_heads);
  const auto key_at = [&](std::int32_t key, int kv_of) {
    const std::int64_t slot =
        (static_cast<std::int64_t>(pages[key / row.page_size]) * 2 + kv_of) * row.page_size +
        key % row.page_size;
    return &kv[static_cast<std::size_t>(slot * row.kv_heads + kv_head) * dim];
  };
  std::vector<float> weights(static_cast<std::size_t>(keys));
  float largest = -INFINITY;
  for (std::int32_t key = 0; key < keys; ++key) {
    const std::uint16_t* k = key_at(key, 0);
    float logit = 0;
    for (std::size_t d = 0; d < dim; ++d) logit += to_float(query[d]) * to_float(k[d]);
    logit /= std::sqrt(static_cast<float>(row.head_dim));
    weights[static_cast<std::size_t>(key)] = logit;
    largest = std::max(largest, logit);
  }
  double sum = 0;
  std::vector<float> out(dim);
  for (std::int32_t key = 0; key < keys; ++key) {
    const float weight = std::exp(weights[static_cast<std::size_t>(key)] - largest);
    sum += weight;
    const std::uint16_t* v = key_at(key, 1);
    for (std::size_t d = 0; d < dim; ++d) out[d] += weight * to_float(v[d]);
  }
  for (float& value : out) value /= static_cast<float>(sum);
  return out;
}

// The largest error of a sampled row, relative to the row's norm: of 16 requests, the first, the
// last and the longest among them, the first and the last query token and six others, any head.
inline double ladder_error(const LadderRow& row, const LadderPages& pages, const Halves& q,
                           const Halves& kv, const Halves& out) {
  struct Sample {
    std::int64_t token;
    int head, request;
    std::int32_t keys;
  };
  std::minstd_rand random(1);
  const auto below = [&](std::int64_t bound) {
    return static_cast<std::int32_t>(static_cast<std::int64_t>(random()) % bound);
  };
  const auto longest = std::max_element(row.kv_lens.begin(), row.kv_lens.end());
  std::vector<int> requests = {0, row.requests() - 1,
                               static_cast<int>(longest - row.kv_lens.begin())};
  while (requests.size() < 16) requests.push_back(below(row.requests()));
  std::vector<Sample> samples;
  for (const int request : requests) {
    const auto r = static_cast<std::size_t>(request);
    const std::int64_t first =
        std::accumulate(row.q_lens.begin(), row.q_lens.begin() + request, std::int64_t{0});
    for (int i = 0; i < 8; ++i) {
      const std::int32_t q_len = row.q_lens[r];
      const std::int32_t at = i == 0 ? 0 : i == 1 ? q_len - 1 : below(q_len);
      const std::int32_t keys = row.causal ? row.kv_lens[r] - q_len + at + 1 : row.kv_lens[r];
      samples.push_back({first + at, below(row.qo_heads), request, keys});
    }
  }
  double worst = 0;
  bool finite = true;
#pragma omp parallel for schedule(dynamic) reduction(max : worst) reduction(&& : finite)
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const Sample& sample = samples[i];
    const std::vector<float> expected = ladder_reference(
        row, &pages.flat[static_cast<std::size_t>(sample.request * pages.flat_columns)], q, kv,
        sample.token, sample.head, sample.keys);
    const std::uint16_t* actual =
        &out[static_cast<std::size_t>(sample.token * row.qo_heads + sample.head) * expected.size()];
    double error = 0;
    double norm = 0;
    for (std::size_t d = 0; d < expected.size(); ++d) {
      const double difference = static_cast<double>(to_float(actual[d])) - expected[d];
      error += difference * difference;
      norm += static_cast<double>(expected[d]) * expected[d];
    }
    finite = finite && std::isfinite(error);
    worst = std::max(worst, std::sqrt(error / norm));
  }
  return finite ? worst : INFINITY;
}

}  // namespace tilewright::bench
