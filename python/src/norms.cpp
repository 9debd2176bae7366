// SPDX-License-Identifier: Apache-2.0
// Norms.
#include <tilewright/ops.h>

#include "bindings.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

// `out` as given, or a new array of the kind and shape of x; out_dtype None: x's.
Output norm_output(nb::object out, nb::handle out_dtype, nb::handle x, const TensorView& view) {
  const DType dtype = output_dtype(out_dtype, out, view.dtype);
  return {std::move(out), x, dtype, std::span(view.shape).first(view.rank)};
}

// norm(x, out, out_scale, stream) with the result as the callers see it.
template <typename Norm>
nb::object normed(nb::handle x, nb::object out, nb::handle out_dtype, nb::handle out_scale,
                  nb::handle stream, Keep& keep, const Norm& norm) {
  const TensorView view = required(x, "x", keep);
  Output result = norm_output(std::move(out), out_dtype, x, view);
  const TensorView out_view = result.view("out", keep);
  const Scale scale = to_scale(out_scale, "out_scale", keep);
  const Stream on = to_stream(stream, view.device);
  {
    const nb::gil_scoped_release release;
    norm(view, out_view, scale, on);
  }
  return result.result();
}

}  // namespace

void bind_norms(nb::module_& m) {
  m.def(
      "rms_norm",
      [](nb::handle x, nb::handle weight, float eps, float weight_offset, nb::object out,
         nb::handle out_dtype, nb::handle out_scale, nb::handle stream) {
        Keep keep;
        const TensorView weights = required(weight, "weight", keep);
        return normed(
            x, std::move(out), out_dtype, out_scale, stream, keep,
            [&](const TensorView& from, const TensorView& to, const Scale& scale, Stream on) {
              rms_norm(from, weights, to, eps, weight_offset, scale, on);
            });
      },
      "x"_a.none(), "weight"_a.none(), "eps"_a = 1e-6F, nb::kw_only(), "weight_offset"_a = 0.0F,
      "out"_a = nb::none(), "out_dtype"_a = nb::none(), "out_scale"_a = 1.0,
      "stream"_a = nb::none(),
      nb::sig(
          "def rms_norm(x: tilewright._typing.ArrayT, weight: tilewright._typing.Array, eps: "
          "float = 1e-6, *, weight_offset: float = 0.0, out: tilewright._typing.ArrayT | None = "
          "None, out_dtype: tilewright._typing.DTypeLike | None = None, out_scale: "
          "tilewright._typing.Scalar = 1.0, "
          "stream: object | None = None) -> tilewright._typing.ArrayT"),
      "x / sqrt(mean(x^2) + eps) * (weight + weight_offset) over the last dimension (arXiv "
      "1910.07467).\n\n"
      "x: [..., dim] of rank 1 to 3; weight: [dim]. out may be x. weight_offset=1 is Gemma's form. "
      "out_dtype: of a new\noutput, x's by default. A float8_e4m3fn output holds values divided by "
      "out_scale, a number or float32 [1], and\nsaturated. Returns out.");
  m.def(
      "fused_add_rms_norm",
      [](nb::handle x, nb::handle residual, nb::handle weight, float eps, float weight_offset,
         nb::object out, nb::handle out_dtype, nb::handle out_scale, nb::handle stream) {
        Keep keep;
        const TensorView sum = required(residual, "residual", keep, Access::write);
        const TensorView weights = required(weight, "weight", keep);
        return normed(
            x, std::move(out), out_dtype, out_scale, stream, keep,
            [&](const TensorView& from, const TensorView& to, const Scale& scale, Stream on) {
              fused_add_rms_norm(from, sum, weights, to, eps, weight_offset, scale, on);
            });
      },
      "x"_a.none(), "residual"_a.none(), "weight"_a.none(), "eps"_a = 1e-6F, nb::kw_only(),
      "weight_offset"_a = 0.0F, "out"_a = nb::none(), "out_dtype"_a = nb::none(),
      "out_scale"_a = 1.0, "stream"_a = nb::none(),
      nb::sig(
          "def fused_add_rms_norm(x: tilewright._typing.ArrayT, residual: "
          "tilewright._typing.Array, weight: tilewright._typing.Array, eps: float = 1e-6, *, "
          "weight_offset: float = 0.0, out: tilewright._typing.ArrayT | None = None, out_dtype: "
          "tilewright._typing.DTypeLike | None = None, out_scale: tilewright._typing.Scalar = 1.0, "
          "stream: object | "
          "None = None) -> tilewright._typing.ArrayT"),
      "residual += x, then rms_norm(residual). residual is updated in place; out may be x; "
      "out_dtype and out_scale are\nthose of rms_norm. Returns out.");
  m.def(
      "layer_norm",
      [](nb::handle x, nb::handle weight, nb::handle bias, float eps, nb::object out,
         nb::handle out_dtype, nb::handle out_scale, nb::handle stream) {
        Keep keep;
        const TensorView weights = required(weight, "weight", keep);
        const TensorView biases = view_of(bias, "bias", keep);
        return normed(x, std::move(out), out_dtype, out_scale, stream, keep,
                      [&](const TensorView& from, const TensorView& to, const Scale& scale,
                          Stream on) { layer_norm(from, weights, biases, to, eps, scale, on); });
      },
      "x"_a.none(), "weight"_a.none(), "bias"_a = nb::none(), "eps"_a = 1e-5F, nb::kw_only(),
      "out"_a = nb::none(), "out_dtype"_a = nb::none(), "out_scale"_a = 1.0,
      "stream"_a = nb::none(),
      nb::sig(
          "def layer_norm(x: tilewright._typing.ArrayT, weight: tilewright._typing.Array, bias: "
          "tilewright._typing.Array | None = None, eps: float = 1e-5, *, out: "
          "tilewright._typing.ArrayT | None = None, out_dtype: tilewright._typing.DTypeLike | "
          "None = None, out_scale: tilewright._typing.Scalar = 1.0, stream: object | None = "
          "None) -> tilewright._typing.ArrayT"),
      "(x - mean(x)) / sqrt(var(x) + eps) * weight + bias over the last dimension (arXiv "
      "1607.06450).\n\n"
      "x: [..., dim] of rank 1 to 3; weight, bias: [dim]. out may be x; out_dtype and out_scale "
      "are "
      "those of rms_norm. Returns\nout.");
}

}  // namespace tilewright::python
