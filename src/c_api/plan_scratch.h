// SPDX-License-Identifier: Apache-2.0
// Where a plan's update and run put what the C++ functions take as vectors: made once with the
// plan, large enough for its attentions, so that neither call allocates.
#pragma once

#include <tilewright/c_plan.h>
#include <tilewright/plan.h>

#include <cstddef>
#include <vector>

#include "c_api/read.h"

namespace tilewright::c_api {

// Parameters whose names keep their memory while lists grow and shrink.
class ParamPool {
 public:
  // For `count` parameters in all, names of at most `name_bytes`.
  void reserve(std::size_t count, std::size_t name_bytes);
  void read(const Path& path, const tw_param* params, std::size_t count,
            std::vector<ParamValue>& values);

 private:
  std::vector<ParamValue> spare_;
};

class PlanScratch {
 public:
  explicit PlanScratch(const Plan& plan);

  // Valid until the next call.
  const std::vector<PlanInput>& inputs(const tw_plan_input* inputs, std::size_t count);
  const std::vector<KvCache>& caches(const tw_kv_cache* kv, std::size_t count);
  const RunArgs& args(const tw_run_args* args);

 private:
  void read_levels(const Path& path, const tw_plan_input& given, std::vector<KvLevel>& levels);

  std::vector<PlanInput> inputs_;
  std::vector<KvCache> caches_;
  RunArgs args_;
  ParamPool plan_params_;
  ParamPool run_params_;
};

}  // namespace tilewright::c_api
