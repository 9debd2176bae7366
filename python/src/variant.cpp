// SPDX-License-Identifier: Apache-2.0
// Variants and the ready-made ones.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <tilewright/variants.h>

#include "bindings.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

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

std::optional<Expr> to_optional(const Expr& expr) {
  return expr.defined() ? std::optional(expr) : std::nullopt;
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
      .def_prop_ro(
          "logits", [](const Variant& v) { return to_optional(v.logits); },
          "The expression, or None for what is as usual; so are mask and output.")
      .def_prop_ro("mask", [](const Variant& v) { return to_optional(v.mask); })
      .def_prop_ro("output", [](const Variant& v) { return to_optional(v.output); })
      .def_ro("rope", &Variant::rope)
      .def_ro("softmax", &Variant::softmax)
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
  bind_variant_class(m);
  bind_ready_made(m);
}

}  // namespace tilewright::python
