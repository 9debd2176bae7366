// SPDX-License-Identifier: Apache-2.0
// A variant made ready for the CPU: analysed and compiled once, when an Attention is made.
#pragma once

#include <tilewright/variant.h>

#include "variant/bindings.h"
#include "variant/mask.h"
#include "variant/program.h"

namespace tilewright::cpu {

struct CompiledVariant {
  explicit CompiledVariant(const Variant& variant)
      : binder(variant),
        mask(variant),
        logits(variant.logits.defined() ? ExprProgram(variant.logits, binder) : ExprProgram()),
        mask_program(variant.mask.defined() ? ExprProgram(variant.mask, binder) : ExprProgram()),
        output(variant.output.defined() ? ExprProgram(variant.output, binder) : ExprProgram()) {}

  ParamBinder binder;
  MaskAnalysis mask;
  ExprProgram logits;        // undefined: logits stay as they are
  ExprProgram mask_program;  // undefined: no mask
  ExprProgram output;        // undefined: outputs stay as they are
};

}  // namespace tilewright::cpu
