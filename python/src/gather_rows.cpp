// SPDX-License-Identifier: Apache-2.0
// Rows of a table.
#include <tilewright/ops.h>

#include <array>

#include "bindings.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

nb::object gathered(nb::handle x, nb::handle indices, nb::object out, nb::handle out_dtype,
                    nb::handle stream) {
  Keep keep;
  const TensorView view = required(x, "x", keep);
  const TensorView rows = list_or_view_of(indices, "indices", DType::i64, keep);
  const DType dtype = output_dtype(out_dtype, out, view.dtype);
  const std::array<std::int64_t, 2> shape{rows.shape[0], view.shape[1]};
  Output result(std::move(out), x, dtype, shape);
  const TensorView out_view = result.view("out", keep);
  const Stream on = to_stream(stream, view.device);
  {
    const nb::gil_scoped_release release;
    gather_rows(view, rows, out_view, on);
  }
  return result.result();
}

}  // namespace

void bind_gather_rows(nb::module_& m) {
  m.def("gather_rows", &gathered, "x"_a.none(), "indices"_a.none(), nb::kw_only(),
        "out"_a = nb::none(), "out_dtype"_a = nb::none(), "stream"_a = nb::none(),
        nb::sig("def gather_rows(x: tilewright._typing.ArrayT, indices: "
                "tilewright._typing.Indices, *, out: tilewright._typing.ArrayT | None = None, "
                "out_dtype: tilewright._typing.DTypeLike | None = None, stream: object | None = "
                "None) -> tilewright._typing.ArrayT"),
        "x[indices], an embedding lookup: rows of x [n, dim], float or int32, by indices [m].\n\n"
        "out_dtype: of a new output, x's by default. An index outside [0, n) is an error; on CUDA "
        "its row becomes zeros.\nReturns out [m, dim].");
}

}  // namespace tilewright::python
