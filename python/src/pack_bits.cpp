// SPDX-License-Identifier: Apache-2.0
// Bits of bytes.
#include <tilewright/ops.h>

#include "bindings.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

BitOrder to_bit_order(nb::handle order) {
  return to_choice<BitOrder>(order, "bitorder",
                             {{"big", BitOrder::big}, {"little", BitOrder::little}});
}

nb::object packed(nb::handle x, nb::handle bitorder, nb::object out, nb::handle stream) {
  Keep keep;
  const BitOrder order = to_bit_order(bitorder);
  const nb::object bytes = without_bool(x);
  const TensorView view = required(bytes, "x", keep);
  std::array<std::int64_t, TensorView::kMaxRank> shape = view.shape;
  shape[view.rank - 1] = (shape[view.rank - 1] + 7) / 8;
  Output result(std::move(out), bytes, DType::u8, std::span(shape).first(view.rank));
  const TensorView out_view = result.view("out", keep);
  const Stream on = to_stream(stream, view.device);
  {
    const nb::gil_scoped_release release;
    pack_bits(view, out_view, order, on);
  }
  return result.result();
}

// Bytes that are enough for any segments.
std::int64_t most_bytes(const TensorView& x, const TensorView& indptr) {
  return x.numel() / 8 + std::max<std::int64_t>(0, indptr.shape[0] - 1);
}

nb::object packed_segments(nb::handle x, nb::handle indptr, nb::handle bitorder, nb::object out,
                           nb::object out_indptr, nb::handle stream) {
  Keep keep;
  const BitOrder order = to_bit_order(bitorder);
  const nb::object bytes = without_bool(x);
  const TensorView view = required(bytes, "x", keep);
  const TensorView bounds = list_or_view_of(indptr, "indptr", DType::i64, keep);
  const std::array<std::int64_t, 1> room{most_bytes(view, bounds)};
  const std::array<std::int64_t, 1> entries{bounds.shape[0]};
  const DType index = bounds.dtype == DType::i32 ? DType::i32 : DType::i64;
  Output result(std::move(out), bytes, DType::u8, room);
  Output starts(std::move(out_indptr), bytes, index, entries);
  const TensorView out_view = result.view("out", keep);
  const TensorView starts_view = starts.view("out_indptr", keep);
  const Stream on = to_stream(stream, view.device);
  {
    const nb::gil_scoped_release release;
    segment_pack_bits(view, bounds, out_view, starts_view, order, on);
  }
  return nb::make_tuple(result.result(), starts.result());
}

}  // namespace

void bind_pack_bits(nb::module_& m) {
  m.def("pack_bits", &packed, "x"_a.none(), nb::kw_only(), "bitorder"_a = "big",
        "out"_a = nb::none(), "stream"_a = nb::none(),
        nb::sig("def pack_bits(x: tilewright._typing.ArrayT, *, bitorder: str = \"big\", out: "
                "tilewright._typing.ArrayT | None = None, stream: object | None = None) -> "
                "tilewright._typing.ArrayT"),
        "Bits of x, bool or uint8 [n] or [rows, n], eight to a byte of the last dimension, as "
        "numpy.packbits(x, axis=-1).\n\n"
        "bitorder: the first element is the highest bit (\"big\") or the lowest one "
        "(\"little\"). Returns out, uint8.");
  m.def("segment_pack_bits", &packed_segments, "x"_a.none(), "indptr"_a.none(), nb::kw_only(),
        "bitorder"_a = "big", "out"_a = nb::none(), "out_indptr"_a = nb::none(),
        "stream"_a = nb::none(),
        nb::sig("def segment_pack_bits(x: tilewright._typing.ArrayT, indptr: "
                "tilewright._typing.Indices, *, bitorder: str = \"big\", out: "
                "tilewright._typing.ArrayT | None = None, out_indptr: tilewright._typing.ArrayT | "
                "None = None, stream: object | None = None) -> tuple[tilewright._typing.ArrayT, "
                "tilewright._typing.ArrayT]"),
        "pack_bits of segments of x [n], each of which begins a byte: segment s is "
        "x[indptr[s]:indptr[s + 1]] and becomes\nout[out_indptr[s]:out_indptr[s + 1]].\n\n"
        "A new out has n // 8 + segments bytes, which always suffice: those from out_indptr[-1] on "
        "are not set. Returns\n(out, out_indptr).");
}

}  // namespace tilewright::python
