// SPDX-License-Identifier: Apache-2.0
// KvCache, PageTable and Level: values that keep the arrays which the library reads in place.
#include <tilewright/kv_cache.h>

#include "bindings.h"
#include "held.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

KvLayout to_layout(nb::handle layout) {
  if (layout.is_none()) return KvLayout::nhd;
  return to_choice<KvLayout>(layout, "layout", {{"NHD", KvLayout::nhd}, {"HND", KvLayout::hnd}});
}

TensorView kept_array(nb::handle object, const char* name, Keep& keep) {
  const TensorView view = view_of(object, name, keep);
  keep.push_back(nb::borrow(object));
  return view;
}

void bind_cache(nb::module_& m) {
  nb::class_<HeldCache>(
      m, "KvCache",
      "Where keys and values lie: pages of tokens, or tokens (page size 1). Any strides but a "
      "contiguous last\ndimension. Attention.run takes plain arrays too; this class is for forms "
      "that "
      "they do not tell, and keeps\nthem ready for the next call. The arrays are kept alive.")
      .def_static(
          "combined",
          [](nb::handle kv, nb::handle layout, int kv_dim) {
            HeldCache held;
            held.cache =
                KvCache::combined(kept_array(kv, "kv", held.keep), to_layout(layout), kv_dim);
            return held;
          },
          "kv"_a.none(), "layout"_a = "NHD", "kv_dim"_a = 1,
          nb::sig(
              "def combined(kv: tilewright._typing.Array, layout: str = \"NHD\", kv_dim: int = 1) "
              "-> KvCache"),
          "One array [pages, 2, page, heads, dim] (NHD) or [pages, 2, heads, page, dim] (HND); "
          "kv_dim = "
          "0 for [2, pages, ..].")
      .def_static(
          "separate",
          [](nb::handle k, nb::handle v, nb::handle layout) {
            HeldCache held;
            const TensorView k_view = kept_array(k, "k", held.keep);
            const TensorView v_view = kept_array(v, "v", held.keep);
            held.cache = KvCache::separate(k_view, v_view, to_layout(layout));
            return held;
          },
          "k"_a.none(), "v"_a.none(), "layout"_a = "NHD",
          nb::sig("def separate(k: tilewright._typing.Array, v: tilewright._typing.Array, layout: "
                  "str = "
                  "\"NHD\") -> KvCache"),
          "Two arrays [pages, page, heads, dim] (HND: [pages, heads, page, dim]), or [tokens, "
          "heads, dim] "
          "(HND: [heads,\ntokens, dim]) with page size 1.")
      .def_static(
          "interleaved",
          [](nb::handle kv, int head_dim, nb::handle layout) {
            HeldCache held;
            held.cache =
                KvCache::interleaved(kept_array(kv, "kv", held.keep), head_dim, to_layout(layout));
            return held;
          },
          "kv"_a.none(), "head_dim"_a, "layout"_a = "NHD",
          nb::sig(
              "def interleaved(kv: tilewright._typing.Array, head_dim: int, layout: str = \"NHD\") "
              "-> KvCache"),
          "K and V side by side in the last dimension, [.., head_dim + value_dim].");
}

void bind_page_table(nb::module_& m) {
  nb::class_<HeldTable> table(m, "PageTable",
                              "Which pages hold the tokens of each row (a request), in the forms "
                              "engines have. Index arrays "
                              "are int32 and are\nread in place until the last run under the plan: "
                              "they are kept alive and must "
                              "not change. Lists of ints are\ncopied. Entries past a row's length "
                              "are neither read nor checked.");
  table
      .def_static(
          "padded",
          [](nb::handle block_table, std::int64_t page_size, nb::handle row_ids) {
            HeldTable held;
            const TensorView pages =
                kept_view_of(block_table, "block_table", DType::i32, held.keep);
            const TensorView ids = kept_view_of(row_ids, "row_ids", DType::i32, held.keep);
            held.table = PageTable::padded(pages, page_size, ids);
            return held;
          },
          "block_table"_a.none(), "page_size"_a, "row_ids"_a = nb::none(),
          nb::sig("def padded(block_table: tilewright._typing.Array, page_size: int, row_ids: "
                  "tilewright._typing.Indices | None = None) -> PageTable"),
          "Block tables of vLLM and SGLang, int32 [rows, columns]: column c holds the page of "
          "tokens [c * "
          "page_size,\n(c + 1) * page_size). row_ids, int32 [requests]: request r has row "
          "row_ids[r].")
      .def_static(
          "csr",
          [](nb::handle indptr, nb::handle indices, std::int64_t page_size,
             nb::handle last_page_len) {
            HeldTable held;
            const TensorView pointers = kept_view_of(indptr, "indptr", DType::i32, held.keep);
            const TensorView pages = kept_view_of(indices, "indices", DType::i32, held.keep);
            const TensorView last =
                kept_view_of(last_page_len, "last_page_len", DType::i32, held.keep);
            held.table = PageTable::csr(pointers, pages, page_size, last);
            return held;
          },
          "indptr"_a.none(), "indices"_a.none(), "page_size"_a, "last_page_len"_a = nb::none(),
          nb::sig(
              "def csr(indptr: tilewright._typing.Indices, indices: tilewright._typing.Indices, "
              "page_size: int, last_page_len: tilewright._typing.Indices | None = None) -> "
              "PageTable"),
          "Row r has the pages indices[indptr[r] : indptr[r + 1]]; the last of them holds "
          "last_page_len[r] tokens (1 to\npage_size), unless the batch or the level gives kv_lens.")
      .def_static(
          "token_slots",
          [](nb::handle slots, nb::handle row_ids) {
            HeldTable held;
            const TensorView view = kept_view_of(slots, "slots", DType::i32, held.keep);
            const TensorView ids = kept_view_of(row_ids, "row_ids", DType::i32, held.keep);
            held.table = PageTable::token_slots(view, ids);
            return held;
          },
          "slots"_a.none(), "row_ids"_a = nb::none(),
          nb::sig("def token_slots(slots: tilewright._typing.Array, row_ids: "
                  "tilewright._typing.Indices | None = None) -> PageTable"),
          "A slot for each token, int32 [rows, columns]: page size 1.")
      .def_static(
          "ragged",
          [](nb::handle kv_indptr) {
            HeldTable held;
            held.table =
                PageTable::ragged(kept_view_of(kv_indptr, "kv_indptr", DType::i32, held.keep));
            return held;
          },
          "kv_indptr"_a.none(),
          nb::sig("def ragged(kv_indptr: tilewright._typing.Indices) -> PageTable"),
          "Tokens [kv_indptr[r], kv_indptr[r + 1]) of k and v [tokens, heads, dim]; gives the "
          "lengths.")
      .def_static(
          "contiguous",
          [](std::int64_t length) {
            return HeldTable{PageTable::contiguous(length), {}};
          },
          "length"_a, "k and v [rows, length, heads, dim]: row r is page r.")
      .def_prop_ro("page_size", [](const HeldTable& held) { return held.table.page_size; })
      .def(
          "_max_len", [](const HeldTable& held) { return longest_row(held.table); },
          "The longest row that the table tells of, or -1 where only kv_lens do.");
}

void bind_level(nb::module_& m) {
  nb::class_<HeldLevel>(
      m, "Level",
      "One level of a KV: rows of pages, each attended to by a range of query "
      "tokens; a shared prefix is "
      "a row that\ncovers several requests. All arrays are int32 and read in "
      "place.\n\nkv_lens [rows]: "
      "tokens of each row; default: what the table tells. qo_indptr [rows + 1]: "
      "query tokens of a row, of one or\nmany requests, or a part of one; default: "
      "a row for each request. q_rows: the query tokens behind qo_indptr, in\nany "
      "order, each at most once; default: 0, 1, 2, ... kv_pos [rows]: position of a "
      "row's first key; default: after\nthe levels before, which must then have the "
      "same number of keys for all its query tokens.")
      .def(
          "__init__",
          [](HeldLevel* self, const HeldTable& table, nb::handle kv_lens, nb::handle qo_indptr,
             nb::handle q_rows, nb::handle kv_pos) {
            HeldLevel held;
            held.keep = table.keep;
            held.level.table = table.table;
            held.level.kv_lens = kept_view_of(kv_lens, "kv_lens", DType::i32, held.keep);
            held.level.qo_indptr = kept_view_of(qo_indptr, "qo_indptr", DType::i32, held.keep);
            held.level.q_rows = kept_view_of(q_rows, "q_rows", DType::i32, held.keep);
            held.level.kv_pos = kept_view_of(kv_pos, "kv_pos", DType::i32, held.keep);
            new (self) HeldLevel(std::move(held));
          },
          "table"_a, nb::kw_only(), "kv_lens"_a = nb::none(), "qo_indptr"_a = nb::none(),
          "q_rows"_a = nb::none(), "kv_pos"_a = nb::none(),
          nb::sig("def __init__(self, table: PageTable, *, kv_lens: tilewright._typing.Indices | "
                  "None = "
                  "None, qo_indptr: tilewright._typing.Indices | None = None, q_rows: "
                  "tilewright._typing.Indices | None = None, kv_pos: tilewright._typing.Indices | "
                  "None = "
                  "None) -> None"))
      .def("_max_len",
           [](const HeldLevel& held) {
             const TensorView& lens = held.level.kv_lens;
             return lens.defined() ? largest(lens) : longest_row(held.level.table);
           })
      .def(
          "_rows",
          [](const HeldLevel& held) {
            const TensorView& indptr = held.level.qo_indptr;
            return indptr.defined() ? indptr.shape[0] - 1 : 0;
          },
          "Rows that qo_indptr tells of; 0 where rows are requests.");
}

}  // namespace

KvCache to_kv_cache(nb::handle kv, const char* name, nb::handle layout, Keep& keep, Access access) {
  if (nb::isinstance<HeldCache>(kv)) {
    if (!layout.is_none()) {
      raise_invalid(
          fmt::format("layout is given, but {} is a KvCache, which has a layout of its own", name));
    }
    const auto& held = nb::cast<const HeldCache&>(kv);
    // Whether an array may be written is asked of the array again: views do not say.
    if (access == Access::write) {
      for (const nb::object& array : held.keep) {
        if (!PyCapsule_CheckExact(array.ptr())) view_of(array, name, keep, access);
      }
    }
    return held.cache;
  }
  if (!PyTuple_Check(kv.ptr())) {
    return KvCache::combined(view_of(kv, name, keep, access), to_layout(layout));
  }
  if (nb::len(kv) != 2) {
    raise_type_error(fmt::format("{} is a tuple of {}: it must be (k, v)", name, nb::len(kv)));
  }
  const std::string k_name = fmt::format("k of {}", name);
  const std::string v_name = fmt::format("v of {}", name);
  const TensorView k = view_of(PyTuple_GET_ITEM(kv.ptr(), 0), k_name.c_str(), keep, access);
  const TensorView v = view_of(PyTuple_GET_ITEM(kv.ptr(), 1), v_name.c_str(), keep, access);
  return KvCache::separate(k, v, to_layout(layout));
}

void bind_kv_cache(nb::module_& m) {
  bind_cache(m);
  bind_page_table(m);
  bind_level(m);
}

}  // namespace tilewright::python
