// SPDX-License-Identifier: Apache-2.0
// Compiling ahead.
#include <tilewright/jit.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <set>
#include <thread>

#include "base/checks.h"
#include "catalog/kernels_of.h"
#include "cuda/device.h"
#include "jit/kernel_store.h"
#include "jit/pack.h"

namespace tilewright {
namespace {

struct Job {
  const jit::KernelSource* source;
  std::string arch;
};

// "sm_90" is taken for "sm_90a", which is what Hopper's GPUs ask for.
std::string checked_arch(const std::string& arch) {
  const std::string digits = arch.substr(0, arch.find_last_of("0123456789") + 1);
  const std::string suffix = arch.substr(digits.size());
  require(digits.starts_with("sm_") && digits.size() >= 5 && digits.size() <= 6 &&
              digits.find_first_not_of("0123456789", 3) == std::string::npos &&
              (suffix.empty() || suffix == "a" || suffix == "f"),
          "archs has {}: it must be like sm_80 or sm_90a", arch);
  require(std::stoi(digits.substr(3)) >= 80, "archs has {}: sm_80 is the oldest that is supported",
          arch);
  return arch == "sm_90" ? "sm_90a" : arch;
}

std::vector<std::string> archs_of(const CompileOptions& options) {
  std::vector<std::string> archs;
  const auto add = [&](const std::string& arch) {
    if (std::find(archs.begin(), archs.end(), arch) == archs.end()) archs.push_back(arch);
  };
  for (const std::string& arch : options.archs) add(checked_arch(arch));
  if (!archs.empty()) return archs;
  const int count = cuda::device_count();
  require(count > 0,
          "archs is empty, and this machine has no GPU: name architectures, such as sm_80");
  for (int i = 0; i < count; ++i) add(cuda::describe_device(i).arch);
  return archs;
}

// Each kernel once, in the order of specs.
std::vector<jit::KernelSource> sources_of(const std::vector<AttentionSpec>& specs,
                                          const CompileOptions& options, const std::string& arch) {
  std::vector<jit::KernelSource> sources;
  std::set<jit::Digest> seen;
  const auto add = [&](std::vector<jit::KernelSource> more) {
    for (jit::KernelSource& source : more) {
      if (seen.insert(jit::digest_of(source, "")).second) sources.push_back(std::move(source));
    }
  };
  for (const AttentionSpec& spec : specs) {
    add(options.limits ? kernels_of(spec, arch, *options.limits)
                       : kernels_of(spec, arch, options.block_structures));
  }
  for (const std::vector<AttentionSpec>& together : options.plans) {
    require(!together.empty(), "plans has an empty list: a plan has at least one attention");
    if (options.limits) {
      add({plan_kernel_of(together, options.limits->block_structures)});
    } else {
      add(plan_kernels_of(together, options.block_structures));
    }
  }
  if (options.ops) add(kernels_of_ops(arch));
  return sources;
}

KernelReport report_of(const jit::Obtained& obtained) {
  const jit::Binary& binary = *obtained.binary;
  KernelReport report;
  report.kernel = binary.name;
  report.arch = binary.arch;
  report.seconds = binary.seconds;
  report.registers = binary.max_registers();
  report.spill_bytes = binary.spill_bytes();
  report.shared_bytes = binary.total_shared_bytes();
  report.from_cache = obtained.from_cache;
  return report;
}

// Runs body(i) for i in [0, count) on `threads` threads; the first exception is thrown at the end.
template <typename Body>
void run_on_threads(std::size_t count, std::size_t threads, const Body& body) {
  std::atomic<std::size_t> next{0};
  std::exception_ptr failure;
  std::mutex mutex;
  const auto work = [&] {
    for (std::size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) {
      try {
        body(i);
      } catch (...) {
        const std::lock_guard lock(mutex);
        if (!failure) failure = std::current_exception();
        next.store(count);
      }
    }
  };
  std::vector<std::thread> pool;
  for (std::size_t i = 1; i < std::min(threads, count); ++i) pool.emplace_back(work);
  work();
  for (std::thread& thread : pool) thread.join();
  if (failure) std::rethrow_exception(failure);
}

}  // namespace

std::vector<KernelReport> compile_kernels(const std::vector<AttentionSpec>& specs,
                                          const CompileOptions& options) {
  require(options.jobs >= 0, "jobs is {}: it must be at least 1, or 0 for the number of cores",
          options.jobs);
  const std::vector<std::string> archs = archs_of(options);
  std::vector<std::vector<jit::KernelSource>> sources;  // by architecture
  sources.reserve(archs.size());
  for (const std::string& arch : archs) sources.push_back(sources_of(specs, options, arch));
  std::vector<Job> jobs;
  for (std::size_t i = 0; i < archs.size(); ++i) {
    for (const jit::KernelSource& source : sources[i]) jobs.push_back({&source, archs[i]});
  }
  std::vector<KernelReport> reports(jobs.size());
  std::vector<std::shared_ptr<const jit::Binary>> binaries(jobs.size());
  std::mutex mutex;
  std::size_t done = 0;
  const std::size_t threads = options.jobs > 0
                                  ? static_cast<std::size_t>(options.jobs)
                                  : std::max<std::size_t>(std::thread::hardware_concurrency(), 1);
  run_on_threads(jobs.size(), threads, [&](std::size_t i) {
    try {
      const jit::Obtained obtained = jit::obtain(*jobs[i].source, jobs[i].arch);
      binaries[i] = obtained.binary;
      reports[i] = report_of(obtained);
    } catch (const Error& error) {
      // Without a compiler no other kernel would fare better.
      if (error.code() != ErrorCode::compile_error) throw;
      reports[i].kernel = jobs[i].source->name;
      reports[i].arch = jobs[i].arch;
      reports[i].error = error.what();
    }
    const std::lock_guard lock(mutex);
    ++done;
    if (options.progress) options.progress(reports[i], done, jobs.size());
  });
  const bool all_well = std::none_of(reports.begin(), reports.end(),
                                     [](const KernelReport& r) { return !r.error.empty(); });
  if (!options.pack.empty() && all_well) jit::write_pack(options.pack, binaries);
  return reports;
}

}  // namespace tilewright
