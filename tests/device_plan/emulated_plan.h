// SPDX-License-Identifier: Apache-2.0
// A device plan whose kernel runs in the emulator, and the host's plan of the same limits, for
// batches that are told to both.
#pragma once

#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <array>
#include <cstring>
#include <memory>
#include <vector>

#include "attention/attention_impl.h"
#include "attention/device_plan.h"
#include "attention/plan_impl.h"
#include "cpu/tile_ranges.h"
#include "runtime/launch.h"

namespace tilewright::test {

inline constexpr int kMostParts = 3;

// Stands for the masks of the kernel: the host's analyses of them.
struct HostMasks {
  struct Mask {
    const MaskAnalysis* analysis = nullptr;
    const Bindings* bindings = nullptr;
  };
  static std::array<Mask, kMostParts>& current() {
    static std::array<Mask, kMostParts> masks;
    return masks;
  }
};

// Runs a plan's kernel in the emulator, in blocks of `threads` threads.
using EmulatedKernel = void (*)(const UpdateLaunch& launch, int threads, std::uint64_t seed);

// The body of an EmulatedKernel. `change(params)` may change the kernel's parameters.
template <typename Params, typename Change>
void launch_update(void (*kernel)(Params), const UpdateLaunch& launch, int threads,
                   std::uint64_t seed, const Change& change) {
  ASSERT_EQ(sizeof(Params), launch.params_bytes);
  Params params;
  std::memcpy(static_cast<void*>(&params), launch.params, sizeof(params));
  change(params);
  tw::emulator::launch(kernel,
                       {.grid = launch.blocks,
                        .block = threads,
                        .shared_bytes = static_cast<tw::i64>(launch.shared_bytes),
                        .seed = seed},
                       params);
}

class EmulatedPlan {
 public:
  // `config` in the place of what the backends would choose. Without a kernel: one that takes any
  // masks, by the host's analysis of them.
  EmulatedPlan(const std::vector<Attention>& attentions, const Limits& limits,
               const plan::Config& config, EmulatedKernel kernel = nullptr);

  // Both plans are updated: the same batches, in a launch of `threads` threads a block.
  void update(const Batch& batch, const std::vector<PlanInput>& inputs, int threads,
              std::uint64_t seed);
  // Only the device's.
  void update_device(const Batch& batch, const std::vector<PlanInput>& inputs, int threads,
                     std::uint64_t seed);
  // The records of both, and what they give for Plan::stats and Plan::pieces.
  void expect_equal_records() const;
  void expect_equal_stats() const;
  // All of that; and that all is well with the batch.
  void expect_equal() const;
  // A request's status word; behind the requests, the batch's.
  std::uint32_t status(std::int64_t request) const;
  const plan::View& view(std::size_t part) const { return device_.parts()[part].view; }
  DevicePlan& device() { return device_; }
  // What the kernel leaves alone is as it was.
  bool intact() const { return workspace_->intact(); }

  Plan host;

 private:
  Limits limits_;
  DevicePlan device_;
  EmulatedKernel kernel_;
  std::unique_ptr<tw::emulator::GuardedBuffer> workspace_;
};

}  // namespace tilewright::test
