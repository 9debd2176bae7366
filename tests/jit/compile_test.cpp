// SPDX-License-Identifier: Apache-2.0
// Compiling by NVRTC: what comes out, what is refused, and what errors say.
#include "jit/compile.h"

#include <gmock/gmock.h>

#include "jit/compile_log.h"
#include "jit/test_kernels.h"
#include "support/expect_error.h"
#include "support/use_nvrtc.h"

namespace tilewright {
namespace {

using jit::Binary;
using jit::KernelSource;
using test::expect_error_of;
using test::scale_kernel;
using ::testing::HasSubstr;

class Compile : public test::NvrtcFixture {};

TEST_F(Compile, GivesACubinAndWhatItNeeds) {
  for (const char* arch : {"sm_80", "sm_90a"}) {
    KernelSource source = scale_kernel();
    source.shared_bytes = 1000;
    const Binary binary = jit::compile(source, arch);
    EXPECT_EQ(binary.name, "scale");
    EXPECT_EQ(binary.arch, arch);
    EXPECT_EQ(binary.source, jit::digest_of(source, arch));
    EXPECT_EQ(binary.cubin.substr(0, 4),
              "\x7F"
              "ELF");
    EXPECT_THAT(binary.cubin, HasSubstr(".text.scale"));
    EXPECT_GT(binary.seconds, 0);
    ASSERT_EQ(binary.entries.size(), 1U);
    EXPECT_EQ(binary.entries[0].name, "scale");
    EXPECT_GE(binary.max_registers(), 4);
    EXPECT_LE(binary.max_registers(), 32);
    EXPECT_EQ(binary.spill_bytes(), 0);
    EXPECT_EQ(binary.total_shared_bytes(), 1000);
    EXPECT_EQ(binary.warnings, "");
  }
}

TEST_F(Compile, TellsWhatTheCompilerWarnsOf) {
  KernelSource source = scale_kernel();
  source.source += "static int unused() { int nothing; nothing = 3; return 0; }\n";
  const Binary binary = jit::compile(source, "sm_80");
  EXPECT_THAT(binary.warnings, HasSubstr("variable \"nothing\" was set but never used\n"));
}

TEST_F(Compile, FailingSourcesSayAllThatIsNeededToMendThem) {
  KernelSource source = scale_kernel();
  source.name = "broken kernel/1";
  source.source += "\nTW_KERNEL broken() { not_declared(); }\n";
  source.options = {"-DANSWER=42"};
  try {
    jit::compile(source, "sm_80");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::compile_error);
    const std::string text = error.what();
    EXPECT_THAT(text, HasSubstr("kernel broken kernel/1 for sm_80: "));
    EXPECT_THAT(text,
                HasSubstr("-std=c++20 -default-device --ptxas-options=-v -arch=sm_80 -DANSWER=42"));
    EXPECT_THAT(text, HasSubstr("identifier \"not_declared\" is undefined"));
    const std::size_t at = text.find("\nsource: ") + 9;
    const std::string path = text.substr(at, text.find('\n', at) - at);
    EXPECT_THAT(path, HasSubstr("broken_kernel_1.sm_80."));
    EXPECT_EQ(test::file_contents(path), source.source);
  }
}

TEST_F(Compile, KernelsOverTheirBudgetAreRefused) {
  KernelSource stacked = test::stack_kernel();
  expect_error_of(ErrorCode::compile_error,
                  {"kernel stacked", "stacked has a stack frame of 256 bytes"},
                  [&] { jit::compile(stacked, "sm_80"); });
  stacked.budget.allow_stack = true;
  EXPECT_EQ(jit::compile(stacked, "sm_80").entries[0].stack_bytes, 256);

  KernelSource spilling = test::spilling_kernel();
  expect_error_of(ErrorCode::compile_error, {"spilling spills registers: "},
                  [&] { jit::compile(spilling, "sm_80"); });
  spilling.budget.max_spill_bytes = 10000;
  EXPECT_GT(jit::compile(spilling, "sm_80").spill_bytes(), 0);

  KernelSource scale = scale_kernel();
  scale.budget.max_registers = 3;
  expect_error_of(ErrorCode::compile_error, {"scale needs ", " registers, of at most 3"},
                  [&] { jit::compile(scale, "sm_80"); });
}

TEST_F(Compile, EntryPointsMustExist) {
  KernelSource source = scale_kernel();
  source.entries.push_back("other");
  expect_error_of(ErrorCode::compile_error, {"no report of the entry point other"},
                  [&] { jit::compile(source, "sm_80"); });
}

TEST_F(Compile, HeadersThatAreNotEmbeddedAreErrors) {
  KernelSource source = scale_kernel();
  source.source = "#include <cuda_fp16.h>\n" + source.source;
  expect_error_of(ErrorCode::internal, {"includes cuda_fp16.h, which is no embedded file"},
                  [&] { jit::compile(source, "sm_80"); });
}

TEST_F(Compile, ArchitecturesThatTheCompilerDoesNotKnowAreErrors) {
  expect_error_of(ErrorCode::not_supported, {"for sm_70", "does not know this architecture"},
                  [&] { jit::compile(scale_kernel(), "sm_70"); });
  expect_error_of(ErrorCode::not_supported, {"for nonsense"},
                  [&] { jit::compile(scale_kernel(), "nonsense"); });
}

constexpr const char* kLog =
    "ptxas info    : 0 bytes gmem\n"
    "ptxas info    : (C7508) Potential Performance Loss: 'setmaxnreg' ignored to maintain minimum "
    "register "
    "requirements.\n"
    "ptxas info    : Compiling entry function 'first' for 'sm_90a'\n"
    "ptxas info    : Function properties for first\n"
    "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    "ptxas info    : Used 168 registers, used 16 barriers, 1024 bytes smem, 400 bytes cmem[0]\n"
    "ptxas info    : Compiling entry function 'second' for 'sm_90a'\n"
    "ptxas info    : Function properties for second\n"
    "ptxas         .     8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n"
    "ptxas info    : Used 255 registers, used 1 barriers, 8 bytes cumulative stack size\n"
    "ptxas info    : Function properties for helper\n"
    "ptxas         .     32 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n";

TEST(CompileLog, IsRead) {
  const auto entries = jit::parse_log(kLog);
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].name, "first");
  EXPECT_EQ(entries[0].registers, 168);
  EXPECT_EQ(entries[0].barriers, 16);
  EXPECT_EQ(entries[0].shared_bytes, 1024);
  EXPECT_EQ(entries[0].stack_bytes, 0);
  EXPECT_EQ(entries[1].registers, 255);
  EXPECT_EQ(entries[1].spill_bytes, 16);
  EXPECT_EQ(entries[1].stack_bytes, 32);
  EXPECT_TRUE(jit::parse_log("").empty());
}

TEST(CompileLog, PerformanceWarningsAreTrouble) {
  KernelSource source;
  source.entries = {"first"};
  auto entries = jit::parse_log(kLog);
  entries.pop_back();
  EXPECT_THAT(jit::trouble_in(source, entries, kLog),
              HasSubstr("(C7508) Potential Performance Loss"));
  source.budget.allow_performance_loss = true;
  EXPECT_EQ(jit::trouble_in(source, entries, kLog), "");
}

TEST(KernelSource, IncludesAreFollowed) {
  std::vector<std::string> names;
  for (const jit::EmbeddedFile* file : jit::included_files(
           "#include \"plan/schedule.h\"\n  #include <cstddef>\n// #include \"arch/matrix.h\"\n")) {
    names.emplace_back(file->name);
    EXPECT_FALSE(file->text.empty());
    EXPECT_EQ(*file->text.end(), '\0');  // NOLINT: NVRTC reads up to it
  }
  EXPECT_THAT(names,
              ::testing::IsSupersetOf({"plan/schedule.h", "plan/records.h", "cstdint", "cstddef"}));
  EXPECT_THAT(names, ::testing::Not(::testing::Contains("arch/matrix.h")));
}

TEST(KernelSource, DigestsKnowAllThatDecides) {
  const KernelSource base = scale_kernel();
  const jit::Digest digest = jit::digest_of(base, "sm_80");
  EXPECT_EQ(jit::digest_of(scale_kernel(), "sm_80"), digest);
  EXPECT_NE(jit::digest_of(base, "sm_86"), digest);
  const auto differs = [&](const auto& change) {
    KernelSource other = base;
    change(other);
    return jit::digest_of(other, "sm_80") != digest;
  };
  EXPECT_TRUE(differs([](KernelSource& s) { s.source += " "; }));
  EXPECT_TRUE(
      differs([](KernelSource& s) { s.source = "#include \"arch/memory.h\"\n" + s.source; }));
  EXPECT_TRUE(differs([](KernelSource& s) { s.options.emplace_back("-DX"); }));
  EXPECT_TRUE(differs([](KernelSource& s) { s.entries.emplace_back("x"); }));
  EXPECT_TRUE(differs([](KernelSource& s) { s.budget.max_registers = 31; }));
  EXPECT_TRUE(differs([](KernelSource& s) { s.budget.allow_stack = true; }));
  EXPECT_TRUE(differs([](KernelSource& s) { s.budget.max_spill_bytes = 8; }));
  EXPECT_TRUE(differs([](KernelSource& s) { s.shared_bytes = 1; }));
}

// The published values of FNV-1a with 128 bits.
TEST(Digest, IsFnv1a) {
  EXPECT_EQ(jit::digest_of("").hex(), "6c62272e07bb014262b821756295c58d");
  EXPECT_EQ(jit::digest_of("a").hex(), "d228cb696f1a8caf78912b704e4a8964");
  EXPECT_EQ(jit::Hasher().bytes("foo").bytes("bar").digest(), jit::digest_of("foobar"));
  EXPECT_NE(jit::Hasher().text("foo").text("bar").digest(),
            jit::Hasher().text("fo").text("obar").digest());
}

}  // namespace
}  // namespace tilewright
