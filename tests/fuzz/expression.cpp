// SPDX-License-Identifier: Apache-2.0
// Random expression graphs: the CPU's vector programs against direct int64 and float64, as masks
// and as logits; and their text form, read and written again.
#include <tilewright/variant.h>

#include "fuzz/targets.h"
#include "variant/program_check.h"

namespace tilewright::fuzz {

bool fuzz_expression(Draw& draw) {
  const bool huge = draw.chance(0.5);
  const bool as_mask = draw.chance(0.5);
  test::RandomExpressions random(draw, !as_mask, huge);
  const auto depth = static_cast<int>(draw.range(0, 5));
  const Expr e = as_mask ? random.boolean(depth) : random.real(depth);
  const Variant variant = as_mask ? test::with_mask(e) : test::with_logits(e);
  // A graph over the library's bounds is refused when it is compiled.
  if (!taken([&] { variant.validate(); })) return false;
  const std::string text = variant.serialize();
  draw.note([&] { return variant.serialize(); });
  check(deserialize(text).serialize() == text, "the text reads back as another variant");
  test::Random data = draw.data();
  if (as_mask) {
    test::check_mask(e, data, huge);
  } else {
    test::Sureness sureness;
    test::check_logits(e, data, sureness);
  }
  return true;
}

}  // namespace tilewright::fuzz
