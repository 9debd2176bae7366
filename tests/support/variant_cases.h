// SPDX-License-Identifier: Apache-2.0
// Variants twice: as the expression graphs that the library gets, and as plain functions for the
// reference.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/variant.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "support/random.h"
#include "support/reference.h"
#include "support/tensor.h"

namespace tilewright::test {

enum class VariantKind : std::uint8_t {
  full,
  causal,
  causal_window,
  causal_window_long,
  causal_self,
  window_both,
  window_right,
  window_left,
  soft_cap,
  soft_cap_at_run,
  full_soft_cap,
  alibi,
  window_by_head,
  window_by_request,
  chunked,
  sink_window,
  modulo,
  prefix_lm,
  documents,
  not_one_key,
  nothing,
  run_bound_window,
  head_mask,
  bias_table,
  all_functions,
  sigmoid,
  output_gate,
  rope,
  rope_interleaved,
  striped,
  count,
};

const char* variant_name(VariantKind kind);

struct VariantCase {
  Variant variant;
  Semantics semantics;
  std::vector<ParamValue> plan_params;
  std::vector<ParamValue> run_params;
  std::optional<float> logits_soft_cap;
  std::vector<std::shared_ptr<Tensor>> tensors;  // behind the parameters

  // A parameter tensor, kept alive; returns its values as the library will see them.
  Extents add_integers(std::vector<ParamValue>& params, const std::string& name, Extents values);
  std::vector<double> add_reals(std::vector<ParamValue>& params, const std::string& name,
                                std::vector<double> values);
};

inline std::int64_t floor_quotient(std::int64_t a, std::int64_t b) {
  return a / b - ((a % b != 0 && (a < 0) != (b < 0)) ? 1 : 0);
}

inline std::int64_t floor_remainder(std::int64_t a, std::int64_t b) {
  return a - floor_quotient(a, b) * b;
}

VariantCase make_variant(VariantKind kind, const Dims& dims, std::int64_t requests, Random& random);

}  // namespace tilewright::test
