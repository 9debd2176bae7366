// SPDX-License-Identifier: Apache-2.0
// Memory that ends right before a page nobody may touch: a kernel that reads or writes behind it,
// or far before it, faults, and launch() says where.
#pragma once

#include <cstddef>
#include <string>

namespace tw::emulator {

class GuardedBuffer {
 public:
  // `name` stands in messages. Bytes are 0xFF, NaN in every format, until somebody writes them. The
  // end is exact where `bytes` is a multiple of 16; a remainder is filled up and checked by
  // intact().
  GuardedBuffer(std::string name, std::size_t bytes);
  ~GuardedBuffer();
  GuardedBuffer(const GuardedBuffer&) = delete;
  GuardedBuffer& operator=(const GuardedBuffer&) = delete;

  char* data() { return data_; }
  const char* data() const { return data_; }
  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  std::size_t bytes() const { return bytes_; }

  void fill(unsigned char byte);
  // From now on a write faults too.
  void make_read_only();
  // Whether what lies between the buffer and its guard pages is as it was.
  bool intact() const;

 private:
  friend std::string describe_address(const void* address);

  std::string name_;
  std::size_t bytes_;
  std::size_t mapped_;
  char* map_;
  char* data_;
};

// Where an address lies, seen from the buffers that there are: "8 bytes behind keys (64 bytes)".
std::string describe_address(const void* address);

}  // namespace tw::emulator
