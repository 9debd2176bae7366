// SPDX-License-Identifier: Apache-2.0
// One batch on GPU 0: an update and a run over copies of the host's tensors.
#pragma once

#include <tilewright/tilewright.h>

#include <cstdint>
#include <vector>

#include "gpu/gpu_copies.h"
#include "gpu/gpu_tensor.h"

namespace tilewright::test {

// Arguments are the host's. What the run wrote is in args' tensors when it returns. Gives the
// requests' status words.
inline std::vector<std::int32_t> run_on_gpu(Plan& plan, const Attention& attention,
                                            const Batch& batch, const std::vector<KvLevel>& levels,
                                            const std::vector<ParamValue>& plan_params,
                                            const TensorView& q, const std::vector<KvCache>& caches,
                                            const RunArgs& args, Stream stream = {}) {
  GpuCopies copies;
  const Batch gpu_batch = copies.batch(batch);
  const std::vector<KvLevel> gpu_levels = copies.levels(levels);
  const std::vector<ParamValue> gpu_params = copies.params(plan_params);
  const TensorView gpu_q = copies(q);
  std::vector<KvCache> gpu_caches;
  gpu_caches.reserve(caches.size());
  for (const KvCache& cache : caches) gpu_caches.push_back(copies.cache(cache));
  RunArgs gpu_args = copies.args(args);
  gpu_args.stream = stream;
  // Streams of their own do not wait for the copies, which are on the default stream.
  cuda::synchronize({});
  plan.update(gpu_batch, {PlanInput(attention, gpu_levels, gpu_params)}, stream);
  attention.run(plan, gpu_q, gpu_caches, gpu_args);
  cuda::synchronize(stream);
  copies.download();
  return plan.status();
}

}  // namespace tilewright::test
