// SPDX-License-Identifier: Apache-2.0
// The small operators around attention, and the number of threads.
#include <tilewright/ops.h>
#include <tilewright/threads.h>

#include <array>

#include "bindings.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

// `out` as given, or a new array of the kind, dtype and shape of x but `last` elements in the last
// dimension.
Output given_or_like(nb::object out, nb::handle x, const TensorView& view, std::int64_t last) {
  std::array<std::int64_t, TensorView::kMaxRank> shape = view.shape;
  shape[view.rank - 1] = last;
  return {std::move(out), x, view.dtype, std::span(shape).first(view.rank)};
}

void write_cache(nb::handle k, nb::handle v, nb::handle kv, nb::handle slot_mapping,
                 nb::handle layout, nb::handle k_scale, nb::handle v_scale, nb::handle token_indptr,
                 nb::handle stream) {
  Keep keep;
  const TensorView k_view = required(k, "k", keep);
  const TensorView v_view = required(v, "v", keep);
  const KvCache cache = to_kv_cache(kv, "kv", layout, keep, Access::write);
  const TensorView slots = list_or_view_of(slot_mapping, "slot_mapping", DType::i64, keep);
  const Scale k_factor = to_scale(k_scale, "k_scale", keep);
  const Scale v_factor = to_scale(v_scale, "v_scale", keep);
  const TensorView indptr = list_or_view_of(token_indptr, "token_indptr", DType::i64, keep);
  const Stream on = to_stream(stream, k_view.device);
  const nb::gil_scoped_release release;
  write_kv_cache(k_view, v_view, cache, slots, k_factor, v_factor, indptr, on);
}

void def_activation(nb::module_& m, const char* name, Activation activation, const char* doc) {
  m.def(
      name,
      [activation](nb::handle x, nb::object out, nb::handle stream) {
        Keep keep;
        const TensorView view = required(x, "x", keep);
        Output result = given_or_like(std::move(out), x, view, view.shape[view.rank - 1] / 2);
        const TensorView out_view = result.view("out", keep);
        const Stream on = to_stream(stream, view.device);
        {
          const nb::gil_scoped_release release;
          act_and_mul(view, out_view, activation, on);
        }
        return result.result();
      },
      "x"_a.none(), nb::kw_only(), "out"_a = nb::none(), "stream"_a = nb::none(),
      nb::sig(
          fmt::format("def {}(x: tilewright._typing.ArrayT, *, out: tilewright._typing.ArrayT | "
                      "None = None, stream: object | None = None) -> tilewright._typing.ArrayT",
                      name)
              .c_str()),
      doc);
}

void bind_merge(nb::module_& m) {
  m.def(
      "merge_states",
      [](nb::handle values, nb::handle lse, nb::object out, nb::object lse_out, nb::handle stream) {
        Keep keep;
        const TensorView view = required(values, "values", keep);
        const TensorView lse_view = required(lse, "lse", keep);
        if (view.rank != 4) {
          raise_invalid(fmt::format("values is {}: it must be [tokens, states, heads, dim]",
                                    view.describe()));
        }
        const std::array<std::int64_t, 3> shape{view.shape[0], view.shape[2], view.shape[3]};
        Output merged(std::move(out), values, view.dtype, shape);
        Output merged_lse(std::move(lse_out), lse, DType::f32, std::span(shape).first(2));
        const TensorView out_view = merged.view("out", keep);
        const TensorView lse_out_view = merged_lse.view("lse_out", keep);
        const Stream on = to_stream(stream, view.device);
        {
          const nb::gil_scoped_release release;
          merge_states(view, lse_view, out_view, lse_out_view, on);
        }
        return nb::make_tuple(merged.result(), merged_lse.result());
      },
      "values"_a.none(), "lse"_a.none(), nb::kw_only(), "out"_a = nb::none(),
      "lse_out"_a = nb::none(), "stream"_a = nb::none(),
      nb::sig(
          "def merge_states(values: tilewright._typing.ArrayT, lse: tilewright._typing.ArrayT, *, "
          "out: tilewright._typing.ArrayT | None = None, lse_out: tilewright._typing.ArrayT | None "
          "= None, stream: object | None = None) -> tuple[tilewright._typing.ArrayT, "
          "tilewright._typing.ArrayT]"),
      "Joins partial attentions of the same queries over disjoint keys (arXiv 2501.01005, section "
      "2.2)."
      "\n\nvalues: [tokens, states, heads, dim]; lse: float32 [tokens, states, heads], natural "
      "log. A "
      "state with lse -inf\ndoes not count, whatever its values. Returns (out [tokens, heads, "
      "dim], lse_out "
      "float32 [tokens, heads]).");
}

}  // namespace

void bind_ops(nb::module_& m) {
  m.def(
      "write_kv_cache", &write_cache, "k"_a.none(), "v"_a.none(), "kv"_a.none(),
      "slot_mapping"_a.none(), nb::kw_only(), "layout"_a = nb::none(), "k_scale"_a = 1.0,
      "v_scale"_a = 1.0, "token_indptr"_a = nb::none(), "stream"_a = nb::none(),
      nb::sig(
          "def write_kv_cache(k: tilewright._typing.Array, v: tilewright._typing.Array, kv: "
          "tilewright._typing.KvLike, slot_mapping: tilewright._typing.Indices, *, layout: str | "
          "None = None, k_scale: tilewright._typing.Scalar = 1.0, v_scale: "
          "tilewright._typing.Scalar = 1.0, token_indptr: tilewright._typing.Indices | None = "
          "None, stream: object | None = None) -> None"),
      "Writes k and v [tokens, kv_heads, dim] into the cache `kv` (as for Attention.run).\n\n"
      "slot_mapping: int32 or int64 [tokens]; token t goes to page slot // page_size, row slot % "
      "page_size; -1 skips it.\nConverts to the cache's dtype; for fp8 caches values are divided "
      "by k_scale and v_scale and saturated. Scales are\nthose of Attention.run: a number, or "
      "float32 [1], [kv_heads], [requests, 1], [1, kv_heads] or [requests, kv_heads].\n"
      "token_indptr: [requests + 1], for scales by request: request r has the tokens "
      "token_indptr[r] to token_indptr[r + 1];\ntokens behind the last request's must be skipped. "
      "A slot outside the cache raises InvalidArgument, and nothing is\nwritten.");
  def_activation(
      m, "silu_and_mul", Activation::silu,
      "silu(x[:, :dim]) * x[:, dim:] for x [tokens, 2 * dim]; returns out [tokens, dim].");
  def_activation(
      m, "gelu_and_mul", Activation::gelu,
      "gelu(x[:, :dim]) * x[:, dim:] for x [tokens, 2 * dim], by erf; returns out [tokens, dim].");
  def_activation(
      m, "gelu_tanh_and_mul", Activation::gelu_tanh,
      "gelu(x[:, :dim]) * x[:, dim:] for x [tokens, 2 * dim], by the tanh approximation; "
      "returns out\n[tokens, dim].");
  bind_merge(m);
  m.def("set_num_threads", &set_num_threads, "threads"_a,
        "Threads of the CPU backend, at least 1; shared with everything that uses the same OpenMP "
        "run "
        "time. Results do\nnot depend on it.");
  m.def("num_threads", &num_threads,
        "Threads of the CPU backend; by default the cores of this process.");
}

}  // namespace tilewright::python
