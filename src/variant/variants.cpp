// SPDX-License-Identifier: Apache-2.0
// The ready-made variants, written in the same expressions that callers have.
#include <cmath>
#include <limits>

#include "base/checks.h"
#include "variant/graph.h"

namespace tilewright::variants {
namespace {

using expr::kv_pos;
using expr::logit;
using expr::q_pos;

// Logits saturate at +-cap (Gemma 2, arXiv 2408.00118). The condition is for layers that turn the
// cap off at run time; a variant made without one has no parameter and costs nothing.
Expr soft_capped(double cap) {
  require(std::isfinite(cap) && cap >= 0,
          "logits_soft_cap is {}: it must be a finite number, at least 0 (0: none)", cap);
  if (cap == 0) return {};
  const Expr limit = Param::real("logits_soft_cap").with_default(cap)();
  return where(limit > 0.0, limit * tanh(logit() / limit), logit());
}

void check_bound(const char* name, std::int64_t bound) {
  require(bound <= std::numeric_limits<std::int32_t>::max(),
          "{} is {}: it must be below 2^31 (negative: no bound)", name, bound);
}

}  // namespace

Variant full(double logits_soft_cap) {
  Variant variant;
  variant.logits = soft_capped(logits_soft_cap);
  return variant;
}

Variant causal(std::int64_t window_left, double logits_soft_cap) {
  check_bound("window_left", window_left);
  return sliding_window(window_left, 0, logits_soft_cap);
}

Variant sliding_window(std::int64_t left, std::int64_t right, double logits_soft_cap) {
  check_bound("left", left);
  check_bound("right", right);
  Variant variant;
  variant.logits = soft_capped(logits_soft_cap);
  if (right >= 0) {
    variant.mask = right == 0 ? kv_pos() <= q_pos() : kv_pos() <= q_pos() + right;
  }
  if (left >= 0) {
    const Expr seen = kv_pos() >= q_pos() - left;
    variant.mask = variant.mask.defined() ? variant.mask && seen : seen;
  }
  return variant;
}

Variant alibi() {
  const Param slope = Param::real("slope", 1);
  Variant variant;
  variant.logits = logit() + slope(expr::q_head()) * to_real(kv_pos() - q_pos());
  variant.mask = kv_pos() <= q_pos();
  return variant;
}

}  // namespace tilewright::variants
