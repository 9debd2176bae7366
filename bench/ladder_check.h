// SPDX-License-Identifier: Apache-2.0
// Values of the ladder's tensors, and what attention over them is, for sampled query rows.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "base/numeric.h"
#include "ladder_row.h"

namespace tilewright::bench {

using Halves = std::vector<std::uint16_t>;  // bf16

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

// A row's queries, or its keys and values.
inline Halves ladder_values(const LadderRow& row, std::size_t count, std::uint64_t seed) {
  return row.zeros ? Halves(count) : random_halves(count, seed);
}

// Keys and values [pages, 2, page, kv_heads, dim], in the dtype of a row's cache.
class LadderKv {
 public:
  LadderKv(const LadderRow& row, std::int32_t pages)
      : dim_(static_cast<std::size_t>(row.head_dim)),
        wide_(ladder_values(row,
                            static_cast<std::size_t>(pages) * 2 *
                                static_cast<std::size_t>(row.page_size * row.kv_heads) * dim_,
                            7)) {
    if (row.kv_dtype == DType::bf16) return;
    std::vector<std::uint8_t> narrowed(1 << 16);  // of every bf16
    for (std::size_t bits = 0; bits < narrowed.size(); ++bits) {
      const float value = bf16_to_f32(static_cast<std::uint16_t>(bits));
      narrowed[bits] = static_cast<std::uint8_t>(Float8E4M3::encode(value, true));
    }
    narrow_.resize(wide_.size());
#pragma omp parallel for schedule(static)
    for (std::size_t i = 0; i < wide_.size(); ++i) narrow_[i] = narrowed[wide_[i]];
    wide_ = {};
    for (std::uint32_t bits = 0; bits < decoded_.size(); ++bits) {
      decoded_[bits] = Float8E4M3::decode(bits);
    }
  }

  const void* data() const {
    return narrow_.empty() ? static_cast<const void*>(wide_.data()) : narrow_.data();
  }
  std::size_t bytes() const {
    return wide_.size() * sizeof(wide_[0]) + narrow_.size();
  }

  // The vector that starts at element `at`.
  void load(std::size_t at, double* vector) const {
    for (std::size_t d = 0; d < dim_; ++d) {
      vector[d] = narrow_.empty() ? bf16_to_f32(wide_[at + d]) : decoded_[narrow_[at + d]];
    }
  }

 private:
  std::size_t dim_;
  Halves wide_;
  std::vector<std::uint8_t> narrow_;
  std::array<float, 256> decoded_{};
};

// A row's sinks [qo_heads], or none. As large as the logarithm of the sum of some 2000 keys'
// exponentials: an attention that forgets them is seen to be wrong. bf16 holds them exactly.
inline std::vector<float> ladder_sinks(const LadderRow& row) {
  std::vector<float> sinks;
  if (row.sinks) {
    for (const std::uint16_t bits : random_halves(static_cast<std::size_t>(row.qo_heads), 11)) {
      sinks.push_back(std::round(4 * bf16_to_f32(bits)) / 4 + 8);
    }
  }
  return sinks;
}

struct LadderInputs {
  const LadderRow& row;
  const LadderPages& pages;
  const Halves& q;
  const LadderKv& kv;
  const std::vector<float>& sinks;
};

// A row of queries whose output is computed for comparison.
struct LadderSample {
  std::int32_t request, at;  // query token of the request
  std::int64_t token;        // of the batch
  int head;
};

// What attention gives for a sample, in f64.
inline std::vector<double> ladder_reference(const LadderInputs& in, const LadderSample& sample) {
  const LadderRow& row = in.row;
  const auto dim = static_cast<std::size_t>(row.head_dim);
  const auto request = static_cast<std::size_t>(sample.request);
  const std::int32_t* pages =
      &in.pages.flat[request * static_cast<std::size_t>(in.pages.flat_columns)];
  const int kv_head = sample.head / (row.qo_heads / row.kv_heads);
  const std::int32_t first = row.first_key(request, sample.at);
  const std::int32_t keys = row.end_key(request, sample.at) - first;
  std::vector<double> vector(dim);
  const auto load = [&](std::int32_t key, int kv_of) {
    const std::int64_t slot =
        (static_cast<std::int64_t>(pages[key / row.page_size]) * 2 + kv_of) * row.page_size +
        key % row.page_size;
    in.kv.load(static_cast<std::size_t>(slot * row.kv_heads + kv_head) * dim, vector.data());
  };
  std::vector<double> query(dim);
  for (std::size_t d = 0; d < dim; ++d) {
    query[d] = bf16_to_f32(
        in.q[static_cast<std::size_t>(sample.token * row.qo_heads + sample.head) * dim + d]);
  }
  const double sink =
      in.sinks.empty() ? -INFINITY : in.sinks[static_cast<std::size_t>(sample.head)];
  std::vector<double> weights(static_cast<std::size_t>(keys));
  double largest = sink;
  for (std::int32_t key = 0; key < keys; ++key) {
    load(first + key, 0);
    const double logit = std::inner_product(query.begin(), query.end(), vector.begin(), 0.0) /
                         std::sqrt(static_cast<double>(row.head_dim));
    weights[static_cast<std::size_t>(key)] = logit;
    largest = std::max(largest, logit);
  }
  double sum = std::exp(sink - largest);
  std::vector<double> out(dim);
  for (std::int32_t key = 0; key < keys; ++key) {
    const double weight = std::exp(weights[static_cast<std::size_t>(key)] - largest);
    sum += weight;
    load(first + key, 1);
    for (std::size_t d = 0; d < dim; ++d) out[d] += weight * vector[d];
  }
  for (double& value : out) value /= sum;
  return out;
}

// Of 16 requests, the first, the last and the longest among them, the first and the last query
// token and six others, any head.
inline std::vector<LadderSample> ladder_samples(const LadderRow& row) {
  std::minstd_rand random(1);
  const auto below = [&](std::int64_t bound) {
    return static_cast<std::int32_t>(static_cast<std::int64_t>(random()) % bound);
  };
  const auto longest = std::max_element(row.kv_lens.begin(), row.kv_lens.end());
  Ints requests = {0, row.requests() - 1, static_cast<std::int32_t>(longest - row.kv_lens.begin())};
  while (requests.size() < 16) requests.push_back(below(row.requests()));
  std::vector<LadderSample> samples;
  for (const std::int32_t request : requests) {
    const std::int64_t first =
        std::accumulate(row.q_lens.begin(), row.q_lens.begin() + request, std::int64_t{0});
    for (int i = 0; i < 8; ++i) {
      const std::int32_t q_len = row.q_lens[static_cast<std::size_t>(request)];
      const std::int32_t at = i == 0 ? 0 : i == 1 ? q_len - 1 : below(q_len);
      samples.push_back({request, at, first + at, below(row.qo_heads)});
    }
  }
  return samples;
}

// The largest error of a sampled row, relative to the row's norm.
inline double ladder_error(const LadderInputs& in, const Halves& out) {
  const std::vector<LadderSample> samples = ladder_samples(in.row);
  double worst = 0;
  bool finite = true;
#pragma omp parallel for schedule(dynamic) reduction(max : worst) reduction(&& : finite)
  for (std::size_t i = 0; i < samples.size(); ++i) {
    const LadderSample& sample = samples[i];
    const std::vector<double> expected = ladder_reference(in, sample);
    const std::uint16_t* actual =
        &out[static_cast<std::size_t>(sample.token * in.row.qo_heads + sample.head) *
             expected.size()];
    double error = 0;
    double norm = 0;
    for (std::size_t d = 0; d < expected.size(); ++d) {
      const double difference = bf16_to_f32(actual[d]) - expected[d];
      error += difference * difference;
      norm += expected[d] * expected[d];
    }
    finite = finite && std::isfinite(error);
    worst = std::max(worst, std::sqrt(error / norm));
  }
  return finite ? worst : INFINITY;
}

}  // namespace tilewright::bench
