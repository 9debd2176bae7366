// SPDX-License-Identifier: Apache-2.0
// The extension module tilewright._tilewright.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <tilewright/version.h>

#include "bindings.h"

NB_MODULE(_tilewright, m) {
  namespace python = tilewright::python;
  python::import_numpy();
  // An object that outlives the interpreter is no reason to print.
  nanobind::set_leak_warnings(false);
  m.doc() = "The compiled part of tilewright.";
  python::register_errors();
  python::bind_expr(m);
  python::bind_rope(m);
  python::bind_variant(m);
  python::bind_kv_cache(m);
  python::bind_attention(m);
  python::bind_plan(m);
  python::bind_masks(m);
  python::bind_norms(m);
  python::bind_pack_bits(m);
  python::bind_gather_rows(m);
  python::bind_ops(m);
  python::bind_sampling(m);
  python::bind_speculative(m);
  python::bind_jit(m);
  python::bind_kernel_choice(m);
  m.def("version", &tilewright::version, "Version of the library.");
  m.def("cpu_features", &tilewright::cpu_features,
        "The SIMD target chosen at run time: \"AVX3_DL\", \"AVX2\", ...");
  m.def(
      "_describe",
      [](nanobind::handle array, const char* name) {
        python::Keep keep;
        const tilewright::TensorView view = python::view_of(array, name, keep);
        nanobind::list shape;
        for (int dim = 0; dim < view.rank; ++dim) shape.append(view.shape[dim]);
        return nanobind::make_tuple(nanobind::tuple(shape), tilewright::dtype_name(view.dtype),
                                    tilewright::device_name(view.device));
      },
      nanobind::sig("def _describe(array: object, name: str) -> tuple[tuple[int, ...], str, str]"),
      "The shape, the dtype's name and the device of an array argument.");
  m.def("_host_array", &python::host_array,
        "A read-only NumPy array over an array in host memory.");
}
