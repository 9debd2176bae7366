// SPDX-License-Identifier: Apache-2.0
// Batches for benchmarks: one attention, its plan, random tensors, and what a run counts for.
#pragma once

#include <tilewright/tilewright.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <utility>
#include <vector>

namespace tilewright::bench {

struct Shape {
  int qo_heads = 32;
  int kv_heads = 8;
  int head_dim = 128;
  std::int64_t page_size = 16;
};

// Memory of a tensor of f32 or bf16, with values in [-1, 1). Aligned as an engine's is: else every
// vector of a row lies in two cache lines.
class Buffer {
 public:
  Buffer() = default;
  Buffer(DType dtype, std::initializer_list<std::int64_t> shape, unsigned seed) {
    const std::int64_t count =
        std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
    const std::int64_t bytes =
        (count * dtype_bytes(dtype) + kAlignment - 1) / kAlignment * kAlignment;
    bytes_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, bytes)));
    view_ = TensorView(bytes_.get(), dtype, shape);
    std::minstd_rand random(seed);
    for (std::int64_t i = 0; i < count; ++i) {
      const float value = static_cast<float>(random() % 65536) / 32768.0F - 1.0F;
      std::uint32_t bits = 0;
      std::memcpy(&bits, &value, sizeof(bits));
      if (dtype == DType::f32) {
        std::memcpy(bytes_.get() + 4 * i, &bits, 4);
      } else {
        const auto half = static_cast<std::uint16_t>(bits >> 16);
        std::memcpy(bytes_.get() + 2 * i, &half, 2);
      }
    }
  }
  const TensorView& view() const { return view_; }

 private:
  static constexpr std::int64_t kAlignment = 4096;
  struct Free {
    void operator()(std::byte* bytes) const { std::free(bytes); }
  };
  std::unique_ptr<std::byte, Free> bytes_;
  TensorView view_;
};

// Requests of (query tokens, KV tokens) over a paged NHD cache whose pages lie in random order.
class Workload {
 public:
  Workload(const Shape& shape, DType dtype, const Variant& variant,
           const std::vector<std::pair<int, int>>& requests)
      : spec_(make_spec(shape, dtype, variant)), attention_(spec_) {
    std::vector<std::int32_t> indptr{0};
    std::vector<std::int32_t> pages{0};
    Limits limits;
    limits.requests = static_cast<std::int64_t>(requests.size());
    for (const auto& [q_len, kv_len] : requests) {
      indptr.push_back(indptr.back() + q_len);
      pages.push_back(pages.back() +
                      static_cast<std::int32_t>((kv_len + shape.page_size - 1) / shape.page_size));
      lens_.push_back(kv_len);
      limits.q_len = std::max<std::int64_t>(limits.q_len, q_len);
      limits.kv_len = std::max<std::int64_t>(limits.kv_len, kv_len);
      count(q_len, kv_len);
    }
    limits.q_tokens = indptr.back();
    indptr_ = std::move(indptr);
    page_indptr_ = std::move(pages);
    page_ids_.resize(static_cast<std::size_t>(page_indptr_.back()));
    std::iota(page_ids_.begin(), page_ids_.end(), 0);
    std::shuffle(page_ids_.begin(), page_ids_.end(), std::minstd_rand(1));
    const std::initializer_list<std::int64_t> cache = {page_indptr_.back(), shape.page_size,
                                                       shape.kv_heads, shape.head_dim};
    k_ = Buffer(dtype, cache, 2);
    v_ = Buffer(dtype, cache, 3);
    const std::initializer_list<std::int64_t> rows = {indptr_.back(), shape.qo_heads,
                                                      shape.head_dim};
    q_ = Buffer(dtype, rows, 4);
    out_ = Buffer(dtype, rows, 5);
    plan_.emplace(std::vector<Attention>{attention_}, limits);
    update();
  }

  void update() {
    Batch batch;
    batch.qo_indptr = ints(indptr_);
    batch.kv_lens = ints(lens_);
    plan_->update(
        batch,
        {PlanInput(attention_, PageTable::csr(ints(page_indptr_), ints(page_ids_), page_size_))});
  }

  void run() {
    RunArgs args;
    args.out = out_.view();
    attention_.run(*plan_, q_.view(), KvCache::separate(k_.view(), v_.view()), args);
  }

  // Two products of 2 * head_dim operations for each causal pair of a query and a key.
  double flops() const { return flops_; }
  double kv_bytes() const { return kv_bytes_; }

 private:
  AttentionSpec make_spec(const Shape& shape, DType dtype, const Variant& variant) {
    AttentionSpec spec;
    spec.num_qo_heads = shape.qo_heads;
    spec.num_kv_heads = shape.kv_heads;
    spec.head_dim = shape.head_dim;
    spec.q_dtype = dtype;
    spec.kv_dtype = dtype;
    spec.variant = variant;
    page_size_ = shape.page_size;
    return spec;
  }

  void count(double q_len, double kv_len) {
    const double pairs = q_len * kv_len - q_len * (q_len - 1) / 2;
    flops_ += 4.0 * spec_.head_dim * spec_.num_qo_heads * pairs;
    kv_bytes_ += 2.0 * kv_len * spec_.num_kv_heads * spec_.head_dim *
                 static_cast<double>(dtype_bytes(spec_.kv_dtype));
  }

  static TensorView ints(std::vector<std::int32_t>& values) {
    return {values.data(), DType::i32, {static_cast<std::int64_t>(values.size())}};
  }

  std::int64_t page_size_ = 16;
  double flops_ = 0;
  double kv_bytes_ = 0;
  AttentionSpec spec_;
  Attention attention_;
  std::optional<Plan> plan_;
  std::vector<std::int32_t> indptr_;
  std::vector<std::int32_t> lens_;
  std::vector<std::int32_t> page_indptr_;
  std::vector<std::int32_t> page_ids_;
  Buffer q_;
  Buffer k_;
  Buffer v_;
  Buffer out_;
};

}  // namespace tilewright::bench
