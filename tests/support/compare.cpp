// SPDX-License-Identifier: Apache-2.0
#include "support/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace tilewright::test {

double rounding_unit(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return 0x1.0p-11;
    case DType::bf16:
      return 0x1.0p-8;
    case DType::f8e4m3:
      return 0x1.0p-4;
    case DType::f8e5m2:
      return 0x1.0p-3;
    default:
      return 0x1.0p-24;
  }
}

double smallest_step(DType dtype) {
  switch (dtype) {
    case DType::f16:
      return 0x1.0p-25;
    case DType::f8e4m3:
      return 0x1.0p-10;
    case DType::f8e5m2:
      return 0x1.0p-17;
    default:
      return 0;
  }
}

void Comparison::add(double got, double expected, double magnitude, const std::string& where) {
  if (std::isnan(got) != std::isnan(expected) || std::isinf(got) != std::isinf(expected) ||
      (std::isinf(got) && got != expected)) {
    if (pattern_.empty()) {
      pattern_ = fmt::format("{}: {} instead of {}", where, got, expected);
    }
    ++wrong_pattern_;
    return;
  }
  if (!std::isfinite(expected)) return;
  const double allowed = 2 * rounding_unit(dtype_) * std::fabs(expected) + arithmetic_ * magnitude +
                         smallest_step(dtype_) * (magnitude > 0);
  const double error = std::fabs(got - expected);
  if (error <= allowed) return;
  ++wrong_values_;
  if (error / (allowed + 1e-300) > worst_ratio_) {
    worst_ratio_ = error / (allowed + 1e-300);
    worst_ = fmt::format("{}: {} instead of {}, error {}, allowed {}", where, got, expected, error,
                         allowed);
  }
}

testing::AssertionResult Comparison::result() const {
  if (wrong_pattern_ > 0) {
    return testing::AssertionFailure() << "NaN or infinity in " << wrong_pattern_
                                       << " elements is not where it belongs, first " << pattern_;
  }
  if (wrong_values_ > 0) {
    return testing::AssertionFailure() << wrong_values_ << " elements are off, worst " << worst_;
  }
  return testing::AssertionSuccess();
}

testing::AssertionResult matches(const Tensor& out, const Tensor& lse, std::int64_t first,
                                 const Expected& expected, const Dims& dims, DType out_dtype,
                                 const std::string& name, double arithmetic,
                                 double lse_arithmetic) {
  Comparison values(out_dtype, arithmetic);
  Comparison logs(DType::f32, lse_arithmetic);
  const auto rows = static_cast<std::int64_t>(expected.lse.size());
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t token = row / dims.qo_heads;
    const std::int64_t head = row % dims.qo_heads;
    const std::string where = fmt::format("{} query {} head {}", name, token, head);
    for (std::int64_t d = 0; d < dims.value_dim; ++d) {
      const std::int64_t i = row * dims.value_dim + d;
      const double got = out.get({first + token, head, d});
      // The position is put into words only where it is needed: most elements are right.
      if (got == expected.out[i]) continue;
      values.add(got, expected.out[i], expected.magnitude[i], fmt::format("{} dim {}", where, d));
    }
    if (lse.defined()) {
      logs.add(lse.get({first + token, head}), expected.lse[row],
               std::max(1.0, std::fabs(expected.lse[row])), where);
    }
  }
  if (testing::AssertionResult result = values.result(); !result) {
    return testing::AssertionFailure() << "out: " << result.message();
  }
  if (testing::AssertionResult result = logs.result(); !result) {
    return testing::AssertionFailure() << "lse: " << result.message();
  }
  return testing::AssertionSuccess();
}

}  // namespace tilewright::test
