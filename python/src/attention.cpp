// SPDX-License-Identifier: Apache-2.0
// Attention and supports(): the arguments of a spec by keyword.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <tilewright/attention.h>

#include <functional>

#include "bindings.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

// `dtype` is that of all tensors whose own is not given; bfloat16 where nothing is.
AttentionSpec make_spec(int num_qo_heads, int num_kv_heads, int head_dim,
                        std::optional<int> head_dim_vo, nb::handle dtype, nb::handle q_dtype,
                        nb::handle kv_dtype, nb::handle v_dtype, nb::handle out_dtype,
                        const std::optional<Variant>& variant) {
  AttentionSpec spec;
  spec.num_qo_heads = num_qo_heads;
  spec.num_kv_heads = num_kv_heads;
  spec.head_dim = head_dim;
  spec.head_dim_vo = head_dim_vo.value_or(0);
  if (!dtype.is_none()) spec.q_dtype = to_dtype(dtype, "dtype");
  if (!q_dtype.is_none()) spec.q_dtype = to_dtype(q_dtype, "q_dtype");
  if (!kv_dtype.is_none()) {
    spec.kv_dtype = to_dtype(kv_dtype, "kv_dtype");
  } else {
    spec.kv_dtype = dtype.is_none() ? spec.q_dtype : to_dtype(dtype, "dtype");
  }
  if (!v_dtype.is_none()) spec.v_dtype = to_dtype(v_dtype, "v_dtype");
  if (!out_dtype.is_none()) spec.out_dtype = to_dtype(out_dtype, "out_dtype");
  if (variant) spec.variant = *variant;
  return spec;
}

// The keywords that describe a spec, the same for Attention and supports().
#define TILEWRIGHT_SPEC_ARGUMENTS                                                      \
  "num_qo_heads"_a, "num_kv_heads"_a, "head_dim"_a,                                    \
      "head_dim_vo"_a = nb::none(), "dtype"_a = nb::none(), "q_dtype"_a = nb::none(),  \
      "kv_dtype"_a = nb::none(), "v_dtype"_a = nb::none(), "out_dtype"_a = nb::none(), \
      "variant"_a = nb::none()
#define TILEWRIGHT_SPEC_SIGNATURE                                                             \
  "num_qo_heads: int, num_kv_heads: int, head_dim: int, head_dim_vo: int | None = None, "     \
  "dtype: tilewright._typing.DTypeLike | None = None, q_dtype: tilewright._typing.DTypeLike " \
  "| None = None, kv_dtype: tilewright._typing.DTypeLike | None = None, v_dtype: "            \
  "tilewright._typing.DTypeLike | None = None, out_dtype: tilewright._typing.DTypeLike | "    \
  "None = None, variant: Variant | None = None"

void bind_support(nb::module_& m) {
  nb::class_<Support>(m, "Support", "Whether a device runs an attention, or why not.")
      .def_ro("ok", &Support::ok)
      .def_ro("reason", &Support::reason, "Empty when ok.")
      .def("__bool__", [](const Support& support) { return support.ok; })
      .def("__repr__", [](const Support& support) {
        return support.ok ? std::string("Support(ok=True)")
                          : fmt::format("Support(ok=False, reason=\"{}\")", support.reason);
      });
  m.def(
      "supports",
      [](nb::handle device, int num_qo_heads, int num_kv_heads, int head_dim,
         std::optional<int> head_dim_vo, nb::handle dtype, nb::handle q_dtype, nb::handle kv_dtype,
         nb::handle v_dtype, nb::handle out_dtype, const std::optional<Variant>& variant) {
        return supports(to_device(device),
                        make_spec(num_qo_heads, num_kv_heads, head_dim, head_dim_vo, dtype, q_dtype,
                                  kv_dtype, v_dtype, out_dtype, variant));
      },
      "device"_a, nb::kw_only(), TILEWRIGHT_SPEC_ARGUMENTS,
      nb::sig("def supports(device: object, *, " TILEWRIGHT_SPEC_SIGNATURE ") -> Support"),
      "Whether a device (\"cpu\", \"cuda\", \"cuda:1\") runs the attention that these keywords of "
      "Attention describe, or why\nnot. Needs no such device, compiles nothing. Errors: "
      "InvalidArgument "
      "for what no device could ever run.");
}

nb::class_<Attention> bind_attention_class(nb::module_& m) {
  nb::class_<Attention> attention(m, "Attention");
  attention
      .def(
          "__init__",
          [](Attention* self, int num_qo_heads, int num_kv_heads, int head_dim,
             std::optional<int> head_dim_vo, nb::handle dtype, nb::handle q_dtype,
             nb::handle kv_dtype, nb::handle v_dtype, nb::handle out_dtype,
             const std::optional<Variant>& variant, nb::handle device) {
            new (self) Attention(make_spec(num_qo_heads, num_kv_heads, head_dim, head_dim_vo, dtype,
                                           q_dtype, kv_dtype, v_dtype, out_dtype, variant),
                                 to_device(device));
          },
          nb::kw_only(), TILEWRIGHT_SPEC_ARGUMENTS, "device"_a = "cpu",
          nb::sig("def __init__(self, *, " TILEWRIGHT_SPEC_SIGNATURE
                  ", device: object = \"cpu\") -> None"))
      .def_prop_ro("num_qo_heads", [](const Attention& a) { return a.spec().num_qo_heads; })
      .def_prop_ro("num_kv_heads", [](const Attention& a) { return a.spec().num_kv_heads; })
      .def_prop_ro("head_dim", [](const Attention& a) { return a.spec().head_dim; })
      .def_prop_ro("head_dim_vo", [](const Attention& a) { return a.spec().value_dim(); })
      .def_prop_ro("q_dtype", [](const Attention& a) { return dtype_name(a.spec().q_dtype); })
      .def_prop_ro("kv_dtype", [](const Attention& a) { return dtype_name(a.spec().kv_dtype); })
      .def_prop_ro("v_dtype", [](const Attention& a) { return dtype_name(a.spec().value_dtype()); })
      .def_prop_ro("out_dtype",
                   [](const Attention& a) { return dtype_name(a.spec().output_dtype()); })
      .def_prop_ro("variant", [](const Attention& a) { return a.spec().variant; })
      .def_prop_ro("device", [](const Attention& a) { return device_name(a.device()); })
      .def(
          "__eq__",
          [](const Attention& a, nb::handle b) {
            return nb::isinstance<Attention>(b) && a == nb::cast<const Attention&>(b);
          },
          nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__",
           [](const Attention& a) { return std::hash<const AttentionImpl*>{}(&a.impl()); })
      .def("__repr__", [](const Attention& a) {
        const AttentionSpec& spec = a.spec();
        return fmt::format(
            "<tilewright.Attention {} query heads, {} KV heads, head_dim {}, {} queries, {} KV, "
            "{}>",
            spec.num_qo_heads, spec.num_kv_heads, spec.head_dim, dtype_name(spec.q_dtype),
            dtype_name(spec.kv_dtype), device_name(a.device()));
      });
  return attention;
}

}  // namespace

void bind_attention(nb::module_& m) {
  bind_support(m);
  nb::class_<Attention> attention = bind_attention_class(m);
  bind_run(attention);
}

}  // namespace tilewright::python
