// SPDX-License-Identifier: Apache-2.0
// A plan on a GPU, and runs of attention under it.
#pragma once

#include <tilewright/plan.h>

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "attention/cuda_call.h"
#include "attention/cuda_sources.h"
#include "attention/device_plan.h"
#include "attention/device_records.h"
#include "cuda/box_map.h"
#include "cuda/memory.h"
#include "jit/kernel_handle.h"

namespace tilewright {

// What an Attention on a GPU holds. Thread-safe.
class CudaKernels {
 public:
  CudaKernels(const AttentionSpec& spec, Device device);
  CudaKernels(const AttentionSpec& spec, CudaTarget target);

  struct Kernel {
    Kernel(const AttentionSpec& spec, CudaTarget target, KernelUse use)
        : shape(cuda_shape(spec, target, use)), handle(attention_source(spec, shape)) {}

    CudaShape shape;
    jit::KernelHandle handle;
  };

  const Kernel& of(KernelUse use) const;

 private:
  // Few attentions need it: written when it is asked for.
  const Kernel& listed_blocks() const;

  Kernel any_batch_;
  Kernel decode_only_;
  AttentionSpec spec_;
  CudaTarget target_;
  mutable std::once_flag listed_is_written_;
  mutable std::optional<Kernel> listed_blocks_;
};

class CudaPlan {
 public:
  CudaPlan(const std::vector<Attention>& attentions, const Limits& limits,
           const TensorView& workspace);

  static std::size_t workspace_bytes(const std::vector<Attention>& attentions,
                                     const Limits& limits);

  void prepare();
  void update(const Batch& batch, const std::vector<PlanInput>& inputs, Stream stream);

  // The part of an attention of the plan.
  const DevicePlan::Part& part(const Attention& attention) const;
  void run(const DevicePlan::Part& part, const CudaCall& call);

  // These wait for the last update; Error (invalid_state) while its stream is captured.
  std::vector<std::int32_t> status() const;
  // Waits for nothing. There is an update.
  void copy_status(const TensorView& words, Stream stream) const;
  // Whether the words of the last update cannot be waited for by a call on this stream.
  bool is_captured(Stream call) const;
  // The schedule of an attention on the host. `what`: who asks, for messages.
  DeviceRecords records(const char* what, const Attention& attention) const;
  int num_requests() const { return num_requests_; }  // the most that the last update may have had

 private:
  // Error (invalid_state) while the stream of the last update is captured. In the device's context.
  void require_not_captured(const char* what) const;
  // Of an attention: where rows are simply the requests, and where they may be any. See PlanUses.
  struct Chosen {
    const CudaKernels::Kernel* requests;
    const CudaKernels::Kernel* rows;
  };
  static std::vector<Chosen> choose(const std::vector<Attention>& attentions, const Limits& limits);
  static std::vector<DevicePlan::Configs> configs_of(const std::vector<Attention>& attentions,
                                                     const Limits& limits,
                                                     const cuda::Device& device);

  const cuda::Device& device_;
  Limits limits_;
  std::vector<Chosen> chosen_;  // in the order of plan_'s parts
  DevicePlan plan_;
  cuda::DeviceBuffer owned_;
  jit::KernelHandle update_;
  cuda::BoxMaps boxes_{cuda::encode_box_map};
  int num_requests_ = 0;
  Stream last_stream_;
};

}  // namespace tilewright
