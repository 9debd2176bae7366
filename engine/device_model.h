// SPDX-License-Identifier: Apache-2.0
// A Llama model from a GGUF file on a GPU: weights in its memory, matrix products by cuBLASLt, all
// else by Tilewright's attention and operators.
#pragma once

#include <tilewright/tilewright.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cuda/memory.h"
#include "engine/device_matmul.h"
#include "engine/device_step.h"
#include "engine/device_timer.h"
#include "engine/gguf.h"
#include "engine/model_file.h"

namespace tilewright::engine {

// Activations of steps of at most so many tokens. Written and read on one stream.
struct DeviceActivations {
  DeviceActivations(const cuda::Device& device, const ModelConfig& config, DType dtype,
                    std::int64_t tokens, std::int64_t rows);

  cuda::DeviceBuffer ids, residual, delta, normed, qkv, attended, gate_up, activated;
  cuda::DeviceBuffer kept_residual, kept_attended;  // of rows whose logits are wanted
  cuda::DeviceBuffer logits;                        // f32 [rows, vocabulary]
};

class DeviceModel {
 public:
  // dtype as in Model: f32 products are true f32. Error (not_supported) where there is no GPU or no
  // cuBLASLt, out_of_memory where the weights do not fit.
  DeviceModel(const GgufFile& file, DType dtype, int device = 0);

  const ModelConfig& config() const { return config_; }
  const Attention& attention() const { return attention_; }
  const cuda::Device& device() const { return device_; }
  DType dtype() const { return dtype_; }

  // Chooses products for a shape of steps, which may not be done while a graph is captured.
  void prepare(const StepShape& shape, Determinism determinism);
  // Puts a step on the stream, up to the logits of its rows. `plan` was updated for it; products
  // are as deterministic as its limits say. `kv`: the cache of each layer. `timer` may be null.
  void forward(const DeviceStep& step, Plan& plan, std::span<const KvCache> kv,
               DeviceActivations& activations, Stream stream, DeviceTimer* timer);

 private:
  struct Layer {
    cuda::DeviceBuffer attention_norm, ffn_norm, qkv, output, gate_up, down;
  };

  cuda::DeviceBuffer upload(const Matrix& weight) const;
  cuda::DeviceBuffer upload_f32(const std::vector<float>& values) const;
  TensorView view(const cuda::DeviceBuffer& buffer, DType dtype,
                  std::initializer_list<std::int64_t> shape) const;

  const cuda::Device& device_;
  Device place_;
  DType dtype_;
  ModelConfig config_;
  Attention attention_;
  cuda::DeviceBuffer workspace_;
  std::unique_ptr<MatmulContext> matmuls_;
  std::unique_ptr<DeviceMatmul> qkv_, output_, gate_up_, down_, head_;
  std::vector<Layer> layers_;
  cuda::DeviceBuffer embedding_, output_norm_;
  cuda::DeviceBuffer head_weight_;  // empty: that of the embedding
};

}  // namespace tilewright::engine
