// SPDX-License-Identifier: Apache-2.0
// Attention.run: one layer's call, where every microsecond counts.
#include <nanobind/stl/optional.h>
#include <tilewright/attention.h>
#include <tilewright/plan.h>

#include <array>

#include "bindings.h"
#include "held.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

constexpr const char* kSignature =
    "def run(self, plan: Plan, q: tilewright._typing.ArrayT, kv: tilewright._typing.KvLike | "
    "collections.abc.Sequence[tilewright._typing.KvLike], *, out: tilewright._typing.ArrayT | None "
    "= "
    "None, lse: tilewright._typing.ArrayT | None = None, return_lse: bool = False, sm_scale: float "
    "| "
    "None = None, logits_soft_cap: float | None = None, q_scale: tilewright._typing.Scalar = 1.0, "
    "k_scale: tilewright._typing.Scalar = 1.0, v_scale: tilewright._typing.Scalar = 1.0, "
    "out_scale: "
    "tilewright._typing.Scalar = 1.0, sinks: tilewright._typing.Array | None = None, params: "
    "collections.abc.Mapping[str, tilewright._typing.Scalar] | None = None, padding: str = "
    "\"keep\", "
    "layout: str | None = None, stream: object | None = None) -> typing.Any";

constexpr const char* kDoc =
    R"(Computes the attention of one layer.

plan: updated with this step's batch, and made for this attention.
q: [tokens, num_qo_heads, head_dim] of q_dtype; tokens of all requests one after the other, as the
  plan's qo_indptr says. Last dimension contiguous, any other stride.
kv: one array [pages, 2, page, num_kv_heads, head_dim]; or a tuple (k, v) of [pages, page,
  num_kv_heads, dim] or of [tokens, num_kv_heads, dim] (ragged, slots); or a KvCache. With several
  levels a list of those, outermost first.
layout: "NHD" (default) or "HND" (heads before the tokens of a page), for arrays.
out: [tokens, num_qo_heads, head_dim_vo] of out_dtype, written; None: a new array of q's kind (of
  torch, of libraries with __array_namespace__ as JAX, else of NumPy).
lse: float32 [tokens, num_qo_heads], written: natural logarithm of a row's sum of exponentials, -inf
  for a row that sees no key. return_lse: return (out, lse).
sm_scale: factor of q . k; default 1 / sqrt(head_dim). logits_soft_cap: for a variant with that
  parameter.
q_scale, k_scale, v_scale: the arrays' values are multiplied by them; out_scale: the output is, before
  it is stored. A number, or float32 that broadcasts to [requests, num_kv_heads].
sinks: float32 [num_qo_heads], a learned logit in each row's denominator.
params: the variant's parameters that bind at run, by name.
padding: rows of a given out and lse behind the last query token are left ("keep"), or set to 0 and
  -inf ("zero"). A new out is always zero there.
stream: on CUDA, an integer handle or a stream of torch, CuPy or CUDA Python; None: torch's current one.

Rows without any key give output 0 and lse -inf. Returns out, or (out, lse). Errors: InvalidArgument
for an array of the wrong rank, shape, dtype, stride or device, a page id that the cache does not have,
a missing or unknown parameter; TypeError for what is no array; Error (invalid_state) for a plan of
other attentions, not updated, or in use. Releases the GIL.)";

// All that a run is given besides the plan, q, kv and outputs.
struct RunOptions {
  std::optional<float> sm_scale, logits_soft_cap;
  nb::handle q_scale, k_scale, v_scale, out_scale, sinks, params, padding, stream;
};

Padding to_padding(nb::handle padding) {
  return to_choice<Padding>(padding, "padding", {{"keep", Padding::keep}, {"zero", Padding::zero}});
}

std::array<std::int64_t, 3> output_shape(const AttentionSpec& spec, const TensorView& q) {
  if (q.rank != 3) {
    raise_invalid(fmt::format("q is {}: it must be [tokens, num_qo_heads, head_dim]",
                              q.defined() ? q.describe() : "None"));
  }
  return {q.shape[0], spec.num_qo_heads, spec.value_dim()};
}

RunArgs to_run_args(const RunOptions& options, Device device, Keep& keep) {
  RunArgs args;
  args.sm_scale = options.sm_scale;
  args.logits_soft_cap = options.logits_soft_cap;
  args.q_scale = to_scale(options.q_scale, "q_scale", keep);
  args.k_scale = to_scale(options.k_scale, "k_scale", keep);
  args.v_scale = to_scale(options.v_scale, "v_scale", keep);
  args.out_scale = to_scale(options.out_scale, "out_scale", keep);
  args.sinks = view_of(options.sinks, "sinks", keep);
  args.params = to_params(options.params, "params", keep);
  args.padding = to_padding(options.padding);
  args.stream = to_stream(options.stream, device);
  return args;
}

void call_run(const Attention& attention, HeldPlan& plan, const TensorView& q, nb::handle kv,
              nb::handle layout, const RunArgs& args, Keep& keep) {
  if (!PyList_Check(kv.ptr())) {
    const KvCache cache = to_kv_cache(kv, "kv", layout, keep);
    const HeldPlan::Use use(plan);
    const nb::gil_scoped_release release;
    attention.run(plan.plan(), q, cache, args);
    return;
  }
  std::vector<KvCache> levels;
  for (const nb::handle level : kv) levels.push_back(to_kv_cache(level, "kv", layout, keep));
  const HeldPlan::Use use(plan);
  const nb::gil_scoped_release release;
  attention.run(plan.plan(), q, levels, args);
}

}  // namespace

void bind_run(nb::class_<Attention>& attention) {
  attention.def(
      "run",
      [](const Attention& self, HeldPlan& plan, nb::handle q, nb::handle kv, nb::object out,
         nb::object lse, bool return_lse, std::optional<float> sm_scale,
         std::optional<float> logits_soft_cap, nb::handle q_scale, nb::handle k_scale,
         nb::handle v_scale, nb::handle out_scale, nb::handle sinks, nb::handle params,
         nb::handle padding, nb::handle layout, nb::handle stream) -> nb::object {
        Keep keep;
        const TensorView q_view = view_of(q, "q", keep);
        RunArgs args = to_run_args({sm_scale, logits_soft_cap, q_scale, k_scale, v_scale, out_scale,
                                    sinks, params, padding, stream},
                                   self.device(), keep);
        const std::array<std::int64_t, 3> shape = output_shape(self.spec(), q_view);
        Output output(std::move(out), q, self.spec().output_dtype(), shape);
        if (output.is_new()) args.padding = Padding::zero;
        args.out = output.view("out", keep);
        if (!return_lse) {
          args.lse = view_of(lse, "lse", keep, Access::write);
          call_run(self, plan, q_view, kv, layout, args, keep);
          return output.result();
        }
        Output output_lse(std::move(lse), q, DType::f32, std::span(shape).first(2));
        args.lse = output_lse.view("lse", keep);
        call_run(self, plan, q_view, kv, layout, args, keep);
        return nb::make_tuple(output.result(), output_lse.result());
      },
      "plan"_a, "q"_a.none(), "kv"_a.none(), nb::kw_only(), "out"_a = nb::none(),
      "lse"_a = nb::none(), "return_lse"_a = false, "sm_scale"_a = nb::none(),
      "logits_soft_cap"_a = nb::none(), "q_scale"_a = 1.0, "k_scale"_a = 1.0, "v_scale"_a = 1.0,
      "out_scale"_a = 1.0, "sinks"_a = nb::none(), "params"_a = nb::none(), "padding"_a = "keep",
      "layout"_a = nb::none(), "stream"_a = nb::none(), nb::sig(kSignature), kDoc);
}

}  // namespace tilewright::python
