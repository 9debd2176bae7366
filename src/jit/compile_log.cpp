// SPDX-License-Identifier: Apache-2.0
#include "jit/compile_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace tilewright::jit {
namespace {

// The number in front of `words`: number_before("used 12 registers", " registers") is 12; 0
// without.
int number_before(std::string_view line, std::string_view words) {
  const std::size_t end = line.find(words);
  if (end == std::string_view::npos) return 0;
  std::size_t begin = end;
  while (begin > 0 && line[begin - 1] >= '0' && line[begin - 1] <= '9') --begin;
  int value = 0;
  std::from_chars(line.data() + begin, line.data() + end, value);
  return value;
}

template <typename Visit>
void for_each_line(std::string_view text, const Visit& visit) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    visit(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
}

}  // namespace

std::vector<EntryReport> parse_log(std::string_view log) {
  constexpr std::string_view kEntry = "Compiling entry function '";
  std::vector<EntryReport> entries;
  for_each_line(log, [&](std::string_view line) {
    if (const std::size_t at = line.find(kEntry); at != std::string_view::npos) {
      const std::string_view rest = line.substr(at + kEntry.size());
      entries.push_back({std::string(rest.substr(0, rest.find('\''))), 0, 0, 0, 0, 0});
      return;
    }
    if (entries.empty()) return;
    EntryReport& entry = entries.back();
    entry.spill_bytes +=
        number_before(line, " bytes spill stores") + number_before(line, " bytes spill loads");
    entry.stack_bytes = std::max({entry.stack_bytes, number_before(line, " bytes stack frame"),
                                  number_before(line, " bytes cumulative stack size")});
    entry.registers = std::max(entry.registers, number_before(line, " registers"));
    entry.barriers = std::max(entry.barriers, number_before(line, " barriers"));
    entry.shared_bytes = std::max(entry.shared_bytes, number_before(line, " bytes smem"));
  });
  return entries;
}

std::string warnings_in(std::string_view log) {
  std::string warnings;
  for_each_line(log, [&](std::string_view line) {
    if (line.find(": warning #") != std::string_view::npos) warnings.append(line) += '\n';
  });
  return warnings;
}

std::string trouble_in(const KernelSource& source, const std::vector<EntryReport>& entries,
                       std::string_view log) {
  const Budget& budget = source.budget;
  for (const std::string& name : source.entries) {
    const auto found = std::find_if(entries.begin(), entries.end(),
                                    [&](const EntryReport& entry) { return entry.name == name; });
    if (found == entries.end() || found->registers == 0) {
      return fmt::format("the log has no report of the entry point {}", name);
    }
  }
  for (const EntryReport& entry : entries) {
    if (entry.registers > budget.max_registers) {
      return fmt::format("{} needs {} registers, of at most {}", entry.name, entry.registers,
                         budget.max_registers);
    }
    if (entry.spill_bytes > budget.max_spill_bytes && !budget.allow_stack) {
      return fmt::format("{} spills registers: {} bytes", entry.name, entry.spill_bytes);
    }
    if (entry.stack_bytes > budget.max_spill_bytes && !budget.allow_stack) {
      return fmt::format("{} has a stack frame of {} bytes", entry.name, entry.stack_bytes);
    }
  }
  std::string loss;
  for_each_line(log, [&](std::string_view line) {
    if (loss.empty() && line.find("Potential Performance Loss") != std::string_view::npos) {
      loss = line;
    }
  });
  return budget.allow_performance_loss ? std::string() : loss;
}

}  // namespace tilewright::jit
