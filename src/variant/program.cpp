// SPDX-License-Identifier: Apache-2.0
#include "variant/program.h"

#include <algorithm>
#include <limits>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "base/checks.h"
#include "variant/graph.h"
#include "variant/program_code.h"
#include "variant/range.h"

namespace tilewright {
namespace {

constexpr std::int64_t kInt32Min = std::numeric_limits<std::int32_t>::min();
constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

class ProgramCompiler {
 public:
  ProgramCompiler(const Expr& expression, const ParamBinder& binder, ExprProgram::Code& code)
      : code_(code), params_(binder.params()), order_(topological_order({&expression})) {
    find_varying();
    find_ranges();
    count_uses();
  }

  void compile() {
    for (const ExprNode* node : order_) {
      if (varying_.contains(node) && !node->args.empty()) emit(*node);
    }
    code_.result = operand(*order_.back());
    code_.registers = next_register_;
  }

 private:
  using Operand = ProgramOperand;

  void find_varying() {
    for (const ExprNode* node : order_) {
      const bool input =
          node->op == ExprOp::logit || node->op == ExprOp::value || node->op == ExprOp::kv_pos;
      const bool varying =
          input || std::any_of(node->args.begin(), node->args.end(),
                               [&](const Expr& arg) { return varying_.contains(&arg.node()); });
      if (varying) varying_.insert(node);
    }
  }

  // Narrow mode needs every integer lane in 32 bits, given scalars in the ranges noted for them.
  void find_ranges() {
    std::unordered_set<const ExprNode*> uniform;
    for (const ExprNode* node : order_) {
      if (!varying_.contains(node)) uniform.insert(node);
    }
    ranges_ = integer_ranges(order_, {0, kInt32Max, false}, uniform);
    for (const ExprNode* node : order_) {
      if (!varying_.contains(node)) continue;
      for (const Expr& arg : node->args) {
        if (arg.type() == ValueType::integer) require_narrow(ranges_.at(&arg.node()));
      }
      if (node->type == ValueType::integer) {
        require_narrow(ranges_.at(node));
        code_.has_integers = true;
      }
      if (node->op == ExprOp::mod) {  // its quotient must fit too
        const IntegerRange& a = ranges_.at(&node->args[0].node());
        const IntegerRange& b = ranges_.at(&node->args[1].node());
        if (a.low == kInt32Min && b.low < 0) code_.may_be_narrow = false;
      }
    }
  }

  void require_narrow(const IntegerRange& range) {
    code_.may_be_narrow &= range.fits_int32() && !range.wraps;
  }

  void count_uses() {
    for (const ExprNode* node : order_) {
      if (!varying_.contains(node)) continue;
      for (const Expr& arg : node->args) ++uses_[&arg.node()];
    }
    ++uses_[order_.back()];
  }

  Operand operand(const ExprNode& node) {
    if (!varying_.contains(&node)) return uniform(node);
    if (node.op == ExprOp::kv_pos) {
      code_.reads_kv = true;
      return {Operand::Kind::kv_input, 0};
    }
    if (node.op == ExprOp::logit || node.op == ExprOp::value) {
      code_.reads_real = true;
      return {Operand::Kind::real_input, 0};
    }
    return {Operand::Kind::vector, register_of_.at(&node)};
  }

  Operand uniform(const ExprNode& node) {
    const auto [known, is_new] =
        uniform_of_.emplace(&node, static_cast<std::uint16_t>(code_.uniforms.size()));
    if (is_new) {
      ProgramUniform entry{.slot = code_.scalars.add(node, params_), .type = node.type};
      if (node.type == ValueType::integer) {
        entry.low = ranges_.at(&node).low;
        entry.high = ranges_.at(&node).high;
      }
      code_.uniforms.push_back(entry);
    }
    return {Operand::Kind::uniform, known->second};
  }

  void emit(const ExprNode& node) {
    ProgramInstruction in;
    in.op = node.op;
    in.type = node.type;
    in.operand = node.args.back().type();
    in.arity = static_cast<std::uint16_t>(node.args.size());
    for (std::size_t i = 0; i < node.args.size(); ++i) in.args[i] = operand(node.args[i].node());
    if (node.op == ExprOp::param) {
      const auto is_param = [&](const Param& p) { return p.name() == node.param->name(); };
      in.param = static_cast<std::uint8_t>(std::find_if(params_.begin(), params_.end(), is_param) -
                                           params_.begin());
    }
    // A result never takes the register of an operand: a gather and the two integer widths read
    // and write at different strides.
    in.destination = take_register();
    register_of_.emplace(&node, in.destination);
    for (const Expr& arg : node.args) release(arg.node());
    code_.instructions.push_back(in);
  }

  std::uint16_t take_register() {
    if (free_.empty()) return static_cast<std::uint16_t>(next_register_++);
    const std::uint16_t index = free_.back();
    free_.pop_back();
    return index;
  }

  void release(const ExprNode& node) {
    const auto known = register_of_.find(&node);
    if (--uses_[&node] == 0 && known != register_of_.end()) free_.push_back(known->second);
  }

  ExprProgram::Code& code_;
  const std::vector<Param>& params_;
  std::vector<const ExprNode*> order_;
  std::unordered_set<const ExprNode*> varying_;
  IntegerRanges ranges_;
  std::unordered_map<const ExprNode*, int> uses_;
  std::unordered_map<const ExprNode*, std::uint16_t> uniform_of_;
  std::unordered_map<const ExprNode*, std::uint16_t> register_of_;
  std::vector<std::uint16_t> free_;
  int next_register_ = 0;
};

bool fits_narrow(const ExprProgram::Code& code, const Scalar* scalars) {
  if (!code.may_be_narrow) return false;
  for (const ProgramUniform& uniform : code.uniforms) {
    if (uniform.type != ValueType::integer) continue;
    const std::int64_t value = scalars[uniform.slot].integer;
    if (value < uniform.low || value > uniform.high) return false;
  }
  return true;
}

void run(ProgramCall call, const RowContext& row, const Bindings& bindings, int n, void* scratch) {
  Scalar scalars[ScalarCode::kMaxSlots];
  call.code->scalars.run(row, bindings, scalars);
  call.bindings = &bindings;
  call.scalars = scalars;
  call.count = static_cast<std::size_t>(n);
  call.scratch = static_cast<std::byte*>(scratch);
  call.narrow = fits_narrow(*call.code, scalars);
  execute_program(call);
}

}  // namespace

ExprProgram::ExprProgram(const Expr& expression, const ParamBinder& binder) {
  if (!expression.defined()) return;
  auto code = std::make_shared<Code>();
  ProgramCompiler(expression, binder, *code).compile();
  code_ = std::move(code);
}

std::size_t ExprProgram::scratch_bytes() const {
  if (!defined()) return 0;
  return code_->register_offset() +
         static_cast<std::size_t>(code_->registers) * code_->register_bytes(false);
}

void ExprProgram::eval_logits(const RowContext& row, const Bindings& bindings,
                              const std::int32_t* kv_pos, const float* logits, float* out, int n,
                              void* scratch) const {
  run({.code = code_.get(), .kv_pos = kv_pos, .reals = logits, .out_real = out}, row, bindings, n,
      scratch);
}

void ExprProgram::eval_mask(const RowContext& row, const Bindings& bindings,
                            const std::int32_t* kv_pos, std::uint8_t* out, int n,
                            void* scratch) const {
  run({.code = code_.get(), .kv_pos = kv_pos, .out_mask = out}, row, bindings, n, scratch);
}

void ExprProgram::eval_output(const RowContext& row, const Bindings& bindings, const float* values,
                              float* out, int n, void* scratch) const {
  run({.code = code_.get(), .reals = values, .out_real = out}, row, bindings, n, scratch);
}

}  // namespace tilewright
