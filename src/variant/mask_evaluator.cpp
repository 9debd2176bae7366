// SPDX-License-Identifier: Apache-2.0
#include "variant/mask_evaluator.h"

#include <algorithm>
#include <cstdint>

#include "base/checks.h"
#include "variant/graph.h"

namespace tilewright {
namespace {

constexpr std::size_t kAlignment = 64;

Variant mask_of(const Variant& variant) {
  variant.validate();
  require(variant.mask.defined(), "the variant has no mask: every query attends to every key");
  Variant mask;
  mask.mask = variant.mask;
  return mask;
}

}  // namespace

QueryRange MaskRequest::range(std::int64_t begin, std::int64_t end) const {
  QueryRange queries;
  queries.batch = batch;
  queries.q_len = q_len;
  queries.kv_len = kv_len;
  queries.q_index = q_begin + begin;
  queries.q_begin = q_begin;
  queries.q_pos_min = q_pos + begin;
  queries.q_pos_max = q_pos + end - 1;
  if (q_pos_table == nullptr) return queries;
  queries.q_pos = q_pos_table + queries.q_index * q_pos_stride;
  queries.q_pos_stride = q_pos_stride;
  queries.q_count = end - begin;
  queries.q_pos_min = queries.q_pos_max = queries.position(0);
  for (std::int64_t i = 1; i < queries.q_count; ++i) {
    queries.q_pos_min = std::min(queries.q_pos_min, queries.position(i));
    queries.q_pos_max = std::max(queries.q_pos_max, queries.position(i));
  }
  return queries;
}

MaskEvaluator::MaskEvaluator(const Variant& variant, const std::vector<ParamValue>& params,
                             const ParamExtents& extents)
    : variant_(mask_of(variant)),
      binder_(variant_),
      analysis_(variant_),
      program_(variant_.mask, binder_) {
  const std::vector<Param> known = variant.params();
  std::vector<ParamValue> given[2];  // by binding time
  for (const ParamValue& value : params) {
    const int index = binder_.index_of(value.name);
    if (index < 0) {
      // Parameters of the logits and the output do not matter here.
      const bool other = std::any_of(known.begin(), known.end(), [&](const Param& param) {
        return param.name() == value.name;
      });
      require(other, "there is no parameter \"{}\"", value.name);
      continue;
    }
    const Param& param = binder_.params()[static_cast<std::size_t>(index)];
    given[param.bind() == Bind::plan ? 1 : 0].push_back(value);
  }
  binder_.bind(given[0], Bind::run, extents, Device{}, bindings_);
  binder_.bind(given[1], Bind::plan, extents, Device{}, bindings_);
  for (const ExprNode* node : topological_order({&variant_.mask})) {
    reads_heads_ |= node->op == ExprOp::q_head || node->op == ExprOp::kv_head;
  }
}

MaskEvaluator::Rows::Rows(const MaskEvaluator& mask) : mask_(mask) {
  memory_ = std::make_unique<std::byte[]>(mask.program_.scratch_bytes() + kAlignment);
  const auto address = reinterpret_cast<std::uintptr_t>(memory_.get());
  scratch_ = memory_.get() + (kAlignment - address % kAlignment) % kAlignment;
  keys_.resize(kProgramWidth);
}

void MaskEvaluator::Rows::evaluate(const RowContext& row, std::int64_t kv_begin, std::int64_t count,
                                   std::uint8_t* seen) {
  for (std::int64_t done = 0; done < count; done += kProgramWidth) {
    const auto n = static_cast<int>(std::min<std::int64_t>(count - done, kProgramWidth));
    for (int i = 0; i < n; ++i) {
      keys_[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(kv_begin + done + i);
    }
    mask_.program_.eval_mask(row, mask_.bindings_, keys_.data(), seen + done, n, scratch_);
  }
}

TileKind MaskEvaluator::Rows::kind(const QueryRange& queries, std::int64_t kv_begin,
                                   std::int64_t kv_end) {
  seen_.resize(static_cast<std::size_t>(kv_end - kv_begin));
  bool any = false;
  bool every = true;
  RowContext row;
  row.kv_head = queries.kv_head;
  row.batch = queries.batch;
  row.q_len = queries.q_len;
  row.kv_len = queries.kv_len;
  row.q_begin = queries.q_begin;
  const std::int64_t heads_end = mask_.reads_heads_ ? queries.q_head_end : queries.q_head_begin + 1;
  for (std::int64_t token = 0; token < queries.tokens(); ++token) {
    row.q_pos = queries.position(token);
    row.q_index = queries.q_index + token;
    for (row.q_head = queries.q_head_begin; row.q_head < heads_end; ++row.q_head) {
      evaluate(row, kv_begin, kv_end - kv_begin, seen_.data());
      const auto count = std::count(seen_.begin(), seen_.end(), std::uint8_t{1});
      any |= count > 0;
      every &= count == kv_end - kv_begin;
      if (any && !every) return TileKind::mixed;
    }
  }
  return any ? TileKind::full : TileKind::empty;
}

TileKind proven_kind(const MaskRanges& ranges, std::int64_t kv_begin, std::int64_t kv_end) {
  for (int i = 0; i < ranges.full.count; ++i) {
    const Interval& full = ranges.full.intervals[static_cast<std::size_t>(i)];
    if (full.begin <= kv_begin && kv_end <= full.end) return TileKind::full;
  }
  for (int i = 0; i < ranges.needed.count; ++i) {
    const Interval& needed = ranges.needed.intervals[static_cast<std::size_t>(i)];
    if (needed.begin < kv_end && kv_begin < needed.end) return TileKind::mixed;
  }
  return TileKind::empty;
}

}  // namespace tilewright
