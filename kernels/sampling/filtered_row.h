// SPDX-License-Identifier: Apache-2.0
// What filters keep of a row, in so few numbers that they can be stored: the weight of any token
// follows from them and its logit.
#pragma once

#include "sampling/kept.h"
#include "sampling/token_weight.h"
#include "sampling/typical.h"

namespace tw {

struct FilteredRow {
  Kept kept;     // by logit
  Kept typical;  // by score; a threshold of -inf: typical-p is off
  Typicality<WeightScale> typicality;
  u64 least;  // weights at typicality's scale are not below it
  WeightScale of_draw;

  TW_DEVICE u64 weight(i32 id, float value) const {
    if (!kept.contains(id, value)) return 0;
    if (least != 0 && token_weight(value, typicality.scale) < least) return 0;
    if (typical.threshold != -kInfinity && !typical.contains(id, typicality.score(value))) return 0;
    return token_weight(value, of_draw);
  }
};

}  // namespace tw
