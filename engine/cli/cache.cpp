// SPDX-License-Identifier: Apache-2.0
// `tilewright cache`: the compiled kernels on disk.
#include <fmt/format.h>
#include <tilewright/jit.h>

#include <memory>

#include "engine/checks.h"
#include "engine/cli/options.h"

namespace tilewright::engine::cli {
namespace {

void print_entry(const KernelCacheEntry& entry, bool json) {
  if (json) {
    print_line(stdout, {{"kernel", entry.kernel},
                        {"arch", entry.arch},
                        {"compiler", entry.compiler},
                        {"seconds", entry.seconds},
                        {"bytes", entry.bytes},
                        {"file", entry.file},
                        {"damage", entry.damage}});
  } else if (entry.damage.empty()) {
    fmt::print("{:<7}  NVRTC {:<5}  {:>6.2f} s  {:>8} bytes  {}\n", entry.arch, entry.compiler,
               entry.seconds, entry.bytes, entry.kernel);
  } else {
    fmt::print("damaged: {}: {}\n", entry.file, entry.damage);
  }
}

int list(bool json) {
  for (const KernelCacheEntry& entry : kernel_cache_entries()) print_entry(entry, json);
  return kAnswered;
}

// Status 1 where an entry is damaged; it stays, and is compiled anew by whoever needs it.
int verify(bool json) {
  std::size_t whole = 0, damaged = 0;
  for (const KernelCacheEntry& entry : kernel_cache_entries()) {
    ++(entry.damage.empty() ? whole : damaged);
    if (!entry.damage.empty()) print_entry(entry, json);
  }
  if (json) {
    print_line(stdout, {{"whole", whole}, {"damaged", damaged}});
  } else {
    fmt::print("{} kernels are whole, {} damaged\n", whole, damaged);
  }
  return damaged == 0 ? kAnswered : kSomeFailed;
}

int clear(bool damaged_only) {
  fmt::print("{} files removed\n", clear_kernel_cache(damaged_only));
  return kAnswered;
}

int path() {
  const std::string folder = kernel_cache_path();
  if (folder.empty()) {
    raise(ErrorCode::invalid_state, "there is no cache: neither XDG_CACHE_HOME nor HOME is set");
  }
  fmt::print("{}\n", folder);
  return kAnswered;
}

}  // namespace

void add_cache(CLI::App& app, int& status) {
  CLI::App* cache = app.add_subcommand("cache", "The compiled kernels on disk");
  cache->require_subcommand(1);
  auto json = std::make_shared<bool>(false);
  auto damaged = std::make_shared<bool>(false);
  const auto add = [&](const char* name, const char* text, auto action) {
    CLI::App* command = cache->add_subcommand(name, text);
    command->callback([action, &status] { status = action(); });
    return command;
  };
  add("list", "All entries, whole and damaged", [json] {
    return list(*json);
  })->add_flag("--json", *json, "One JSON object a line");
  add("verify", "Read and check every entry", [json] {
    return verify(*json);
  })->add_flag("--json", *json, "JSON objects: damaged entries, then counts");
  add("clear", "Remove all entries", [damaged] {
    return clear(*damaged);
  })->add_flag("--damaged", *damaged, "Only those that are damaged");
  add("path", "The folder", [] { return path(); });
}

}  // namespace tilewright::engine::cli
