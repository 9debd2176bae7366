// SPDX-License-Identifier: Apache-2.0
#include "cuda_text/cases.h"

#include <tilewright/error.h>
#include <tilewright/variants.h>

#include <utility>

#include "support/variant_cases.h"
#include "variant/mask_check.h"
#include "variant/reference.h"

namespace tilewright::test {
namespace {

void add_ready_made(std::vector<CudaCase>& cases) {
  const auto add = [&](const char* name, Variant variant) {
    cases.push_back({std::string("variants::") + name, std::move(variant)});
  };
  add("full", variants::full());
  add("full, cap", variants::full(30));
  add("causal", variants::causal());
  add("causal, window, cap", variants::causal(100, 50));
  add("sliding_window", variants::sliding_window(7, 9));
  add("attention_sink", variants::attention_sink(4, 60));
  add("prefix_lm", variants::prefix_lm());
  add("causal_by_request", variants::causal_by_request());
  add("chunked_local", variants::chunked_local(48));
  add("block_causal", variants::block_causal(16));
  add("document, causal", variants::document());
  add("document", variants::document(false));
  add("bidirectional_spans", variants::bidirectional_spans());
  add("tree", variants::tree());
  add("dense_mask", variants::dense_mask());
  add("packed_mask", variants::packed_mask());
  add("block_sparse", variants::block_sparse(16, 32));
  add("alibi", variants::alibi());
  add("t5", variants::t5_relative_bias(false));
  add("t5, bidirectional", variants::t5_relative_bias(true));
  add("additive_bias", variants::additive_bias());
  add("additive_bias, heads", variants::additive_bias(true));
  add("sigmoid", variants::sigmoid(-3));
}

RopeSpec rope_of(double theta, RopeScaling scaling) {
  RopeSpec rope;
  rope.theta = theta;
  rope.scaling = std::move(scaling);
  return rope;
}

void add_ropes(std::vector<CudaCase>& cases) {
  RopeSpec part;
  part.dim = 16;
  part.interleaved = true;
  part.position_scale = 0.25;
  LongRopeScaling longrope;
  for (int i = 0; i < kCudaHeadDim / 2; ++i) longrope.factors.push_back(1 + 0.5 * i);
  longrope.attention_factor = 1.2;
  cases.push_back({"rope", with_rope(RopeSpec{})});
  cases.push_back({"rope of a part", with_rope(part)});
  cases.push_back({"rope, llama 3", with_rope(rope_of(5e5, Llama3Scaling{}))});
  cases.push_back({"rope, yarn", with_rope(rope_of(1e6, YarnScaling{.factor = 4}))});
  cases.push_back({"rope, longrope", with_rope(rope_of(1e4, longrope))});
}

// Bounds that leave 32 and 64 bits, and what keeps to them.
void add_wide(std::vector<CudaCase>& cases) {
  using namespace expr;  // NOLINT(google-build-using-namespace)
  constexpr std::int64_t kHuge = std::int64_t{1} << 62;
  constexpr std::int64_t kFar = std::int64_t{1} << 32;
  const Expr w = Param::integer("w")();
  const Expr distance = q_pos() - kv_pos();
  for (const Expr& mask :
       {kv_pos() - q_pos() < kHuge, kv_pos() + kHuge > q_pos() * 3 - w, kv_pos() * 7 <= w * kFar,
        kv_pos() + kFar >= q_pos() + w * 4, kv_pos() == q_pos() + w * 2, kv_pos() != w - q_pos(),
        kv_pos() - w * kFar * 4096 <= kHuge + q_pos(), floor_div(kv_pos() + 5, 7) != w,
        floor_div(kv_pos() - 5, 7) > floor_div(q_pos() + 3, 9),
        floor_div(kv_pos(), 1 << 20) <= w * kFar, min(max(distance, 3), 40) == 40,
        max(distance, w) <= 40, where(q_pos() > 5, distance, w) > -3,
        Param::integer("t", 1, Bind::run)(max(distance, 0)) > 0,
        Param::integer("t", 1, Bind::run)(distance * distance) > 0,
        kv_pos() * 2 < q_pos() && -kv_pos() * 3 <= w, 3 - kv_pos() > w - q_head() * 2}) {
    cases.push_back({"wide", with_mask(mask)});
  }
  for (const Expr& bias : {to_real(distance), to_real(distance * 3), to_real(max(distance, 0)),
                           to_real(kv_pos() - q_pos()) / 3.0, logit() / Param::real("s")()}) {
    cases.push_back({"wide", with_logits(logit() + bias)});
  }
}

void add_serving(std::vector<CudaCase>& cases) {
  Random random(5);
  const Dims dims{};
  for (int kind = 0; kind < static_cast<int>(VariantKind::count); ++kind) {
    const auto k = static_cast<VariantKind>(kind);
    VariantCase c = make_variant(k, dims, 3, random);
    cases.push_back({variant_name(k), c.variant});
  }
}

// Graphs over the library's bounds are left out.
void add_if_valid(std::vector<CudaCase>& cases, const char* name, const Variant& variant) {
  try {
    variant.validate();
  } catch (const Error&) {
    return;
  }
  cases.push_back({name, variant});
}

void add_random(std::vector<CudaCase>& cases) {
  Random random(2024);
  for (int i = 0; i < 30; ++i) {
    const bool huge = i % 3 == 0;
    RandomExpressions masks(random, false, huge);
    add_if_valid(cases, "random mask", with_mask(masks.boolean(2 + i % 4)));
    RandomExpressions logits(random, true, huge);
    add_if_valid(cases, "random logits", with_logits(logits.real(1 + i % 5)));
  }
  for (int i = 0; i < 60; ++i) {
    const Expr mask = RandomMasks(random, i % 4 == 0, i % 3 == 0).mask(i % 4);
    add_if_valid(cases, "random relations", with_mask(mask));
  }
}

}  // namespace

std::vector<CudaCase> cuda_cases() {
  std::vector<CudaCase> cases;
  add_ready_made(cases);
  add_ropes(cases);
  add_wide(cases);
  add_serving(cases);
  add_random(cases);
  return cases;
}

}  // namespace tilewright::test
