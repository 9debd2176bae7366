// SPDX-License-Identifier: Apache-2.0
#include "jit/binary.h"

#include <algorithm>
#include <charconv>

#include "base/checks.h"

namespace tilewright::jit {
namespace {

constexpr std::string_view kMagic = "tilewright kernel 1";

// Fields are lines "key value"; names may hold anything but the end of a line.
std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

class Reader {
 public:
  explicit Reader(std::string_view data) : data_(data) {}

  std::string_view line() {
    const std::size_t end = data_.find('\n', at_);
    require(end != std::string_view::npos, "the file ends within a header");
    const std::string_view out = data_.substr(at_, end - at_);
    at_ = end + 1;
    return out;
  }
  std::string_view field(std::string_view key) {
    const std::string_view text = line();
    require(text.size() > key.size() && text.starts_with(key) && text[key.size()] == ' ',
            "a header has no {} where it must be", key);
    return text.substr(key.size() + 1);
  }
  template <typename T>
  T number(std::string_view key) {
    const std::string_view text = field(key);
    T value{};
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    require(error == std::errc{} && end == text.data() + text.size(),
            "{} is {}: it must be a number", key, text);
    return value;
  }
  std::string_view bytes(std::size_t count) {
    require(count <= data_.size() - at_, "the file ends within a kernel");
    const std::string_view out = data_.substr(at_, count);
    at_ += count;
    return out;
  }
  std::size_t position() const { return at_; }
  std::string_view until_now() const { return data_.substr(0, at_); }

 private:
  std::string_view data_;
  std::size_t at_ = 0;
};

Digest read_digest(std::string_view hex) {
  Digest out;
  require(hex.size() == 32, "a digest is {}: it must be 32 hexadecimal digits", hex);
  for (const auto& [part, value] :
       {std::pair{hex.substr(0, 16), &out.high}, std::pair{hex.substr(16), &out.low}}) {
    const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), *value, 16);
    require(error == std::errc{} && end == part.data() + part.size(),
            "a digest is {}: it must be 32 hexadecimal digits", hex);
  }
  return out;
}

template <typename Value>
int largest(const std::vector<EntryReport>& entries, const Value& value) {
  int out = 0;
  for (const EntryReport& entry : entries) out = std::max(out, value(entry));
  return out;
}

}  // namespace

int Binary::max_registers() const {
  return largest(entries, [](const EntryReport& e) { return e.registers; });
}
int Binary::spill_bytes() const {
  return largest(entries, [](const EntryReport& e) { return e.spill_bytes; });
}
int Binary::total_shared_bytes() const {
  return shared_bytes + largest(entries, [](const EntryReport& e) { return e.shared_bytes; });
}

std::string encode(const Binary& binary) {
  std::string out = fmt::format(
      "{}\nname {}\narch {}\nsource {}\ncompiler {}\nmicroseconds {}\nshared {}\nentries {}\n",
      kMagic, one_line(binary.name), binary.arch, binary.source.hex(), binary.compiler,
      static_cast<std::int64_t>(binary.seconds * 1e6), binary.shared_bytes, binary.entries.size());
  for (const EntryReport& entry : binary.entries) {
    out += fmt::format("entry {}\nregisters {}\nspill {}\nstack {}\nstatic {}\nbarriers {}\n",
                       entry.name, entry.registers, entry.spill_bytes, entry.stack_bytes,
                       entry.shared_bytes, entry.barriers);
  }
  out += fmt::format("cubin {}\n", binary.cubin.size());
  out += binary.cubin;
  return out + fmt::format("\nchecksum {}\n", digest_of(out).hex());
}

Binary decode(std::string_view& data) {
  Reader in(data);
  require(in.line() == kMagic, "it does not begin with \"{}\"", kMagic);
  Binary out;
  out.name = in.field("name");
  out.arch = in.field("arch");
  out.source = read_digest(in.field("source"));
  out.compiler = in.field("compiler");
  out.seconds = static_cast<double>(in.number<std::int64_t>("microseconds")) * 1e-6;
  out.shared_bytes = in.number<int>("shared");
  const int entries = in.number<int>("entries");
  for (int i = 0; i < entries; ++i) {
    EntryReport entry;
    entry.name = in.field("entry");
    entry.registers = in.number<int>("registers");
    entry.spill_bytes = in.number<int>("spill");
    entry.stack_bytes = in.number<int>("stack");
    entry.shared_bytes = in.number<int>("static");
    entry.barriers = in.number<int>("barriers");
    out.entries.push_back(std::move(entry));
  }
  out.cubin = in.bytes(in.number<std::size_t>("cubin"));
  const Digest found = digest_of(in.until_now());
  require(in.line().empty(), "a kernel is longer than its header says");
  require(read_digest(in.field("checksum")) == found, "a checksum is wrong");
  data.remove_prefix(in.position());
  return out;
}

}  // namespace tilewright::jit
