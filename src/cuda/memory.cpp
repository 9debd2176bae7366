// SPDX-License-Identifier: Apache-2.0
#include "cuda/memory.h"

#include "base/checks.h"

namespace tilewright::cuda {
namespace {

constexpr unsigned kPortable = 1;           // CU_MEMHOSTALLOC_PORTABLE
constexpr unsigned kNonBlocking = 1;        // CU_STREAM_NON_BLOCKING
constexpr unsigned kDisableTiming = 2;      // CU_EVENT_DISABLE_TIMING
constexpr int kDevicePointerAttribute = 3;  // CU_POINTER_ATTRIBUTE_DEVICE_POINTER
constexpr int kCaptureModeThreadLocal = 1;  // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
constexpr int kCaptureStatusNone = 0;       // CU_STREAM_CAPTURE_STATUS_NONE

// Destructors give back what they can: a context that failed, or a process that was forked, has
// nothing left to give back, and an exception would end the process.
template <typename Release>
void release(const Device* device, const Release& give_back) {
  if (device == nullptr) return;
  try {
    const ContextScope scope(*device);
    give_back(driver());
  } catch (const Error&) {  // NOLINT(bugprone-empty-catch)
  }
}

}  // namespace

DeviceBuffer::DeviceBuffer(const Device& device, std::size_t bytes)
    : device_(&device), bytes_(bytes) {
  if (bytes == 0) return;
  const Driver& api = driver();
  const ContextScope scope(device);
  DevicePointer pointer = 0;
  if (const Result result = api.mem_alloc(&pointer, bytes); result == kOutOfMemory) {
    raise(ErrorCode::out_of_memory, "cuda:{} has no {} bytes of memory left", device.index, bytes);
  } else {
    check(api, result, "cuMemAlloc");
  }
  data_ = reinterpret_cast<void*>(pointer);  // NOLINT(performance-no-int-to-ptr)
}

DeviceBuffer::~DeviceBuffer() {
  if (data_ == nullptr) return;
  release(device_, [&](const Driver& api) { api.mem_free(address_of(data_)); });
}

PinnedBuffer::PinnedBuffer(const Device& device, std::size_t bytes)
    : device_(&device), bytes_(bytes) {
  if (bytes == 0) return;
  const Driver& api = driver();
  const ContextScope scope(device);
  check(api, api.mem_host_alloc(&data_, bytes, kPortable), "cuMemHostAlloc");
}

PinnedBuffer::~PinnedBuffer() {
  if (data_ == nullptr) return;
  release(device_, [&](const Driver& api) { api.mem_free_host(data_); });
}

void* address_on_device(const void* host) {
  DevicePointer address = 0;
  // Fails for what the driver does not know, which is no mistake of the caller's here.
  const Result result =
      driver().pointer_get_attribute(&address, kDevicePointerAttribute, address_of(host));
  if (result != kSuccess) return nullptr;
  return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
}

void copy_to_device(void* to, const void* from, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  const Driver& api = driver();
  check(api, api.memcpy_htod_async(address_of(to), from, bytes, handle_of(stream)),
        "cuMemcpyHtoDAsync");
}

void copy_to_host(void* to, const void* from, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  const Driver& api = driver();
  check(api, api.memcpy_dtoh_async(to, address_of(from), bytes, handle_of(stream)),
        "cuMemcpyDtoHAsync");
}

void copy_on_device(void* to, const void* from, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  const Driver& api = driver();
  check(api, api.memcpy_dtod_async(address_of(to), address_of(from), bytes, handle_of(stream)),
        "cuMemcpyDtoDAsync");
}

void fill_bytes(void* to, unsigned char value, std::size_t bytes, Stream stream) {
  if (bytes == 0) return;
  const Driver& api = driver();
  check(api, api.memset_d8_async(address_of(to), value, bytes, handle_of(stream)),
        "cuMemsetD8Async");
}

void fill_words(void* to, unsigned value, std::size_t words, Stream stream) {
  if (words == 0) return;
  const Driver& api = driver();
  check(api, api.memset_d32_async(address_of(to), value, words, handle_of(stream)),
        "cuMemsetD32Async");
}

void synchronize(Stream stream) {
  const Driver& api = driver();
  check(api, api.stream_synchronize(handle_of(stream)), "cuStreamSynchronize");
}

bool is_capturing(Stream stream) {
  const Driver& api = driver();
  int status = 0;
  check(api, api.stream_is_capturing(handle_of(stream), &status), "cuStreamIsCapturing");
  return status != kCaptureStatusNone;
}

Event::Event(const Device& device, Timing timing) : device_(&device) {
  const Driver& api = driver();
  const ContextScope scope(device);
  check(api, api.event_create(&event_, timing == Timing::on ? 0 : kDisableTiming), "cuEventCreate");
}

Event::~Event() {
  release(device_, [&](const Driver& api) { api.event_destroy(event_); });
}

void Event::record(Stream stream) {
  const Driver& api = driver();
  check(api, api.event_record(event_, handle_of(stream)), "cuEventRecord");
}

void Event::wait_on(Stream stream) const {
  const Driver& api = driver();
  check(api, api.stream_wait_event(handle_of(stream), event_, 0), "cuStreamWaitEvent");
}

bool Event::is_done() const {
  const Driver& api = driver();
  const Result result = api.event_query(event_);
  if (result == kNotReady) return false;
  check(api, result, "cuEventQuery");
  return true;
}

void Event::synchronize() const {
  const Driver& api = driver();
  check(api, api.event_synchronize(event_), "cuEventSynchronize");
}

float Event::milliseconds_since(const Event& start) const {
  const Driver& api = driver();
  float milliseconds = 0;
  check(api, api.event_elapsed_time(&milliseconds, start.event_, event_), "cuEventElapsedTime");
  return milliseconds;
}

OwnedStream::OwnedStream(const Device& device) : device_(&device) {
  const Driver& api = driver();
  const ContextScope scope(device);
  check(api, api.stream_create(&stream_, kNonBlocking), "cuStreamCreate");
}

OwnedStream::~OwnedStream() {
  release(device_, [&](const Driver& api) { api.stream_destroy(stream_); });
}

void Graph::begin(Stream stream) {
  const Driver& api = driver();
  check(api, api.stream_begin_capture(handle_of(stream), kCaptureModeThreadLocal),
        "cuStreamBeginCapture");
}

void Graph::abandon(Stream stream) {
  const Driver& api = driver();
  GraphObject* graph = nullptr;
  if (api.stream_end_capture(handle_of(stream), &graph) == kSuccess && graph != nullptr) {
    api.graph_destroy(graph);
  }
}

void Graph::finish(Stream stream) {
  const Driver& api = driver();
  GraphObject* graph = nullptr;
  check(api, api.stream_end_capture(handle_of(stream), &graph), "cuStreamEndCapture");
  const Result result = api.graph_instantiate(&exec_, graph, 0);
  api.graph_destroy(graph);
  check(api, result, "cuGraphInstantiate");
}

Graph::~Graph() {
  release(device_, [&](const Driver& api) { api.graph_exec_destroy(exec_); });
}

void Graph::launch(Stream stream) const {
  const Driver& api = driver();
  check(api, api.graph_launch(exec_, handle_of(stream)), "cuGraphLaunch");
}

}  // namespace tilewright::cuda
