// SPDX-License-Identifier: Apache-2.0
// Expressions compiled to short vector programs for the CPU: one query row against a run of keys at
// a time.
#pragma once

#include <tilewright/variant.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "variant/bindings.h"

namespace tilewright {

// Most keys (or output elements) of one call.
inline constexpr int kProgramWidth = 128;

// Masks are the same on every CPU; reals differ by the usual rounding of exp, log, tanh and
// sigmoid. Integers are int64 and wrap around. Reals are f32, operator by operator: NaN compares as
// IEEE says (only != holds), min(a, b) is a < b ? a : b and max(a, b) is b < a ? a : b, so that NaN
// on either side gives b. Parameters must be bound; row positions and lengths are below 2^31.
class ExprProgram {
 public:
  ExprProgram() = default;  // no expression: defined() is false, nothing may be run
  // `binder` gives parameters their indices in Bindings.
  ExprProgram(const Expr& expression, const ParamBinder& binder);

  bool defined() const { return code_ != nullptr; }
  // Bytes of 64-byte aligned scratch that a call needs.
  std::size_t scratch_bytes() const;

  // A real expression over logit, kv_pos and the row: out[i] from logits[i] and kv_pos[i], i < n <=
  // kProgramWidth. out may be logits. kv_pos is not null. Allocates nothing.
  void eval_logits(const RowContext& row, const Bindings& bindings, const std::int32_t* kv_pos,
                   const float* logits, float* out, int n, void* scratch) const;
  // A boolean expression: out[i] is 1 where key i is attended to, else 0.
  void eval_mask(const RowContext& row, const Bindings& bindings, const std::int32_t* kv_pos,
                 std::uint8_t* out, int n, void* scratch) const;
  // A real expression over value: out[i] from values[i]. out may be values.
  void eval_output(const RowContext& row, const Bindings& bindings, const float* values, float* out,
                   int n, void* scratch) const;

  struct Code;

 private:
  std::shared_ptr<const Code> code_;
};

}  // namespace tilewright
