// SPDX-License-Identifier: Apache-2.0
// The text form of variants. Variant::serialize() writes it.
//
//   tilewright variant 1
//   param slope real 1 run
//   0 logit
//   1 q_head
//   2 param slope 1
//   ...
//   logits 7
//   mask 8
//
// Parameters come in order of first use, nodes after their operands and each but once, whether or
// not the graph shares it. Lines `output N`, `rope DIM THETA SCALE half|interleaved [SCALING]` and
// `no_softmax` are there when needed; SCALING is a name and the members of its struct in order.
// Numbers are written so that they read back exactly.
#pragma once

#include <tilewright/variant.h>

#include <string_view>

namespace tilewright {

// Errors (invalid_argument) name the line; the result has passed Variant::validate().
Variant deserialize(std::string_view text);

}  // namespace tilewright
