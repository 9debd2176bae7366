// SPDX-License-Identifier: Apache-2.0
// Device memory, pinned host memory, copies, events and streams. Functions that take a stream act
// on the GPU whose context is current (ContextScope).
#pragma once

#include <cstddef>
#include <utility>

#include "cuda/device.h"

namespace tilewright::cuda {

// Bytes on a GPU, at an address that is a multiple of 256.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(const Device& device, std::size_t bytes);
  DeviceBuffer(DeviceBuffer&& other) noexcept { swap(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~DeviceBuffer();

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void swap(DeviceBuffer& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  const Device* device_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Page-locked host memory, that every GPU copies from and to without a detour.
class PinnedBuffer {
 public:
  PinnedBuffer() = default;
  PinnedBuffer(const Device& device, std::size_t bytes);
  PinnedBuffer(PinnedBuffer&& other) noexcept { swap(other); }
  PinnedBuffer& operator=(PinnedBuffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~PinnedBuffer();

  void* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

 private:
  void swap(PinnedBuffer& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  const Device* device_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

// Where kernels reach page-locked memory of the host; null for other memory.
void* address_on_device(const void* host);

// Asynchronous; host memory that is not pinned makes the call wait for the copy.
void copy_to_device(void* to, const void* from, std::size_t bytes, Stream stream);
void copy_to_host(void* to, const void* from, std::size_t bytes, Stream stream);
void copy_on_device(void* to, const void* from, std::size_t bytes, Stream stream);
void fill_bytes(void* to, unsigned char value, std::size_t bytes, Stream stream);
void fill_words(void* to, unsigned value, std::size_t words, Stream stream);

void synchronize(Stream stream);
// Whether work on the stream is recorded into a graph and not run.
bool is_capturing(Stream stream);

class Event {
 public:
  enum class Timing : bool { off, on };

  explicit Event(const Device& device, Timing timing = Timing::off);
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();

  void record(Stream stream);
  void wait_on(Stream stream) const;  // what follows on the stream runs after the event
  bool is_done() const;
  void synchronize() const;
  // Between two events that are done, both with timing.
  float milliseconds_since(const Event& start) const;

 private:
  const Device* device_;
  EventObject* event_ = nullptr;
};

// A stream of its own, which does not wait for the legacy default stream.
class OwnedStream {
 public:
  explicit OwnedStream(const Device& device);
  OwnedStream(const OwnedStream&) = delete;
  OwnedStream& operator=(const OwnedStream&) = delete;
  ~OwnedStream();

  Stream get() const { return Stream{stream_}; }

 private:
  const Device* device_;
  StreamHandle stream_ = nullptr;
};

// Work that was recorded from a stream once, to be launched many times.
class Graph {
 public:
  // Records what `work` puts on the stream; nothing of it runs.
  template <typename Work>
  Graph(const Device& device, Stream stream, const Work& work) : device_(&device) {
    begin(stream);
    try {
      work();
    } catch (...) {
      abandon(stream);
      throw;
    }
    finish(stream);
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph();

  void launch(Stream stream) const;

 private:
  static void begin(Stream stream);
  static void abandon(Stream stream);
  void finish(Stream stream);

  const Device* device_;
  GraphExecObject* exec_ = nullptr;
};

}  // namespace tilewright::cuda
