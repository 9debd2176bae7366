// SPDX-License-Identifier: Apache-2.0
// What a GGUF file says of a Llama model: its sizes, and its weights as the matrices that a step
// multiplies by.
#pragma once

#include <tilewright/tilewright.h>

#include <cstdint>
#include <span>
#include <vector>

#include "engine/gguf.h"
#include "engine/kv_storage.h"

namespace tilewright::engine {

struct ModelConfig {
  std::int64_t layers = 0;
  std::int64_t hidden = 0;
  std::int64_t ffn = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  std::int64_t context = 0;
  std::int64_t vocabulary = 0;
  float norm_eps = 0;
  RopeSpec rope;

  std::int64_t q_size() const { return std::int64_t{heads} * head_dim; }
  std::int64_t kv_size() const { return std::int64_t{kv_heads} * head_dim; }
};

// Error for architectures other than llama, and for what is not supported of these.
ModelConfig read_model_config(const GgufFile& file);

AttentionSpec attention_spec(const ModelConfig& config, DType dtype);
KvShape kv_shape(const ModelConfig& config, DType dtype, std::int64_t pages,
                 std::int64_t page_size);
// Error for ids outside the vocabulary.
void require_tokens(const ModelConfig& config, std::span<const std::int32_t> tokens);

// The products of a layer: those of one input are stacked.
enum class LayerProduct : std::uint8_t { qkv, output, gate_up, down };
enum class LayerNorm : std::uint8_t { attention, ffn };

// A weight of f32, [out_features, in_features], dequantised.
struct Matrix {
  std::int64_t out_features = 0;
  std::int64_t in_features = 0;
  std::vector<float> values;
};

// Errors name the tensor.
Matrix load_product(const GgufFile& file, const ModelConfig& config, std::int64_t layer,
                    LayerProduct product);
std::vector<float> load_norm(const GgufFile& file, const ModelConfig& config, std::int64_t layer,
                             LayerNorm norm);
std::vector<float> load_output_norm(const GgufFile& file, const ModelConfig& config);
// [vocabulary, hidden]: of embeddings, and of logits, which may be the same tensor.
const GgufTensor& embedding_tensor(const GgufFile& file, const ModelConfig& config);
Matrix load_head(const GgufFile& file, const ModelConfig& config);

}  // namespace tilewright::engine
