// SPDX-License-Identifier: Apache-2.0
// An attention "on a GPU" that is the emulator: the plan is made and run by the kernels that a GPU
// would be given, launched as the library would launch them.
#pragma once

#include <gtest/gtest.h>
#include <tilewright/tilewright.h>

#include <cstring>
#include <deque>
#include <memory>
#include <vector>

#include "attention/cuda_params.h"
#include "attention/device_plan.h"
#include "attention_cuda/generate/emulated_kernels.h"
#include "runtime/launch.h"
#include "support/call_copies.h"

namespace tilewright::test {

// Copies that end where a page begins that nobody may touch; those that are only read cannot be
// written.
class GuardedCopies : public CallCopies<GuardedCopies> {
 public:
  TensorView operator()(const TensorView& host);
  TensorView written(const TensorView& host);
  // What kernels wrote, into the host's tensors.
  void download();
  // The host's tensors again, where kernels wrote.
  void reset();

 private:
  struct Copy {
    TensorView view;
    void* host = nullptr;
    std::size_t shift = 0;
    std::size_t body = 0;
    std::unique_ptr<tw::emulator::GuardedBuffer> buffer;
  };
  Copy& copy(const TensorView& host, const char* name);

  std::deque<Copy> copies_;
  std::vector<Copy*> written_;
};

class EmulatedAttention {
 public:
  // Fails where the kernels of this spec were not compiled (see compiled_cases).
  EmulatedAttention(const AttentionSpec& spec, CudaTarget target, const Limits& limits,
                    int num_sms = 2);

  // Seeds decide the order of threads and blocks.
  void update(const Batch& batch, const std::vector<KvLevel>& levels,
              const std::vector<ParamValue>& params, std::uint64_t seed,
              const BlockStructure& blocks = {});
  void run(const TensorView& q, const std::vector<KvCache>& kv, const RunArgs& args,
           std::uint64_t seed);
  // Status words of the last update, of so many requests.
  std::vector<std::uint32_t> status(std::int64_t requests) const;
  const plan::Header& header() const { return *part().view.schedule.header; }

 private:
  const DevicePlan::Part& part() const { return plan_.parts()[0]; }

  CudaTarget target_;
  KernelUse use_;
  CudaShape shape_;
  int num_sms_;
  Attention attention_;
  DevicePlan plan_;
  EmulatedKernels kernels_;
  cuda::BoxMaps boxes_;
  std::unique_ptr<tw::emulator::GuardedBuffer> workspace_;
  int num_requests_ = 0;
};

}  // namespace tilewright::test
