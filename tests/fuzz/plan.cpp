// SPDX-License-Identifier: Apache-2.0
// Batches and page tables of every form, well-formed and damaged, one after the other in one plan:
// refused with a clear error where the rules say so, and nowhere else; else a plan that has every
// block once and a run that is right in float64.
#include <fmt/format.h>
#include <tilewright/tilewright.h>

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <tuple>

#include "fuzz/batch_case.h"
#include "fuzz/targets.h"
#include "support/batch.h"
#include "support/kv_forms.h"
#include "support/plan_pieces.h"
#include "support/variant_cases.h"

namespace tilewright::fuzz {
namespace {

using test::CacheForm;
using test::VariantKind;

constexpr std::array kVariants = {VariantKind::causal,         VariantKind::full,
                                  VariantKind::causal_window,  VariantKind::chunked,
                                  VariantKind::sink_window,    VariantKind::window_both,
                                  VariantKind::modulo,         VariantKind::not_one_key,
                                  VariantKind::window_by_head, VariantKind::window_left};
constexpr std::int64_t kMostTokens = 20'000;  // of a level's cache; a larger one is not run

Limits draw_limits(Draw& draw) {
  Limits limits{6, 60, 40, 150, 3};
  limits.determinism = draw.chance(0.3) ? Determinism::batch_invariant : Determinism::repeatable;
  limits.workers = draw.pick({0, 1, 2, 5, 64});
  return limits;
}

// Lowers a limit under what was drawn, or says what no limit may be.
void damage(Limits& limits, Draw& draw) {
  std::int64_t* const fields[] = {&limits.requests, &limits.q_tokens, &limits.q_len,
                                  &limits.kv_len};
  std::int64_t& field = *fields[draw.below(4)];
  field = draw.chance(0.8) ? draw.range(0, field) : draw.extreme();
  // No machine has the memory for what is right at 2^30.
  if (field > 1000 && field <= std::int64_t{1} << 30) field = 1;
}

bool are_right(const Limits& limits) {
  constexpr std::int64_t kMost = std::int64_t{1} << 30;
  const auto in = [](std::int64_t value, std::int64_t least) {
    return value >= least && value <= kMost;
  };
  return in(limits.requests, 1) && in(limits.q_tokens, 1) && in(limits.q_len, 1) &&
         in(limits.kv_len, 0);
}

struct Setting {
  test::Dims dims;
  DType dtype = DType::f32;
  Limits limits;
  test::VariantCase variant;
};

Setting draw_setting(Draw& draw) {
  Setting setting;
  const auto kv_heads = static_cast<int>(draw.range(1, 2));
  const int group = draw.pick({1, 2, 4, 5});
  setting.dims = {kv_heads * group, kv_heads, draw.pick({8, 16, 40}), draw.pick({8, 16, 24})};
  setting.dtype = draw.pick({DType::f32, DType::bf16, DType::f16});
  setting.limits = draw_limits(draw);
  test::Random data = draw.data();
  setting.variant =
      test::make_variant(kVariants[draw.below(kVariants.size())], setting.dims, 6, data);
  return setting;
}

// The caches of a batch: keys and values where a token finds some, NaN elsewhere; and each query
// token as a request of its own.
struct Contents {
  std::vector<test::Cache> caches;
  std::vector<test::Request> references;

  Contents(const Setting& setting, const BatchCase& batch, const Meaning& meaning,
           test::Random data) {
    const test::Dims& dims = setting.dims;
    const DType dtype = setting.dtype;
    for (const LevelCase& level : batch.levels) {
      caches.emplace_back(CacheForm::separate_nhd, level.cache_pages,
                          std::max<std::int64_t>(level.page_size, 1), dims, dtype, dtype);
    }
    std::map<std::tuple<int, std::int64_t, std::int64_t>, test::Request> stored;
    for (const TokenMeaning& token : meaning.tokens) {
      test::Request one = test::random_request(data, dims, 1, 0, dtype, dtype, dtype);
      one.q_pos[0] = token.q_pos;
      one.batch = token.request;
      for (const KeyPlace& key : token.keys) {
        const auto [found, is_new] = stored.try_emplace({key.level, key.page, key.offset});
        test::Request& slot = found->second;
        if (is_new) {
          slot = test::random_request(data, dims, 0, 1, dtype, dtype, dtype);
          caches[static_cast<std::size_t>(key.level)].put(key.page, key.offset, slot, 0);
        }
        one.k.insert(one.k.end(), slot.k.begin(), slot.k.end());
        one.v.insert(one.v.end(), slot.v.begin(), slot.v.end());
        one.kv_pos.push_back(key.position);
      }
      references.push_back(std::move(one));
    }
  }
};

bool is_small(const BatchCase& batch) {
  return std::all_of(batch.levels.begin(), batch.levels.end(), [](const LevelCase& level) {
    return level.page_size <= kMostTokens / std::max<std::int64_t>(level.cache_pages, 1);
  });
}

void run(Plan& plan, const Setting& setting, const BatchCase& batch, const Meaning& meaning,
         Draw& draw) {
  if (!is_small(batch)) return;
  Meaning readable = meaning;
  if (!meaning.wrong_in_run.empty()) {
    for (TokenMeaning& token : readable.tokens) token.keys.clear();
  }
  const Contents contents(setting, batch, readable, draw.data());
  const test::BatchTensors tensors(contents.references, setting.dims, setting.dtype, 2);
  std::vector<KvCache> caches;
  for (const test::Cache& cache : contents.caches) caches.push_back(cache.view());
  const Attention& attention = plan.attentions()[0];
  const bool ran = taken([&] { attention.run(plan, tensors.q.view(), caches, tensors.args()); });
  check(ran == meaning.wrong_in_run.empty(),
        ran ? "it runs with " + meaning.wrong_in_run : "it does not run");
  if (!ran) return;
  tensors.expect(contents.references, setting.variant.semantics);
  tensors.expect_padding_kept();
}

bool update_and_run(Plan& plan, const Setting& setting, const BatchCase& batch, Draw& draw) {
  const Meaning meaning = meaning_of(batch, setting.limits);
  draw.note([&] {
    return batch.text() + "  must be refused: \"" + meaning.wrong_in_update + "\", in run \"" +
           meaning.wrong_in_run + "\"\n";
  });
  std::vector<KvLevel> levels;
  for (const LevelCase& level : batch.levels) levels.push_back(level.view());
  const Attention& attention = plan.attentions()[0];
  std::string error;
  const bool updated = taken([&] {
    try {
      plan.update(batch.view(), {PlanInput(attention, levels, setting.variant.plan_params)});
    } catch (const Error& e) {
      error = e.what();
      throw;
    }
  });
  check(updated || !meaning.wrong_in_update.empty(), "it is refused: " + error);
  check(!updated || meaning.wrong_in_update.empty(), "it is taken with " + meaning.wrong_in_update);
  if (!updated) {
    try {
      plan.stats(attention);
      check(false, "a plan has stats after an error");
    } catch (const Error& e) {
      check(e.code() == ErrorCode::invalid_state, e.what());
    }
    return false;
  }
  const int workers = setting.limits.workers > 0 ? setting.limits.workers : 64;
  test::expect_whole(plan.pieces(attention), plan.stats(attention), workers);
  run(plan, setting, batch, meaning, draw);
  return true;
}

}  // namespace

bool fuzz_plan(Draw& draw) {
  Setting setting = draw_setting(draw);
  const Attention attention(test::make_spec(setting.dims, setting.dtype, setting.variant.variant));
  const Limits drawn = setting.limits;
  if (draw.chance(0.1)) damage(setting.limits, draw);
  draw.note([&] {
    return fmt::format("limits {} {} {} {} workers {} invariant {} heads {}/{} dims {} {} {}\n{}",
                       setting.limits.requests, setting.limits.q_tokens, setting.limits.q_len,
                       setting.limits.kv_len, setting.limits.workers,
                       static_cast<int>(setting.limits.determinism), setting.dims.qo_heads,
                       setting.dims.kv_heads, setting.dims.head_dim, setting.dims.value_dim,
                       dtype_name(setting.dtype), setting.variant.variant.serialize());
  });
  std::optional<Plan> plan;
  if (!taken([&] { plan.emplace(std::vector<Attention>{attention}, setting.limits); })) {
    check(!are_right(setting.limits), "limits are refused");
    return false;
  }
  check(are_right(setting.limits), "limits are taken");
  bool any = false;
  for (std::int64_t left = draw.range(1, 2); left > 0; --left) {
    BatchCase batch = draw_batch(draw, drawn);
    if (draw.chance(0.5)) {
      for (std::int64_t times = draw.range(1, 3); times > 0; --times) damage(batch, draw);
    }
    any = update_and_run(*plan, setting, batch, draw) || any;
  }
  return any;
}

}  // namespace tilewright::fuzz
