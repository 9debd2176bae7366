// SPDX-License-Identifier: Apache-2.0
// A Plan's state: its workspace, and a schedule for each of its attentions.
#pragma once

#include <tilewright/plan.h>

#include <memory>
#include <vector>

#include "attention/cuda_plan.h"
#include "cpu/attention.h"

namespace tilewright {

// One attention of a plan.
struct PlanPart {
  explicit PlanPart(const Attention& a) : attention(a) {}

  // Makes the schedule of the batch that `plan` was read from, and counts it.
  void make_schedule();

  Attention attention;
  cpu::AttentionPlan plan;
  std::uint8_t* token_levels = nullptr;       // memory for plan.token_levels
  std::shared_ptr<const void> blocks_memory;  // behind plan.blocks, where the library made it
  PlanStats stats;

 private:
  void measure_rows();
};

// Error unless a plan may be of these.
void require_limits(const Limits& limits);

// Whether the environment's TILEWRIGHT_DEBUG asks for debug mode.
bool debug_of_environment();

class PlanImpl {
 public:
  PlanImpl(std::vector<Attention> attentions, const Limits& limits, const TensorView& workspace);

  static std::size_t workspace_bytes(const std::vector<Attention>& attentions, const Limits& limits,
                                     int threads);

  void update(const Batch& batch, const std::vector<PlanInput>& inputs, Stream stream);
  // The part of an attention; Error when the plan was not made for it or not updated since.
  PlanPart& part_for_run(const Attention& attention);
  // Error unless update() was called.
  void require_updated() const;
  // In debug mode: Error where the last update marked requests; the plan has no batch then.
  // `stream`: of the call that looks.
  void check_last_update(Stream stream);

  std::unique_ptr<CudaPlan> cuda;  // of a plan on a GPU; what follows is the CPU's
  Limits limits;
  std::vector<Attention> attentions;
  std::vector<PlanPart> parts;
  cpu::RunMemory memory;
  int num_requests = 0;
  bool updated = false;
  bool debug = false;

 private:
  // Only for counting bytes: it has no workspace.
  PlanImpl(const std::vector<Attention>& attentions, const Limits& limits, int threads);
  // Lays out the workspace: with a null base it only counts, and returns the bytes.
  std::size_t lay_out(std::byte* base);
  PlanPart* find(const Attention& attention);

  struct AlignedDelete {
    void operator()(std::byte* pointer) const;
  };
  std::unique_ptr<std::byte[], AlignedDelete> owned_;
  std::int32_t* token_keys_ = nullptr;  // [limits.q_tokens], while updating
};

}  // namespace tilewright
