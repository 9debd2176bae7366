// SPDX-License-Identifier: Apache-2.0
#include "variant/cuda_text.h"

#include <fmt/format.h>

#include <cctype>
#include <cmath>
#include <cstdint>
#include <numbers>

#include "base/rope.h"
#include "variant/cuda_expr.h"
#include "variant/cuda_mask.h"
#include "variant/graph.h"

namespace tilewright {
namespace {

bool depends_on_head(const Expr& expression) {
  for (const ExprNode* node : topological_order({&expression})) {
    if (node->op == ExprOp::q_head || node->op == ExprOp::kv_head) return true;
  }
  return false;
}

// Whether a name occurs in a text, not as a part of a longer one.
bool mentions(const std::string& text, const std::string& name) {
  const auto is_letter = [](char c) {
    return (std::isalnum(static_cast<unsigned char>(c)) != 0) || c == '_';
  };
  for (std::size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    const std::size_t end = at + name.size();
    const bool begins = at == 0 || (!is_letter(text[at - 1]) && text[at - 1] != '.');
    if (begins && (end == text.size() || !is_letter(text[end]))) return true;
  }
  return false;
}

// "type name", or only the type where nothing mentions the name.
std::string parameter(const char* type, const char* name, const std::string& text) {
  return mentions(text, name) ? fmt::format("{} {}", type, name) : type;
}

// One of the functions of logits, masks and outputs.
struct Function {
  const char* result;  // its type
  const char* name;
  const char* row;                 // the type of what it needs of a row
  std::vector<const char*> types;  // of its inputs
  std::vector<const char*> inputs;
  const char* unchanged;  // what it returns without an expression
};

// Three functions: what is the same for all keys of a row, the rest, and both at once.
std::string text_of(const Function& f, const Expr& expression, const std::vector<Param>& params) {
  std::string result = f.unchanged;
  std::string row_lines;
  std::string lines;
  std::vector<CudaVariable> kept;  // of the row's variables
  if (expression.defined()) {
    CudaStatements statements(expression, params, "v", "    ");
    result = statements.value(expression.node());
    row_lines = statements.row_lines();
    lines = statements.lines();
    for (const CudaVariable& variable : statements.row_variables()) {
      if (mentions(lines, variable.name) || mentions(result, variable.name)) {
        kept.push_back(variable);
      }
    }
  }
  std::string fields;
  std::string reads;
  std::vector<std::string> names;
  for (const CudaVariable& variable : kept) {
    fields += fmt::format("    {} {};\n", variable.type, variable.name);
    reads += fmt::format("    const {0} {1} = at.{1};\n", variable.type, variable.name);
    names.push_back(variable.name);
  }
  std::string inputs;
  std::string given;
  const std::string body = fmt::format("{}{}    return {};\n", reads, lines, result);
  for (std::size_t i = 0; i < f.types.size(); ++i) {
    inputs += fmt::format(", {}", parameter(f.types[i], f.inputs[i], body));
    given += fmt::format(", {} {}", f.types[i], f.inputs[i]);
  }
  constexpr const char* kSlots = "const ParamSlot*";
  return fmt::format(
      "  struct {row} {{\n{fields}  }};\n"
      "  TW_DEVICE static {row} {name}_row({row_parameter}, {row_slots}) {{\n"
      "{row_lines}    return {{{names}}};\n  }}\n"
      "  TW_DEVICE static {result} {name}({at_parameter}{inputs}, {slots}) {{\n{body}  }}\n"
      "  TW_DEVICE static {result} {name}(const QueryRow& row{given}, const ParamSlot* params) {{\n"
      "    return {name}({name}_row(row, params), {call}, params);\n  }}\n\n",
      fmt::arg("row", f.row), fmt::arg("fields", fields), fmt::arg("name", f.name),
      fmt::arg("row_parameter", parameter("const QueryRow&", "row", row_lines)),
      fmt::arg("row_slots", parameter(kSlots, "params", row_lines)),
      fmt::arg("row_lines", row_lines), fmt::arg("names", fmt::join(names, ", ")),
      fmt::arg("result", f.result),
      fmt::arg("at_parameter", parameter(fmt::format("const {}&", f.row).c_str(), "at", body)),
      fmt::arg("inputs", inputs), fmt::arg("slots", parameter(kSlots, "params", body)),
      fmt::arg("body", body), fmt::arg("given", given),
      fmt::arg("call", fmt::join(f.inputs, ", ")));
}

std::string functions_text(const Variant& variant, const std::vector<Param>& params) {
  std::string text =
      text_of({"float", "logits", "LogitsRow", {"i32", "float"}, {"kv_pos", "logit"}, "logit"},
              variant.logits, params);
  text += text_of({"bool", "mask", "MaskRow", {"i32"}, {"kv_pos"}, "true"}, variant.mask, params);
  text += text_of({"float", "output", "OutputRow", {"float"}, {"value"}, "value"}, variant.output,
                  params);
  return text;
}

// The fraction of a turn that a pair makes a position, in units of 2^-64.
std::uint64_t turns_of(double radians) {
  constexpr long double kTurn = 2 * std::numbers::pi_v<long double>;
  const long double turns = static_cast<long double>(radians) / kTurn;
  const long double fraction = turns - std::floor(turns);
  const long double units = std::floor(std::ldexp(fraction, 64) + 0.5L);
  return units < std::ldexp(1.0L, 64) ? static_cast<std::uint64_t>(units) : 0;
}

struct RopeText {
  std::string table;    // in front of the variant
  std::string members;  // inside it
};

RopeText rope_text(const Variant& variant, int head_dim) {
  if (!variant.rope.has_value()) {
    return {"",
            "\n  static constexpr bool kRopeInterleaved = false;\n"
            "  static constexpr i32 kRopeDim = 0;\n"
            "  TW_DEVICE static Rotation rotation(i32, i32) { return {1.0F, 0.0F}; }\n"};
  }
  const int dim = rope_dim(*variant.rope, head_dim > 0 ? head_dim : variant.rope->dim);
  const RopeFrequencies frequencies = rope_frequencies(*variant.rope, dim);
  RopeText text;
  text.table = fmt::format(
      "// Turns a position of each pair, in units of 2^-64.\n"
      "TW_TABLE u64 kRopeTurns[{}] = {{\n",
      dim / 2);
  for (int pair = 0; pair < dim / 2; ++pair) {
    text.table +=
        fmt::format("    {}ULL,\n", turns_of(frequencies.values[static_cast<std::size_t>(pair)]));
  }
  text.table += "};\n\n";
  text.members = fmt::format(
      "\n  static constexpr bool kRopeInterleaved = {};\n"
      "  static constexpr i32 kRopeDim = {};\n"
      "  TW_DEVICE static Rotation rotation(i32 pair, i32 position) {{\n"
      "    return rotation_of(kRopeTurns[pair], position, {});\n"
      "  }}\n",
      variant.rope->interleaved, dim, cuda_literal(frequencies.amplitude));
  return text;
}

}  // namespace

std::string cuda_variant(const Variant& variant, int head_dim) {
  variant.validate();
  const std::vector<Param> params = variant.params();
  const RopeText rope = rope_text(variant, head_dim);
  const std::string ranges = cuda_mask_ranges(variant, params);
  std::string text =
      "// A variant of attention, written by the library.\n\n"
      "#include \"attention/math.h\"\n"
      "#include \"attention/variant.h\"\n";
  if (mentions(ranges, "plan::Wide")) text += "#include \"plan/wide.h\"\n";
  text += "\nnamespace tw {\n\n";
  text += rope.table;
  text += fmt::format(
      "struct Variant {{\n"
      "  static constexpr bool kHasLogits = {};\n"
      "  static constexpr bool kHasMask = {};\n"
      "  static constexpr bool kHasOutput = {};\n"
      "  static constexpr bool kHasRope = {};\n"
      "  static constexpr bool kSoftmax = {};\n"
      "  static constexpr bool kMaskDependsOnHead = {};\n"
      "  static constexpr i32 kNumParams = {};\n",
      variant.logits.defined(), variant.mask.defined(), variant.output.defined(),
      variant.rope.has_value(), variant.softmax,
      variant.mask.defined() && depends_on_head(variant.mask), params.size());
  for (std::size_t i = 0; i < params.size(); ++i) {
    text += fmt::format("  // params[{}]: {}\n", i, params[i].name());
  }
  text += "\n";
  text += functions_text(variant, params);
  return fmt::format("{}{}{}}};\n\n}}  // namespace tw\n", text, ranges, rope.members);
}

}  // namespace tilewright
