// SPDX-License-Identifier: Apache-2.0
#include "engine/cublaslt.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>

#include "engine/checks.h"

namespace tilewright::engine {
namespace {

namespace fs = std::filesystem;

constexpr int kNewestMajor = 13, kOldestMajor = 12;

std::string environment(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr ? value : "";
}

std::string library_name(int major) {
  return fmt::format("libcublasLt.so.{}", major);
}

// Folders inside `parent` whose name begins with `prefix`, the last in alphabetical order first.
std::vector<fs::path> folders_in(const fs::path& parent, std::string_view prefix) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(parent, error)) {
    if (entry.path().filename().string().starts_with(prefix)) found.push_back(entry.path());
  }
  std::ranges::sort(found, std::greater<>());
  return found;
}

class Candidates {
 public:
  explicit Candidates(int most_major)
      : newest_(most_major > 0 ? std::min(most_major, kNewestMajor) : kNewestMajor) {}

  void look_into(const fs::path& folder) {
    for (int major = newest_; major >= kOldestMajor; --major) {
      const fs::path library = folder / library_name(major);
      std::error_code error;
      if (fs::exists(library, error)) found_.push_back(library.string());
    }
  }

  void look_into_packages(const fs::path& environment) {
    for (const fs::path& python : folders_in(environment / "lib", "python")) {
      const fs::path packages = python / "site-packages" / "nvidia";
      // nvidia/cu13 of CUDA 13, nvidia/cublas of CUDA 12.
      for (int major = newest_; major > 12; --major) {
        look_into(packages / fmt::format("cu{}", major) / "lib");
      }
      look_into(packages / "cublas" / "lib");
    }
  }

  void look_into_toolkits() {
    for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
      if (const std::string home = environment(variable); !home.empty()) {
        look_into(fs::path(home) / "lib64");
      }
    }
    for (const fs::path& toolkit : folders_in("/usr/local", "cuda")) look_into(toolkit / "lib64");
  }

  std::vector<std::string> take() && {
    // The loader's path last: it knows the names alone.
    for (int major = newest_; major >= kOldestMajor; --major) {
      found_.push_back(library_name(major));
    }
    return std::move(found_);
  }

 private:
  int newest_;
  std::vector<std::string> found_;
};

// The name of a function that the library lacks; empty when it has all.
std::string resolve(void* library, CublasLt& api) {
  std::string missing;
  const auto need = [&]<typename Function>(const char* name, Function*& function) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    if (function == nullptr && missing.empty()) missing = name;
  };
  need("cublasLtGetVersion", api.get_version);
  need("cublasLtGetStatusName", api.get_status_name);
  need("cublasLtCreate", api.create);
  need("cublasLtDestroy", api.destroy);
  need("cublasLtMatmulDescCreate", api.matmul_desc_create);
  need("cublasLtMatmulDescDestroy", api.matmul_desc_destroy);
  need("cublasLtMatmulDescSetAttribute", api.matmul_desc_set_attribute);
  need("cublasLtMatrixLayoutCreate", api.matrix_layout_create);
  need("cublasLtMatrixLayoutDestroy", api.matrix_layout_destroy);
  need("cublasLtMatmulPreferenceCreate", api.preference_create);
  need("cublasLtMatmulPreferenceDestroy", api.preference_destroy);
  need("cublasLtMatmulPreferenceSetAttribute", api.preference_set_attribute);
  need("cublasLtMatmulAlgoGetHeuristic", api.get_heuristic);
  need("cublasLtMatmulAlgoCheck", api.check_algorithm);
  need("cublasLtMatmul", api.matmul);
  return missing;
}

// Empty, and `api` filled; else why not.
std::string open_library(const std::string& path, CublasLt& api) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    return why != nullptr ? why : "it cannot be opened";
  }
  if (const std::string missing = resolve(library, api); !missing.empty()) {
    dlclose(library);
    return "it has no function " + missing;
  }
  // 120804 is 12.8.4; since 13 it is 130000.
  const std::size_t version = api.get_version();
  api.major = static_cast<int>(version / 10000);
  api.minor = static_cast<int>(version / 100 % 100);
  api.path = path;
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(api.get_version), &info) != 0 &&
      info.dli_fname != nullptr) {
    api.path = info.dli_fname;
  }
  return "";
}

}  // namespace

std::vector<std::string> cublaslt_candidates(const std::string& path, int most_major) {
  if (!path.empty()) return {path};
  if (std::string given = environment("TILEWRIGHT_CUBLASLT"); !given.empty()) return {given};
  Candidates candidates(most_major);
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const std::string prefix = environment(variable); !prefix.empty()) {
      candidates.look_into_packages(prefix);
    }
  }
  candidates.look_into_toolkits();
  return std::move(candidates).take();
}

CublasLt open_cublaslt(const std::vector<std::string>& candidates) {
  std::string tried;
  for (const std::string& candidate : candidates) {
    CublasLt api;
    const std::string why = open_library(candidate, api);
    if (why.empty()) return api;
    tried += fmt::format("{}{} ({})", tried.empty() ? "" : "; ", candidate, why);
  }
  raise(ErrorCode::not_supported,
        "matrix products on a GPU need cuBLASLt of CUDA {} or {}, which was not found. To mend it: "
        "pip install nvidia-cublas (CUDA 12: nvidia-cublas-cu12) and activate its environment, or "
        "give the library's path in TILEWRIGHT_CUBLASLT. Tried: {}",
        kOldestMajor, kNewestMajor, tried);
}

}  // namespace tilewright::engine
