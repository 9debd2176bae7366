// SPDX-License-Identifier: Apache-2.0
// The cache on disk: hits, damage, folders that cannot be used, many threads and processes.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "jit/compile.h"
#include "jit/disk_cache.h"
#include "jit/entry_lock.h"
#include "jit/kernel_store.h"
#include "jit/nvrtc.h"
#include "jit/test_kernels.h"
#include "support/expect_error.h"
#include "support/use_nvrtc.h"

namespace tilewright {
namespace {

using jit::Binary;
using test::file_contents;
using test::scale_kernel;
using test::TemporaryFolder;
using test::write_file;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// A kernel that nobody compiled: what the cache does with it does not depend on a compiler.
Binary made_up(const std::string& name = "made up") {
  Binary binary;
  binary.name = name;
  binary.arch = "sm_80";
  binary.source = jit::digest_of(name);
  binary.compiler = "13.0";
  binary.seconds = 0.25;
  binary.shared_bytes = 4096;
  binary.entries = {{"first", 40, 0, 0, 512, 1}, {"second", 200, 8, 16, 1024, 2}};
  binary.cubin = std::string(
                     "\x7F"
                     "ELF\0\n",
                     6) +
                 name;
  return binary;
}

class DiskCache : public ::testing::Test {
 protected:
  DiskCache() {
    set_kernel_cache_path(folder_.path().string());
    set_warning_handler([this](const std::string& message) { warnings_.push_back(message); });
  }
  ~DiskCache() override { set_warning_handler(nullptr); }

  std::filesystem::path entry() const { return folder_.files().at(0); }

  const TemporaryFolder folder_;
  std::vector<std::string> warnings_;
};

TEST_F(DiskCache, GivesBackWhatWasStored) {
  const Binary stored = made_up();
  EXPECT_FALSE(jit::load_entry(stored.source, "13.0"));
  jit::store_entry(stored);
  const auto loaded = jit::load_entry(stored.source, "13.0");
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->name, stored.name);
  EXPECT_EQ(loaded->arch, "sm_80");
  EXPECT_EQ(loaded->source, stored.source);
  EXPECT_EQ(loaded->compiler, "13.0");
  EXPECT_EQ(loaded->seconds, 0.25);
  EXPECT_EQ(loaded->cubin, stored.cubin);
  ASSERT_EQ(loaded->entries.size(), 2U);
  EXPECT_EQ(loaded->entries[1].name, "second");
  EXPECT_EQ(loaded->max_registers(), 200);
  EXPECT_EQ(loaded->spill_bytes(), 8);
  EXPECT_EQ(loaded->total_shared_bytes(), 5120);
  EXPECT_EQ(loaded->entries[1].stack_bytes, 16);
  EXPECT_EQ(loaded->entries[1].barriers, 2);
  EXPECT_FALSE(jit::load_entry(stored.source, "12.9"));
  EXPECT_FALSE(jit::load_entry(jit::digest_of("other"), "13.0"));
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(DiskCache, AnyDamageIsFoundAndSaid) {
  jit::store_entry(made_up());
  const std::string good = file_contents(entry());
  for (std::size_t i = 0; i < good.size(); ++i) {
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ 1);
    write_file(entry(), bad);
    EXPECT_FALSE(jit::load_entry(made_up().source, "13.0")) << i;
    write_file(entry(), good.substr(0, i));
    EXPECT_FALSE(jit::load_entry(made_up().source, "13.0")) << i;
  }
  EXPECT_EQ(warnings_.size(), 2 * good.size());
  EXPECT_THAT(warnings_[0], HasSubstr("damaged entry"));
  EXPECT_THAT(warnings_[0], HasSubstr(entry().string()));
  write_file(entry(), good + "x");
  EXPECT_FALSE(jit::load_entry(made_up().source, "13.0"));
  jit::store_entry(made_up());  // it is made anew
  EXPECT_TRUE(jit::load_entry(made_up().source, "13.0"));
}

TEST_F(DiskCache, EntriesOfOtherKernelsAreForeign) {
  jit::store_entry(made_up("a"));
  const std::filesystem::path name = entry();
  const std::string content = file_contents(name);
  std::filesystem::remove(name);
  jit::store_entry(made_up("b"));
  write_file(entry(), content);  // a's content by b's name
  EXPECT_FALSE(jit::load_entry(made_up("b").source, "13.0"));
  ASSERT_EQ(warnings_.size(), 1U);
  EXPECT_THAT(warnings_[0], HasSubstr("entry of another kernel"));
  const auto entries = kernel_cache_entries();
  ASSERT_EQ(entries.size(), 1U);
  EXPECT_THAT(entries[0].damage, HasSubstr("name of another entry"));
}

TEST_F(DiskCache, IsListedVerifiedAndCleared) {
  jit::store_entry(made_up("a"));
  jit::store_entry(made_up("b"));
  write_file(folder_.path() / "x.kernel", "nonsense");
  write_file(folder_.path() / "y.kernel.1.2.tmp", "left by a process that was killed");
  write_file(folder_.path() / "mine.txt", "somebody else's");
  std::size_t whole = 0;
  const auto entries = kernel_cache_entries();
  ASSERT_EQ(entries.size(), 3U);
  for (const KernelCacheEntry& entry : entries) {
    EXPECT_GT(entry.bytes, 0U);
    if (!entry.damage.empty()) {
      EXPECT_THAT(entry.file, HasSubstr("x.kernel"));
      continue;
    }
    ++whole;
    EXPECT_EQ(entry.arch, "sm_80");
    EXPECT_EQ(entry.compiler, "13.0");
    EXPECT_EQ(entry.seconds, 0.25);
  }
  EXPECT_EQ(whole, 2U);
  EXPECT_EQ(clear_kernel_cache(true), 2U);
  EXPECT_EQ(kernel_cache_entries().size(), 2U);
  EXPECT_EQ(clear_kernel_cache(), 2U);
  EXPECT_EQ(folder_.files().size(), 1U);  // mine.txt
}

TEST_F(DiskCache, TheFileOfLocksStaysUntilAllIsCleared) {
  jit::store_entry(made_up("a"));
  const std::string folder = folder_.path().string();
  const jit::Digest one = jit::digest_of("one");
  const jit::EntryLock lock(folder, one);
  ASSERT_TRUE(lock.held());
  EXPECT_EQ(folder_.files().size(), 2U);
  ASSERT_EQ(kernel_cache_entries().size(), 1U);  // it is no entry, and no damaged one
  EXPECT_EQ(kernel_cache_entries()[0].damage, "");
  EXPECT_EQ(clear_kernel_cache(true), 0U);
  EXPECT_EQ(folder_.files().size(), 2U);
  EXPECT_EQ(clear_kernel_cache(), 2U);
  EXPECT_THAT(folder_.files(), IsEmpty());
  // Who comes next does not wait for the one that has the file that is gone.
  const jit::EntryLock next(folder, one, std::chrono::milliseconds(0));
  EXPECT_TRUE(next.held());
}

TEST_F(DiskCache, FoldersThatCannotBeWrittenAreSaidOnce) {
  const std::filesystem::path file = folder_.path() / "file";
  write_file(file, "");
  set_kernel_cache_path((file / "kernels").string());  // below a file: fails for root too
  jit::store_entry(made_up("a"));
  jit::store_entry(made_up("b"));
  EXPECT_FALSE(jit::load_entry(made_up("a").source, "13.0"));
  ASSERT_EQ(warnings_.size(), 1U);
  EXPECT_THAT(warnings_[0], HasSubstr((file / "kernels").string()));
  EXPECT_THAT(warnings_[0], HasSubstr("cannot be written"));
  EXPECT_THAT(kernel_cache_entries(), IsEmpty());
  EXPECT_EQ(clear_kernel_cache(), 0U);
}

TEST_F(DiskCache, AReadOnlyFolderIsUsedForReading) {
  if (geteuid() == 0) GTEST_SKIP() << "root writes everywhere";
  jit::store_entry(made_up("a"));
  std::filesystem::permissions(
      folder_.path(), std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  jit::store_entry(made_up("b"));
  EXPECT_TRUE(jit::load_entry(made_up("a").source, "13.0"));
  EXPECT_FALSE(jit::load_entry(made_up("b").source, "13.0"));
  EXPECT_EQ(warnings_.size(), 1U);
}

// A limit on the size of files stands for a full disk: write() fails the same way.
TEST_F(DiskCache, AFullDiskLeavesNothingBehind) {
  Binary large = made_up();
  large.cubin.resize(1 << 20);
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1 << 16, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  jit::store_entry(large);
  jit::store_entry(large);
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_THAT(folder_.files(), IsEmpty());
  ASSERT_EQ(warnings_.size(), 1U);
  EXPECT_THAT(warnings_[0], HasSubstr("File too large"));
}

// Sets variables of the environment, and sets them back.
class Environment {
 public:
  explicit Environment(const std::vector<std::pair<std::string, const char*>>& values) {
    for (const auto& [name, value] : values) {
      const char* old = std::getenv(name.c_str());
      old_.emplace_back(name, old != nullptr ? std::optional<std::string>(old) : std::nullopt);
      value != nullptr ? setenv(name.c_str(), value, 1) : unsetenv(name.c_str());
    }
  }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;
  ~Environment() {
    for (const auto& [name, value] : old_) {
      value ? setenv(name.c_str(), value->c_str(), 1) : unsetenv(name.c_str());
    }
  }

 private:
  std::vector<std::pair<std::string, std::optional<std::string>>> old_;
};

TEST(CacheFolder, FollowsTheEnvironment) {
  {
    const Environment set({{"XDG_CACHE_HOME", "/x"}, {"HOME", "/h"}});
    EXPECT_EQ(kernel_cache_path(), "/x/tilewright/kernels");
  }
  {
    const Environment set({{"XDG_CACHE_HOME", "relative"}, {"HOME", "/h"}});
    EXPECT_EQ(kernel_cache_path(), "/h/.cache/tilewright/kernels");
  }
  const Environment none({{"XDG_CACHE_HOME", nullptr}, {"HOME", nullptr}});
  EXPECT_EQ(kernel_cache_path(), "");
  std::vector<std::string> warnings;
  set_warning_handler([&](const std::string& message) { warnings.push_back(message); });
  jit::store_entry(made_up());
  jit::store_entry(made_up());
  EXPECT_FALSE(jit::load_entry(made_up().source, "13.0"));
  set_warning_handler(nullptr);
  EXPECT_THAT(warnings, ElementsAre(HasSubstr("neither XDG_CACHE_HOME nor HOME")));
  EXPECT_THAT(kernel_cache_entries(), IsEmpty());
}

class KernelStore : public test::NvrtcFixture {};

TEST_F(KernelStore, CompilesOnceAndThenFindsItInMemoryAndOnDisk) {
  const auto source = scale_kernel("memory and disk");
  const jit::Obtained first = jit::obtain(source, "sm_80");
  EXPECT_FALSE(first.from_cache);
  const jit::Obtained second = jit::obtain(source, "sm_80");
  EXPECT_TRUE(second.from_cache);
  EXPECT_EQ(second.binary, first.binary);
  const auto entry = jit::load_entry(first.binary->source, first.binary->compiler);
  ASSERT_TRUE(entry);
  EXPECT_EQ(entry->cubin, first.binary->cubin);
  EXPECT_FALSE(jit::obtain(source, "sm_90a").from_cache);
  EXPECT_EQ(kernel_cache_entries().size(), 2U);
}

TEST_F(KernelStore, ManyThreadsThatWantOneKernelCompileItOnce) {
  const auto source = scale_kernel("many threads");
  std::atomic<int> compiled{0};
  std::vector<jit::Obtained> got(8);
  std::vector<std::thread> threads;
  threads.reserve(got.size());
  for (jit::Obtained& out : got) {
    threads.emplace_back([&] { out = jit::obtain(source, "sm_80"); });
  }
  for (std::thread& thread : threads) thread.join();
  // One that comes late finds it in memory.
  for (const jit::Obtained& out : got) {
    EXPECT_EQ(out.binary, got[0].binary);
    compiled += out.from_cache ? 0 : 1;
  }
  EXPECT_GE(compiled, 1);
  EXPECT_EQ(kernel_cache_entries().size(), 1U);
}

TEST_F(KernelStore, FailuresAreNotKept) {
  auto source = scale_kernel("failing");
  source.entries = {"other"};
  for (int i = 0; i < 2; ++i) {
    test::expect_error_of(ErrorCode::compile_error, {"other"},
                          [&] { jit::obtain(source, "sm_80"); });
  }
}

// Several processes that want one kernel at the same time compile it once.
TEST_F(KernelStore, ProcessesCompileAKernelOnce) {
  int go[2];
  ASSERT_EQ(pipe(go), 0);
  constexpr int kProcesses = 3;
  std::vector<pid_t> children;
  for (int i = 0; i < kProcesses; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      close(go[1]);
      char nothing;
      while (read(go[0], &nothing, 1) > 0) {
      }
      try {
        _exit(jit::obtain(scale_kernel("at the same time"), "sm_80").from_cache ? 1 : 0);
      } catch (...) {
        _exit(2);
      }
    }
    children.push_back(child);
  }
  close(go[0]);
  close(go[1]);  // all start
  int found = 0;
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFEXITED(status));
    ASSERT_NE(WEXITSTATUS(status), 2);
    found += WEXITSTATUS(status);
  }
  EXPECT_EQ(found, kProcesses - 1);
}

// A process with the lock of an entry, until it is killed.
class LockHolder {
 public:
  LockHolder(const std::string& folder, const jit::Digest& entry) {
    int ready[2];
    EXPECT_EQ(pipe(ready), 0);
    child_ = fork();
    if (child_ == 0) {
      const jit::EntryLock lock(folder, entry);
      const char said = lock.held() ? 'y' : 'n';
      if (write(ready[1], &said, 1) != 1) _exit(1);
      for (;;) pause();
    }
    char said = 0;
    EXPECT_EQ(read(ready[0], &said, 1), 1);
    EXPECT_EQ(said, 'y');
    close(ready[0]);
    close(ready[1]);
  }
  ~LockHolder() { end(); }
  void end() {
    if (child_ < 0) return;
    kill(child_, SIGKILL);
    waitpid(child_, nullptr, 0);
    child_ = -1;
  }

 private:
  pid_t child_;
};

TEST_F(DiskCache, WhoeverDiesOrHangsHoldsNobodyUp) {
  using std::chrono::milliseconds;
  const std::string folder = folder_.path().string();
  const jit::Digest one = jit::digest_of("one");
  LockHolder holder(folder, one);
  const jit::EntryLock late(folder, one, milliseconds(50));
  EXPECT_TRUE(late.waited());
  EXPECT_FALSE(late.held());
  const jit::EntryLock other(folder, jit::digest_of("other"), milliseconds(0));
  EXPECT_TRUE(other.held());
  EXPECT_FALSE(other.waited());
  std::thread killer([&] {
    std::this_thread::sleep_for(milliseconds(50));
    holder.end();
  });
  const jit::EntryLock next(folder, one);
  killer.join();
  EXPECT_TRUE(next.held());
  EXPECT_TRUE(next.waited());
  EXPECT_FALSE(jit::EntryLock("", one).held());
  EXPECT_FALSE(jit::EntryLock("/dev/null/no folder", one).held());
}

// Several processes compile the same kernels into one folder, and leave nothing but whole entries.
TEST_F(KernelStore, ProcessesShareAFolder) {
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      try {
        for (const char* salt : {"one", "two"}) jit::obtain(scale_kernel(salt), "sm_80");
        _exit(0);
      } catch (...) {
        _exit(1);
      }
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  const auto entries = kernel_cache_entries();
  EXPECT_EQ(entries.size(), 2U);
  for (const KernelCacheEntry& entry : entries) EXPECT_EQ(entry.damage, "");
  EXPECT_EQ(cache_.files().size(), 3U);  // the file of locks, too
  EXPECT_TRUE(jit::obtain(scale_kernel("two"), "sm_80").from_cache);
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST(CompatibleArchs, AreThoseOfALowerMinorVersion) {
  EXPECT_THAT(jit::compatible_archs("sm_80"), ElementsAre("sm_80"));
  EXPECT_THAT(jit::compatible_archs("sm_89"),
              ElementsAre("sm_89", "sm_88", "sm_87", "sm_86", "sm_85", "sm_84", "sm_83", "sm_82",
                          "sm_81", "sm_80"));
  EXPECT_THAT(jit::compatible_archs("sm_121"), ElementsAre("sm_121", "sm_120"));
  EXPECT_THAT(jit::compatible_archs("sm_90a"), ElementsAre("sm_90a"));
}

}  // namespace
}  // namespace tilewright
