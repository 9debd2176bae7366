// SPDX-License-Identifier: Apache-2.0
// The parts of the module, one a file, and what they share.
#pragma once

#include <fmt/format.h>
#include <nanobind/nanobind.h>
#include <tilewright/kv_cache.h>
#include <tilewright/variant.h>

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "array.h"

namespace tilewright::python {

void register_errors();
void bind_expr(nb::module_& m);
void bind_rope(nb::module_& m);
void bind_variant(nb::module_& m);
void bind_kv_cache(nb::module_& m);
void bind_attention(nb::module_& m);
void bind_plan(nb::module_& m);
void bind_run(nb::class_<Attention>& attention);
void bind_masks(nb::module_& m);
void bind_norms(nb::module_& m);
void bind_pack_bits(nb::module_& m);
void bind_gather_rows(nb::module_& m);
void bind_ops(nb::module_& m);
void bind_sampling(nb::module_& m);
void bind_speculative(nb::module_& m);
void bind_jit(nb::module_& m);
void bind_kernel_choice(nb::module_& m);

// An expression or a bare Python number; TypeError naming the argument for anything else.
Expr to_expr(nb::handle object, const char* name);

// A KvCache whose arrays are kept.
struct HeldCache {
  KvCache cache;
  Keep keep;
};

// The cache behind a `kv` argument: a KvCache, one combined array or a tuple (k, v). `layout`, None
// or "NHD" or "HND", is for arrays only.
KvCache to_kv_cache(nb::handle kv, const char* name, nb::handle layout, Keep& keep,
                    Access access = Access::read);

// The dtype of an output: out_dtype, or `otherwise` where that is None. An `out` has one already.
inline DType output_dtype(nb::handle out_dtype, nb::handle out, DType otherwise) {
  if (out_dtype.is_none()) return otherwise;
  const DType dtype = to_dtype(out_dtype, "out_dtype");
  if (!out.is_none()) {
    raise_invalid(fmt::format("out_dtype is {}, but out is given, which has one: it must be None",
                              dtype_name(dtype)));
  }
  return dtype;
}

// An enumeration by name: "NHD" -> KvLayout::nhd.
template <typename Enum>
Enum to_choice(nb::handle object, const char* name,
               std::initializer_list<std::pair<const char*, Enum>> choices) {
  std::string all;
  for (const auto& [text, value] : choices) {
    if (PyUnicode_Check(object.ptr()) &&
        PyUnicode_CompareWithASCIIString(object.ptr(), text) == 0) {
      return value;
    }
    all += fmt::format("{}\"{}\"", all.empty() ? "" : " or ", text);
  }
  const std::string text = nb::repr(object).c_str();
  raise_invalid(fmt::format("{} is {}: it must be {}", name, text, all));
}

}  // namespace tilewright::python
