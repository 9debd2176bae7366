// SPDX-License-Identifier: Apache-2.0
// What is said of a row: its numbers, the order of its filters; and where its results go.
#pragma once

#include "sampling/params.h"
#include "sampling/process_logit.h"

namespace tw {

// The row's entry in parameters; false where its slot is out of range.
TW_DEVICE bool find_entry(const SampleParams& p, i64 row, i64& entry) {
  entry = row;
  if (p.slots == nullptr || p.entries <= 0) return true;
  entry = static_cast<const i32*>(p.slots)[row * p.slots_stride];
  return entry >= 0 && entry < p.entries;
}

// The numbers of a row, bad ones replaced.
struct RowNumbers {
  float temperature;  // 0: greedy
  i32 top_k;
  float top_p;
  float min_p;
  float typical_p;
  i64 entry;
  u32 status;  // kStatusBadParameter, or 0
};

TW_DEVICE RowNumbers numbers_of_entry(const SampleParams& p, i64 entry) {
  RowNumbers n;
  n.temperature = value_of_entry(p.temperature, entry);
  n.top_k = value_of_entry(p.top_k, entry);
  n.top_p = value_of_entry(p.top_p, entry);
  n.min_p = value_of_entry(p.min_p, entry);
  n.typical_p = value_of_entry(p.typical_p, entry);
  n.entry = entry;
  const bool good = n.temperature >= 0 && n.top_p == n.top_p && n.min_p >= 0 && n.min_p <= 1 &&
                    n.typical_p == n.typical_p;
  n.status = good ? 0 : kStatusBadParameter;
  if (!(n.temperature >= 0)) n.temperature = 0;
  if (!(n.min_p >= 0)) n.min_p = 0;
  n.min_p = min_of(n.min_p, 1.0F);
  return n;
}

enum class Filter : i32 { none, top_k, top_p, min_p, typical_p };

// What acts in each turn; none: the draw. Joint top-k and top-p both see all tokens: both keep some
// that come first, so the one that keeps less decides, and top-k may as well act on what top-p
// kept.
TW_DEVICE Filter filter_of_turn(Order order, i32 turn) {
  if (turn == 4) return Filter::none;
  if (order == Order::llamacpp) {
    return turn == 0   ? Filter::top_k
           : turn == 1 ? Filter::typical_p
           : turn == 2 ? Filter::top_p
                       : Filter::min_p;
  }
  if (turn == 3) return Filter::typical_p;
  if (order == Order::vllm) {
    return turn == 0 ? Filter::min_p : turn == 1 ? Filter::top_k : Filter::top_p;
  }
  if (turn == 2) return Filter::min_p;
  return (turn == 0) == (order == Order::joint) ? Filter::top_p : Filter::top_k;
}

TW_DEVICE bool is_off(Filter filter, const RowNumbers& numbers, i32 vocabulary) {
  if (filter == Filter::top_k) return numbers.top_k <= 0 || numbers.top_k >= vocabulary;
  if (filter == Filter::top_p) return !(numbers.top_p < 1);
  if (filter == Filter::min_p) return !(numbers.min_p > 0);
  if (filter == Filter::typical_p) return !(numbers.typical_p > 0 && numbers.typical_p < 1);
  return false;
}

// What the logits of a row say, by the largest one and whether there is a NaN.
TW_DEVICE u32 status_of_logits(float largest, bool nan) {
  return (nan ? kStatusNan : 0) | (largest == kInfinity ? kStatusInfinity : 0) |
         (largest == -kInfinity ? kStatusNoCandidate : 0);
}

TW_DEVICE void store_status(const SampleParams& p, i64 row, u32 status) {
  if (p.status != nullptr) static_cast<u32*>(p.status)[row * p.status_stride] = status;
}

TW_DEVICE void store_token(const SampleParams& p, i64 row, i32 token) {
  const i64 at = row * p.tokens_stride;
  if (p.tokens_64 != 0) {
    static_cast<i64*>(p.tokens)[at] = token;
  } else {
    static_cast<i32*>(p.tokens)[at] = token;
  }
}

TW_DEVICE bool is_wanted(const LogProbParams& p) {
  return p.chosen != nullptr || p.ranks != nullptr || p.best != nullptr;
}

}  // namespace tw
