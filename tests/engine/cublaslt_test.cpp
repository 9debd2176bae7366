// SPDX-License-Identifier: Apache-2.0
// Looking for cuBLASLt: order of places, versions, messages.
#include "engine/cublaslt.h"

#include <gmock/gmock.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "engine/expect_error.h"

namespace tilewright::engine {
namespace {

namespace fs = std::filesystem;

using test::expect_error;

// A variable of the environment, put back in the end.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    setenv(name, value.c_str(), 1);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;
  ~Variable() {
    if (old_) {
      setenv(name_, old_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }

 private:
  const char* name_;
  std::optional<std::string> old_;
};

class FindCublasLt : public ::testing::Test {
 protected:
  FindCublasLt()
      : root_(fs::path(testing::TempDir()) / ("cublaslt_" + std::to_string(getpid()))),
        python_("VIRTUAL_ENV", (root_ / "venv").string()),
        conda_("CONDA_PREFIX", ""),
        home_("CUDA_HOME", (root_ / "toolkit").string()),
        path_("CUDA_PATH", ""),
        given_("TILEWRIGHT_CUBLASLT", "") {}
  ~FindCublasLt() override { fs::remove_all(root_); }

  std::string add(const std::string& folder, const std::string& name) const {
    const fs::path file = root_ / folder / name;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << "no library";
    return file.string();
  }

 private:
  fs::path root_;
  Variable python_, conda_, home_, path_, given_;
};

constexpr const char* kPackages = "venv/lib/python3.12/site-packages/nvidia/";

TEST_F(FindCublasLt, PythonPackagesComeBeforeToolkitsAndTheLoadersPathIsLast) {
  const std::string toolkit = add("toolkit/lib64", "libcublasLt.so.13");
  const std::string old_package = add(kPackages + std::string("cublas/lib"), "libcublasLt.so.12");
  const std::string package = add(kPackages + std::string("cu13/lib"), "libcublasLt.so.13");
  const std::vector<std::string> found = cublaslt_candidates("", 0);
  ASSERT_GE(found.size(), 5U);
  EXPECT_EQ(found[0], package);
  EXPECT_EQ(found[1], old_package);
  EXPECT_EQ(found[2], toolkit);
  EXPECT_EQ(found[found.size() - 2], "libcublasLt.so.13");
  EXPECT_EQ(found.back(), "libcublasLt.so.12");
}

TEST_F(FindCublasLt, NoneIsNewerThanTheDriver) {
  add("toolkit/lib64", "libcublasLt.so.13");
  add(kPackages + std::string("cu13/lib"), "libcublasLt.so.13");
  const std::string old_one = add("toolkit/lib64", "libcublasLt.so.12");
  const std::vector<std::string> found = cublaslt_candidates("", 12);
  EXPECT_EQ(found.front(), old_one);
  EXPECT_THAT(found, testing::Each(testing::EndsWith(".12")));
}

TEST_F(FindCublasLt, APathThatIsGivenIsTheOnlyOne) {
  add("toolkit/lib64", "libcublasLt.so.13");
  const Variable given("TILEWRIGHT_CUBLASLT", "/opt/libcublasLt.so");
  EXPECT_THAT(cublaslt_candidates("", 0), testing::ElementsAre("/opt/libcublasLt.so"));
  EXPECT_THAT(cublaslt_candidates("/mine.so", 0), testing::ElementsAre("/mine.so"));
}

TEST_F(FindCublasLt, SaysWhatWasTriedAndHowToMendIt) {
  const std::string broken = add("toolkit/lib64", "libcublasLt.so.13");
  expect_error(
      [&] {
        open_cublaslt({broken, "libm.so.6", "/nowhere/libcublasLt.so"});
      },
      {"cuBLASLt of CUDA 12 or 13", "pip install nvidia-cublas", "TILEWRIGHT_CUBLASLT", broken,
       "libm.so.6 (it has no function cublasLtGetVersion)", "/nowhere/libcublasLt.so"},
      ErrorCode::not_supported);
}

TEST(OpenCublasLt, KnowsTheVersionOfALibraryThatIsHere) {
  std::optional<CublasLt> api;
  try {
    api = open_cublaslt(cublaslt_candidates("", 0));
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();
  }
  EXPECT_THAT(api->major, testing::AnyOf(12, 13));
  EXPECT_THAT(api->minor, testing::AllOf(testing::Ge(0), testing::Lt(20)));
  EXPECT_TRUE(fs::exists(api->path)) << api->path;
}

}  // namespace
}  // namespace tilewright::engine
