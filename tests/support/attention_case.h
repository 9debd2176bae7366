// SPDX-License-Identifier: Apache-2.0
// One attention over one batch, drawn from a seed and a few named choices, run through the public
// API and compared with the reference.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "support/batch.h"
#include "support/compare.h"
#include "support/kv_forms.h"
#include "support/random.h"
#include "support/reference.h"
#include "support/tensor.h"
#include "support/variant_cases.h"

namespace tilewright::test {

enum class LengthKind : std::uint8_t {
  decode,
  prefill,
  append,
  cross,
  empty,
  one_long,
  mixed,
  tiny,  // fits kTinyLimits
  count,
};
enum class PositionKind : std::uint8_t { last, offset, explicit_any, count };
enum class StrideKind : std::uint8_t { contiguous, fused, head_major, count };
enum class ScaleKind : std::uint8_t { none, numbers, one, by_request, by_head, by_both, count };

const char* length_name(LengthKind kind);

struct Case {
  std::uint64_t seed = 1;
  CacheForm cache = CacheForm::separate_nhd;
  TableForm table = TableForm::padded;
  DType q_dtype = DType::f32;
  DType kv_dtype = DType::f32;
  std::optional<DType> v_dtype;  // needs a cache form with two tensors
  std::optional<DType> out_dtype;
  std::int64_t page_size = 16;
  int kv_heads = 2;
  int group = 2;
  int head_dim = 64;
  int value_dim = 64;
  LengthKind lengths = LengthKind::mixed;
  VariantKind variant = VariantKind::causal;
  PositionKind positions = PositionKind::last;
  StrideKind strides = StrideKind::contiguous;
  ScaleKind scales = ScaleKind::none;
  bool sinks = false;
  int workers = 0;
  bool aligned = false;  // queries and outputs start at multiples of 16 bytes, as CUDA asks

  // Combinations that do not exist are turned into their nearest neighbour.
  void make_legal() {
    if (has_page_size_one(table)) page_size = 1;
    if (is_token_form(cache)) {
      page_size = 1;
      if (table == TableForm::contiguous) cache = CacheForm::separate_nhd;
    }
    if (needs_equal_dims(cache)) value_dim = head_dim;
    if (cache == CacheForm::aliased) value_dim = std::min(value_dim, head_dim);
    if (variant == VariantKind::sigmoid) sinks = false;
  }

  Dims dims() const { return {kv_heads * group, kv_heads, head_dim, value_dim}; }

  // A word of letters, digits and underscores: also a test's name.
  std::string name() const {
    return fmt::format(
        "{}__{}__{}_{}__page{}__h{}x{}__d{}_{}__{}__{}__pos{}_str{}_sc{}{}_w{}_seed{}",
        cache_form_name(cache), table_form_name(table), dtype_name(q_dtype), dtype_name(kv_dtype),
        page_size, kv_heads, group, head_dim, value_dim, length_name(lengths),
        variant_name(variant), static_cast<int>(positions), static_cast<int>(strides),
        static_cast<int>(scales), sinks ? "_sinks" : "", workers, seed);
  }
};

inline constexpr Limits kTinyLimits{6, 24, 9, 70};

using Lengths = std::vector<std::pair<std::int64_t, std::int64_t>>;  // q_len, kv_len

Lengths draw_lengths(const Case& c, Random& random);

// Tensors [tokens, heads, dim] as they come out of a projection.
Tensor token_tensor(StrideKind kind, DType dtype, std::int64_t tokens, std::int64_t heads,
                    std::int64_t dim, std::uint8_t fill, bool aligned);

// A scale [requests, kv_heads] in one of the shapes it may have, and its values.
struct ScaleCase {
  Tensor tensor;
  Scale scale;
  std::vector<std::vector<double>> values;  // [requests][kv_heads]
};

ScaleCase make_scale(ScaleKind kind, std::int64_t requests, std::int64_t heads, Random& random);

// Runs a case; failures are gtest's. Returns false when the CPU does not support the spec.
class CaseRun {
 public:
  explicit CaseRun(const Case& c);

  const AttentionSpec& spec() const { return spec_; }

  // In a plan that has seen other batches; its first attention has this case's spec.
  void run_in(Plan& plan);

  // In a plan of its own, twice.
  void run();

  // On another device: caller(spec, limits, batch, levels, plan_params, q, kv, args) writes what
  // args say. `arithmetic`: what its kernels' arithmetic may be off by, as a part of the
  // magnitudes.
  template <typename Caller>
  void run_on(double arithmetic, const Caller& caller) {
    make_batch();
    make_arguments();
    arithmetic_ = arithmetic;
    caller(spec_, limits(), batch_, std::vector<KvLevel>{level_}, variant_.plan_params, q_.view(),
           cache_->view(), args_);
    check();
  }

  // By another interface, which must give the bits that C++ gives: caller(spec, limits, batch,
  // input, q, kv, args) updates a plan of its own and runs.
  template <typename Caller>
  void run_by(const Caller& caller) {
    make_batch();
    make_arguments();
    const Attention attention(spec_);
    const Limits most = limits();
    Plan plan({attention}, most);
    update(plan);
    execute(plan);
    const auto out = out_.snapshot();
    const auto lse = lse_.snapshot();
    out_.refill();
    lse_.refill();
    caller(spec_, most, batch_, PlanInput(attention, {level_}, variant_.plan_params), q_.view(),
           cache_->view(), args_);
    EXPECT_TRUE(out_.snapshot() == out) << "out has other bits";
    EXPECT_TRUE(lse_.snapshot() == lse) << "lse has other bits";
    check();
  }

 private:
  std::int64_t requests() const { return static_cast<std::int64_t>(requests_.size()); }

  Limits limits();

  void make_batch();
  void make_arguments();
  void update(Plan& plan);
  void execute(Plan& plan) { plan.attentions()[0].run(plan, q_.view(), cache_->view(), args_); }

  double arithmetic() const;
  // On other devices rotated elements of bf16 may be two of these.
  double lse_arithmetic() const;

  void check();
  void check_padding(std::int64_t token, std::int64_t head);

  static constexpr std::int64_t kPadding = 2;  // rows of q and out behind the last query token

  Case case_;
  Random random_;
  Dims dims_;
  AttentionSpec spec_;
  VariantCase variant_;
  std::vector<Request> requests_;
  std::int64_t q_tokens_ = 0;
  Tensor qo_indptr_, kv_lens_, positions_, q_, out_, lse_, sinks_, no_tensor_;
  ScaleCase q_scale_, k_scale_, v_scale_, out_scale_;
  std::vector<double> sink_values_;
  double arithmetic_ = 0;
  double sm_scale_ = 1;
  Table table_;
  std::unique_ptr<Cache> cache_;
  KvLevel level_;
  Batch batch_;
  RunArgs args_;
};

}  // namespace tilewright::test
