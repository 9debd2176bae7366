// SPDX-License-Identifier: Apache-2.0
// A plan whose batches are only known on the device: its workspace there, and the launch of the
// kernel that makes the schedules of all its attentions.
#pragma once

#include <tilewright/plan.h>

#include <array>
#include <cstddef>
#include <functional>
#include <vector>

#include "attention/device_batch.h"
#include "plan/update_params.h"

namespace tilewright {

// The kernel of kernels/plan/update.h over UpdateParams of as many parts as the plan has
// attentions. `params` is read until the launcher returns.
struct UpdateLaunch {
  int blocks = 1;
  int threads = 512;
  std::size_t shared_bytes = 0;
  const void* params = nullptr;
  std::size_t params_bytes = 0;
};
// Runs the kernel on the device, or in the emulator.
using UpdateLauncher = std::function<void(const UpdateLaunch&, Stream)>;

class DevicePlan {
 public:
  // What kernels of one attention read and write.
  struct Part {
    explicit Part(const Attention& a) : attention(a) {}

    Attention attention;
    plan::View memory;                     // pointers into the workspace, and the config
    plan::View view;                       // of the last update: with the caller's tables
    std::int32_t mask = 0;                 // in masks()
    std::vector<std::size_t> mask_params;  // of the attention's parameters, by the mask's own
    std::array<std::int64_t, plan::kMaxLevels> num_pages{};  // of the caches; 0: not known
  };
  // Partial results, shared by the attentions: of workers, two slots each, and of levels.
  struct RunMemory {
    std::byte* slots = nullptr;
    std::byte* levels = nullptr;
  };

  // Arguments are checked by Plan. `configs`: of the attentions, see cuda_config.
  DevicePlan(const std::vector<Attention>& attentions, const Limits& limits,
             const std::vector<plan::Config>& configs, int num_sms);

  // Lays out the workspace, on the device: with a null base it only counts, and returns the bytes.
  // The first state_bytes() of it must be zero before the first update.
  std::size_t lay_out(std::byte* base);
  static std::size_t state_bytes(const Limits& limits);

  // Errors: see Plan::update, as far as shapes, dtypes and devices tell. What the device's data say
  // is wrong is in the status words. Waits for nothing.
  void update(const Batch& batch, const std::vector<PlanInput>& inputs,
              const UpdateLauncher& launch, Stream stream);

  // Runs of this attention read a cache of so many pages: updates from now on mark requests with
  // pages that it does not have. Until then only negative ids are found.
  void note_cache(std::size_t part, int level, std::int64_t pages);

  const std::vector<Part>& parts() const { return parts_; }
  // What the kernel is made of: see update_kernel_text.
  const std::vector<Variant>& masks() const { return masks_; }
  const RunMemory& run_memory() const { return run_memory_; }
  // [2][limits.requests + 1], see StatusMemory; Header::status_turn says which.
  const plan::StatusMemory& status() const { return status_; }

 private:
  void read_part(const PlanInput& input, const DeviceBatch& batch, Part& part,
                 plan::PartInput& written) const;
  UpdateLaunch shape_of_launch() const;
  plan::PartInput& input_of(std::size_t part);

  Limits limits_;
  int num_sms_;
  std::vector<Part> parts_;
  std::vector<Variant> masks_;
  RunMemory run_memory_;
  plan::StatusMemory status_;
  std::vector<std::byte> params_;  // UpdateParams of parts_.size() parts
};

}  // namespace tilewright
