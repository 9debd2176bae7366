// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding: its descriptions and the operators.
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>
#include <tilewright/ops.h>

#include <algorithm>

#include "bindings.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

void bind_scalings(nb::module_& m) {
  nb::class_<NtkScaling>(m, "NtkScaling",
                         "NTK-aware scaling of RoPE: theta becomes theta * factor^(dim / (dim - "
                         "2)).\n\nDynamic NTK is this with the factor f * length / "
                         "original_max_position - (f - 1).")
      .def(
          "__init__", [](NtkScaling* self, double factor) { new (self) NtkScaling{factor}; },
          nb::kw_only(), "factor"_a)
      .def_ro("factor", &NtkScaling::factor);
  nb::class_<Llama3Scaling>(
      m, "Llama3Scaling",
      "Llama 3.1's scaling of RoPE: wavelengths above original_max_position / low_freq_factor are "
      "stretched by factor,\nthose below original_max_position / high_freq_factor are left, others "
      "are in between.")
      .def(
          "__init__",
          [](Llama3Scaling* self, double factor, double low, double high, double original) {
            new (self) Llama3Scaling{factor, low, high, original};
          },
          nb::kw_only(), "factor"_a = 8.0, "low_freq_factor"_a = 1.0, "high_freq_factor"_a = 4.0,
          "original_max_position"_a = 8192.0)
      .def_ro("factor", &Llama3Scaling::factor)
      .def_ro("low_freq_factor", &Llama3Scaling::low_freq_factor)
      .def_ro("high_freq_factor", &Llama3Scaling::high_freq_factor)
      .def_ro("original_max_position", &Llama3Scaling::original_max_position);
  nb::class_<YarnScaling>(
      m, "YarnScaling",
      "YaRN (arXiv 2309.00071): pairs that turn less than beta_slow times over "
      "original_max_position are stretched by\nfactor, those that turn more than beta_fast times "
      "are left, with a ramp in between.\n\nattention_factor: cosines and sines are multiplied by "
      "it; 0: 0.1 * ln(factor) + 1 for factors above 1, else 1.\ntruncate: the ramp's ends are "
      "rounded outwards to whole pairs.")
      .def(
          "__init__",
          [](YarnScaling* self, double factor, double original, double fast, double slow,
             double attention_factor, bool truncate) {
            new (self) YarnScaling{factor, original, fast, slow, attention_factor, truncate};
          },
          nb::kw_only(), "factor"_a, "original_max_position"_a = 4096.0, "beta_fast"_a = 32.0,
          "beta_slow"_a = 1.0, "attention_factor"_a = 0.0, "truncate"_a = true)
      .def_ro("factor", &YarnScaling::factor)
      .def_ro("original_max_position", &YarnScaling::original_max_position)
      .def_ro("beta_fast", &YarnScaling::beta_fast)
      .def_ro("beta_slow", &YarnScaling::beta_slow)
      .def_ro("attention_factor", &YarnScaling::attention_factor)
      .def_ro("truncate", &YarnScaling::truncate);
  nb::class_<LongRopeScaling>(
      m, "LongRopeScaling",
      "LongRoPE (arXiv 2402.13753) and GGUF's rope_freqs: the frequency of pair i is divided by "
      "factors[i].\n\nfactors: dim / 2 numbers. attention_factor: cosines and sines are multiplied "
      "by it.")
      .def(
          "__init__",
          [](LongRopeScaling* self, std::vector<double> factors, double attention_factor) {
            new (self) LongRopeScaling{std::move(factors), attention_factor};
          },
          nb::kw_only(), "factors"_a, "attention_factor"_a = 1.0,
          nb::sig("def __init__(self, *, factors: collections.abc.Sequence[float], "
                  "attention_factor: float = 1.0) -> None"))
      .def_ro("factors", &LongRopeScaling::factors)
      .def_ro("attention_factor", &LongRopeScaling::attention_factor);
}

std::string text_of(const RopeSpec& rope) {
  Variant variant;
  variant.rope = rope;
  return variant.serialize();
}

void bind_spec(nb::module_& m) {
  nb::class_<RopeSpec>(
      m, "RopeSpec",
      "Rotary position embedding (arXiv 2104.09864) of a head's first `dim` elements (0: all of "
      "them).\n\nposition_scale: positions are multiplied by it; 1 / factor is linear scaling. "
      "interleaved: pairs are\n(2i, 2i + 1); else (i, i + dim / 2), \"rotate half\". scaling: a "
      "NtkScaling, Llama3Scaling, YarnScaling or\nLongRopeScaling.")
      .def(
          "__init__",
          [](RopeSpec* self, int dim, double theta, double position_scale, bool interleaved,
             const RopeScaling& scaling) {
            new (self) RopeSpec{dim, theta, position_scale, interleaved, scaling};
          },
          nb::kw_only(), "dim"_a = 0, "theta"_a = 10000.0, "position_scale"_a = 1.0,
          "interleaved"_a = false, "scaling"_a.none() = nb::none())
      .def_ro("dim", &RopeSpec::dim)
      .def_ro("theta", &RopeSpec::theta)
      .def_ro("position_scale", &RopeSpec::position_scale)
      .def_ro("interleaved", &RopeSpec::interleaved)
      .def_ro("scaling", &RopeSpec::scaling)
      .def(
          "__eq__",
          [](const RopeSpec& a, nb::handle b) {
            return nb::isinstance<RopeSpec>(b) && a == nb::cast<const RopeSpec&>(b);
          },
          nb::sig("def __eq__(self, other: object, /) -> bool"))
      .def("__hash__", [](const RopeSpec& rope) { return nb::hash(nb::cast(text_of(rope))); });
}

RopeSections to_sections(const std::vector<int>& pairs, bool interleaved) {
  if (pairs.size() > RopeSections::kMaxAxes) {
    raise_invalid(fmt::format("sections has {} axes: at most {} are possible", pairs.size(),
                              RopeSections::kMaxAxes));
  }
  RopeSections sections;
  std::copy(pairs.begin(), pairs.end(), sections.pairs.begin());
  sections.interleaved = interleaved;
  return sections;
}

// rotate(x, positions, out, stream) with the result as the callers see it.
template <typename Rotate>
nb::object rotated(nb::handle x, nb::handle positions, nb::object out, nb::handle stream,
                   Keep& keep, const Rotate& rotate) {
  const TensorView view = required(x, "x", keep);
  const TensorView where = list_or_view_of(positions, "positions", DType::i64, keep);
  Output result(std::move(out), x, view.dtype, std::span(view.shape).first(view.rank));
  const TensorView out_view = result.view("out", keep);
  const Stream on = to_stream(stream, view.device);
  {
    const nb::gil_scoped_release release;
    rotate(view, where, out_view, on);
  }
  return result.result();
}

void bind_operators(nb::module_& m) {
  m.def(
      "apply_rope",
      [](nb::handle x, nb::handle positions, int dim, double theta, double position_scale,
         bool interleaved, const RopeScaling& scaling, const std::vector<int>& sections,
         bool interleaved_sections, nb::object out, nb::handle stream) {
        Keep keep;
        const RopeSpec rope{dim, theta, position_scale, interleaved, scaling};
        const RopeSections axes = to_sections(sections, interleaved_sections);
        return rotated(x, positions, std::move(out), stream, keep,
                       [&](const TensorView& from, const TensorView& where, const TensorView& to,
                           Stream on) { apply_rope(from, where, to, rope, axes, on); });
      },
      "x"_a.none(), "positions"_a.none(), nb::kw_only(), "dim"_a = 0, "theta"_a = 10000.0,
      "position_scale"_a = 1.0, "interleaved"_a = false, "scaling"_a.none() = nb::none(),
      "sections"_a = std::vector<int>(), "interleaved_sections"_a = false, "out"_a = nb::none(),
      "stream"_a = nb::none(),
      nb::sig(
          "def apply_rope(x: tilewright._typing.ArrayT, positions: tilewright._typing.Indices, *, "
          "dim: int = 0, theta: float = 10000.0, position_scale: float = 1.0, interleaved: bool = "
          "False, scaling: NtkScaling | Llama3Scaling | YarnScaling | LongRopeScaling | None = "
          "None, sections: collections.abc.Sequence[int] = (), interleaved_sections: bool = "
          "False, out: tilewright._typing.ArrayT | None = None, stream: object | None = None) -> "
          "tilewright._typing.ArrayT"),
      "Rotates x [tokens, heads, head_dim] by positions, int32 or int64 [tokens] (arXiv "
      "2104.09864).\n\n"
      "dim: the first `dim` elements of a head (0: all). interleaved: pairs are (2i, 2i + 1), else "
      "(i, i + dim / 2).\nposition_scale and scaling: as in RopeSpec. sections: how many pairs "
      "turn "
      "by each axis of positions\n[axes, tokens] (at most 4), in blocks as in Qwen2-VL, or with "
      "interleaved_sections in turn as in Qwen3-VL.\nout may be x. Returns out.");
  m.def(
      "apply_rope_with_cos_sin_cache",
      [](nb::handle x, nb::handle positions, nb::handle cos_sin_cache, bool interleaved,
         const std::vector<int>& sections, bool interleaved_sections, nb::object out,
         nb::handle stream) {
        Keep keep;
        const TensorView table = required(cos_sin_cache, "cos_sin_cache", keep);
        const RopeSections axes = to_sections(sections, interleaved_sections);
        return rotated(
            x, positions, std::move(out), stream, keep,
            [&](const TensorView& from, const TensorView& where, const TensorView& to, Stream on) {
              apply_rope_with_cos_sin_cache(from, where, table, to, interleaved, axes, on);
            });
      },
      "x"_a.none(), "positions"_a.none(), "cos_sin_cache"_a.none(), nb::kw_only(),
      "interleaved"_a = false, "sections"_a = std::vector<int>(), "interleaved_sections"_a = false,
      "out"_a = nb::none(), "stream"_a = nb::none(),
      nb::sig(
          "def apply_rope_with_cos_sin_cache(x: tilewright._typing.ArrayT, positions: "
          "tilewright._typing.Indices, cos_sin_cache: tilewright._typing.Array, *, interleaved: "
          "bool = False, sections: collections.abc.Sequence[int] = (), interleaved_sections: bool "
          "= False, out: tilewright._typing.ArrayT | None = None, stream: object | None = None) -> "
          "tilewright._typing.ArrayT"),
      "apply_rope with cosines and sines from a table [positions, dim] of float32, float16 or "
      "bfloat16, as vLLM's\ncos_sin_cache: a row holds dim / 2 cosines, then dim / 2 sines. The "
      "first dim elements of a head are rotated. A\nposition outside the table raises "
      "InvalidArgument. Returns out.");
}

void bind_rope_and_cache(nb::module_& m) {
  m.def(
      "apply_rope_and_write_kv_cache",
      [](nb::handle q, nb::handle k, nb::handle v, nb::handle positions, nb::handle kv,
         nb::handle slot_mapping, const RopeSpec* rope, nb::handle cos_sin_cache, bool interleaved,
         const std::vector<int>& sections, bool interleaved_sections, nb::handle q_norm_weight,
         nb::handle k_norm_weight, float eps, float weight_offset, nb::handle layout,
         nb::handle k_scale, nb::handle v_scale, nb::handle token_indptr, nb::object out,
         nb::handle stream) {
        Keep keep;
        const TensorView keys = required(k, "k", keep);
        const TensorView values = required(v, "v", keep);
        const KvCache cache = to_kv_cache(kv, "kv", layout, keep, Access::write);
        const TensorView slots = list_or_view_of(slot_mapping, "slot_mapping", DType::i64, keep);
        RopeAndCacheArgs args;
        args.cos_sin_cache = view_of(cos_sin_cache, "cos_sin_cache", keep);
        if (rope != nullptr) {
          if (args.cos_sin_cache.defined()) {
            raise_invalid("rope and cos_sin_cache are given: one of them must be None");
          }
          args.rope = *rope;
        }
        if (args.cos_sin_cache.defined()) args.rope.interleaved = interleaved;
        args.sections = to_sections(sections, interleaved_sections);
        args.qk_norm = {view_of(q_norm_weight, "q_norm_weight", keep),
                        view_of(k_norm_weight, "k_norm_weight", keep), eps, weight_offset};
        args.k_scale = to_scale(k_scale, "k_scale", keep);
        args.v_scale = to_scale(v_scale, "v_scale", keep);
        args.token_indptr = list_or_view_of(token_indptr, "token_indptr", DType::i64, keep);
        return rotated(
            q, positions, std::move(out), stream, keep,
            [&](const TensorView& from, const TensorView& where, const TensorView& to, Stream on) {
              args.stream = on;
              apply_rope_and_write_kv_cache(from, keys, values, where, to, cache, slots, args);
            });
      },
      "q"_a.none(), "k"_a.none(), "v"_a.none(), "positions"_a.none(), "kv"_a.none(),
      "slot_mapping"_a.none(), nb::kw_only(), "rope"_a.none() = nb::none(),
      "cos_sin_cache"_a = nb::none(), "interleaved"_a = false, "sections"_a = std::vector<int>(),
      "interleaved_sections"_a = false, "q_norm_weight"_a = nb::none(),
      "k_norm_weight"_a = nb::none(), "eps"_a = 1e-6F, "weight_offset"_a = 0.0F,
      "layout"_a = nb::none(), "k_scale"_a = 1.0, "v_scale"_a = 1.0, "token_indptr"_a = nb::none(),
      "out"_a = nb::none(), "stream"_a = nb::none(),
      nb::sig(
          "def apply_rope_and_write_kv_cache(q: tilewright._typing.ArrayT, k: "
          "tilewright._typing.Array, v: tilewright._typing.Array, positions: "
          "tilewright._typing.Indices, kv: tilewright._typing.KvLike, slot_mapping: "
          "tilewright._typing.Indices, *, rope: RopeSpec | None = None, cos_sin_cache: "
          "tilewright._typing.Array | None = None, interleaved: bool = False, sections: "
          "collections.abc.Sequence[int] = (), interleaved_sections: bool = False, q_norm_weight: "
          "tilewright._typing.Array | None = None, k_norm_weight: tilewright._typing.Array | None "
          "= None, eps: float = 1e-6, weight_offset: float = 0.0, layout: str | None = None, "
          "k_scale: tilewright._typing.Scalar = 1.0, v_scale: tilewright._typing.Scalar = 1.0, "
          "token_indptr: tilewright._typing.Indices | None = None, out: tilewright._typing.ArrayT "
          "| None = None, stream: object | None = None) -> tilewright._typing.ArrayT"),
      "From the projection of q, k and v [tokens, heads, head_dim], for example slices of one "
      "array, to what attention\nreads, in one kernel: q rotated (returned), k rotated and v into "
      "the cache `kv`, as apply_rope and write_kv_cache.\n\n"
      "rope: a RopeSpec, by default RopeSpec(); or cos_sin_cache, to which interleaved belongs, as "
      "apply_rope_with_cos_sin_cache.\nq_norm_weight, k_norm_weight: [head_dim], for RMSNorm of "
      "each head before it is rotated (Qwen3), with eps and\nweight_offset. out may be q. Returns "
      "out.");
}

}  // namespace

void bind_rope(nb::module_& m) {
  bind_scalings(m);
  bind_spec(m);
  bind_operators(m);
  bind_rope_and_cache(m);
}

}  // namespace tilewright::python
