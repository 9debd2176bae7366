// SPDX-License-Identifier: Apache-2.0
#include "engine/device_step.h"

#include <algorithm>
#include <set>

namespace tilewright::engine {
namespace {

constexpr std::size_t kAlignment = 16;
constexpr std::int64_t kRowPadding = 8;
constexpr std::int64_t kTokenPadding = 64;

std::int64_t padded(std::int64_t count, std::int64_t to, std::int64_t most) {
  return std::min((count + to - 1) / to * to, most);
}

StepShape decode_shape(std::int64_t requests, const Limits& limits) {
  const std::int64_t to = requests <= 2 ? requests : requests <= 4 ? 4 : kRowPadding;
  const std::int64_t count = padded(requests, to, limits.requests);
  return {.tokens = count, .requests = count, .rows = count, .is_decode = true};
}

StepShape mixed_shape(std::int64_t tokens, std::int64_t rows, const Limits& limits) {
  StepShape shape{.tokens = padded(tokens, kTokenPadding, limits.q_tokens),
                  .requests = limits.requests};
  std::int64_t count = rows > 0 ? kRowPadding : 0;
  while (count < rows) count = count == 16 * kRowPadding ? limits.requests : 4 * count;
  shape.rows = std::min(count, limits.requests);
  return shape;
}

template <typename T>
void put(std::byte* to, std::span<const T> values) {
  std::ranges::copy(values, reinterpret_cast<T*>(to));
}
// `values`, and behind them `rest` until there are `count`.
void put_padded(std::byte* to, const std::vector<std::int32_t>& values, std::int64_t count,
                std::int32_t rest) {
  auto* const out = reinterpret_cast<std::int32_t*>(to);
  std::ranges::copy(values, out);
  std::fill(out + values.size(), out + std::max<std::int64_t>(count, std::ssize(values)), rest);
}

}  // namespace

StepShape shape_of(const Step& step, const Limits& limits) {
  const std::int64_t tokens = std::ssize(step.batch.tokens);
  const std::int64_t requests = std::ssize(step.sequences);
  const std::int64_t rows = std::ssize(step.sampled);
  StepShape shape = tokens == requests && rows == requests ? decode_shape(tokens, limits)
                                                           : mixed_shape(tokens, rows, limits);
  shape.levels = std::ssize(step.batch.levels);
  return shape;
}

std::vector<StepShape> step_shapes(const Limits& limits) {
  std::set<StepShape> shapes;
  for (std::int64_t requests = 1; requests <= limits.requests; ++requests) {
    shapes.insert(decode_shape(requests, limits));
  }
  for (std::int64_t tokens = 1; tokens <= limits.q_tokens; ++tokens) {
    for (const std::int64_t rows :
         {std::int64_t{0}, kRowPadding, 4 * kRowPadding, 16 * kRowPadding, limits.requests}) {
      // A step that samples more rows than it has tokens does not exist.
      if (rows <= 2 * tokens) shapes.insert(mixed_shape(tokens, rows, limits));
    }
  }
  return {shapes.begin(), shapes.end()};
}

std::size_t StepArrays::place(std::int64_t count, std::size_t element_bytes) {
  const std::size_t offset = bytes_;
  const std::size_t bytes = static_cast<std::size_t>(count) * element_bytes;
  bytes_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return offset;
}

StepArrays::StepArrays(const Limits& limits, std::int64_t page_size)
    : limits_(limits),
      page_size_(page_size),
      most_pages_(limits.requests * ((limits.kv_len + page_size - 1) / page_size)) {
  const auto i32 = [&](std::int64_t count) { return place(count, sizeof(std::int32_t)); };
  token_pool_ = i32(limits.q_tokens + limits.requests);
  token_index_ = i32(limits.q_tokens);
  positions_ = i32(limits.q_tokens);
  slots_ = i32(limits.q_tokens);
  qo_indptr_ = i32(limits.requests + 1);
  kv_lens_ = i32(limits.requests);
  logit_rows_ = i32(limits.requests);
  sampling_ = place(limits.requests, sizeof(RowSampling));
  for (int level = 0; level < limits.levels; ++level) {
    levels_.push_back({i32(limits.requests + 1), i32(limits.requests), i32(limits.requests),
                       i32(limits.requests + 1), 0});
  }
  fixed_bytes_ = bytes_;
  for (Level& level : levels_) level.pages = i32(most_pages_);
}

std::vector<StepArrays::Part> StepArrays::write(std::byte* to, const Step& step,
                                                std::span<const RowSampling> sampling,
                                                const StepShape& shape) const {
  const StepBatch& batch = step.batch;
  auto* const pool = reinterpret_cast<std::int32_t*>(to + token_pool_);
  auto* const index = reinterpret_cast<std::int32_t*>(to + token_index_);
  for (std::int64_t i = 0; i < shape.tokens; ++i) {
    const bool exists = i < std::ssize(batch.tokens);
    const std::int32_t token = exists ? batch.tokens[static_cast<std::size_t>(i)] : 0;
    pool[i] = std::max(token, 0);
    index[i] = static_cast<std::int32_t>(token < 0 ? limits_.q_tokens - 1 - token : i);
  }
  put_padded(to + positions_, batch.positions, shape.tokens, 0);
  put_padded(to + slots_, batch.slots, shape.tokens, -1);
  put_padded(to + qo_indptr_, batch.qo_indptr, shape.requests + 1, batch.qo_indptr.back());
  put_padded(to + kv_lens_, batch.kv_lens, shape.requests, 0);
  const std::vector<std::int32_t> logit_rows(batch.logit_rows.begin(), batch.logit_rows.end());
  put_padded(to + logit_rows_, logit_rows, shape.rows, 0);
  put(to + sampling_, sampling);
  auto* const rows = reinterpret_cast<RowSampling*>(to + sampling_);
  std::fill(rows + sampling.size(), rows + shape.rows, RowSampling{});

  const std::size_t pool_bytes = static_cast<std::size_t>(shape.tokens) * sizeof(std::int32_t);
  std::vector<Part> parts = {{token_pool_, pool_bytes},
                             {token_index_, fixed_bytes_ - token_index_}};
  for (std::size_t i = 0; i < batch.levels.size(); ++i) {
    const StepLevel& level = batch.levels[i];
    const Level& at = levels_[i];
    put_padded(to + at.qo_indptr, level.qo_indptr, shape.requests + 1, level.qo_indptr.back());
    put_padded(to + at.kv_lens, level.kv_lens, shape.requests, 0);
    put_padded(to + at.kv_pos, level.kv_pos, shape.requests, 0);
    put_padded(to + at.page_indptr, level.page_indptr, shape.requests + 1,
               level.page_indptr.back());
    put<std::int32_t>(to + at.pages, level.pages);
    if (!level.pages.empty()) {
      parts.push_back({at.pages, level.pages.size() * sizeof(std::int32_t)});
    }
  }
  return parts;
}

DeviceStep StepArrays::views(std::byte* base, const StepShape& shape, Device device) const {
  const auto i32 = [&](std::size_t offset, std::int64_t count) {
    return TensorView(base + offset, DType::i32, {count}, device);
  };
  DeviceStep step;
  step.token_pool =
      TensorView(base + token_pool_, DType::i32, {limits_.q_tokens + limits_.requests, 1}, device);
  step.token_index = i32(token_index_, shape.tokens);
  step.positions = i32(positions_, shape.tokens);
  step.slots = i32(slots_, shape.tokens);
  step.batch.qo_indptr = i32(qo_indptr_, shape.requests + 1);
  step.batch.kv_lens = i32(kv_lens_, shape.requests);
  for (std::size_t i = 0; i < static_cast<std::size_t>(shape.levels); ++i) {
    const Level& at = levels_[i];
    KvLevel level;
    level.table = PageTable::csr(i32(at.page_indptr, shape.requests + 1),
                                 i32(at.pages, most_pages_), page_size_);
    level.kv_lens = i32(at.kv_lens, shape.requests);
    level.kv_pos = i32(at.kv_pos, shape.requests);
    // The innermost level's rows are the requests, as the library assumes.
    const bool innermost = i + 1 == static_cast<std::size_t>(shape.levels);
    if (!innermost) level.qo_indptr = i32(at.qo_indptr, shape.requests + 1);
    step.levels.push_back(level);
  }
  if (!shape.is_decode) step.logit_rows = i32(logit_rows_, shape.rows);
  step.sampled = TensorView(sampled(base), DType::i32, {shape.rows}, device);
  step.sampling =
      sampling_args(reinterpret_cast<const RowSampling*>(base + sampling_), shape.rows, device);
  return step;
}

}  // namespace tilewright::engine
