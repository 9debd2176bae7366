// SPDX-License-Identifier: Apache-2.0
// How CUDA kernels come to be: compiled by NVRTC when they are first needed, kept on disk, or
// shipped with an application as a pack. None of this needs a GPU, and only compiling needs NVRTC.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/export.h>
#include <tilewright/plan.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace tilewright {

// Told about what goes wrong without being an Error: a cache that cannot be written, a damaged
// entry that is compiled anew. Called from any thread. By default nobody is told.
TILEWRIGHT_API void set_warning_handler(std::function<void(const std::string& message)> handler);

// ---- NVRTC ----

// Where NVRTC is looked for before all other places: the path of the library, libnvrtc.so.13 or its
// like; empty takes it back. The environment's TILEWRIGHT_NVRTC is the same.
TILEWRIGHT_API void set_nvrtc_path(const std::string& path);
// Python's site-packages folders, whose packages nvidia-cuda-nvrtc and torch bring an NVRTC. They
// are looked at after the explicit path and before toolkits and the system.
TILEWRIGHT_API void set_python_folders(const std::vector<std::string>& folders);

struct NvrtcInfo {
  std::string path;
  int major = 0, minor = 0;
};
// The NVRTC that kernels are compiled by: the first one of 12.4 or newer, whose major version the
// driver has too (where there is one). Error (not_supported) that says what was tried and how to
// mend it.
TILEWRIGHT_API NvrtcInfo nvrtc_info();

// ---- GPUs ----

struct CudaDevice {
  int index = 0;
  std::string name;
  std::string arch;  // what kernels are compiled for: "sm_80", "sm_90a"
  int num_sms = 0;
  std::size_t memory_bytes = 0;
};
struct CudaInfo {
  std::string driver_path;
  int driver_major = 0, driver_minor = 0;  // the CUDA version that the driver has
  std::vector<CudaDevice> devices;
};
// Error (not_supported) where there is no driver or no GPU: what was tried and how to mend it.
TILEWRIGHT_API CudaInfo cuda_info();

// ---- the cache on disk ----

// $XDG_CACHE_HOME/tilewright/kernels, else ~/.cache/tilewright/kernels; empty where there is
// neither folder: then kernels are kept in memory alone.
TILEWRIGHT_API std::string kernel_cache_path();
// Another folder; empty: none.
TILEWRIGHT_API void set_kernel_cache_path(const std::string& folder);

struct KernelCacheEntry {
  std::string file;
  std::string kernel, arch, compiler;  // empty where damaged
  double seconds = 0;                  // that compiling took
  std::size_t bytes = 0;
  std::string damage;  // empty: none
};
// Reads every entry as a whole and checks it.
TILEWRIGHT_API std::vector<KernelCacheEntry> kernel_cache_entries();
// Removes entries, all or only the damaged ones, and files that an interrupted write has left; with
// all entries also the file by which processes wait for each other. Returns how many files.
// Programs that run go on: what they need is compiled anew.
TILEWRIGHT_API std::size_t clear_kernel_cache(bool damaged_only = false);

// ---- compiling ahead ----

// One compiled kernel. Counts are those of its entry point that needs most.
struct KernelReport {
  std::string kernel;
  std::string arch;
  double seconds = 0;  // that compiling took, now or when the entry was made
  int registers = 0;   // a thread
  int spill_bytes = 0;
  int shared_bytes = 0;  // a block, static and dynamic
  bool from_cache = false;
  std::string error;  // why it did not compile; empty: it did
};

struct CompileOptions {
  std::vector<std::string> archs;  // "sm_80", "sm_90a", ...; empty: those of this machine's GPUs
  int jobs = 0;                    // kernels compiled at a time; 0: as many as there are cores
  bool ops = true;                 // also the operators (ops.h) and sampling
  bool block_structures = false;   // also for plans whose limits have block_structures
  // Only what plans of these limits launch (see choose_kernels), and nothing else of attention;
  // `block_structures` above then does not count.
  std::optional<Limits> limits;
  // Attentions that one plan serves together, in its order: such a plan has a kernel of its own.
  // Those of plans of one attention are there anyway.
  std::vector<std::vector<AttentionSpec>> plans;
  std::string pack;  // a file to be written with all that was asked for; empty: none
  // After each kernel, one call at a time.
  std::function<void(const KernelReport& report, std::size_t done, std::size_t total)> progress;
};

// Compiles all kernels that attention of these specs and the operators may launch, in parallel, and
// puts them into the cache. A kernel that does not compile is reported, and the others go on; no
// pack is written then. In the order of architectures, then of kernels.
TILEWRIGHT_API std::vector<KernelReport> compile_kernels(const std::vector<AttentionSpec>& specs,
                                                         const CompileOptions& options = {});

// Specs of well-known models, "llama-3.1-8b": one for each kind of attention layer they have, bf16,
// with a bf16 cache unless kv_dtype says another. Error (invalid_argument) that lists the names.
TILEWRIGHT_API std::vector<AttentionSpec> model_attention_specs(const std::string& model,
                                                                DType kv_dtype = DType::bf16);
TILEWRIGHT_API std::vector<std::string> model_names();
// What users meet first (docs/jit.md lists it).
TILEWRIGHT_API std::vector<AttentionSpec> common_attention_specs();

// Loads a pack: its kernels are not compiled any more, and need neither NVRTC nor the cache.
// Returns how many there are. Error (invalid_argument) for a file that is damaged or no pack.
TILEWRIGHT_API std::size_t load_kernel_pack(const std::string& path);

}  // namespace tilewright
