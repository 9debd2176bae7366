// SPDX-License-Identifier: Apache-2.0
// The compiled form of an ExprProgram: scalars that are known for a row, then vector instructions
// over its keys.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "variant/program.h"
#include "variant/scalar_code.h"

namespace tilewright {

// Lanes of a vector register in memory: reals f32, booleans i32 (0 or -1), integers i32 in narrow
// mode and i64 in wide mode. Narrow mode is chosen row by row, where no integer can overflow 32
// bits.
struct ProgramOperand {
  enum class Kind : std::uint8_t { none, real_input, kv_input, uniform, vector };
  Kind kind = Kind::none;
  std::uint16_t index = 0;  // uniform or vector register
};

struct ProgramInstruction {
  ExprOp op = ExprOp::constant;
  ValueType type = ValueType::real;     // of the result
  ValueType operand = ValueType::real;  // of the operands; of the two values of `where`
  std::uint8_t param = 0;               // index in Bindings
  std::uint16_t destination = 0;        // vector register
  std::uint16_t arity = 0;
  ProgramOperand args[3];
};

// A scalar that vector instructions read. Integers outside [low, high] ask for wide mode.
struct ProgramUniform {
  int slot = 0;
  ValueType type = ValueType::real;
  std::int64_t low = 0;
  std::int64_t high = 0;
};

struct ExprProgram::Code {
  static constexpr std::size_t kNarrowRegister = kProgramWidth * sizeof(std::int32_t);
  static constexpr std::size_t kWideRegister = kProgramWidth * sizeof(std::int64_t);
  static constexpr std::size_t kUniformBytes = 64;  // one vector

  ScalarCode scalars;
  std::vector<ProgramUniform> uniforms;
  std::vector<ProgramInstruction> instructions;  // the last one writes the result
  ProgramOperand result;
  int registers = 0;
  bool may_be_narrow = true;
  bool has_integers = false;  // vector registers hold integers, so that wide mode needs more room
  bool reads_real = false;
  bool reads_kv = false;

  std::size_t real_input_offset() const { return 0; }
  std::size_t kv_input_offset() const { return kNarrowRegister; }
  std::size_t uniform_offset() const { return kNarrowRegister + kWideRegister; }
  std::size_t register_offset() const { return uniform_offset() + uniforms.size() * kUniformBytes; }
  std::size_t register_bytes(bool narrow) const {
    return narrow || !has_integers ? kNarrowRegister : kWideRegister;
  }
};

// One evaluation. Exactly one of out_real and out_mask is set.
struct ProgramCall {
  const ExprProgram::Code* code = nullptr;
  const Bindings* bindings = nullptr;
  const Scalar* scalars = nullptr;
  const std::int32_t* kv_pos = nullptr;
  const float* reals = nullptr;
  float* out_real = nullptr;
  std::uint8_t* out_mask = nullptr;
  std::size_t count = 0;
  std::byte* scratch = nullptr;
  bool narrow = true;
};

// Runs the vector instructions with the best instructions of this CPU.
void execute_program(const ProgramCall& call);

}  // namespace tilewright
