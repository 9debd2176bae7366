// SPDX-License-Identifier: Apache-2.0
// The tokens that filters keep of a row.
#pragma once

#include "sampling/typical.h"

namespace tw {

template <typename Scale>
struct Survivors {
  Kept kept;     // by logit
  Kept typical;  // by score
  Typicality<Scale> typicality;
  Scale scale;    // of the filters
  Scale of_draw;  // of the draw
  u64 least;      // weight
  // Where there is no draw: only this token.
  bool alone;
  i32 token;

  TW_DEVICE bool contains(i32 id, float value) const {
    return kept.contains(id, value) && (least == 0 || token_weight(value, scale) >= least) &&
           (typical.threshold == -kInfinity || typical.contains(id, typicality.score(value)));
  }

  // Those that may be drawn.
  TW_DEVICE bool has(i32 id, float value) const {
    return alone ? id == token : (value > -kInfinity && contains(id, value));
  }
  TW_DEVICE u64 weight(float value) const {
    return alone ? u64{1} << kWeightBits : token_weight(value, of_draw);
  }
  TW_DEVICE float log_prob(float value, u64 mass) const {
    return log_probability(alone ? 0.0F : relative_log2(value, of_draw), mass);
  }
};

template <typename Scale>
TW_DEVICE Survivors<Scale> survivors_of_all(const Scale& scale) {
  return {{-kInfinity, kLastId}, {-kInfinity, kLastId}, {scale, 0}, scale, scale, 0, false, 0};
}

}  // namespace tw
