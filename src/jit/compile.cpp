// SPDX-License-Identifier: Apache-2.0
#include "jit/compile.h"

#include <fmt/ranges.h>

#include <chrono>
#include <filesystem>
#include <fstream>

#include "base/checks.h"
#include "jit/disk_cache.h"
#include "jit/nvrtc.h"

namespace tilewright::jit {
namespace {

class Program {
 public:
  Program(const Nvrtc& api, const KernelSource& source, const std::string& file_name) : api_(api) {
    std::vector<const char*> names, texts;
    for (const EmbeddedFile* file : included_files(source.source)) {
      names.push_back(file->name.data());
      texts.push_back(file->text.data());
    }
    check(api.create_program(&program_, source.source.c_str(), file_name.c_str(),
                             static_cast<int>(names.size()), texts.data(), names.data()),
          "nvrtcCreateProgram");
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() { api_.destroy_program(&program_); }

  // Whether it went well; the log tells.
  bool compile(const std::vector<std::string>& options) {
    std::vector<const char*> list;
    list.reserve(options.size());
    for (const std::string& option : options) list.push_back(option.c_str());
    result_ = api_.compile_program(program_, static_cast<int>(list.size()), list.data());
    return result_ == 0;
  }
  std::string result() const { return api_.get_error_string(result_); }

  std::string log() const {
    std::size_t bytes = 0;
    check(api_.get_program_log_size(program_, &bytes), "nvrtcGetProgramLogSize");
    std::string text(bytes, '\0');
    if (bytes > 0) check(api_.get_program_log(program_, text.data()), "nvrtcGetProgramLog");
    while (!text.empty() && (text.back() == '\0' || text.back() == '\n')) text.pop_back();
    return text;
  }

  std::string cubin() const {
    std::size_t bytes = 0;
    check(api_.get_cubin_size(program_, &bytes), "nvrtcGetCUBINSize");
    std::string data(bytes, '\0');
    check(api_.get_cubin(program_, data.data()), "nvrtcGetCUBIN");
    return data;
  }

 private:
  void check(int result, const char* call) const {
    if (result != 0) {
      raise(ErrorCode::compile_error, "NVRTC {}: {} failed: {}", api_.place.version(), call,
            api_.get_error_string(result));
    }
  }

  const Nvrtc& api_;
  ProgramObject* program_ = nullptr;
  int result_ = 0;
};

// Saves a source that did not compile. Its path, or why there is none.
std::string save_source(const KernelSource& source, const std::string& file_name) {
  namespace fs = std::filesystem;
  std::error_code error;
  const std::string cache = cache_folder();
  for (const fs::path& folder :
       {cache.empty() ? fs::path() : fs::path(cache) / "failed", fs::temp_directory_path(error)}) {
    if (folder.empty()) continue;
    fs::create_directories(folder, error);
    const fs::path path = folder / file_name;
    std::ofstream file(path, std::ios::binary);
    file << source.source;
    file.close();
    if (file.good()) return path.string();
  }
  return "nowhere: no folder can be written";
}

std::string file_name_of(const KernelSource& source, const std::string& arch,
                         const Digest& digest) {
  std::string name;
  for (const char c : source.name.substr(0, 100)) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       c == '_' || c == '-' || c == '.';
    name += plain ? c : '_';
  }
  return fmt::format("{}.{}.{}.cu", name, arch, digest.hex().substr(0, 8));
}

[[noreturn]] void fail(const KernelSource& source, const std::string& arch, const Program& program,
                       const std::string& what, const std::string& file_name, const Nvrtc& api) {
  raise(ErrorCode::compile_error,
        "kernel {} for {}: {}\noptions: {}\nNVRTC {}: {}\nsource: {}\nlog:\n{}", source.name, arch,
        what, fmt::join(compile_options(source, arch), " "), api.place.version(), api.place.path,
        save_source(source, file_name), program.log());
}

}  // namespace

Binary compile(const KernelSource& source, const std::string& arch) {
  const Nvrtc& api = nvrtc();
  if (!api.knows(arch)) {
    raise(ErrorCode::not_supported,
          "kernel {} for {}: NVRTC {} at {} does not know this architecture; a newer one is "
          "needed: pip "
          "install --upgrade nvidia-cuda-nvrtc",
          source.name, arch, api.place.version(), api.place.path);
  }
  Binary out;
  out.name = source.name;
  out.arch = arch;
  out.source = digest_of(source, arch);
  out.compiler = api.place.version();
  out.shared_bytes = source.shared_bytes;
  const std::string file_name = file_name_of(source, arch, out.source);
  const auto start = std::chrono::steady_clock::now();
  Program program(api, source, file_name);
  std::vector<std::string> options = compile_options(source, arch);
  // Where a driver is installed, newer ones keep compiled code themselves and say nothing about it
  // the next time; what a kernel needs is to be known.
  if (api.place.major >= 13) options.emplace_back("-no-cache");
  if (!program.compile(options)) {
    fail(source, arch, program, program.result(), file_name, api);
  }
  out.cubin = program.cubin();
  out.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const std::string log = program.log();
  out.entries = parse_log(log);
  out.warnings = warnings_in(log);
  if (const std::string trouble = trouble_in(source, out.entries, log); !trouble.empty()) {
    fail(source, arch, program, trouble, file_name, api);
  }
  return out;
}

}  // namespace tilewright::jit
