// SPDX-License-Identifier: Apache-2.0
#include "variant/cuda_text.h"

#include <fmt/format.h>

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

// One of the functions of a query row; `unchanged` is what it returns without an expression.
std::string function(const char* head, const char* input, const Expr& expression,
                     const std::vector<Param>& params, const char* unchanged) {
  std::string body;
  std::string result = unchanged;
  if (expression.defined()) {
    CudaStatements statements(expression, params, "v", "    ");
    result = statements.value(expression.node());
    body = statements.lines();
  }
  const std::string all = body + result;
  const auto name = [&](const char* text, const char* mark) {
    return all.find(mark) != std::string::npos ? text : "";
  };
  std::string parameters = fmt::format("const QueryRow&{}", name(" row", "row."));
  if (std::string_view(input) != "value") {
    parameters += fmt::format(", i32{}", name(" kv_pos", "kv_pos"));
  }
  if (std::string_view(input) != "mask") {
    parameters += fmt::format(", float{}", name(input[0] == 'l' ? " logit" : " value", input));
  }
  parameters += fmt::format(", const ParamSlot*{}", name(" params", "params["));
  return fmt::format("  TW_DEVICE static {}({}) {{\n{}    return {};\n  }}\n", head, parameters,
                     body, result);
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
  std::string text =
      "// A variant of attention, written by the library.\n"
      "#pragma once\n\n"
      "#include \"attention/math.h\"\n"
      "#include \"attention/variant.h\"\n\n"
      "namespace tw {\n\n";
  const std::string ranges = cuda_mask_ranges(variant, params);
  if (ranges.find("Int128") != std::string::npos) {
    text += "__extension__ using Int128 = __int128;\n\n";
  }
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
  text += function("float logits", "logit", variant.logits, params, "logit");
  text += function("bool mask", "mask", variant.mask, params, "true");
  text += function("float output", "value", variant.output, params, "value");
  return fmt::format("{}\n{}{}}};\n\n}}  // namespace tw\n", text, ranges, rope.members);
}

}  // namespace tilewright
