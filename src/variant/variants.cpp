// SPDX-License-Identifier: Apache-2.0
// The ready-made variants, written in the same expressions that callers have.
#include <tilewright/variants.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/checks.h"
#include "variant/graph.h"

namespace tilewright::variants {
namespace {

using expr::batch;
using expr::kv_len;
using expr::kv_pos;
using expr::logit;
using expr::q_begin;
using expr::q_head;
using expr::q_index;
using expr::q_len;
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

void check_size(const char* name, std::int64_t size) {
  require(size >= 1 && size <= std::numeric_limits<std::int32_t>::max(),
          "{} is {}: it must be in [1, 2^31)", name, size);
}

Variant with_mask(const Expr& mask) {
  Variant variant;
  variant.mask = mask;
  return variant;
}

Expr causal_mask() {
  return kv_pos() <= q_pos();
}

// Bit `index` (>= 0, less than the word's bits) of an integer.
Expr bit_of(const Expr& word, const Expr& index) {
  return bit_and(shift_right(word, index), 1) == 1;
}

// The bucket of a distance >= 0: exact ones, then as many whose bounds grow like powers. The bounds
// are those of the original's formula, evaluated in f32 as there.
Expr t5_bucket(const Expr& distance, int num_buckets, int max_distance) {
  const int exact = num_buckets / 2;
  const auto bucket_of = [&](int d) {
    if (d < exact) return d;
    const float ratio = std::log(static_cast<float>(d) / static_cast<float>(exact)) /
                        static_cast<float>(std::log(static_cast<double>(max_distance) / exact));
    return std::min(exact + static_cast<int>(ratio * static_cast<float>(num_buckets - exact)),
                    num_buckets - 1);
  };
  Expr bucket = min(distance, exact);
  for (int d = exact + 1, last = exact; last < num_buckets - 1; ++d) {
    for (; last < bucket_of(d); ++last) bucket = bucket + where(distance >= d, 1, 0);
  }
  return bucket;
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
  Variant variant = with_mask(causal_mask());
  variant.logits = logit() + slope(q_head()) * to_real(kv_pos() - q_pos());
  return variant;
}

Variant attention_sink(std::int64_t sink_tokens, std::int64_t window_left, double logits_soft_cap) {
  require(sink_tokens >= 0, "sink_tokens is {}: it must be at least 0", sink_tokens);
  require(window_left >= 0, "window_left is {}: it must be at least 0", window_left);
  check_bound("sink_tokens", sink_tokens);
  check_bound("window_left", window_left);
  Variant variant =
      with_mask(causal_mask() && (kv_pos() < sink_tokens || kv_pos() >= q_pos() - window_left));
  variant.logits = soft_capped(logits_soft_cap);
  return variant;
}

Variant prefix_lm() {
  return with_mask(causal_mask() || kv_pos() < Param::integer("prefix_len", 1)(batch()));
}

Variant causal_by_request() {
  return with_mask(causal_mask() || Param::integer("causal", 1)(batch()) == 0);
}

Variant chunked_local(std::int64_t chunk_size) {
  check_size("chunk_size", chunk_size);
  return with_mask(causal_mask() &&
                   floor_div(kv_pos(), chunk_size) == floor_div(q_pos(), chunk_size));
}

Variant block_causal(std::int64_t block_size) {
  check_size("block_size", block_size);
  return with_mask(floor_div(kv_pos(), block_size) <= floor_div(q_pos(), block_size));
}

Variant document(bool is_causal) {
  const Expr begun = kv_pos() >= Param::integer("document_begin", 1)(q_index());
  return with_mask(begun && (is_causal ? causal_mask()
                                       : kv_pos() < Param::integer("document_end", 1)(q_index())));
}

Variant bidirectional_spans() {
  return with_mask(causal_mask() || kv_pos() < Param::integer("span_end", 1)(q_index()));
}

Variant tree() {
  const Expr before = kv_len() - q_len();
  const Expr node = kv_pos() - before;
  const Expr word = Param::integer("tree_mask", 2)(q_index(), shift_right(node, 5));
  return with_mask(kv_pos() < before || bit_of(word, bit_and(node, 31)));
}

Variant dense_mask() {
  return with_mask(Param::integer("mask", 2)(q_index(), kv_pos()) != 0);
}

Variant packed_mask() {
  const Expr first = (q_index() - q_begin()) * kv_len();
  // Split so that only small numbers vary with the key.
  const Expr bit = bit_and(first, 7) + kv_pos();
  const Expr byte = Param::integer("packed_mask_indptr", 1)(batch()) + shift_right(first, 3) +
                    shift_right(bit, 3);
  return with_mask(bit_of(Param::integer("packed_mask", 1)(byte), bit_and(bit, 7)));
}

Variant block_sparse(std::int64_t q_block, std::int64_t kv_block) {
  check_size("q_block", q_block);
  check_size("kv_block", kv_block);
  const Expr seen = Param::integer("block_mask", 3)(
      batch(), floor_div(q_index() - q_begin(), q_block), floor_div(kv_pos(), kv_block));
  return with_mask(seen != 0);
}

Variant t5_relative_bias(bool bidirectional, int num_buckets, int max_distance) {
  const int sides = bidirectional ? 2 : 1;
  require(num_buckets >= 2 * sides && num_buckets % (2 * sides) == 0 && num_buckets <= 128,
          "num_buckets is {}: it must be a multiple of {}, at most 128", num_buckets, 2 * sides);
  const int side_buckets = num_buckets / sides;
  require(max_distance > side_buckets / 2 && max_distance <= (1 << 20),
          "max_distance is {}: it must be in ({}, 2^20]", max_distance, side_buckets / 2);
  const Expr distance = bidirectional ? abs(kv_pos() - q_pos()) : max(q_pos() - kv_pos(), 0);
  Expr bucket = t5_bucket(distance, side_buckets, max_distance);
  if (bidirectional) bucket = bucket + where(kv_pos() > q_pos(), side_buckets, 0);
  Variant variant;
  variant.logits = logit() + Param::real("relative_bias", 2)(q_head(), bucket);
  if (!bidirectional) variant.mask = causal_mask();
  return variant;
}

Variant additive_bias(bool per_head) {
  Variant variant;
  variant.logits = logit() + (per_head ? Param::real("bias", 3)(q_head(), q_index(), kv_pos())
                                       : Param::real("bias", 2)(q_index(), kv_pos()));
  return variant;
}

Variant sigmoid(double bias, bool is_causal) {
  require(std::isfinite(bias), "bias is {}: it must be a finite number", bias);
  Variant variant;
  variant.softmax = false;
  variant.logits = tilewright::sigmoid(logit() + Param::real("sigmoid_bias").with_default(bias)());
  if (is_causal) variant.mask = causal_mask();
  return variant;
}

}  // namespace tilewright::variants
