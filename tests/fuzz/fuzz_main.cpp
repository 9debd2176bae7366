// SPDX-License-Identifier: Apache-2.0
// tilewright_fuzz: many cases of one target or of all, in many processes; docs/testing.md.
#include <fmt/format.h>
#include <omp.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <tilewright/threads.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <new>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "fuzz/fuzz.h"

#ifdef __SANITIZE_ADDRESS__
// An allocation that a file or a batch of a few kilobytes has no right to.
extern "C" const char* __asan_default_options() {
  return "max_allocation_size_mb=2048";
}
#endif

namespace tilewright::fuzz {
namespace {

constexpr unsigned kSecondsACase = 120;
constexpr const char* kUsage =
    "tilewright_fuzz [--target NAME]... [--cases N] [--seed S] [--threads T] [--case I]\n"
    "                [--replay CHOICE,CHOICE,...]\n";

struct Options {
  std::vector<const Target*> targets;
  std::int64_t cases = 10'000;
  std::uint64_t seed = 1;
  int threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  std::int64_t only = -1;
  std::string replay;
};

// What a process tells the one that waits for it, in shared memory.
struct Progress {
  std::atomic<std::int64_t> index{0};
  std::atomic<std::int64_t> taken{0};
};

int run_process(const Target& target, const Options& options, int number, Progress& progress) {
  const auto before = [&](std::int64_t index, std::int64_t taken) {
    progress.index = index;
    progress.taken = taken;
    ::alarm(kSecondsACase);
  };
  const auto failure =
      run_cases(target, {options.seed, number, options.cases - number, options.threads}, before);
  ::alarm(0);
  if (!failure) return 0;
  fmt::print("{}\n", failure->text(target, options.seed));
  std::fflush(stdout);
  return 1;
}

bool fuzz(const Target& target, const Options& options) {
  const auto threads = static_cast<std::size_t>(options.threads);
  void* memory = ::mmap(nullptr, threads * sizeof(Progress), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  auto* progress = static_cast<Progress*>(memory);
  const auto start = std::chrono::steady_clock::now();
  std::vector<pid_t> processes;
  for (std::size_t i = 0; i < threads; ++i) {
    new (&progress[i]) Progress;
    const pid_t process = ::fork();
    if (process == 0) std::_Exit(run_process(target, options, static_cast<int>(i), progress[i]));
    processes.push_back(process);
  }
  bool well = true;
  std::int64_t taken = 0;
  for (std::size_t i = 0; i < threads; ++i) {
    int status = 0;
    ::waitpid(processes[i], &status, 0);
    taken += progress[i].taken;
    if (WIFEXITED(status) && WEXITSTATUS(status) <= 1) {
      well = well && WEXITSTATUS(status) == 0;
      continue;
    }
    well = false;
    const std::int64_t index = progress[i].index;
    fmt::print("{}: case {} of seed {} crashes ({}); again: --target {} --seed {} --case {}\n",
               target.name, index, options.seed,
               WIFSIGNALED(status) ? ::strsignal(WTERMSIG(status)) : "a sanitizer", target.name,
               options.seed, index);
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  fmt::print("{}: {} cases of seed {}{}, {} taken, {:.0f} cases/s in {} processes\n", target.name,
             options.cases, options.seed, well ? "" : " NOT WELL", taken,
             static_cast<double>(options.cases) / seconds.count(), threads);
  std::fflush(stdout);
  ::munmap(memory, threads * sizeof(Progress));
  return well;
}

bool replay(const Target& target, const Options& options) {
  Choices choices;
  std::istringstream text(options.replay);
  for (std::string word; std::getline(text, word, ',');) choices.push_back(std::stoull(word));
  const Failure failure = shrink(target, options.only, choices);
  fmt::print("{}\n", failure.text(target, options.seed));
  return false;
}

Options read_options(int argc, char** argv) {
  Options options;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const std::string value = argv[i + 1];
    if (name == "--target") {
      options.targets.push_back(find_target(value));
      if (options.targets.back() == nullptr) throw std::invalid_argument(value);
    } else if (name == "--cases") {
      options.cases = std::stoll(value);
    } else if (name == "--seed") {
      options.seed = std::stoull(value);
    } else if (name == "--threads") {
      options.threads = std::max(1, std::stoi(value));
    } else if (name == "--case") {
      options.only = std::stoll(value);
    } else if (name == "--replay") {
      options.replay = value;
    } else {
      throw std::invalid_argument(name);
    }
  }
  if (argc % 2 == 0) throw std::invalid_argument(argv[argc - 1]);
  if (options.targets.empty()) {
    for (const Target& target : targets()) options.targets.push_back(&target);
  }
  return options;
}

int run(int argc, char** argv) {
  Options options;
  try {
    options = read_options(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}unknown: {}\ntargets:", kUsage, error.what());
    for (const Target& target : targets()) fmt::print(stderr, " {}", target.name);
    fmt::print(stderr, "\n");
    return 2;
  }
  set_num_threads(1);
  omp_set_num_threads(1);
#ifndef __SANITIZE_ADDRESS__
  const rlimit most{std::uint64_t{4} << 30, std::uint64_t{4} << 30};
  ::setrlimit(RLIMIT_AS, &most);
#endif
  bool well = true;
  for (const Target* target : options.targets) {
    if (!options.replay.empty()) {
      well = replay(*target, options);
    } else if (options.only >= 0) {
      const auto failure =
          run_cases(*target, {options.seed, options.only, 1, 1}, [](auto, auto) {});
      if (failure) fmt::print("{}\n", failure->text(*target, options.seed));
      well = well && !failure;
    } else {
      well = fuzz(*target, options) && well;
    }
  }
  return well ? 0 : 1;
}

}  // namespace
}  // namespace tilewright::fuzz

int main(int argc, char** argv) {
  return tilewright::fuzz::run(argc, argv);
}
