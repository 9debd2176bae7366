// SPDX-License-Identifier: Apache-2.0
// Steps on a GPU, of which two may be under way: while one is computed, the next is put together
// and launched, and only then are the tokens of the first one waited for. They go from step to step
// on the device.
#pragma once

#include <array>
#include <map>
#include <vector>

#include "cuda/memory.h"
#include "engine/device_model.h"
#include "engine/device_step.h"
#include "engine/executor.h"
#include "engine/kv_storage.h"

namespace tilewright::engine {

struct DeviceExecutorOptions {
  bool keep_logits = false;  // for logits(): each step is waited for
  bool profile = false;      // for stats().times: launches kernel by kernel, without graphs
};

class DeviceExecutor final : public Executor {
 public:
  // `limits`: of the steps to come. The model must outlive it. Compiles and loads all kernels, and
  // captures the graphs of steps without shared prefixes: half a second for 256 requests.
  // Error (out_of_memory) where the KV cache does not fit.
  DeviceExecutor(DeviceModel& model, const Limits& limits, std::int64_t kv_pages,
                 std::int64_t page_size, const DeviceExecutorOptions& options);
  ~DeviceExecutor() override;

  const ModelConfig& config() const override { return model_.config(); }
  int depth() const override { return options_.keep_logits ? 1 : 2; }
  void launch(const Step& step, std::span<const RowSampling> sampling) override;
  std::span<const std::int32_t> collect() override;
  std::span<const float> logits() const override;
  ExecutorStats stats() const override { return stats_; }

 private:
  // One more than are under way: the last one collected is asked when it ended.
  static constexpr std::size_t kFlights = 3;
  struct Flight {
    Flight(const cuda::Device& device, std::size_t input_bytes, std::int64_t most_rows)
        : inputs(device, input_bytes),
          tokens(device, static_cast<std::size_t>(most_rows) * sizeof(std::int32_t)),
          begin(device, cuda::Event::Timing::on),
          end(device, cuda::Event::Timing::on),
          arrived(device) {}

    cuda::PinnedBuffer inputs;
    cuda::PinnedBuffer tokens;
    cuda::Event begin, end;  // of the work, copies from and to the host left out
    cuda::Event arrived;     // the tokens, at the host
    std::int64_t rows = 0;
  };
  using Flights = std::array<std::unique_ptr<Flight>, kFlights>;

  void warm_up();
  void copy_pages(const std::vector<PageCopy>& copies);
  void count_bytes(const StepBatch& batch);
  // Puts what lies in the device's arrays on the stream.
  void enqueue(const StepShape& shape);
  // Captured at the first call.
  const cuda::Graph& graph(const StepShape& shape);

  DeviceModel& model_;
  const cuda::Device& device_;
  Limits limits_;
  DeviceExecutorOptions options_;
  cuda::OwnedStream stream_;
  KvShape kv_shape_;
  cuda::DeviceBuffer kv_memory_;
  std::vector<KvCache> kv_;  // of each layer
  Plan plan_;
  Plan decode_plan_;  // of steps that only decode, without levels
  StepArrays arrays_;
  cuda::DeviceBuffer inputs_;
  DeviceActivations activations_;
  DeviceTimer timer_;
  Flights flights_;
  std::map<StepShape, std::unique_ptr<cuda::Graph>> graphs_;
  std::int64_t launched_ = 0, collected_ = 0;
  std::vector<float> logits_;
  ExecutorStats stats_;
};

}  // namespace tilewright::engine
