// SPDX-License-Identifier: Apache-2.0
// Rows of logits that are hard for a sampler, and the float64 view of what it should keep.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "base/numeric.h"
#include "sampling/row_sampler.h"
#include "support/random.h"

namespace tilewright::test {

using Row = std::vector<float>;

inline constexpr float kInf = std::numeric_limits<float>::infinity();

inline Row normal_row(Random& random, std::int64_t size, double scale = 1) {
  Row row(static_cast<std::size_t>(size));
  for (float& x : row) x = static_cast<float>(random.normal() * scale);
  return row;
}

enum class RowKind {
  normal,
  wide,       // a few tokens hold all the mass
  quantised,  // many ties
  flat,
  one_peak,
  peaks,
  masked,  // mostly -inf
  denormal,
  geometric,  // bit patterns spread evenly: values of every size and sign
  ascending,
  misleading,  // the entries that a sample looks at are the largest ones
  with_nan,
  count,
};

inline Row make_row(Random& random, RowKind kind, std::int64_t size) {
  Row row = normal_row(random, size, kind == RowKind::wide ? 8 : 1);
  for (std::size_t i = 0; i < row.size(); ++i) {
    float& x = row[i];
    switch (kind) {
      case RowKind::quantised:
        x = std::round(x * 4) / 4;
        break;
      case RowKind::flat:
        x = 3.25F;
        break;
      case RowKind::one_peak:
        x = i == row.size() / 2 ? 20.0F : 0.0F;
        break;
      case RowKind::peaks:
        if (random.chance(0.002)) x += 12;
        break;
      case RowKind::masked:
        if (!random.chance(0.02)) x = -kInf;
        break;
      case RowKind::denormal:
        x *= 1e-40F;
        break;
      case RowKind::geometric:
        x = std::bit_cast<float>(static_cast<std::uint32_t>(random.bits()));
        if (!std::isfinite(x)) x = -kInf;
        break;
      case RowKind::ascending:
        x = static_cast<float>(i) * 0.001F;
        break;
      case RowKind::misleading: {
        const auto n = static_cast<std::int64_t>(row.size());
        for (std::int64_t s = 0; s < 256; ++s) {
          if (s * n / 256 == static_cast<std::int64_t>(i)) x += 50;
        }
        break;
      }
      case RowKind::with_nan:
        if (random.chance(0.3)) x = NAN;
        break;
      default:
        break;
    }
  }
  return row;
}

inline Logits logits_of(const Row& row) {
  return {row.data(), DType::f32, nullptr, static_cast<std::int64_t>(row.size())};
}

// Token ids by falling logit, equal ones by rising id.
inline std::vector<std::int32_t> ranked(const Row& row) {
  std::vector<std::int32_t> order(row.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return clean_logit(row[static_cast<std::size_t>(a)]) >
           clean_logit(row[static_cast<std::size_t>(b)]);
  });
  return order;
}

// Probabilities in float64, of finite largest logits.
inline std::vector<double> softmax(const Row& row, double temperature) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const float x : row) largest = std::fmax(largest, x);
  std::vector<double> p(row.size());
  double sum = 0;
  for (std::size_t i = 0; i < row.size(); ++i) {
    p[i] = std::isnan(row[i]) ? 0 : std::exp((row[i] - largest) / temperature);
    sum += p[i];
  }
  for (double& x : p) x /= sum;
  return p;
}

}  // namespace tilewright::test
