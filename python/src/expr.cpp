// SPDX-License-Identifier: Apache-2.0
// Expressions and parameters with Python's operators, and what they say to Python that cannot be
// traced.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <tilewright/variant.h>

#include <array>
#include <utility>

#include "bindings.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

// Scalars of NumPy and torch.
Expr array_operand(nb::handle object) {
  const std::optional<double> number = number_of(object);
  if (!number) {
    raise_type_error(fmt::format(
        "an operand is {}: expressions take numbers, and arrays as parameters, declared "
        "with params={{\"name\": tw.table(rank)}} or tw.Param",
        describe_type(object)));
  }
  const nb::object dtype = object.attr("dtype");
  if (nb::cast<std::string>(nb::str(dtype)) == "bool") return *number != 0;
  return *number;
}

// An operand: an expression or a bare Python number. Undefined for anything else; TypeError for an
// array.
Expr to_operand(nb::handle object) {
  if (nb::isinstance<Expr>(object)) return nb::cast<Expr>(object);
  if (PyBool_Check(object.ptr())) return object.is(Py_True);
  if (PyFloat_Check(object.ptr())) return PyFloat_AS_DOUBLE(object.ptr());
  if (PyIndex_Check(object.ptr())) {
    const nb::object integer = nb::steal(PyNumber_Index(object.ptr()));
    if (integer.is_valid()) return nb::cast<std::int64_t>(integer);
    PyErr_Clear();  // an array, or a number in one
  }
  if (nb::hasattr(object, "dtype")) return array_operand(object);
  return {};
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

// Python has one operator for both.
Expr and_of(const Expr& a, const Expr& b) {
  const bool bits = a.type() == ValueType::integer && b.type() == ValueType::integer;
  return bits ? bit_and(a, b) : a && b;
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
  def_operator(expr, &and_of, "__and__", "__rand__");
  def_operator(expr, &shift_right, "__rshift__", "__rrshift__");
  def_operator(expr, TILEWRIGHT_BINARY(||), "__or__", "__ror__");
  expr.def("__invert__", TILEWRIGHT_UNARY(!));
  expr.def("__neg__", TILEWRIGHT_UNARY(-));
  expr.def("__pos__", [](const Expr& a) { return a; });
  expr.def("__abs__", [](const Expr& a) { return abs(a); });
  expr.attr("__hash__") = nb::none();  // == builds a graph, so a dict could not tell two apart
}

constexpr const char* kNoTruthValue =
    "an expression has no truth value: it is a graph that is evaluated for every query and key. "
    "Use "
    "& | ~ in place of and, or, not, tw.where(condition, yes, no) in place of if, (a <= b) & (b <= "
    "c) in place of a <= b <= c, (x == 1) | (x == 2) in place of in, tw.minimum and tw.maximum in "
    "place of min and max";
constexpr const char* kNoNumber =
    "an expression is no number: it is a graph that is evaluated for every query and key. Use "
    "tw.exp, tw.log, tw.tanh, tw.sigmoid, tw.abs in place of functions of numbers as in math, "
    "tw.expr.to_real(x) in place of float(x), // in place of int(x / y)";
constexpr const char* kNoSequence =
    "an expression is no sequence: it is a graph that is evaluated for every query and key. Loop "
    "over Python numbers, and join expressions with + & | or tw.where";
constexpr const char* kNoIndex =
    "an expression takes no index: parameters of tw.per_head, tw.per_request and the like have "
    "theirs. Declare tw.table(rank) for a parameter that is indexed by expressions";
constexpr const char* kNoPower =
    "an expression takes no **: use x * x for x ** 2, tw.exp(y * tw.log(x)) for x ** y";

[[noreturn]] void raise_no_numpy(const std::string& name) {
  raise_type_error(
      fmt::format("numpy.{} takes arrays, not expressions: use the functions of "
                  "tilewright (tw.exp, tw.log, tw.tanh, tw.sigmoid, tw.abs, tw.minimum, "
                  "tw.maximum, tw.where) and Python's operators",
                  name));
}

// NumPy's operators reach an expression where the left operand is a NumPy scalar.
nb::object apply_ufunc(const nb::args& arguments, const nb::kwargs&) {
  static const std::array<std::pair<const char*, Binary>, 15> kOperators{{
      {"add", TILEWRIGHT_BINARY(+)},
      {"subtract", TILEWRIGHT_BINARY(-)},
      {"multiply", TILEWRIGHT_BINARY(*)},
      {"divide", TILEWRIGHT_BINARY(/)},
      {"floor_divide", &floor_div},
      {"remainder", &mod},
      {"less", TILEWRIGHT_BINARY(<)},
      {"less_equal", TILEWRIGHT_BINARY(<=)},
      {"greater", TILEWRIGHT_BINARY(>)},
      {"greater_equal", TILEWRIGHT_BINARY(>=)},
      {"equal", TILEWRIGHT_BINARY(==)},
      {"not_equal", TILEWRIGHT_BINARY(!=)},
      {"bitwise_and", &and_of},
      {"right_shift", &shift_right},
      {"bitwise_or", TILEWRIGHT_BINARY(||)},
  }};
  const auto name = nb::cast<std::string>(arguments[1].attr("__name__"));
  if (arguments.size() == 5) {  // self, ufunc, method, and its two operands
    const Expr a = to_operand(arguments[3]);
    const Expr b = to_operand(arguments[4]);
    for (const auto& [known, function] : kOperators) {
      if (name == known && a.defined() && b.defined()) return nb::cast(function(a, b));
    }
  }
  raise_no_numpy(name);
}

// What Python would call for what cannot be traced.
void refuse(nb::class_<Expr>& expr) {
  const auto no_number = [](const Expr&) -> double { raise_type_error(kNoNumber); };
  for (const char* name : {"__float__", "__int__", "__index__", "__complex__", "__round__"}) {
    expr.def(name, no_number);
  }
  expr.def("__bool__", [](const Expr&) -> bool { raise_type_error(kNoTruthValue); });
  const auto no_sequence = [](const Expr&) -> nb::object { raise_type_error(kNoSequence); };
  for (const char* name : {"__iter__", "__len__"}) expr.def(name, no_sequence);
  expr.def("__getitem__",
           [](const Expr&, nb::handle) -> nb::object { raise_type_error(kNoIndex); });
  const auto no_power = [](const Expr&, nb::handle) -> nb::object { raise_type_error(kNoPower); };
  for (const char* name : {"__pow__", "__rpow__"}) expr.def(name, no_power);
  expr.def(
      "__array__",
      [](const Expr&, const nb::args&, const nb::kwargs&) -> nb::object {
        raise_type_error(kNoNumber);
      },
      nb::sig("def __array__(self, *args: object, **kwargs: object) -> typing.Any"));
  expr.def("__array_ufunc__", &apply_ufunc,
           nb::sig("def __array_ufunc__(self, *args: object, **kwargs: object) -> Expr"));
  expr.def(
      "__array_function__",
      [](const Expr&, nb::handle function, const nb::args&) -> nb::object {
        raise_no_numpy(nb::cast<std::string>(function.attr("__name__")));
      },
      nb::sig("def __array_function__(self, function: object, *args: object) -> typing.Any"));
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

void bind_expr_class(nb::module_& m) {
  nb::class_<Expr> expr(
      m, "Expr",
      "A node of a variant's graph: an immutable value made from the symbols of tw.expr, "
      "parameters "
      "and numbers.\n\nOperators: + - * / (real), // % >> & (integer), comparisons, & | ~ on "
      "booleans. "
      "Integers are exact, reals are\nfloat32; mixing them gives a real.");
  expr.def_prop_ro(
      "type", [](const Expr& e) { return type_name(e.type()); },
      "\"boolean\", \"integer\" or \"real\".");
  expr.def("__repr__",
           [](const Expr& e) { return fmt::format("<tilewright.Expr, {}>", type_name(e.type())); });
  bind_operators(expr);
  refuse(expr);

  m.attr("logit") = expr::logit();
  m.attr("q_pos") = expr::q_pos();
  m.attr("kv_pos") = expr::kv_pos();
  m.attr("q_head") = expr::q_head();
  m.attr("kv_head") = expr::kv_head();
  m.attr("batch") = expr::batch();
  m.attr("q_len") = expr::q_len();
  m.attr("kv_len") = expr::kv_len();
  m.attr("q_index") = expr::q_index();
  m.attr("q_begin") = expr::q_begin();
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
    raise_invalid(fmt::format("parameter \"{}\" is read with {} indices: it has rank {}",
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
      .def(
          "__eq__",
          [](const Param& a, nb::handle b) {
            return nb::isinstance<Param>(b) && a == nb::cast<const Param&>(b);
          },
          nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__", [](const Param& p) { return nb::hash(nb::cast(p.name())); })
      .def("__repr__", [](const Param& p) {
        return fmt::format("<tilewright.Param {} of rank {}, bound at {}>", p.name(), p.rank(),
                           p.bind() == Bind::run ? "run" : "plan");
      });
}

}  // namespace

Expr to_expr(nb::handle object, const char* name) {
  Expr operand = to_operand(object);
  if (!operand.defined()) {
    raise_type_error(fmt::format("{} is {}: it must be an expression (tw.expr) or a number", name,
                                 describe_type(object)));
  }
  return operand;
}

void bind_expr(nb::module_& m) {
  bind_expr_class(m);
  bind_param(m);
}

}  // namespace tilewright::python
