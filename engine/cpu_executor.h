// SPDX-License-Identifier: Apache-2.0
// Steps on the CPU, one at a time.
#pragma once

#include <vector>

#include "engine/executor.h"
#include "engine/kv_storage.h"
#include "engine/model.h"

namespace tilewright::engine {

class CpuExecutor final : public Executor {
 public:
  // `limits`: of the steps to come. The model must outlive it. Error (out_of_memory) when there is
  // none for the KV cache.
  CpuExecutor(Model& model, const Limits& limits, std::int64_t kv_pages, std::int64_t page_size);

  const ModelConfig& config() const override { return model_.config(); }
  int depth() const override { return 1; }
  void launch(const Step& step, std::span<const RowSampling> sampling) override;
  std::span<const std::int32_t> collect() override { return tokens_; }
  std::span<const float> logits() const override { return logits_; }
  ExecutorStats stats() const override { return stats_; }

 private:
  void count_bytes(const StepBatch& batch);
  void sample_tokens(std::span<const RowSampling> sampling);

  Model& model_;
  KvStorage kv_;
  Plan plan_;
  Plan unshared_plan_;  // of the same batches without levels: for the counts alone
  std::vector<float> logits_;
  std::vector<std::int32_t> tokens_;
  ExecutorStats stats_;
};

}  // namespace tilewright::engine
