// SPDX-License-Identifier: Apache-2.0
// CUDA kernels compiled ahead, packs, the cache, and warnings.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <tilewright/jit.h>

#include <optional>

#include "bindings.h"

namespace tilewright::python {
namespace {

using namespace nb::literals;

constexpr const char* kReportDoc =
    "One compiled kernel. `seconds` is what compiling took, now or when the entry of the cache was "
    "made; "
    "`registers` and\n`spill_bytes` are a thread's, `shared_bytes` a block's, of the entry point "
    "that needs "
    "most. `error` says why it did not\ncompile; empty: it did.";

constexpr const char* kCacheEntryDoc =
    "A compiled kernel on disk: its `file`, what it is (`kernel`, `arch`, `compiler`; empty where "
    "it is damaged), the\n`seconds` that compiling took, its size in `bytes`. `damage` says what "
    "is wrong with it; empty: nothing.";

// Goes to Python's warnings. The library may call it from any thread, with or without the GIL, and
// at the end of the process.
void warn(const std::string& message) {
  if (Py_IsInitialized() == 0) return;
  const nb::gil_scoped_acquire gil;
  // A filter may turn warnings into exceptions, which have nowhere to go from here.
  if (PyErr_WarnEx(PyExc_RuntimeWarning, message.c_str(), 1) != 0) PyErr_WriteUnraisable(nullptr);
}

// Attentions give their specs, names the models' or, for "all", the common ones.
// `plans`: of models with several kinds of layers, whose attentions share a plan.
std::vector<AttentionSpec> specs_of(const nb::args& attentions,
                                    std::vector<std::vector<AttentionSpec>>& plans) {
  std::vector<AttentionSpec> specs;
  const auto add = [&](std::vector<AttentionSpec> more) {
    specs.insert(specs.end(), more.begin(), more.end());
  };
  for (const nb::handle object : attentions) {
    if (nb::isinstance<Attention>(object)) {
      specs.push_back(nb::cast<const Attention&>(object).spec());
    } else if (PyUnicode_Check(object.ptr())) {
      const auto name = nb::cast<std::string>(object);
      const std::vector<AttentionSpec> layers =
          name == "all" ? common_attention_specs() : model_attention_specs(name);
      if (name != "all" && layers.size() > 1) plans.push_back(layers);
      add(layers);
    } else {
      raise_type_error(fmt::format(
          "an attention is {}: it must be an Attention, the name of a model, or \"all\"",
          describe_type(object)));
    }
  }
  return specs;
}

std::vector<KernelReport> compile(const nb::args& attentions, const std::vector<std::string>& archs,
                                  int jobs, bool ops, bool block_structures,
                                  std::optional<Limits> limits, const std::string& pack,
                                  nb::handle progress) {
  CompileOptions options;
  options.archs = archs;
  options.jobs = jobs;
  options.ops = ops;
  options.block_structures = block_structures;
  options.limits = limits;
  options.pack = pack;
  if (!progress.is_none()) {
    options.progress = [&](const KernelReport& report, std::size_t done, std::size_t total) {
      const nb::gil_scoped_acquire gil;
      progress(report, done, total);
    };
  }
  const std::vector<AttentionSpec> specs = specs_of(attentions, options.plans);
  const nb::gil_scoped_release release;
  return compile_kernels(specs, options);
}

}  // namespace

void bind_jit(nb::module_& m) {
  set_warning_handler(warn);
  nb::class_<KernelReport>(m, "KernelReport", kReportDoc)
      .def_ro("kernel", &KernelReport::kernel)
      .def_ro("arch", &KernelReport::arch)
      .def_ro("seconds", &KernelReport::seconds)
      .def_ro("registers", &KernelReport::registers)
      .def_ro("spill_bytes", &KernelReport::spill_bytes)
      .def_ro("shared_bytes", &KernelReport::shared_bytes)
      .def_ro("from_cache", &KernelReport::from_cache)
      .def_ro("error", &KernelReport::error)
      .def("__repr__", [](const KernelReport& r) {
        if (!r.error.empty())
          return fmt::format("<tilewright.KernelReport {} {} failed>", r.kernel, r.arch);
        return fmt::format(
            "<tilewright.KernelReport {} {}: {:.2f} s{}, {} registers, {} bytes spilled, {} "
            "shared>",
            r.kernel, r.arch, r.seconds, r.from_cache ? " (cached)" : "", r.registers,
            r.spill_bytes, r.shared_bytes);
      });
  nb::class_<CudaDevice>(m, "CudaDevice", "A GPU of this process.")
      .def_ro("index", &CudaDevice::index)
      .def_ro("name", &CudaDevice::name)
      .def_ro("arch", &CudaDevice::arch, "What kernels are compiled for: \"sm_80\", \"sm_90a\".")
      .def_ro("num_sms", &CudaDevice::num_sms)
      .def_ro("memory_bytes", &CudaDevice::memory_bytes)
      .def("__repr__", [](const CudaDevice& d) {
        return fmt::format("<tilewright.CudaDevice cuda:{} {}, {}, {} SMs, {} MiB>", d.index,
                           d.name, d.arch, d.num_sms, d.memory_bytes >> 20);
      });
  m.def(
      "cuda_devices", [] { return cuda_info().devices; },
      "The GPUs that this process sees. Error (not_supported) where there is no driver or none of "
      "them: what was tried and\nhow to mend it.");
  m.def("_compile_kernels", &compile, "attentions"_a, nb::kw_only(), "archs"_a, "jobs"_a, "ops"_a,
        "block_structures"_a, "limits"_a.none(), "pack"_a, "progress"_a.none(),
        nb::sig("def _compile_kernels(*attentions: Attention | str, archs: list[str], jobs: int, "
                "ops: bool, block_structures: bool, limits: Limits | None, pack: str, progress: "
                "object) -> list[KernelReport]"));
  m.def("_set_python_folders", &set_python_folders, "folders"_a);
  m.def("_load_kernel_pack", &load_kernel_pack, "path"_a, nb::call_guard<nb::gil_scoped_release>());
  m.def("kernel_cache_path", &kernel_cache_path,
        "The folder of compiled kernels; empty where there is neither XDG_CACHE_HOME nor HOME.");
  m.def("_set_kernel_cache_path", &set_kernel_cache_path, "folder"_a);
  nb::class_<NvrtcInfo>(m, "NvrtcInfo", "The compiler of CUDA kernels.")
      .def_ro("path", &NvrtcInfo::path)
      .def_ro("major", &NvrtcInfo::major)
      .def_ro("minor", &NvrtcInfo::minor)
      .def("__repr__", [](const NvrtcInfo& n) {
        return fmt::format("<tilewright.NvrtcInfo {}.{} {}>", n.major, n.minor, n.path);
      });
  m.def("_set_nvrtc_path", &set_nvrtc_path, "path"_a);
  m.def("_nvrtc_info", &nvrtc_info);
  nb::class_<KernelCacheEntry>(m, "KernelCacheEntry", kCacheEntryDoc)
      .def_ro("file", &KernelCacheEntry::file)
      .def_ro("kernel", &KernelCacheEntry::kernel)
      .def_ro("arch", &KernelCacheEntry::arch)
      .def_ro("compiler", &KernelCacheEntry::compiler)
      .def_ro("seconds", &KernelCacheEntry::seconds)
      .def_ro("bytes", &KernelCacheEntry::bytes)
      .def_ro("damage", &KernelCacheEntry::damage)
      .def("__repr__", [](const KernelCacheEntry& e) {
        return e.damage.empty()
                   ? fmt::format("<tilewright.KernelCacheEntry {} {}: {} bytes>", e.kernel, e.arch,
                                 e.bytes)
                   : fmt::format("<tilewright.KernelCacheEntry {}: {}>", e.file, e.damage);
      });
  m.def("kernel_cache_entries", &kernel_cache_entries, nb::call_guard<nb::gil_scoped_release>(),
        "The compiled kernels on disk: reads every entry as a whole and checks it.");
  m.def("clear_kernel_cache", &clear_kernel_cache, nb::kw_only(), "damaged_only"_a = false,
        nb::call_guard<nb::gil_scoped_release>(),
        "Removes compiled kernels from the disk, all or only the damaged ones, and files that an "
        "interrupted write has left;\nreturns how many files. Programs that run go on: what they "
        "need is compiled anew.");
  m.def("model_names", &model_names, "Names of the models that compile_kernels knows.");
}

}  // namespace tilewright::python
