// SPDX-License-Identifier: Apache-2.0
// Compiled kernels in a folder that many processes share: one file an entry, named by what it was
// made of, written under a temporary name and renamed, checked when read. It only ever saves time:
// whatever is wrong with the folder is told to the warning handler, and the kernel is compiled.
#pragma once

#include <tilewright/jit.h>

#include <optional>
#include <string>
#include <vector>

#include "jit/binary.h"

namespace tilewright::jit {

// Of the environment, or as set; empty: no cache.
std::string cache_folder();

// Whether there is a file for the entry of this source by this compiler ("13.0").
bool has_entry(const Digest& source, const std::string& compiler);
// The entry, if there is a good one.
std::optional<Binary> load_entry(const Digest& source, const std::string& compiler);
void store_entry(const Binary& binary);

std::vector<KernelCacheEntry> list_entries(const std::string& folder);
std::size_t remove_entries(const std::string& folder, bool damaged_only);

// A whole file, or nothing where it cannot be read; `error` is the errno then.
std::optional<std::string> read_file(const std::string& path, int& error);
// Writes beside `path`, makes it last and renames; empty, or why it failed. Nothing is left then.
std::string replace_file(const std::string& path, std::string_view data);

}  // namespace tilewright::jit
