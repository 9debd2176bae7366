// SPDX-License-Identifier: Apache-2.0
// Block structures, and maps of what a mask looks like to the planner.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <tilewright/explain.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "bindings.h"
#include "held.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

nb::object copy_of(const TensorView& view) {
  Output array(nb::none(), nb::none(), view.dtype, std::span(view.shape.data(), 1));
  Keep keep;
  std::memcpy(array.view("array", keep).data, view.data,
              static_cast<std::size_t>(view.numel() * dtype_bytes(view.dtype)));
  return array.result();
}

// The caller's own array where it is on a device.
nb::object copy_or_given(const TensorView& view, const nb::object& given) {
  if (!view.defined()) return nb::none();
  return view.device.type == DeviceType::cpu ? copy_of(view) : given;
}

HeldBlocks make_blocks(std::int64_t q_block, std::int64_t kv_block, nb::handle request_rows,
                       nb::handle indptr, nb::handle indices, nb::handle full, int num_kv_heads) {
  HeldBlocks held;
  BlockStructure& blocks = held.blocks;
  blocks.q_block = q_block;
  blocks.kv_block = kv_block;
  blocks.num_kv_heads = num_kv_heads;
  blocks.request_rows = kept_view_of(request_rows, "request_rows", DType::i32, held.keep);
  blocks.indptr = kept_view_of(indptr, "indptr", DType::i32, held.keep);
  blocks.indices = kept_view_of(indices, "indices", DType::i32, held.keep);
  if (!full.is_none()) {
    const nb::object flags = without_bool(full);
    blocks.full = view_of(flags, "full", held.keep);
    held.keep.push_back(flags);
  }
  held.request_rows = nb::borrow(request_rows);
  held.indptr = nb::borrow(indptr);
  held.indices = nb::borrow(indices);
  held.full = nb::borrow(full);
  return held;
}

HeldBlocks build_blocks(const Variant& variant, const HeldBatch& batch, nb::handle params,
                        std::int64_t q_block, std::int64_t kv_block, int num_qo_heads,
                        int num_kv_heads) {
  Keep keep;
  const std::vector<ParamValue> values = to_params(params, "params", keep);
  const nb::gil_scoped_release release;
  HeldBlocks held;
  held.blocks =
      block_structure(variant, batch.batch, values, q_block, kv_block, num_qo_heads, num_kv_heads);
  return held;
}

void bind_block_structure(nb::module_& m) {
  nb::class_<HeldBlocks>(
      m, "BlockStructure",
      "For each block of query tokens, the blocks of KV positions in which some query attends to "
      "some key: lets a plan\nskip the others (Plan.update's `blocks`). block_structure() makes it "
      "from a mask.\n\nrequest_rows: [requests + 1], the block rows of each request; indptr: "
      "[block rows * num_kv_heads + 1]; indices:\n[entries], KV blocks, ascending in a list; full: "
      "[entries], true where every pair attends. A block that is not\nlisted is taken for empty; "
      "inside those that are not full the mask decides. On CUDA all arrays are on the GPU.")
      .def(
          "__init__",
          [](HeldBlocks* self, std::int64_t q_block, std::int64_t kv_block, nb::handle request_rows,
             nb::handle indptr, nb::handle indices, nb::handle full, int num_kv_heads) {
            new (self) HeldBlocks(
                make_blocks(q_block, kv_block, request_rows, indptr, indices, full, num_kv_heads));
          },
          nb::kw_only(), "q_block"_a, "kv_block"_a, "request_rows"_a, "indptr"_a, "indices"_a,
          "full"_a = nb::none(), "num_kv_heads"_a = 1,
          nb::sig("def __init__(self, *, q_block: int, kv_block: int, request_rows: "
                  "tilewright._typing.Indices, indptr: tilewright._typing.Indices, indices: "
                  "tilewright._typing.Indices, full: tilewright._typing.Array | None = None, "
                  "num_kv_heads: int = 1) -> None"))
      .def_prop_ro("q_block", [](const HeldBlocks& b) { return b.blocks.q_block; })
      .def_prop_ro("kv_block", [](const HeldBlocks& b) { return b.blocks.kv_block; })
      .def_prop_ro("num_kv_heads", [](const HeldBlocks& b) { return b.blocks.num_kv_heads; })
      .def_prop_ro(
          "request_rows",
          [](const HeldBlocks& b) { return copy_or_given(b.blocks.request_rows, b.request_rows); },
          nb::sig("def request_rows(self) -> tilewright._typing.Array"),
          "A copy, as those below; of arrays on a GPU these themselves.")
      .def_prop_ro(
          "indptr", [](const HeldBlocks& b) { return copy_or_given(b.blocks.indptr, b.indptr); },
          nb::sig("def indptr(self) -> tilewright._typing.Array"))
      .def_prop_ro(
          "indices", [](const HeldBlocks& b) { return copy_or_given(b.blocks.indices, b.indices); },
          nb::sig("def indices(self) -> tilewright._typing.Array"))
      .def_prop_ro(
          "full", [](const HeldBlocks& b) { return copy_or_given(b.blocks.full, b.full); },
          nb::sig("def full(self) -> tilewright._typing.Array | None"))
      .def("__repr__", [](const HeldBlocks& b) {
        return fmt::format("<tilewright.BlockStructure of {} x {}, {} blocks>", b.blocks.q_block,
                           b.blocks.kv_block, b.blocks.indices.numel());
      });
  m.def("block_structure", &build_blocks, "variant"_a, "batch"_a, "params"_a = nb::none(),
        nb::kw_only(), "q_block"_a = 64, "kv_block"_a = 64, "num_qo_heads"_a = 0,
        "num_kv_heads"_a = 0,
        nb::sig("def block_structure(variant: Variant, batch: Batch, params: "
                "collections.abc.Mapping[str, tilewright._typing.Scalar] | None = None, *, "
                "q_block: int = 64, kv_block: int = 64, num_qo_heads: int = 0, num_kv_heads: int = "
                "0) -> BlockStructure"),
        "The structure of a variant's mask over a batch (with kv_lens), from its evaluation on all "
        "threads. params: the\nmask's parameters, whenever they bind. Head counts are needed where "
        "the mask depends on the head. Releases the GIL.");
}

MaskMap explain_variant(const Variant& variant, std::int64_t q_len, std::int64_t kv_len,
                        nb::handle params, std::int64_t q_tile, std::int64_t kv_block,
                        int num_qo_heads, int num_kv_heads,
                        std::optional<std::int64_t> q_pos_offset) {
  Keep keep;
  const std::vector<ParamValue> values = to_params(params, "params", keep);
  if (q_pos_offset && *q_pos_offset < 0) {
    raise_invalid(fmt::format("q_pos_offset is {}: it must not be negative", *q_pos_offset));
  }
  ExplainOptions options;
  options.q_tile = q_tile;
  options.kv_block = kv_block;
  options.num_qo_heads = num_qo_heads;
  options.num_kv_heads = num_kv_heads;
  options.q_pos_offset = q_pos_offset.value_or(-1);
  const nb::gil_scoped_release release;
  return explain(variant, q_len, kv_len, values, options);
}

nb::object kinds_of(const MaskMap& map, const std::vector<TileKind>& kinds) {
  const std::int64_t shape[] = {map.rows, map.columns};
  Output array(nb::none(), nb::none(), DType::u8, shape);
  Keep keep;
  std::memcpy(array.view("array", keep).data, kinds.data(), kinds.size());
  return array.result();
}

void bind_mask_map(nb::module_& m) {
  nb::class_<MaskMap>(m, "MaskMap",
                      "What a mask looks like to the planner: str() is a text, svg() a picture; "
                      "notebooks show the picture.\n\ntiles, exact: uint8 [rows, columns], 0 for "
                      "empty tiles, 1 mixed, 2 full; as a plan knows them, and as an evaluation "
                      "of\nevery pair shows them.")
      .def_ro("q_len", &MaskMap::q_len)
      .def_ro("kv_len", &MaskMap::kv_len)
      .def_ro("q_tile", &MaskMap::q_tile)
      .def_ro("kv_block", &MaskMap::kv_block)
      .def_ro("mask_class", &MaskMap::mask_class,
              "\"none\", \"closed form\", \"row bounds\" or \"elementwise\".")
      .def_prop_ro(
          "tiles", [](const MaskMap& map) { return kinds_of(map, map.tiles); },
          nb::sig("def tiles(self) -> numpy.ndarray"))
      .def_prop_ro(
          "exact", [](const MaskMap& map) { return kinds_of(map, map.exact); },
          nb::sig("def exact(self) -> numpy.ndarray"))
      .def_prop_ro("empty", [](const MaskMap& map) { return map.count(TileKind::empty); })
      .def_prop_ro("mixed", [](const MaskMap& map) { return map.count(TileKind::mixed); })
      .def_prop_ro("full", [](const MaskMap& map) { return map.count(TileKind::full); })
      .def_ro("pairs", &MaskMap::pairs, "(query, key) that attend, of head 0.")
      .def_prop_ro("saved", &MaskMap::saved, "The share of tiles that a plan skips.")
      .def_prop_ro("saved_by_structure", &MaskMap::saved_by_structure,
                   "The share that it would with a block structure.")
      .def("text", &MaskMap::text, "Counts, and a map of letters: . empty, + mixed, # full.")
      .def("svg", &MaskMap::svg, "The map as a picture, with its pairs where there are few.")
      .def("__str__", &MaskMap::text)
      .def("_repr_svg_", &MaskMap::svg);
}

}  // namespace

void bind_masks(nb::module_& m) {
  bind_block_structure(m);
  bind_mask_map(m);
  nb::handle variant = m.attr("Variant");
  nb::cpp_function_def(
      &explain_variant, nb::scope(variant), nb::name("explain"), nb::is_method(), "q_len"_a,
      "kv_len"_a, "params"_a = nb::none(), nb::kw_only(), "q_tile"_a = 64, "kv_block"_a = 64,
      "num_qo_heads"_a = 1, "num_kv_heads"_a = 1, "q_pos_offset"_a = nb::none(),
      nb::sig("def explain(self, q_len: int, kv_len: int, params: collections.abc.Mapping[str, "
              "tilewright._typing.Scalar] | None = None, *, q_tile: int = 64, kv_block: int = 64, "
              "num_qo_heads: int = 1, num_kv_heads: int = 1, q_pos_offset: int | None = None) -> "
              "MaskMap"),
      "The map of the mask over one request. params: the mask's parameters, whenever they bind. "
      "Head counts are for masks\nthat depend on the head, of which the first KV head's tiles are "
      "shown. The queries are the last tokens, unless\nq_pos_offset says where the first one "
      "stands.");
}

}  // namespace tilewright::python
