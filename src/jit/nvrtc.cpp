// SPDX-License-Identifier: Apache-2.0
#include "jit/nvrtc.h"

#include <dlfcn.h>
#include <tilewright/jit.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>

#include "base/checks.h"
#include "cuda/driver.h"
#include "jit/settings.h"

namespace tilewright {
namespace jit {
namespace {

namespace fs = std::filesystem;

constexpr int kOldestMajor = 12, kOldestMinor = 4;
constexpr std::string_view kLibrary = "libnvrtc.so.";
constexpr std::string_view kBuiltins = "libnvrtc-builtins.so.";

// "13.0" -> {13, 0}, "13" -> {13, 0}.
bool read_version(std::string_view text, int& major, int& minor) {
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, major);
  if (first.ec != std::errc{}) return false;
  minor = 0;
  if (first.ptr == end) return true;
  return *first.ptr == '.' && std::from_chars(first.ptr + 1, end, minor).ec == std::errc{};
}

template <typename Function>
bool find_symbol(void* library, const char* name, Function*& function) {
  function = reinterpret_cast<Function*>(dlsym(library, name));
  return function != nullptr;
}

// Empty, and `out` filled; else why not.
std::string open_library(const std::string& path, Nvrtc& out) {
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    const char* why = dlerror();
    return why != nullptr ? why : "it cannot be opened";
  }
  const bool whole =
      find_symbol(library, "nvrtcVersion", out.version) &&
      find_symbol(library, "nvrtcGetErrorString", out.get_error_string) &&
      find_symbol(library, "nvrtcGetNumSupportedArchs", out.get_num_supported_archs) &&
      find_symbol(library, "nvrtcGetSupportedArchs", out.get_supported_archs) &&
      find_symbol(library, "nvrtcCreateProgram", out.create_program) &&
      find_symbol(library, "nvrtcDestroyProgram", out.destroy_program) &&
      find_symbol(library, "nvrtcCompileProgram", out.compile_program) &&
      find_symbol(library, "nvrtcGetCUBINSize", out.get_cubin_size) &&
      find_symbol(library, "nvrtcGetCUBIN", out.get_cubin) &&
      find_symbol(library, "nvrtcGetProgramLogSize", out.get_program_log_size) &&
      find_symbol(library, "nvrtcGetProgramLog", out.get_program_log);
  out.place.path = path;
  if (!whole || out.version(&out.place.major, &out.place.minor) != 0) {
    dlclose(library);
    return "it lacks functions of NVRTC";
  }
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(out.version), &info) != 0 && info.dli_fname != nullptr) {
    out.place.path = info.dli_fname;
  }
  return "";
}

// Libraries of NVRTC in a folder, newest first.
std::vector<NvrtcPlace> libraries_in(const fs::path& folder) {
  std::vector<NvrtcPlace> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    NvrtcPlace place;
    // libnvrtc.so.13, not what it may be a link to.
    if (!name.starts_with(kLibrary) || name.find('.', kLibrary.size()) != std::string::npos)
      continue;
    if (!read_version(std::string_view(name).substr(kLibrary.size()), place.major, place.minor)) {
      continue;
    }
    place.path = entry.path().string();
    place.minor = -1;  // not known yet
    found.push_back(place);
  }
  // Its other half lies beside it and says the minor version.
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    int major = 0, minor = 0;
    if (!name.starts_with(kBuiltins) ||
        !read_version(std::string_view(name).substr(kBuiltins.size()), major, minor)) {
      continue;
    }
    for (NvrtcPlace& place : found) {
      if (place.major == major) place.minor = std::max(place.minor, minor);
    }
  }
  std::sort(found.begin(), found.end(),
            [](const NvrtcPlace& a, const NvrtcPlace& b) { return a.major > b.major; });
  return found;
}

// A search for the first library that fits; `tried` tells of the others.
struct Search {
  int most_major = 0;  // 0: any
  std::string tried;
  std::optional<NvrtcPlace> found;

  void note(const std::string& what) {
    if (!tried.empty()) tried += "; ";
    tried += what;
  }

  void look_at(NvrtcPlace place) {
    if (found) return;
    if (place.minor < 0) {
      Nvrtc opened;
      if (const std::string why = open_library(place.path, opened); !why.empty()) {
        note(fmt::format("{} ({})", place.path, why));
        return;
      }
      place = opened.place;
    }
    if (place.major < kOldestMajor || (place.major == kOldestMajor && place.minor < kOldestMinor)) {
      note(fmt::format("{} (version {}, which is too old)", place.path, place.version()));
    } else if (most_major > 0 && place.major > most_major) {
      note(fmt::format("{} (version {}: the driver is of CUDA {})", place.path, place.version(),
                       most_major));
    } else {
      found = place;
    }
  }

  void look_into(const fs::path& folder) {
    if (found) return;
    const std::vector<NvrtcPlace> libraries = libraries_in(folder);
    if (libraries.empty()) note(fmt::format("{} (no libnvrtc.so)", folder.string()));
    for (const NvrtcPlace& library : libraries) look_at(library);
  }
};

// Programs that are not Python's know its folders by the active environment.
std::vector<std::string> active_python_folders() {
  std::vector<std::string> folders;
  for (const char* variable : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    const char* prefix = std::getenv(variable);
    std::error_code error;
    if (prefix == nullptr || *prefix == '\0') continue;
    for (const auto& entry : fs::directory_iterator(fs::path(prefix) / "lib", error)) {
      if (entry.path().filename().string().starts_with("python")) {
        folders.push_back((entry.path() / "site-packages").string());
      }
    }
  }
  return folders;
}

void look_into_python(Search& search, std::vector<std::string> folders) {
  if (folders.empty()) folders = active_python_folders();
  if (folders.empty()) {
    search.note("Python packages (no folders of them are known here, and no VIRTUAL_ENV)");
    return;
  }
  for (const std::string& site : folders) {
    const fs::path packages = fs::path(site) / "nvidia";
    std::error_code error;
    if (!fs::is_directory(packages, error)) continue;
    // nvidia/cu13 of CUDA 13 and its successors; nvidia/cuda_nvrtc of CUDA 12.
    std::vector<fs::path> inside;
    for (const auto& entry : fs::directory_iterator(packages, error)) {
      const std::string name = entry.path().filename().string();
      if (name == "cuda_nvrtc" || (name.starts_with("cu") && name.size() > 2 &&
                                   name.find_first_not_of("0123456789", 2) == std::string::npos)) {
        inside.push_back(entry.path() / "lib");
      }
    }
    std::sort(inside.begin(), inside.end(), std::greater<>());
    // "cuda_nvrtc" sorts before "cu13": the newer form of packages is looked at first.
    std::stable_partition(inside.begin(), inside.end(), [](const fs::path& folder) {
      return folder.parent_path().filename() != "cuda_nvrtc";
    });
    for (const fs::path& folder : inside) search.look_into(folder);
  }
  std::string all;
  for (const std::string& folder : folders) all += (all.empty() ? "" : ", ") + folder;
  search.note("packages nvidia-cuda-nvrtc in " + all);
}

void look_into_toolkits(Search& search) {
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const char* home = std::getenv(variable); home != nullptr && *home != '\0') {
      search.look_into(fs::path(home) / "lib64");
    }
  }
  std::vector<fs::path> toolkits;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/usr/local", error)) {
    if (entry.path().filename().string().starts_with("cuda")) {
      toolkits.push_back(entry.path() / "lib64");
    }
  }
  std::sort(toolkits.begin(), toolkits.end(), std::greater<>());
  for (const fs::path& folder : toolkits) search.look_into(folder);
  if (toolkits.empty()) search.note("/usr/local/cuda*/lib64 (no such folder)");
}

void look_into_system(Search& search) {
  for (int major = 20; major >= kOldestMajor && !search.found; --major) {
    Nvrtc opened;
    const std::string name = fmt::format("{}{}", kLibrary, major);
    if (open_library(name, opened).empty()) search.look_at(opened.place);
  }
  search.note("the system's library path (LD_LIBRARY_PATH, ldconfig)");
}

NvrtcPlace search_nvrtc(const Settings& where) {
  Search search;
  search.most_major = cuda::installed_driver_version() / 1000;
  if (!where.nvrtc_path.empty()) {
    search.look_at({where.nvrtc_path, 0, -1});
    if (!search.found) {
      raise(ErrorCode::not_supported, "NVRTC's path was set, and cannot be used: {}", search.tried);
    }
  }
  look_into_python(search, where.python_folders);
  if (!search.found) look_into_toolkits(search);
  if (!search.found) look_into_system(search);
  if (search.found) return *search.found;
  raise(ErrorCode::not_supported,
        "kernels are compiled by NVRTC {}.{} or newer{}, which was not found. To mend it: pip "
        "install "
        "{} (or give the library's path in TILEWRIGHT_NVRTC). Tried: {}",
        kOldestMajor, kOldestMinor,
        search.most_major > 0
            ? fmt::format(", of CUDA {} at most like the driver", search.most_major)
            : "",
        search.most_major == 12 ? "nvidia-cuda-nvrtc-cu12" : "nvidia-cuda-nvrtc", search.tried);
}

struct State {
  std::mutex mutex;
  std::optional<NvrtcPlace> place;
  unsigned found_after_changes = 0;
  std::string environment;                                   // the explicit path when it was found
  std::map<std::string, std::unique_ptr<const Nvrtc>> open;  // by path
};

State& state() {
  static State* const instance = new State;
  return *instance;
}

NvrtcPlace find_nvrtc_locked(State& s) {
  const Settings where = settings();
  if (!s.place || s.found_after_changes != where.nvrtc_changes ||
      s.environment != where.nvrtc_path) {
    s.place.reset();
    s.place = search_nvrtc(where);
    s.found_after_changes = where.nvrtc_changes;
    s.environment = where.nvrtc_path;
  }
  return *s.place;
}

}  // namespace

std::string NvrtcPlace::version() const {
  return fmt::format("{}.{}", major, minor);
}

NvrtcPlace find_nvrtc() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  return find_nvrtc_locked(s);
}

const Nvrtc& nvrtc() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const NvrtcPlace place = find_nvrtc_locked(s);
  std::unique_ptr<const Nvrtc>& known = s.open[place.path];
  if (known == nullptr) {
    auto opened = std::make_unique<Nvrtc>();
    if (const std::string why = open_library(place.path, *opened); !why.empty()) {
      raise(ErrorCode::not_supported, "NVRTC at {} cannot be used: {}", place.path, why);
    }
    // What it says itself counts.
    s.place->major = opened->place.major;
    s.place->minor = opened->place.minor;
    known = std::move(opened);
  }
  return *known;
}

bool Nvrtc::knows(std::string_view arch) const {
  int wanted = 0;
  if (!arch.starts_with("sm_")) return false;
  std::from_chars(arch.data() + 3, arch.data() + arch.size(), wanted);
  int count = 0;
  if (get_num_supported_archs(&count) != 0) return false;
  std::vector<int> archs(static_cast<std::size_t>(count));
  if (get_supported_archs(archs.data()) != 0) return false;
  return std::find(archs.begin(), archs.end(), wanted) != archs.end();
}

}  // namespace jit

NvrtcInfo nvrtc_info() {
  const jit::Nvrtc& api = jit::nvrtc();
  return {api.place.path, api.place.major, api.place.minor};
}

}  // namespace tilewright
