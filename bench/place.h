// SPDX-License-Identifier: Apache-2.0
// Where a benchmark runs: tensors and times on a GPU, or on the CPU.
#pragma once

#include <tilewright/tilewright.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "cuda/device.h"
#include "cuda/memory.h"

namespace tilewright::bench {

using Ints = std::vector<std::int32_t>;
using Clock = std::chrono::steady_clock;

inline double microseconds(Clock::time_point since) {
  return std::chrono::duration<double, std::micro>(Clock::now() - since).count();
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Where the work runs: tensors and times there.
class Place {
 public:
  explicit Place(Device device) : device_(device) {
    if (is_gpu()) {
      scope_.emplace(device.index);
      stream_ = std::make_unique<cuda::OwnedStream>(cuda::device(device.index));
    }
  }

  Device device() const { return device_; }
  bool is_gpu() const { return device_.type == DeviceType::cuda; }
  Stream stream() const { return is_gpu() ? stream_->get() : Stream{}; }
  void synchronize() const {
    if (is_gpu()) cuda::synchronize(stream());
  }

  // Memory that lives as long as this object, on the CPU the caller's.
  void* upload(const void* data, std::size_t bytes) {
    if (!is_gpu()) return const_cast<void*>(data);  // NOLINT(cppcoreguidelines-pro-type-const-cast)
    buffers_.emplace_back(cuda::device(device_.index), bytes);
    cuda::copy_to_device(buffers_.back().data(), data, bytes, stream());
    synchronize();
    return buffers_.back().data();
  }
  void* duplicate(const void* data, std::size_t bytes) {
    buffers_.emplace_back(cuda::device(device_.index), bytes);
    cuda::copy_on_device(buffers_.back().data(), data, bytes, stream());
    return buffers_.back().data();
  }
  template <typename T>
  void download(std::vector<T>& to, const void* from) const {
    if (!is_gpu() || to.empty()) return;
    cuda::copy_to_host(to.data(), from, to.size() * sizeof(T), stream());
    synchronize();
  }

  template <typename T>
  void overwrite(void* to, const std::vector<T>& from) const {
    if (!is_gpu() || from.empty()) return;
    cuda::copy_to_device(to, from.data(), from.size() * sizeof(T), stream());
    synchronize();
  }

  TensorView ints(const Ints& values) { return ints(values, -1); }
  TensorView ints(const Ints& values, std::int64_t rows) {
    void* data = upload(values.data(), values.size() * sizeof(values[0]));
    const auto count = static_cast<std::int64_t>(values.size());
    return rows < 0 ? TensorView(data, DType::i32, {count}, device_)
                    : TensorView(data, DType::i32, {rows, count / rows}, device_);
  }

  // Microseconds of a call, median of up to 30 rounds of n calls, the i-th of which is work(i).
  double device_us(int n, const std::function<void(int)>& work) const {
    std::vector<double> rounds;
    if (!is_gpu()) {
      for (int round = 0; round < 5; ++round) {
        const auto begin = Clock::now();
        work(round);
        rounds.push_back(microseconds(begin));
      }
      return median(rounds);
    }
    const cuda::Device& gpu = cuda::device(device_.index);
    const cuda::Graph graph(gpu, stream(), [&] {
      for (int i = 0; i < n; ++i) work(i);
    });
    graph.launch(stream());
    synchronize();
    cuda::Event begin(gpu, cuda::Event::Timing::on);
    cuda::Event end(gpu, cuda::Event::Timing::on);
    double total_ms = 0;
    while (rounds.size() < 30 && total_ms < 1500) {
      begin.record(stream());
      graph.launch(stream());
      end.record(stream());
      end.synchronize();
      const double ms = end.milliseconds_since(begin);
      total_ms += ms;
      rounds.push_back(ms * 1e3 / n);
    }
    return median(rounds);
  }

  // Microseconds of the host for a call, median. The device's queue never fills.
  double host_us(double device_us, const std::function<void()>& work) const {
    const int calls = std::clamp(static_cast<int>(5e5 / std::max(device_us, 1.0)), 10, 1000);
    std::vector<double> times;
    for (int i = 0; i < calls; ++i) {
      if (i % 50 == 0) synchronize();
      const auto begin = Clock::now();
      work();
      times.push_back(microseconds(begin));
    }
    synchronize();
    return median(times);
  }

 private:
  Device device_;
  std::optional<cuda::ContextScope> scope_;
  std::unique_ptr<cuda::OwnedStream> stream_;
  std::deque<cuda::DeviceBuffer> buffers_;
};

}  // namespace tilewright::bench
