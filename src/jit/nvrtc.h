// SPDX-License-Identifier: Apache-2.0
// NVRTC, opened at run time: found among what Python packages, toolkits and the system bring.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace tilewright::jit {

// A library that was found, not opened: opening costs up to a quarter of a second, and a process
// whose kernels are all in the cache needs no more than the version.
struct NvrtcPlace {
  std::string path;
  int major = 0, minor = 0;
  std::string version() const;  // "13.0"
};

// The first one that fits, thread-safe; found once, and again when settings change or where nothing
// was found. Error (not_supported) that says what was tried and how to mend it.
NvrtcPlace find_nvrtc();

struct ProgramObject;

// The functions of an open library. Results are nvrtcResult; 0 is success.
struct Nvrtc {
  NvrtcPlace place;

  int (*version)(int* major, int* minor) = nullptr;
  const char* (*get_error_string)(int result) = nullptr;
  int (*get_num_supported_archs)(int* count) = nullptr;
  int (*get_supported_archs)(int* archs) = nullptr;
  int (*create_program)(ProgramObject**, const char* source, const char* name, int num_headers,
                        const char* const* headers, const char* const* header_names) = nullptr;
  int (*destroy_program)(ProgramObject**) = nullptr;
  int (*compile_program)(ProgramObject*, int num_options, const char* const* options) = nullptr;
  int (*get_cubin_size)(ProgramObject*, std::size_t* bytes) = nullptr;
  int (*get_cubin)(ProgramObject*, char* cubin) = nullptr;
  int (*get_program_log_size)(ProgramObject*, std::size_t* bytes) = nullptr;
  int (*get_program_log)(ProgramObject*, char* log) = nullptr;

  bool knows(std::string_view arch) const;  // whether it can compile for "sm_90a"
};

// Opens what find_nvrtc() found; the same object until another place is found. Libraries stay open.
const Nvrtc& nvrtc();

}  // namespace tilewright::jit
