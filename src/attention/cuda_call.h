// SPDX-License-Identifier: Apache-2.0
// A call of attention on a GPU, once its arguments are checked.
#pragma once

#include <tilewright/attention.h>
#include <tilewright/plan.h>

#include <cstddef>
#include <optional>

#include "attention/device_plan.h"
#include "variant/bindings.h"

namespace tilewright {

// Every tensor has the spec's shape. See cpu::AttentionCall.
struct CudaCall {
  TensorView q;
  const KvCache* kv = nullptr;
  TensorView out;
  TensorView lse;
  float sm_scale = 1;
  Scale q_scale, k_scale, v_scale, out_scale;
  TensorView sinks;
  bool zero_padding = false;
  Stream stream;

  // All parameters of the variant.
  const Bindings& bindings() const { return run_bindings ? *run_bindings : *plan_bindings; }
  const Bindings* plan_bindings = nullptr;
  std::optional<Bindings> run_bindings;  // where some are bound at run
};

// Checks what the host knows of a call of Attention::run. `num_requests`: the most that the plan's
// batch may have. The batch's numbers are the device's: what they would make wrong, the kernel
// leaves out. `part` and `levels` must outlive
// the call.
CudaCall check_cuda_call(const DevicePlan::Part& part, int num_requests, const TensorView& q,
                         const KvCache* levels, std::size_t num_levels, const RunArgs& args);

}  // namespace tilewright
