// SPDX-License-Identifier: Apache-2.0
// Packs: written, loaded, damaged.
#include "jit/pack.h"

#include <gmock/gmock.h>

#include "jit/compile.h"
#include "jit/kernel_store.h"
#include "jit/test_kernels.h"
#include "support/expect_error.h"
#include "support/use_nvrtc.h"

namespace tilewright {
namespace {

using jit::Binary;
using test::expect_error_of;
using test::file_contents;
using test::scale_kernel;
using test::write_file;

class Pack : public test::NvrtcFixture {
 protected:
  static std::shared_ptr<const Binary> compiled(const std::string& salt,
                                                const char* arch = "sm_80") {
    return std::make_shared<const Binary>(jit::compile(scale_kernel(salt), arch));
  }
  // Neither compiler nor cache: a library that is none is the only place to look at.
  static void take_compiler_away() {
    set_kernel_cache_path("");
    set_nvrtc_path("/nowhere/libnvrtc.so");
  }
  ~Pack() override { set_nvrtc_path(""); }

  std::string path() const { return (cache_.path() / "kernels.pack").string(); }
};

TEST_F(Pack, NeedsNoCompilerOnceLoaded) {
  const auto first = compiled("a"), second = compiled("b", "sm_90a");
  jit::write_pack(path(), {first, second});
  take_compiler_away();
  expect_error_of(ErrorCode::not_supported, {"NVRTC's path was set"},
                  [] { jit::obtain(scale_kernel("a"), "sm_80"); });
  EXPECT_EQ(load_kernel_pack(path()), 2U);
  const jit::Obtained obtained = jit::obtain(scale_kernel("a"), "sm_80");
  EXPECT_TRUE(obtained.from_cache);
  EXPECT_EQ(obtained.binary->cubin, first->cubin);
  EXPECT_EQ(jit::obtain(scale_kernel("b"), "sm_90a").binary->cubin, second->cubin);
  // Code for 8.0 runs on 8.6.
  EXPECT_EQ(jit::obtain_to_run(scale_kernel("a"), "sm_86").binary->cubin, first->cubin);
  expect_error_of(ErrorCode::not_supported, {}, [] { jit::obtain(scale_kernel("a"), "sm_86"); });
  expect_error_of(ErrorCode::not_supported, {},
                  [] { jit::obtain_to_run(scale_kernel("a"), "sm_90a"); });
  expect_error_of(ErrorCode::not_supported, {}, [] { jit::obtain(scale_kernel("a"), "sm_90a"); });
}

TEST_F(Pack, DamageIsFound) {
  const auto one = compiled("damage");
  jit::write_pack(path(), {one, one});
  const std::string good = file_contents(path());
  for (std::size_t i = 0; i < good.size(); i += i < 600 ? 1 : 997) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 4);
    write_file(path(), bad);
    EXPECT_THROW(load_kernel_pack(path()), Error) << i;
    write_file(path(), good.substr(0, i));
    EXPECT_THROW(load_kernel_pack(path()), Error) << i;
  }
  write_file(path(), good + "x");
  expect_error_of(ErrorCode::invalid_argument, {path(), "1 bytes too many"},
                  [&] { load_kernel_pack(path()); });
  write_file(path(), "something else");
  expect_error_of(ErrorCode::invalid_argument, {path(), "is no pack of this version"},
                  [&] { load_kernel_pack(path()); });
  expect_error_of(ErrorCode::invalid_argument, {"/nowhere", "No such file"},
                  [&] { load_kernel_pack("/nowhere"); });
}

TEST_F(Pack, ThatCannotBeWrittenIsAnError) {
  expect_error_of(ErrorCode::invalid_argument,
                  {"/nowhere/x.pack cannot be written", "No such file"},
                  [&] { jit::write_pack("/nowhere/x.pack", {}); });
}

}  // namespace
}  // namespace tilewright
