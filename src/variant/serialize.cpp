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
#include <tilewright/variant.h>

#include <charconv>
#include <iterator>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/checks.h"
#include "variant/graph.h"

namespace tilewright {
namespace {

constexpr std::string_view kHeader = "tilewright variant 1";

const char* bind_name(Bind bind) {
  return bind == Bind::plan ? "plan" : "run";
}

// Writes nodes that are equal as text once.
class Writer {
 public:
  void add(const ExprNode& node) {
    std::string line;
    auto out = std::back_inserter(line);
    if (node.op == ExprOp::constant) {
      fmt::format_to(out, "{} ", type_name(node.type));
      node.type == ValueType::real ? fmt::format_to(out, "{}", static_cast<float>(node.real))
                                   : fmt::format_to(out, "{}", node.integer);
    } else {
      fmt::format_to(out, "{}", op_name(node.op));
      if (node.op == ExprOp::param) fmt::format_to(out, " {}", node.param->name());
      for (const Expr& arg : node.args) fmt::format_to(out, " {}", id_of_.at(&arg.node()));
    }
    const auto [known, is_new] = id_of_line_.emplace(line, id_of_line_.size());
    if (is_new) fmt::format_to(std::back_inserter(text_), "{} {}\n", known->second, line);
    id_of_.emplace(&node, known->second);
  }

  std::size_t id_of(const Expr& e) const { return id_of_.at(&e.node()); }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::unordered_map<std::string, std::size_t> id_of_line_;
  std::unordered_map<const ExprNode*, std::size_t> id_of_;
};

class Reader {
 public:
  explicit Reader(std::string_view text) : text_(text) {}

  Variant read() {
    std::string_view header;
    require(next_line(header) && header == kHeader, "variant text, line 1: it must be \"{}\"",
            kHeader);
    for (std::string_view line; next_line(line);) {
      words_ = split(line);
      if (!words_.empty()) read_line();
    }
    variant_.validate();
    return std::move(variant_);
  }

 private:
  [[noreturn]] void fail(std::string_view reason) const {
    raise(ErrorCode::invalid_argument, "variant text, line {}: {}", line_number_, reason);
  }
  void check(bool ok, std::string_view reason) const {
    if (!ok) fail(reason);
  }

  bool next_line(std::string_view& line) {
    if (text_.empty()) return false;
    const std::size_t end = text_.find('\n');
    line = text_.substr(0, end);
    text_.remove_prefix(end == std::string_view::npos ? text_.size() : end + 1);
    ++line_number_;
    return true;
  }

  static std::vector<std::string_view> split(std::string_view line) {
    std::vector<std::string_view> words;
    while (!line.empty()) {
      const std::size_t end = line.find(' ');
      if (end != 0) words.push_back(line.substr(0, end));
      line.remove_prefix(end == std::string_view::npos ? line.size() : end + 1);
    }
    return words;
  }

  template <typename T>
  T number(std::size_t i, std::string_view what) const {
    T value{};
    const std::string_view word = i < words_.size() ? words_[i] : std::string_view{};
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (error != std::errc{} || end != word.data() + word.size()) {
      fail(fmt::format("\"{}\" is not {}", word, what));
    }
    return value;
  }

  const Expr& node(std::size_t i) const {
    const auto id = number<std::size_t>(i, "the number of a node");
    check(id < nodes_.size(), "it refers to a node that is not defined before it");
    return nodes_[id];
  }

  void read_line() {
    const std::string_view key = words_[0];
    if (key == "param") {
      read_param();
    } else if (key == "logits" || key == "mask" || key == "output") {
      check(words_.size() == 2, "it must have one node");
      Expr& root =
          key == "logits" ? variant_.logits : (key == "mask" ? variant_.mask : variant_.output);
      check(!root.defined(), "it is given twice");
      root = node(1);
    } else if (key == "rope") {
      read_rope();
    } else if (key == "no_softmax") {
      check(words_.size() == 1, "it takes no operands");
      variant_.softmax = false;
    } else {
      check(number<std::size_t>(0, "a number or a keyword") == nodes_.size(),
            "nodes must be numbered 0, 1, 2, ...");
      check(nodes_.size() < static_cast<std::size_t>(kMaxExprNodes), "there are too many nodes");
      check(words_.size() >= 2, "the operator is missing");
      read_node();
    }
  }

  void read_param() {
    check(words_.size() == 5 || words_.size() == 6,
          "it must be: param NAME real|integer RANK run|plan [DEFAULT]");
    check(words_[2] == "real" || words_[2] == "integer", "a type must be real or integer");
    check(words_[4] == "run" || words_[4] == "plan", "a binding must be run or plan");
    const Bind bind = words_[4] == "plan" ? Bind::plan : Bind::run;
    const int rank = number<int>(3, "a rank");
    std::string name(words_[1]);
    check(!params_.contains(name), "a parameter is declared twice");
    try {
      Param param =
          words_[2] == "real" ? Param::real(name, rank, bind) : Param::integer(name, rank, bind);
      if (words_.size() == 6) param = param.with_default(number<double>(5, "a number"));
      params_.emplace(std::move(name), std::move(param));
    } catch (const Error& error) {
      fail(error.what());
    }
  }

  void read_rope() {
    check(words_.size() >= 5 && (words_[4] == "half" || words_[4] == "interleaved"),
          "it must be: rope DIM THETA SCALE half|interleaved [SCALING]");
    check(!variant_.rope.has_value(), "it is given twice");
    variant_.rope = RopeSpec{.dim = number<int>(1, "an integer"),
                             .theta = number<double>(2, "a number"),
                             .position_scale = number<double>(3, "a number"),
                             .interleaved = words_[4] == "interleaved",
                             .scaling = words_.size() > 5 ? read_scaling() : RopeScaling{}};
  }

  RopeScaling read_scaling() const {
    std::vector<double> x;
    for (std::size_t i = 6; i < words_.size(); ++i) x.push_back(number<double>(i, "a number"));
    const std::string_view name = words_[5];
    if (name == "ntk" && x.size() == 1) return NtkScaling{x[0]};
    if (name == "llama3" && x.size() == 4) return Llama3Scaling{x[0], x[1], x[2], x[3]};
    if (name == "yarn" && x.size() == 6) {
      return YarnScaling{x[0], x[1], x[2], x[3], x[4], x[5] != 0};
    }
    check(name == "longrope" && !x.empty(),
          "a scaling must be ntk, llama3, yarn or longrope with its numbers");
    const double attention_factor = x.back();
    x.pop_back();
    return LongRopeScaling{std::move(x), attention_factor};
  }

  void read_node() {
    const std::string_view name = words_[1];
    if (name == "integer" || name == "real" || name == "boolean") {
      check(words_.size() == 3, "a constant must have one value");
      if (name == "real") {
        nodes_.emplace_back(number<float>(2, "a real"));
      } else if (name == "integer") {
        nodes_.emplace_back(number<std::int64_t>(2, "an integer"));
      } else {
        check(words_[2] == "0" || words_[2] == "1", "a boolean must be 0 or 1");
        nodes_.emplace_back(words_[2] == "1");
      }
      return;
    }
    ExprOp op{};
    check(find_op(name, op) && op != ExprOp::constant, "there is no such operator");
    std::vector<Expr> args;
    for (std::size_t i = op == ExprOp::param ? 3 : 2; i < words_.size(); ++i) {
      args.push_back(node(i));
    }
    try {
      nodes_.push_back(make(op, std::move(args)));
    } catch (const Error& error) {
      fail(error.what());
    }
  }

  Expr make(ExprOp op, std::vector<Expr> args) const {
    if (op == ExprOp::param) {
      const auto param = params_.find(words_.size() > 2 ? std::string(words_[2]) : std::string());
      check(param != params_.end(), "it reads a parameter that is not declared before it");
      return make_param(param->second, std::move(args));
    }
    if (!is_leaf(op)) return make_operator(op, std::move(args));
    check(args.empty(), "it takes no operands");
    return make_leaf(op);
  }

  std::string_view text_;
  int line_number_ = 0;
  std::vector<std::string_view> words_;
  std::vector<Expr> nodes_;
  std::unordered_map<std::string, Param> params_;
  Variant variant_;
};

std::string scaling_text(const RopeScaling& scaling) {
  if (const auto* ntk = std::get_if<NtkScaling>(&scaling)) {
    return fmt::format(" ntk {}", ntk->factor);
  }
  if (const auto* llama3 = std::get_if<Llama3Scaling>(&scaling)) {
    return fmt::format(" llama3 {} {} {} {}", llama3->factor, llama3->low_freq_factor,
                       llama3->high_freq_factor, llama3->original_max_position);
  }
  if (const auto* yarn = std::get_if<YarnScaling>(&scaling)) {
    return fmt::format(" yarn {} {} {} {} {} {:d}", yarn->factor, yarn->original_max_position,
                       yarn->beta_fast, yarn->beta_slow, yarn->attention_factor, yarn->truncate);
  }
  if (const auto* longrope = std::get_if<LongRopeScaling>(&scaling)) {
    return fmt::format(" longrope {} {}", fmt::join(longrope->factors, " "),
                       longrope->attention_factor);
  }
  return {};
}

}  // namespace

std::string Variant::serialize() const {
  std::string text(kHeader);
  text += '\n';
  auto out = std::back_inserter(text);
  for (const Param& param : params()) {
    fmt::format_to(out, "param {} {} {} {}", param.name(), type_name(param.type()), param.rank(),
                   bind_name(param.bind()));
    if (param.default_value()) fmt::format_to(out, " {}", *param.default_value());
    text += '\n';
  }
  Writer writer;
  for (const ExprNode* node : topological_order({&logits, &mask, &output})) writer.add(*node);
  text += writer.text();
  if (logits.defined()) fmt::format_to(out, "logits {}\n", writer.id_of(logits));
  if (mask.defined()) fmt::format_to(out, "mask {}\n", writer.id_of(mask));
  if (output.defined()) fmt::format_to(out, "output {}\n", writer.id_of(output));
  if (rope) {
    fmt::format_to(out, "rope {} {} {} {}{}\n", rope->dim, rope->theta, rope->position_scale,
                   rope->interleaved ? "interleaved" : "half", scaling_text(rope->scaling));
  }
  if (!softmax) text += "no_softmax\n";
  return text;
}

Variant deserialize(std::string_view text) {
  return Reader(text).read();
}

}  // namespace tilewright
