// SPDX-License-Identifier: Apache-2.0
// Variants, and the expressions they are written in, with Python's operators.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <tilewright/variant.h>

#include <cmath>

#include "bindings.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

// An operand: an expression or a bare Python number. Undefined for anything else.
Expr to_operand(nb::handle object) {
  if (nb::isinstance<Expr>(object)) return nb::cast<Expr>(object);
  if (PyBool_Check(object.ptr())) return object.is(Py_True);
  if (PyFloat_Check(object.ptr())) return PyFloat_AS_DOUBLE(object.ptr());
  if (PyIndex_Check(object.ptr())) {
    const nb::object integer = nb::steal(PyNumber_Index(object.ptr()));
    if (!integer.is_valid()) throw nb::python_error();
    return nb::cast<std::int64_t>(integer);
  }
  if (const std::optional<double> number = number_of(object)) return *number;
  return {};
}

Expr to_expr(nb::handle object, const char* name) {
  Expr operand = to_operand(object);
  if (!operand.defined()) {
    raise_type_error(fmt::format("{} is {}: it must be an expression (tw.expr) or a number", name,
                                 describe_type(object)));
  }
  return operand;
}

using Binary = Expr (*)(const Expr&, const Expr&);
using Unary = Expr (*)(const Expr&);

nb::object not_implemented() {
  return nb::borrow(Py_NotImplemented);
}

// self <name> other and, unless `reflected` is null, other <name> self.
void def_operator(nb::class_<Expr>& expr, Binary function, const char* name,
                  const char* reflected = nullptr) {
  expr.def(
      name,
      [function](const Expr& a, nb::handle b) {
        const Expr operand = to_operand(b);
        return operand.defined() ? nb::cast(function(a, operand)) : not_implemented();
      },
      nb::sig(fmt::format("def {}(self, other: Expr | float, /) -> Expr", name).c_str()),
      nb::is_operator());
  if (reflected == nullptr) return;
  expr.def(
      reflected,
      [function](const Expr& a, nb::handle b) {
        const Expr operand = to_operand(b);
        return operand.defined() ? nb::cast(function(operand, a)) : not_implemented();
      },
      nb::sig(fmt::format("def {}(self, other: float, /) -> Expr", reflected).c_str()),
      nb::is_operator());
}

// The C++ operators as functions; their names alone are overloaded.
#define TILEWRIGHT_BINARY(op) [](const Expr& a, const Expr& b) { return a op b; }
#define TILEWRIGHT_UNARY(op) [](const Expr& a) { return op a; }

void bind_operators(nb::class_<Expr>& expr) {
  def_operator(expr, TILEWRIGHT_BINARY(+), "__add__", "__radd__");
  def_operator(expr, TILEWRIGHT_BINARY(-), "__sub__", "__rsub__");
  def_operator(expr, TILEWRIGHT_BINARY(*), "__mul__", "__rmul__");
  def_operator(expr, TILEWRIGHT_BINARY(/), "__truediv__", "__rtruediv__");
  def_operator(expr, &floor_div, "__floordiv__", "__rfloordiv__");
  def_operator(expr, &mod, "__mod__", "__rmod__");
  def_operator(expr, TILEWRIGHT_BINARY(<), "__lt__");
  def_operator(expr, TILEWRIGHT_BINARY(<=), "__le__");
  def_operator(expr, TILEWRIGHT_BINARY(>), "__gt__");
  def_operator(expr, TILEWRIGHT_BINARY(>=), "__ge__");
  def_operator(expr, TILEWRIGHT_BINARY(==), "__eq__");
  def_operator(expr, TILEWRIGHT_BINARY(!=), "__ne__");
  def_operator(expr, TILEWRIGHT_BINARY(&&), "__and__", "__rand__");
  def_operator(expr, TILEWRIGHT_BINARY(||), "__or__", "__ror__");
  expr.def("__invert__", TILEWRIGHT_UNARY(!));
  expr.def("__neg__", TILEWRIGHT_UNARY(-));
  expr.def("__pos__", [](const Expr& a) { return a; });
  expr.def("__abs__", [](const Expr& a) { return abs(a); });
  expr.def("__bool__", [](const Expr&) -> bool {
    raise_type_error(
        "an expression has no truth value: it is a graph that is evaluated for every query and "
        "key. "
        "Use & | ~ in place of and, or, not, tw.where(condition, yes, no) in place of if, and "
        "(a <= b) & (b <= c) in place of a <= b <= c");
  });
  expr.attr("__hash__") = nb::none();  // == builds a graph, so a dict could not tell two apart
}

void def_unary(nb::module_& m, const char* name, Unary function, const char* doc) {
  m.def(
      name, [function](nb::handle a) { return function(to_expr(a, "a")); }, "a"_a.none(),
      nb::sig(fmt::format("def {}(a: Expr | float) -> Expr", name).c_str()), doc);
}

void def_binary(nb::module_& m, const char* name, Binary function, const char* doc) {
  m.def(
      name,
      [function](nb::handle a, nb::handle b) { return function(to_expr(a, "a"), to_expr(b, "b")); },
      "a"_a.none(), "b"_a.none(),
      nb::sig(fmt::format("def {}(a: Expr | float, b: Expr | float) -> Expr", name).c_str()), doc);
}

const char* type_name(ValueType type) {
  switch (type) {
    case ValueType::boolean:
      return "boolean";
    case ValueType::integer:
      return "integer";
    case ValueType::real:
      return "real";
  }
  return "";
}

void bind_expr(nb::module_& m) {
  nb::class_<Expr> expr(
      m, "Expr",
      "A node of a variant's graph: an immutable value made from the symbols of tw.expr, "
      "parameters "
      "and numbers.\n\nOperators: + - * / (real), // % (integer), comparisons, & | ~ on booleans. "
      "Integers are exact, reals are\nfloat32; mixing them gives a real.");
  expr.def_prop_ro(
      "type", [](const Expr& e) { return type_name(e.type()); },
      "\"boolean\", \"integer\" or \"real\".");
  expr.def("__repr__",
           [](const Expr& e) { return fmt::format("<tilewright.Expr, {}>", type_name(e.type())); });
  bind_operators(expr);

  m.attr("logit") = expr::logit();
  m.attr("q_pos") = expr::q_pos();
  m.attr("kv_pos") = expr::kv_pos();
  m.attr("q_head") = expr::q_head();
  m.attr("kv_head") = expr::kv_head();
  m.attr("batch") = expr::batch();
  m.attr("q_len") = expr::q_len();
  m.attr("kv_len") = expr::kv_len();
  m.attr("value") = expr::value();

  def_unary(m, "exp", &exp, "e to the power of `a`; real.");
  def_unary(m, "log", &log, "Natural logarithm; real.");
  def_unary(m, "tanh", &tanh, "Hyperbolic tangent; real.");
  def_unary(m, "sigmoid", &sigmoid, "1 / (1 + exp(-a)); real.");
  def_unary(m, "abs", &abs, "Magnitude; also the built-in abs().");
  def_unary(m, "to_real", &to_real, "An integer or a boolean as a real.");
  def_binary(m, "minimum", &min, "The smaller of two.");
  def_binary(m, "maximum", &max, "The larger of two.");
  m.def(
      "where",
      [](nb::handle condition, nb::handle yes, nb::handle no) {
        return where(to_expr(condition, "condition"), to_expr(yes, "yes"), to_expr(no, "no"));
      },
      "condition"_a.none(), "yes"_a.none(), "no"_a.none(),
      nb::sig("def where(condition: Expr | bool, yes: Expr | float, no: Expr | float) -> Expr"),
      "`yes` where `condition` holds, else `no`.");
}

Param make_param(std::string name, int rank, nb::handle dtype, nb::handle at,
                 std::optional<double> default_value) {
  const DType type = to_dtype(dtype, "dtype");
  if (type != DType::f32 && type != DType::i32) {
    raise_invalid(fmt::format("dtype is {}: it must be float32 or int32", dtype_name(type)));
  }
  const bool real = type == DType::f32;
  Bind bind = real ? Bind::run : Bind::plan;
  if (!at.is_none()) bind = to_choice<Bind>(at, "at", {{"run", Bind::run}, {"plan", Bind::plan}});
  Param param =
      real ? Param::real(std::move(name), rank, bind) : Param::integer(std::move(name), rank, bind);
  return default_value ? param.with_default(*default_value) : param;
}

Expr call_param(const Param& param, const nb::args& indices) {
  if (static_cast<int>(indices.size()) != param.rank()) {
    raise_invalid(fmt::format("parameter \"{}\" is called with {} indices: it has rank {}",
                              param.name(), indices.size(), param.rank()));
  }
  std::vector<Expr> index;
  for (const nb::handle object : indices) index.push_back(to_expr(object, "an index"));
  switch (index.size()) {
    case 0:
      return param();
    case 1:
      return param(index[0]);
    case 2:
      return param(index[0], index[1]);
    default:
      return param(index[0], index[1], index[2]);
  }
}

void bind_param(nb::module_& m) {
  nb::class_<Param>(m, "Param",
                    "A named input of a variant: a number (rank 0) or a tensor of rank 1 to 3. "
                    "Calling it with its "
                    "indices gives\nan expression: `slope(tw.expr.q_head)`, `cap()`. A read "
                    "outside the tensor gives "
                    "0.\n\ndtype: \"float32\" or \"int32\". at: \"run\" (given to Attention.run) "
                    "or \"plan\" (given to "
                    "Plan.update: masks that\nare to skip tiles need it); by default float32 binds "
                    "at run, int32 at "
                    "plan. default: for rank 0 only.")
      .def(
          "__init__",
          [](Param* self, std::string name, int rank, nb::handle dtype, nb::handle at,
             std::optional<double> default_value) {
            new (self) Param(make_param(std::move(name), rank, dtype, at, default_value));
          },
          "name"_a, "rank"_a = 0, nb::kw_only(), "dtype"_a = "float32", "at"_a = nb::none(),
          "default"_a = nb::none(),
          nb::sig(
              "def __init__(self, name: str, rank: int = 0, *, dtype: "
              "tilewright._typing.DTypeLike = \"float32\", at: str | None = None, default: float "
              "| None = None) -> None"))
      .def("__call__", &call_param, nb::sig("def __call__(self, *indices: Expr | int) -> Expr"))
      .def_prop_ro("name", [](const Param& p) { return p.name(); })
      .def_prop_ro("rank", &Param::rank)
      .def_prop_ro(
          "dtype",
          [](const Param& p) { return p.type() == ValueType::integer ? "int32" : "float32"; })
      .def_prop_ro("at", [](const Param& p) { return p.bind() == Bind::run ? "run" : "plan"; })
      .def_prop_ro("default", &Param::default_value)
      .def("__repr__", [](const Param& p) {
        return fmt::format("<tilewright.Param {} of rank {}, bound at {}>", p.name(), p.rank(),
                           p.bind() == Bind::run ? "run" : "plan");
      });
}

Variant make_variant(nb::handle logits, nb::handle mask, nb::handle output,
                     const std::optional<RopeSpec>& rope, bool softmax) {
  Variant variant;
  if (!logits.is_none()) variant.logits = to_expr(logits, "logits");
  if (!mask.is_none()) variant.mask = to_expr(mask, "mask");
  if (!output.is_none()) variant.output = to_expr(output, "output");
  variant.rope = rope;
  variant.softmax = softmax;
  variant.validate();
  return variant;
}

void bind_variant_class(nb::module_& m) {
  nb::class_<RopeSpec>(
      m, "RopeSpec",
      "Rotary position embedding (arXiv 2104.09864) of a head's first `dim` elements (0: all of "
      "them).\n\ninterleaved: pairs are (2i, 2i + 1); else (i, i + dim / 2), \"rotate half\".")
      .def(
          "__init__",
          [](RopeSpec* self, int dim, double theta, double position_scale, bool interleaved) {
            new (self) RopeSpec{dim, theta, position_scale, interleaved};
          },
          nb::kw_only(), "dim"_a = 0, "theta"_a = 10000.0, "position_scale"_a = 1.0,
          "interleaved"_a = false)
      .def_ro("dim", &RopeSpec::dim)
      .def_ro("theta", &RopeSpec::theta)
      .def_ro("position_scale", &RopeSpec::position_scale)
      .def_ro("interleaved", &RopeSpec::interleaved);

  nb::class_<Variant>(
      m, "Variant",
      "What an attention computes between Q K^T and the output; what is left out is as usual.\n\n"
      "logits: a real expression over tw.expr.logit, replaces each scaled logit. mask: boolean, "
      "which "
      "(query, key)\npairs attend. output: real, over tw.expr.value, replaces output elements. "
      "rope: "
      "applied to queries and keys\non the fly. softmax: False takes the transformed logits as "
      "weights. Errors: InvalidArgument for an\nexpression of the wrong type or with a symbol that "
      "has "
      "no meaning there.")
      .def(
          "__init__",
          [](Variant* self, nb::handle logits, nb::handle mask, nb::handle output,
             const std::optional<RopeSpec>& rope, bool softmax) {
            new (self) Variant(make_variant(logits, mask, output, rope, softmax));
          },
          nb::kw_only(), "logits"_a = nb::none(), "mask"_a = nb::none(), "output"_a = nb::none(),
          "rope"_a = nb::none(), "softmax"_a = true,
          nb::sig(
              "def __init__(self, *, logits: Expr | None = None, mask: Expr | None = None, output: "
              "Expr | None = None, rope: RopeSpec | None = None, softmax: bool = True) -> None"))
      .def_prop_ro("params", &Variant::params, "The parameters, in order of first use.")
      .def("serialize", &Variant::serialize,
           "Canonical text: equal for variants with the same graph.")
      .def(
          "__eq__",
          [](const Variant& a, nb::handle b) {
            return nb::isinstance<Variant>(b) && a == nb::cast<const Variant&>(b);
          },
          nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__", [](const Variant& v) { return nb::hash(nb::cast(v.serialize())); })
      .def("__repr__",
           [](const Variant& v) { return fmt::format("<tilewright.Variant {}>", v.serialize()); });
}

void bind_ready_made(nb::module_& m) {
  m.def("full", &variants::full, "logits_soft_cap"_a = 0.0,
        "Every query attends to all keys. A soft cap c > 0 replaces logits by c * tanh(logit / c); "
        "it "
        "is the run\nparameter \"logits_soft_cap\", whose default is given here.");
  m.def("causal", &variants::causal, "window_left"_a = -1, "logits_soft_cap"_a = 0.0,
        "Keys up to the query's position; with window_left >= 0 only the last window_left + 1 of "
        "them.");
  m.def("sliding_window", &variants::sliding_window, "left"_a, "right"_a, "logits_soft_cap"_a = 0.0,
        "Keys from q_pos - left to q_pos + right; a negative bound means no bound on that side.");
  m.def("alibi", &variants::alibi,
        "Causal with the bias slope[q_head] * (kv_pos - q_pos) (arXiv 2108.12409); run parameter "
        "\"slope\", float32\n[num_qo_heads].");
}

}  // namespace

void bind_variant(nb::module_& m) {
  bind_expr(m);
  bind_param(m);
  bind_variant_class(m);
  bind_ready_made(m);
}

}  // namespace tilewright::python
