// SPDX-License-Identifier: Apache-2.0
#include "runtime/guarded_buffer.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <new>
#include <vector>

namespace tw::emulator {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kAlignment = 16;
constexpr unsigned char kPoison = 0xFF;

std::size_t round_up(std::size_t value, std::size_t unit) {
  return (value + unit - 1) / unit * unit;
}

std::vector<const GuardedBuffer*>& all_buffers() {
  static std::vector<const GuardedBuffer*> buffers;
  return buffers;
}

}  // namespace

GuardedBuffer::GuardedBuffer(std::string name, std::size_t bytes)
    : name_(std::move(name)), bytes_(bytes), mapped_(round_up(bytes, kPage) + 2 * kPage) {
  void* map = mmap(nullptr, mapped_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) throw std::bad_alloc();
  map_ = static_cast<char*>(map);
  if (mprotect(map_ + kPage, mapped_ - 2 * kPage, PROT_READ | PROT_WRITE) != 0) {
    munmap(map, mapped_);
    throw std::bad_alloc();
  }
  data_ = map_ + mapped_ - kPage - round_up(bytes, kAlignment);
  std::memset(map_ + kPage, kPoison, mapped_ - 2 * kPage);
  all_buffers().push_back(this);
}

GuardedBuffer::~GuardedBuffer() {
  std::erase(all_buffers(), this);
  munmap(map_, mapped_);
}

void GuardedBuffer::fill(unsigned char byte) {
  std::memset(data_, byte, bytes_);
}

void GuardedBuffer::make_read_only() {
  mprotect(map_ + kPage, mapped_ - 2 * kPage, PROT_READ);
}

bool GuardedBuffer::intact() const {
  const auto poisoned = [](char byte) { return static_cast<unsigned char>(byte) == kPoison; };
  return std::all_of(static_cast<const char*>(map_) + kPage, data(), poisoned) &&
         std::all_of(data() + bytes_, static_cast<const char*>(map_) + mapped_ - kPage, poisoned);
}

std::string describe_address(const void* address) {
  const char* at = static_cast<const char*>(address);
  for (const GuardedBuffer* buffer : all_buffers()) {
    if (at < buffer->map_ || at >= buffer->map_ + buffer->mapped_) continue;
    const std::ptrdiff_t offset = at - buffer->data();
    const auto bytes = static_cast<std::ptrdiff_t>(buffer->bytes_);
    if (offset < 0) {
      return fmt::format("{} bytes before {} ({} bytes)", -offset, buffer->name_, bytes);
    }
    if (offset >= bytes) {
      return fmt::format("{} bytes behind the end of {} ({} bytes)", offset - bytes, buffer->name_,
                         bytes);
    }
    return fmt::format("byte {} of {} ({} bytes)", offset, buffer->name_, bytes);
  }
  return fmt::format("{}, which is in no buffer", fmt::ptr(address));
}

}  // namespace tw::emulator
