// SPDX-License-Identifier: Apache-2.0
// Which CUDA kernel an attention takes, and what a batch costs.
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <tilewright/kernel_choice.h>

#include "bindings.h"
#include "held.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

// A sequence of (requests, q_len, kv_len) or (requests, q_len, kv_len, shared_len).
std::vector<RequestLengths> to_lengths(nb::handle batch) {
  if (!PyList_Check(batch.ptr()) && !PyTuple_Check(batch.ptr())) {
    raise_type_error(fmt::format("batch is {}: it must be a list of (requests, q_len, kv_len)",
                                 describe_type(batch)));
  }
  std::vector<RequestLengths> lengths;
  for (const nb::handle item : batch) {
    RequestLengths of;
    const std::size_t fields = PyTuple_Check(item.ptr()) ? nb::len(item) : 0;
    const bool well = (fields == 3 || fields == 4) && nb::try_cast(item[0], of.requests) &&
                      nb::try_cast(item[1], of.q_len) && nb::try_cast(item[2], of.kv_len) &&
                      (fields == 3 || nb::try_cast(item[3], of.shared_len));
    if (!well) {
      raise_type_error(
          fmt::format("batch[{}] is {}: it must be a tuple (requests, q_len, kv_len[, shared_len])",
                      lengths.size(), nb::repr(item).c_str()));
    }
    lengths.push_back(of);
  }
  return lengths;
}

GpuModel to_model(nb::handle gpu) {
  if (nb::isinstance<GpuModel>(gpu)) return nb::cast<const GpuModel&>(gpu);
  if (!PyUnicode_Check(gpu.ptr())) {
    raise_type_error(fmt::format("gpu is {}: it must be a GpuModel or a name of gpu_models()",
                                 describe_type(gpu)));
  }
  return gpu_model(nb::cast<std::string>(gpu));
}

BatchWork explain(const Attention& attention, nb::handle batch, nb::handle gpu, nb::handle limits,
                  nb::handle params, std::int64_t page_size) {
  const std::vector<RequestLengths> lengths = to_lengths(batch);
  if (!limits.is_none() && !nb::isinstance<Limits>(limits)) {
    raise_type_error(
        fmt::format("limits is {}: it must be a Limits or None", describe_type(limits)));
  }
  const Limits most = limits.is_none() ? limits_of(lengths) : nb::cast<const Limits&>(limits);
  Keep keep;
  const std::vector<ParamValue> values = to_params(params, "params", keep);
  const GpuModel model = to_model(gpu);
  const nb::gil_scoped_release release;
  return explain_batch(attention.spec(), most, lengths, model, values, page_size);
}

void bind_choice(nb::module_& m) {
  nb::class_<KernelChoice>(m, "KernelChoice",
                           "A CUDA kernel as a plan launches it (docs/kernel_choice.md).")
      .def_ro("kernel", &KernelChoice::kernel, "\"decode\", \"hopper\" or \"portable\".")
      .def_ro("name", &KernelChoice::name, "That of its KernelReport.")
      .def_ro("arch", &KernelChoice::arch)
      .def_ro("lists_blocks", &KernelChoice::lists_blocks, "Whether it reads block structures.")
      .def_ro("tile_rows", &KernelChoice::tile_rows,
              "Packed rows (query tokens x group size) of a tile, at most.")
      .def_ro("block_tokens", &KernelChoice::block_tokens, "Keys of a block.")
      .def_ro("key_stages", &KernelChoice::key_stages, "Blocks of keys in shared memory at a time.")
      .def_ro("value_stages", &KernelChoice::value_stages, "Blocks of values.")
      .def_ro("decode_stages", &KernelChoice::decode_stages,
              "Sets of 16 keys that each warp has in shared memory, for tiles of at most 16 rows; "
              "0: they take blocks.")
      .def_ro("threads", &KernelChoice::threads, "Of a block of threads.")
      .def_ro("blocks_per_sm", &KernelChoice::blocks_per_sm)
      .def_ro("shared_bytes", &KernelChoice::shared_bytes, "Of a block of threads.")
      .def_ro("heads_together", &KernelChoice::heads_together,
              "KV heads that neighbouring blocks of threads compute at the same time.")
      .def_ro("not_decode", &KernelChoice::not_decode,
              "Why it is not the kernel of decode alone: all reasons.")
      .def_ro("not_hopper", &KernelChoice::not_hopper,
              "Why it is not that of Hopper's own instructions: all reasons; empty where decode's "
              "is taken.")
      .def("__repr__", [](const KernelChoice& c) {
        return fmt::format("<tilewright.KernelChoice {}: {} {}>", c.kernel, c.name, c.arch);
      });
  nb::class_<KernelChoices>(m, "KernelChoices", "The kernels of a plan.")
      .def_ro("requests", &KernelChoices::requests,
              "Of updates whose rows are simply the requests: the usual case.")
      .def_ro("rows", &KernelChoices::rows,
              "Of updates with several levels, or with a level's own query rows.");
  m.def(
      "choose_kernels",
      [](const Attention& attention, const Limits& limits, const std::string& arch) {
        return choose_kernels(attention.spec(), limits, arch);
      },
      "attention"_a, "limits"_a, "arch"_a,
      "Which kernels a plan of these limits launches on a GPU of this architecture (\"sm_80\", "
      "\"sm_90a\"), and why. Takes\nattentions of any device, needs no GPU, compiles nothing. "
      "Errors: InvalidArgument; Error (not_supported) where the\nkernels do not take the "
      "attention.");
}

void bind_model(nb::module_& m) {
  nb::class_<GpuModel>(m, "GpuModel", "A GPU in figures: what bounds can be computed from.")
      .def(
          "__init__",
          [](GpuModel* self, const std::string& arch, int num_sms, double bytes_per_second,
             double operations_per_second, std::int64_t l2_bytes, const std::string& name) {
            new (self)
                GpuModel{name, arch, num_sms, l2_bytes, bytes_per_second, operations_per_second};
          },
          nb::kw_only(), "arch"_a, "num_sms"_a, "bytes_per_second"_a, "operations_per_second"_a,
          "l2_bytes"_a = std::int64_t{32} << 20, "name"_a = "")
      .def_ro("name", &GpuModel::name)
      .def_ro("arch", &GpuModel::arch)
      .def_ro("num_sms", &GpuModel::num_sms)
      .def_ro("l2_bytes", &GpuModel::l2_bytes)
      .def_ro("bytes_per_second", &GpuModel::bytes_per_second, "Of its memory.")
      .def_ro("operations_per_second", &GpuModel::operations_per_second,
              "Dense products of 16-bit elements.")
      .def("__repr__", [](const GpuModel& g) {
        return fmt::format("<tilewright.GpuModel {} {}: {} SMs, {:.0f} GB/s, {:.0f} TFLOP/s>",
                           g.name, g.arch, g.num_sms, g.bytes_per_second / 1e9,
                           g.operations_per_second / 1e12);
      });
  m.def("gpu_models", &gpu_models, "GPUs whose data sheets the library knows.");
}

void bind_work(nb::module_& m) {
  nb::class_<BatchWork>(m, "BatchWork", "What a batch costs on a GPU (docs/kernel_choice.md).")
      .def_ro("requests", &BatchWork::requests)
      .def_ro("q_tokens", &BatchWork::q_tokens)
      .def_ro("kv_tokens", &BatchWork::kv_tokens)
      .def_ro("stats", &BatchWork::stats, "As Plan.stats on such a GPU.")
      .def_ro("workers", &BatchWork::workers)
      .def_ro("b_workers", &BatchWork::b_workers, "Those with a share of section B.")
      .def_ro("a_items", &BatchWork::a_items, "Items of section A: taken whole, in turn.")
      .def_ro("b_items", &BatchWork::b_items, "Items of section B: cut into equal shares.")
      .def_ro("a_share", &BatchWork::a_share, "Of all work, by the plan's cost model.")
      .def_ro("b_share", &BatchWork::b_share)
      .def_ro("balance", &BatchWork::balance, "Mean over largest of what all workers do.")
      .def_ro("box_tokens", &BatchWork::box_tokens,
              "Tokens that one copy by the tensor memory accelerator brings; 0: row by row.")
      .def_ro("kv_bytes", &BatchWork::kv_bytes, "Of K and V that some query needs, each once.")
      .def_ro("qo_bytes", &BatchWork::qo_bytes, "Of queries and outputs.")
      .def_ro("pairs", &BatchWork::pairs,
              "Attending (query, key) pairs of all query heads, at most.")
      .def_ro("operations", &BatchWork::operations, "Of the two products.")
      .def_ro("memory_us", &BatchWork::memory_us)
      .def_ro("compute_us", &BatchWork::compute_us)
      .def_prop_ro("bound_us", &BatchWork::bound_us, "The larger of the two.")
      .def("__repr__", [](const BatchWork& w) {
        return fmt::format("<tilewright.BatchWork {} requests, {} tiles: {:.1f} us by {}>",
                           w.requests, w.stats.tiles, w.bound_us(),
                           w.memory_us > w.compute_us ? "memory" : "compute");
      });
  m.def(
      "limits_of", [](nb::handle batch) { return limits_of(to_lengths(batch)); }, "batch"_a,
      nb::sig("def limits_of(batch: collections.abc.Sequence[tuple[int, ...]]) -> Limits"),
      "The smallest limits that a batch of (requests, q_len, kv_len) or (requests, q_len, kv_len, "
      "shared_len) fits: with two\nlevels where the first shared_len keys are the same ones for "
      "all of an entry's requests.");
  m.def(
      "explain_batch", &explain, "attention"_a, "batch"_a, nb::kw_only(), "gpu"_a = "h100",
      "limits"_a = nb::none(), "params"_a = nb::none(), "page_size"_a = 16,
      nb::sig("def explain_batch(attention: Attention, batch: collections.abc.Sequence[tuple[int, "
              "...]], *, gpu: GpuModel | str = 'h100', limits: Limits | None = None, params: "
              "collections.abc.Mapping[str, object] | None = None, page_size: int = 16) -> "
              "BatchWork"),
      "What a batch of lengths, as limits_of() takes them, costs on a GPU: the schedule it would "
      "make, and the bounds of bytes\nand products. gpu: a "
      "GpuModel, or the name of one of gpu_models(). limits: of the\nplan; default: those of the "
      "batch. params: the variant's, those that bind at plan. page_size 0: no table of pages.\n"
      "Takes attentions of any device, needs no GPU.");
}

}  // namespace

void bind_kernel_choice(nb::module_& m) {
  bind_choice(m);
  bind_model(m);
  bind_work(m);
}

}  // namespace tilewright::python
