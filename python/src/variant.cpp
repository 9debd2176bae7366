// SPDX-License-Identifier: Apache-2.0
// Variants and the ready-made ones.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <tilewright/variants.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

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

void bind_mask_variants(nb::module_& m) {
  m.def("full", &variants::full, "logits_soft_cap"_a = 0.0,
        "Every query attends to all keys. A soft cap c > 0 replaces logits by c * tanh(logit / c); "
        "it is the run\nparameter \"logits_soft_cap\", whose default is given here.");
  m.def("causal", &variants::causal, "window_left"_a = -1, "logits_soft_cap"_a = 0.0,
        "Keys up to the query's position; with window_left >= 0 only the last window_left + 1 of "
        "them.");
  m.def("sliding_window", &variants::sliding_window, "left"_a, "right"_a, "logits_soft_cap"_a = 0.0,
        "Keys from q_pos - left to q_pos + right; a negative bound means no bound on that side.");
  m.def("attention_sink", &variants::attention_sink, "sink_tokens"_a, "window_left"_a,
        "logits_soft_cap"_a = 0.0,
        "Causal, with the request's first sink_tokens keys and the last window_left + 1 "
        "(StreamingLLM, arXiv 2309.17453).\nThe sink that is a learned logit of each head is the "
        "argument `sinks` of Attention.run.");
  m.def("prefix_lm", &variants::prefix_lm,
        "Causal, and a request's first prefix_len[batch] keys are seen by all its queries; plan "
        "parameter \"prefix_len\"\n[requests].");
  m.def("causal_by_request", &variants::causal_by_request,
        "Causal for requests with causal[batch] != 0, full for the others; plan parameter "
        "\"causal\" [requests].");
  m.def("chunked_local", &variants::chunked_local, "chunk_size"_a,
        "Causal within chunks of chunk_size positions (Llama 4's local layers).");
  m.def("block_causal", &variants::block_causal, "block_size"_a,
        "Blocks of block_size positions see themselves whole and all blocks before them.");
}

void bind_table_masks(nb::module_& m) {
  m.def("document", &variants::document, "causal"_a = true,
        "Queries see the keys of their own document. Plan parameters \"document_begin\" and, if "
        "not causal,\n\"document_end\", by query token: document_bounds() makes them.");
  m.def("bidirectional_spans", &variants::bidirectional_spans,
        "Causal, and the tokens of a span (an image inside a text) see each other. Plan parameter "
        "\"span_end\", by query\ntoken: span_ends() makes it.");
  m.def("tree", &variants::tree,
        "A request's query tokens are its last keys and the nodes of a tree (speculative "
        "decoding); plan parameter\n\"tree_mask\": tree_mask() makes it.");
  m.def("dense_mask", &variants::dense_mask,
        "Query token i sees key j where mask[i, j] != 0; plan parameter \"mask\" [query tokens, "
        "kv], bool, uint8 or int32.");
  m.def("packed_mask", &variants::packed_mask,
        "The same with a bit for each pair, as FlashInfer packs them (little-endian, each "
        "request's [q_len, kv_len] flattened):\nplan parameters \"packed_mask\" uint8 [bytes] and "
        "\"packed_mask_indptr\" [requests or more], the byte where a request\nbegins.");
  m.def("block_sparse", &variants::block_sparse, "q_block"_a, "kv_block"_a,
        "Blocks of q_block query tokens and kv_block positions are seen whole or not at all; plan "
        "parameter \"block_mask\"\n[requests, query blocks, KV blocks], bool, uint8 or int32.");
}

void bind_logits(nb::module_& m) {
  m.def("alibi", &variants::alibi,
        "Causal with the bias slope[q_head] * (kv_pos - q_pos) (arXiv 2108.12409); run parameter "
        "\"slope\", float32\n[num_qo_heads]: alibi_slopes() are the paper's.");
  m.def("t5_relative_bias", &variants::t5_relative_bias, "bidirectional"_a, "num_buckets"_a = 32,
        "max_distance"_a = 128,
        "T5's relative position bias (arXiv 1910.10683), bidirectional as in the encoder or causal "
        "as in the decoder; run\nparameter \"relative_bias\" [num_qo_heads, num_buckets], the "
        "checkpoint's matrix transposed.");
  m.def("additive_bias", &variants::additive_bias, "per_head"_a = false,
        "A bias added to each logit, -inf masks; run parameter \"bias\" [query tokens, kv] or, per "
        "head, [num_qo_heads, query\ntokens, kv].");
  m.def("sigmoid_attention", &variants::sigmoid, "bias"_a = 0.0, "causal"_a = true,
        "No softmax: weights are sigmoid(logit + b) (arXiv 2409.04431 takes b = -log(kv_len)). Run "
        "parameter \"sigmoid_bias\",\nby default `bias`.");
}

std::vector<std::int32_t> to_integers(nb::handle object, const char* name) {
  Keep keep;
  const TensorView view = kept_view_of(object, name, DType::i32, keep);
  if (view.rank != 1) raise_invalid(fmt::format("{} must have rank 1", name));
  std::vector<std::int32_t> values(static_cast<std::size_t>(view.shape[0]));
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] =
        static_cast<const std::int32_t*>(view.data)[static_cast<std::int64_t>(i) * view.strides[0]];
  }
  return values;
}

template <typename T>
nb::object to_array(const std::vector<T>& values, DType dtype,
                    std::initializer_list<std::int64_t> shape) {
  Output array(nb::none(), nb::none(), dtype, std::span(shape.begin(), shape.size()));
  Keep keep;
  std::copy(values.begin(), values.end(), static_cast<T*>(array.view("array", keep).data));
  return array.result();
}

nb::object to_array(const std::vector<std::int32_t>& values) {
  return to_array(values, DType::i32, {static_cast<std::int64_t>(values.size())});
}

nb::object to_array(const variants::TreeMask& mask) {
  return to_array(mask.bits, DType::i32, {mask.nodes, mask.words});
}

// What variants.py gives its names and defaults; arrays are int32.
void bind_tables(nb::module_& m) {
  m.def("_alibi_slopes", [](int num_heads) {
    const std::vector<float> slopes = variants::alibi_slopes(num_heads);
    return to_array(slopes, DType::f32, {static_cast<std::int64_t>(slopes.size())});
  });
  m.def("_document_bounds", [](nb::handle document) {
    const auto bounds = variants::document_bounds(to_integers(document, "document"));
    return nb::make_tuple(to_array(bounds.begin), to_array(bounds.end));
  });
  m.def("_span_ends",
        [](nb::handle span) { return to_array(variants::span_ends(to_integers(span, "span"))); });
  m.def("_tree_from_parents", [](nb::handle qo_indptr, nb::handle parents) {
    return to_array(variants::TreeMask::from_parents(to_integers(qo_indptr, "qo_indptr"),
                                                     to_integers(parents, "parents")));
  });
  m.def(
      "_tree_from_links", [](nb::handle qo_indptr, nb::handle next_token, nb::handle next_sibling) {
        return to_array(variants::TreeMask::from_links(to_integers(qo_indptr, "qo_indptr"),
                                                       to_integers(next_token, "next_token"),
                                                       to_integers(next_sibling, "next_sibling")));
      });
  m.def("_tree_from_matrices", [](nb::handle qo_indptr, nb::handle seen) {
    const auto flat = to_integers(seen, "matrices");
    std::vector<std::uint8_t> bits;
    bits.reserve(flat.size());
    for (const std::int32_t pair : flat) bits.push_back(pair != 0 ? 1 : 0);
    return to_array(variants::TreeMask::from_matrices(to_integers(qo_indptr, "qo_indptr"), bits));
  });
}

}  // namespace

void bind_variant(nb::module_& m) {
  bind_variant_class(m);
  bind_mask_variants(m);
  bind_table_masks(m);
  bind_logits(m);
  bind_tables(m);
}

}  // namespace tilewright::python
