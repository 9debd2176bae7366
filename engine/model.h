// SPDX-License-Identifier: Apache-2.0
// A Llama model from a GGUF file, run through Tilewright's attention and operators.
#pragma once

#include <tilewright/tilewright.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engine/kv_storage.h"
#include "engine/linear.h"
#include "engine/model_file.h"
#include "engine/step_batch.h"
#include "engine/step_times.h"

namespace tilewright::engine {

class Model {
 public:
  // dtype f32 or bf16: of weights, activations and the KV cache; the residual stream and logits are
  // f32. Weights are dequantised: see docs/engine.md for what that costs. Error for architectures
  // other than llama.
  Model(const GgufFile& file, DType dtype);

  const ModelConfig& config() const { return config_; }
  const Attention& attention() const { return attention_; }

  KvShape kv_shape(std::int64_t pages, std::int64_t page_size) const;
  // Plans the batch for the attention of every layer.
  void update_plan(Plan& plan, const StepBatch& batch, std::int64_t page_size) const;
  // logits: [batch.logit_rows, vocabulary]. `plan` was updated for the batch.
  void forward(const StepBatch& batch, Plan& plan, const KvStorage& kv, std::span<float> logits,
               StepTimes& times);

 private:
  struct Layer {
    std::vector<float> attention_norm;
    std::vector<float> ffn_norm;
    Linear qkv;
    Linear output;
    Linear gate_up;
    Linear down;
  };
  // Activations; grown to the largest batch seen.
  struct Buffers {
    std::vector<float> residual, delta;
    std::vector<std::byte> normed, qkv, attended, gate_up, activated;
  };

  Linear linear(const Matrix& weight, DType out_dtype);
  void embed(std::span<const std::int32_t> tokens);
  // The two halves of a layer: from normed rows to attended ones, and from n of these to rows
  // normed for the next layer.
  void attend(const Layer& layer, const StepBatch& batch, Plan& plan, const KvCache& cache,
              StepTimes& times);
  void feed_forward(const Layer& layer, const std::vector<float>& next_norm, std::int64_t n,
                    RowBlocks blocks, StepTimes& times);
  // Moves these rows, which ascend, of the residual stream and of what was attended to the front.
  void keep_rows(std::span<const std::int64_t> rows);

  DType dtype_;
  ModelConfig config_;
  const GgufTensor& embedding_;
  Attention attention_;
  MatmulCache matmuls_;
  std::vector<Layer> layers_;
  std::vector<float> output_norm_;
  std::unique_ptr<Linear> head_;
  Buffers buffers_;
};

}  // namespace tilewright::engine
