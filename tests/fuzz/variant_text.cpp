// SPDX-License-Identifier: Apache-2.0
// Texts of variants, whole and damaged: read as they were written or refused with the line; what
// was read can be written and read again, analysed and compiled.
#include <tilewright/variant.h>

#include <array>

#include "fuzz/mutate.h"
#include "fuzz/targets.h"
#include "variant/mask.h"
#include "variant/program.h"
#include "variant/reference.h"

namespace tilewright::fuzz {
namespace {

constexpr std::array<std::string_view, 24> kWords = {"param p real 0 run\n",
                                                     "param p integer 4 plan 1e30\n",
                                                     "param",
                                                     " ",
                                                     "\n",
                                                     "logits ",
                                                     "mask ",
                                                     "output ",
                                                     "rope 64 10000 1 half\n",
                                                     "rope -8 nan inf interleaved yarn\n",
                                                     "no_softmax\n",
                                                     "integer 9223372036854775807",
                                                     "integer -9223372036854775808",
                                                     "real nan",
                                                     "real 1e40",
                                                     "boolean 2",
                                                     "value",
                                                     "logit",
                                                     "where 0 1 1",
                                                     "add 0 0",
                                                     "mod 1 0",
                                                     "floor_div 0 1",
                                                     "99999999999999999999",
                                                     "-1"};

Variant draw_variant(Draw& draw) {
  test::RandomExpressions random(draw, true, draw.chance(0.3));
  Variant variant;
  variant.logits = random.real(static_cast<int>(draw.range(0, 3)));
  if (draw.chance(0.5)) {
    variant.mask = test::RandomExpressions(draw, false, false).boolean(2);
  }
  if (draw.chance(0.3)) variant.rope.emplace().dim = static_cast<int>(draw.range(0, 8) * 8);
  variant.softmax = draw.chance(0.8);
  return variant;
}

}  // namespace

bool fuzz_variant_text(Draw& draw) {
  const Variant drawn = draw_variant(draw);
  if (!taken([&] { drawn.validate(); })) return false;
  std::string text = drawn.serialize();
  const bool damaged = mutate(text, draw, kWords);
  draw.note([&] { return shown(text); });
  Variant variant;
  if (!taken([&] { variant = deserialize(text); })) {
    check(damaged, "a whole text is refused");
    return false;
  }
  const std::string again = variant.serialize();
  check(damaged || again == text, "it is written as " + again);
  check(deserialize(again).serialize() == again, "it reads back as another variant");
  const ParamBinder binder(variant);
  MaskAnalysis analysis(variant);
  ExprProgram logits(variant.logits, binder);
  ExprProgram mask(variant.mask, binder);
  ExprProgram output(variant.output, binder);
  return true;
}

}  // namespace tilewright::fuzz
