// SPDX-License-Identifier: Apache-2.0
// A variant made ready for the CPU: analysed and compiled once, when an Attention is made.
#pragma once

#include <tilewright/variant.h>

#include "base/rope.h"
#include "variant/bindings.h"
#include "variant/graph.h"
#include "variant/mask.h"
#include "variant/program.h"

namespace tilewright::cpu {

inline bool depends_on_head(const Expr& expression) {
  for (const ExprNode* node : topological_order({&expression})) {
    if (node->op == ExprOp::q_head || node->op == ExprOp::kv_head) return true;
  }
  return false;
}

struct CompiledVariant {
  CompiledVariant(const Variant& variant, int head_dim)
      : binder(variant),
        mask(variant),
        logits(variant.logits.defined() ? ExprProgram(variant.logits, binder) : ExprProgram()),
        mask_program(variant.mask.defined() ? ExprProgram(variant.mask, binder) : ExprProgram()),
        output(variant.output.defined() ? ExprProgram(variant.output, binder) : ExprProgram()),
        mask_depends_on_head(depends_on_head(variant.mask)) {
    if (!variant.rope.has_value()) return;
    rope_dim = tilewright::rope_dim(*variant.rope, head_dim);
    rope = rope_frequencies(*variant.rope, rope_dim);
  }

  ParamBinder binder;
  MaskAnalysis mask;
  ExprProgram logits;        // undefined: logits stay as they are
  ExprProgram mask_program;  // undefined: no mask
  ExprProgram output;        // undefined: outputs stay as they are
  bool mask_depends_on_head = false;
  int rope_dim = 0;  // 0: queries and keys stay as they are
  RopeFrequencies rope;
};

}  // namespace tilewright::cpu
