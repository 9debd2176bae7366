// SPDX-License-Identifier: Apache-2.0
// Looking for NVRTC: order of places, versions that do not fit, messages.
#include "jit/nvrtc.h"

#include <gmock/gmock.h>

#include <cstdlib>

#include "jit/settings.h"
#include "support/expect_error.h"
#include "support/use_fake_cuda.h"
#include "support/use_nvrtc.h"

namespace tilewright {
namespace {

using test::expect_error_of;
using test::TemporaryFolder;
using test::write_file;

// A site-packages folder with the names of libraries; find_nvrtc() reads versions off them.
class Packages {
 public:
  void add(const std::string& package, const std::string& major, const std::string& version) {
    const std::filesystem::path lib = folder_.path() / "nvidia" / package / "lib";
    std::filesystem::create_directories(lib);
    write_file(lib / ("libnvrtc.so." + major), "");
    write_file(lib / ("libnvrtc-builtins.so." + version), "");
  }
  std::string path() const { return folder_.path().string(); }

 private:
  const TemporaryFolder folder_;
};

class FindNvrtc : public ::testing::Test {
 protected:
  ~FindNvrtc() override {
    set_nvrtc_path("");
    set_python_folders({});
  }
};

TEST_F(FindNvrtc, PythonPackagesComeFirstTheNewestOfThemBefore) {
  Packages first, second;
  second.add("cuda_nvrtc", "12", "12.8");
  second.add("cu13", "13", "13.1");
  set_python_folders({first.path(), second.path()});
  EXPECT_EQ(jit::find_nvrtc().path, second.path() + "/nvidia/cu13/lib/libnvrtc.so.13");
  EXPECT_EQ(jit::find_nvrtc().version(), "13.1");
}

TEST_F(FindNvrtc, TheMajorVersionIsNotAboveTheDrivers) {
  test::fake_cuda().driver_version = 12060;
  Packages packages;
  packages.add("cuda_nvrtc", "12", "12.8");
  packages.add("cu13", "13", "13.1");
  set_python_folders({packages.path()});
  EXPECT_EQ(jit::find_nvrtc().version(), "12.8");
}

TEST_F(FindNvrtc, VersionsBefore12_4AreTooOld) {
  Packages packages;
  packages.add("cuda_nvrtc", "12", "12.3");
  packages.add("cu13", "13", "13.0");
  set_python_folders({packages.path()});
  EXPECT_EQ(jit::find_nvrtc().version(), "13.0");
}

TEST_F(FindNvrtc, AnExplicitPathThatCannotBeUsedIsAnError) {
  set_nvrtc_path("/nowhere/libnvrtc.so.13");
  expect_error_of(ErrorCode::not_supported, {"NVRTC's path was set", "/nowhere/libnvrtc.so.13"},
                  [] { jit::find_nvrtc(); });
  set_nvrtc_path("/lib/x86_64-linux-gnu/libm.so.6");
  expect_error_of(ErrorCode::not_supported, {"libm.so.6", "lacks functions of NVRTC"},
                  [] { jit::find_nvrtc(); });
}

TEST_F(FindNvrtc, WhereThereIsNoneTheErrorSaysWhatWasTriedAndHowToMendIt) {
  // A driver that is older than any compiler there is.
  test::fake_cuda().driver_version = 11080;
  Packages packages;
  packages.add("cu13", "13", "13.0");
  set_python_folders({packages.path()});
  expect_error_of(
      ErrorCode::not_supported,
      {"NVRTC 12.4 or newer", "of CUDA 11 at most", "pip install nvidia-cuda-nvrtc",
       "TILEWRIGHT_NVRTC", packages.path() + "/nvidia/cu13/lib/libnvrtc.so.13 (version 13.0",
       "the system's library path"},
      [] { jit::find_nvrtc(); });
}

TEST_F(FindNvrtc, OpensWhatItFound) {
  set_python_folders(test::venv_packages());
  const jit::Nvrtc& api = jit::nvrtc();
  EXPECT_EQ(api.place.version(), jit::find_nvrtc().version());
  EXPECT_TRUE(api.knows("sm_80"));
  EXPECT_TRUE(api.knows("sm_90a"));
  EXPECT_FALSE(api.knows("sm_30"));
  EXPECT_EQ(&jit::nvrtc(), &api);
  const NvrtcInfo info = nvrtc_info();
  EXPECT_EQ(info.path, api.place.path);
  EXPECT_EQ(info.major, api.place.major);
  // The same by its path.
  set_nvrtc_path(api.place.path);
  EXPECT_EQ(jit::nvrtc().place.version(), api.place.version());
}

}  // namespace
}  // namespace tilewright
