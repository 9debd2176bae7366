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
#include "variant/bindings.h"

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

// A bound parameter as kernels are given it.
plan::ParamSlot param_slot(const BoundParam& param);

class DevicePlan {
 public:
  // What kernels of one attention read and write.
  struct Part {
    explicit Part(const Attention& a) : attention(a) {}

    Attention attention;
    plan::View memory;                     // pointers into the workspace, and the config
    plan::Config row_config;               // where rows are not simply the requests
    std::int64_t most_slot_rows = 0;       // of partial results, in all slots
    plan::View view;                       // of the last update: with the caller's tables
    std::int32_t mask = 0;                 // in masks()
    std::vector<std::size_t> mask_params;  // of the attention's parameters, by the mask's own
    Bindings bindings;                     // of the last update: parameters bound at plan
  };
  // Partial results, shared by the attentions: of workers, two slots each, and of levels.
  struct RunMemory {
    std::byte* slots = nullptr;
    std::byte* levels = nullptr;
    // Zero between runs.
    std::int32_t* arrivals = nullptr;  // [workers, heads]: parts of split items that are done
    std::int32_t* a_taken = nullptr;   // items of section A that are taken
    // [workers][most_blocks], see tw::ListedBlocks; where the limits allow block structures.
    std::int32_t* needed_blocks = nullptr;
    std::int32_t most_blocks = 0;
  };

  // An attention's kernel for rows that are the requests, and the one for any rows, which may cover
  // many requests, may want other schedules. See kernel_config.
  struct Configs {
    plan::Config requests;
    plan::Config rows;
    // tw::slot_rows of the two kernels.
    std::int32_t request_slot_rows;
    std::int32_t row_slot_rows;
  };
  // Arguments are checked by Plan. `configs`: of the attentions.
  DevicePlan(const std::vector<Attention>& attentions, const Limits& limits,
             const std::vector<Configs>& configs, int num_sms);

  // Lays out the workspace, on the device: with a null base it only counts, and returns the bytes.
  // The first state_bytes() of it must be zero before the first update.
  std::size_t lay_out(std::byte* base);
  std::size_t state_bytes() const { return state_bytes_; }

  // Errors: see Plan::update, as far as shapes, dtypes and devices tell. What the device's data say
  // is wrong is in the status words. Waits for nothing.
  void update(const Batch& batch, const std::vector<PlanInput>& inputs,
              const UpdateLauncher& launch, Stream stream);

  const Limits& limits() const { return limits_; }
  bool lists_blocks() const { return limits_.block_structures; }
  const std::vector<Part>& parts() const { return parts_; }
  // What the kernel is made of: see update_kernel_text.
  const std::vector<Variant>& masks() const { return masks_; }
  const RunMemory& run_memory() const { return run_memory_; }
  // [2][limits.requests + 1], see StatusMemory; Header::status_turn says which.
  const plan::StatusMemory& status() const { return status_; }
  // What copies the words of the last update's first requests, but for where to.
  plan::StatusCopy status_copy(int requests) const;

 private:
  void read_part(const PlanInput& input, const DeviceBatch& batch, Part& part,
                 plan::PartInput& written) const;
  UpdateLaunch shape_of_launch() const;
  // Returns the bytes of shared memory that they take.
  class Pieces;
  std::size_t place_arrays(const Part& part, int workers, Pieces& pieces,
                           plan::UpdateArrays& arrays) const;
  plan::PartInput& input_of(std::size_t part);

  // Of any attention, the most: see slot_pairs_of.
  int slot_pairs() const;
  // Whether the heads' tiles may need different blocks: in some update under the limits.
  bool heads_may_differ(const Part& part) const;

  Limits limits_;
  int num_sms_;
  std::vector<Part> parts_;
  std::vector<Variant> masks_;
  RunMemory run_memory_;
  plan::StatusMemory status_;
  std::vector<std::byte> params_;  // UpdateParams of parts_.size() parts
  std::size_t state_bytes_ = 0;    // of the workspace
  std::size_t shared_bytes_ = 0;   // of the update's blocks of threads
};

}  // namespace tilewright
