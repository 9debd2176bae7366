// SPDX-License-Identifier: Apache-2.0
// Lets the library find the NVRTC that scripts/setup installs, so that tests which compile kernels
// run on machines that have never seen CUDA; and keeps them out of the user's cache.
#pragma once

#include <gtest/gtest.h>
#include <tilewright/jit.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>
#include <vector>

namespace tilewright::test {

// A folder of its own, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string path = (std::filesystem::temp_directory_path() / "tilewright_XXXXXX").string();
    if (mkdtemp(path.data()) == nullptr) ADD_FAILURE() << "no temporary folder";
    path_ = path;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code error;
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all, error);
    std::filesystem::remove_all(path_, error);
  }

  const std::filesystem::path& path() const { return path_; }
  std::vector<std::filesystem::path> files() const {
    std::vector<std::filesystem::path> out;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(path_, error)) {
      out.push_back(entry.path());
    }
    return out;
  }

 private:
  std::filesystem::path path_;
};

inline std::string file_contents(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}
inline void write_file(const std::filesystem::path& path, const std::string& data) {
  std::ofstream(path, std::ios::binary) << data;
}

// site-packages of the project's .venv.
inline std::vector<std::string> venv_packages() {
  std::vector<std::string> folders;
  std::error_code error;
  const std::filesystem::path lib = std::filesystem::path(TILEWRIGHT_TEST_VENV) / "lib";
  for (const auto& entry : std::filesystem::directory_iterator(lib, error)) {
    folders.push_back((entry.path() / "site-packages").string());
  }
  return folders;
}

// Tests with NVRTC, an empty cache of their own, and the warnings that came.
class NvrtcFixture : public ::testing::Test {
 protected:
  NvrtcFixture() {
    set_python_folders(venv_packages());
    set_kernel_cache_path(cache_.path().string());
    set_warning_handler([this](const std::string& message) { warnings_.push_back(message); });
  }
  ~NvrtcFixture() override { set_warning_handler(nullptr); }

  const TemporaryFolder cache_;
  std::vector<std::string> warnings_;
};

// The folder of caches (XDG_CACHE_HOME) for tests that only need their kernels to be there: what
// one of them compiles in a run of `make test` serves the others, in whatever process. Else `own`.
inline std::string shared_cache_home(const std::filesystem::path& own) {
  const char* folder = std::getenv("TILEWRIGHT_TEST_KERNELS");
  return folder != nullptr ? folder : own.string();
}

class SharedNvrtcFixture : public NvrtcFixture {
 protected:
  SharedNvrtcFixture() {
    const std::filesystem::path home = shared_cache_home(cache_.path());
    set_kernel_cache_path((home / "tilewright" / "kernels").string());
  }
};

}  // namespace tilewright::test
